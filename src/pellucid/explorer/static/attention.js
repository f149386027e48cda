// What the three attention panels share: all heads of a layer as thumbnails, one head's matrix, one cell's dot product.
import { fixed, tiny } from "./format.js";
import { t } from "./i18n.js";
import { Matrix, Thumbnail } from "./matrix.js";
import { set, useStore } from "./store.js";
import { array, headOf, layerOf } from "./trace.js";
import { at } from "./tensors.js";
import { Choice, html } from "./ui.js";

/** Which layer; numbers count from 1 for people. */
export function LayerChoice({ layers }) {
  useStore("layer");
  const options = Array.from({ length: layers }, (_, layer) => ({ value: layer, text: layer + 1 }));
  return html`<${Choice}
    label=${t("attention.layer")}
    options=${options}
    value=${layerOf(layers)}
    onChoose=${(layer) => set({ layer })}
  />`;
}

/** All heads of the layer side by side. */
export function HeadChoice({ attn, mask, note }) {
  const heads = attn.shape[0];
  useStore("head");
  return html`<div class="heads" role="group" aria-label=${t("attention.head")}>
    ${Array.from({ length: heads }, (_, head) => {
      const text = t("attention.head_n", { n: head + 1 });
      return html`<button
        type="button"
        class="head-button"
        aria-pressed=${head === headOf(heads) ? "true" : "false"}
        onClick=${() => set({ head })}
      >
        <${Thumbnail} values=${at(attn, head)} mask=${mask} scale=${1} label=${text} />
        <span>${head + 1}</span>${note ? html`<small>${note(head)}</small>` : null}
      </button>`;
    })}
  </div>`;
}

const STAGES = ["scores", "mask", "weights"];

/** Scores, mask and weights: the three layers of one computation. */
export function StageChoice({ value, onChoose, stages = STAGES }) {
  const options = stages.map((stage) => ({ value: stage, text: t(`attention.${stage}`) }));
  return html`<${Choice} label=${t("attention.show")} options=${options} value=${value} onChoose=${onChoose} />`;
}

/** What a score is in this model: some do not divide, some add a number for the distance. */
export function scoreName(side, bias) {
  const score = t(Number(side.divisor) === 1 ? "attention.undivided" : "attention.divided");
  return bias ? t("attention.with_bias", { score }) : score;
}

/** Products of two vectors, number by number, as columns around a line. */
function Products({ query, against }) {
  const products = Array.from(query.data, (value, index) => value * against.data[index]);
  const most = Math.max(...products.map(Math.abs), 1e-30);
  return html`<div class="products" role="img" aria-label=${t("cell.products", { n: products.length })}>
    ${products.map(
      (product) => html`<i class=${product < 0 ? "negative" : ""} style=${{ "--height": `${(Math.abs(product) / most) * 50}%` }}></i>`,
    )}
  </div>`;
}

/**
 * One cell: q·k, divided, softmax. The sum is made here, from q and k of the trace, and stands beside the engine's score.
 */
export function CellProduct({ side, layer, head, row, col, qToKv, bias, rowText, colText, masked }) {
  const q = array(side.q, layer);
  const k = array(side.k, layer);
  const scores = array(side.scores, layer);
  const attn = array(side.attn, layer);
  if (!q || !k || !scores || !attn) return html`<p class="soft">${t("state.fetching")}</p>`;
  const query = at(q, head, row);
  const key = at(k, qToKv[head], col);
  let dot = 0;
  query.data.forEach((value, index) => (dot += value * key.data[index]));
  const score = at(scores, head, row).data[col];
  const weight = at(attn, head, row).data[col];
  const divided = dot / Number(side.divisor);
  const added = bias ? at(array({ bias }, "bias"), head, row).data[col] : 0;
  return html`<div class="cell-product">
    <div class="cell-title"><span class="small-title">${t("cell.title")}</span> <b>${rowText}</b> × <b>${colText}</b></div>
    <div class="equation">
      <span><small>${t("cell.dot")}</small>${fixed(dot, 3)}</span>
      ${Number(side.divisor) === 1 ? null : html`<i>÷</i><span><small>${t("cell.divisor")}</small>${fixed(Number(side.divisor), 3)}</span>`}
      ${bias ? html`<i>+</i><span><small>${t("cell.bias")}</small>${fixed(added, 3)}</span>` : null}
      <i>=</i><span><small>${t("cell.score")}</small>${fixed(divided + added, 3)}</span>
      <i>→</i>
      <span class="strong"><small>${t(masked ? "cell.masked" : "cell.weight")}</small>${masked ? String(weight) : fixed(weight, 4)}</span>
    </div>
    <${Products} query=${query} against=${key} />
    <p class="note">${t("cell.note", { engine: fixed(score, 3), diff: tiny(Math.abs(divided + added - score)), n: query.data.length })}</p>
  </div>`;
}

/**
 * One head of one layer with its controls.
 * @param {{use: "encoder" | "decoder" | "cross", side: any, attn: any[], shown?: any, rows: string[], cols: string[],
 *   mask?: any, kind?: "weight" | "score", row: number, col?: number | null, qToKv: number[], caption: string,
 *   onPreview: (cell: any) => void, onPin: (row: number, col: number) => void, rowSide: string, colSide: string,
 *   bias?: any, note?: (head: number) => string, covers?: (row: number, col: number) => boolean}} props
 */
export function OneHead(props) {
  const { use, side, attn, rows, cols } = props;
  const state = useStore("layer", "head", "cell", "use", "parts");
  const layer = layerOf(attn.length);
  const weights = array(attn, layer);
  const shown = array(props.shown || attn, layer);
  if (!weights || !shown) return html`<p class="soft">${t("state.fetching")}</p>`;
  const head = headOf(weights.shape[0]);
  const fits = state.cell && state.use === use && state.cell.row < rows.length && state.cell.col < cols.length;
  const pinned = fits ? state.cell : null;
  return html`<div class="one-head">
    <${HeadChoice} attn=${weights} mask=${props.mask} note=${props.note} />
    <${Matrix}
      id=${`matrix-${use}`}
      values=${at(shown, head)}
      mask=${props.mask}
      rows=${rows}
      cols=${cols}
      kind=${props.kind || "weight"}
      row=${props.row}
      col=${props.col}
      pinned=${pinned}
      rowSide=${props.rowSide}
      colSide=${props.colSide}
      caption=${props.caption}
      onPreview=${props.onPreview}
      onPin=${props.onPin}
    />
    ${pinned
      ? html`<${CellProduct}
          side=${side}
          layer=${layer}
          head=${head}
          row=${pinned.row}
          col=${pinned.col}
          qToKv=${props.qToKv}
          bias=${props.bias}
          rowText=${rows[pinned.row]}
          colText=${cols[pinned.col]}
          masked=${props.covers ? props.covers(pinned.row, pinned.col) : false}
        />`
      : null}
  </div>`;
}
