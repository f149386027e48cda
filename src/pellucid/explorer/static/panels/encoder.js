// Panel 2: the encoder's self-attention: every word sees every word, left and right.
import { LayerChoice, OneHead, StageChoice, scoreName } from "../attention.js";
import { fixed } from "../format.js";
import { t } from "../i18n.js";
import { get, set, useStore } from "../store.js";
import { array, headOf, layerOf, name } from "../trace.js";
import { at, tensor } from "../tensors.js";
import { Figure, html, useMemo, useState } from "../ui.js";

/** The share of attention that goes to later words: what a causal mask would forbid. */
export function forward(attn, mask) {
  const [rows, cols] = attn.shape;
  let share = 0;
  let real = 0;
  for (let row = 0; row < rows; row += 1) {
    if (!mask[row]) continue;
    real += 1;
    for (let col = row + 1; col < cols; col += 1) share += attn.data[row * cols + col];
  }
  return share / real;
}

/** Attention that arrives at padding. */
function atPadding(attn, mask) {
  const [rows, cols] = attn.shape;
  let total = 0;
  for (let row = 0; row < rows; row += 1) for (let col = 0; col < cols; col += 1) if (!mask[col]) total += attn.data[row * cols + col];
  return total;
}

export const padMask = (encoder) => (Array.isArray(encoder.pad_mask) ? encoder.pad_mask.map(Number) : Array.from(tensor(encoder.pad_mask).data));

export function Encoder() {
  const { doc, preview } = useStore("doc", "preview", "layer", "head", "parts");
  const { encoder } = doc;
  const [stage, setStage] = useState("weights");
  const real = useMemo(() => padMask(encoder), [encoder]);
  const names = useMemo(() => doc.src.map(name), [doc]);
  const mask = useMemo(() => {
    if (real.every(Boolean)) return null;
    const S = real.length;
    return { shape: [S, S], data: Uint8Array.from({ length: S * S }, (_, index) => real[index % S]) };
  }, [real]);
  const attn = array(encoder.attn, layerOf(encoder.attn.length));
  const one = attn ? at(attn, headOf(attn.shape[0])) : null;
  const index = preview?.kind === "source" ? preview.index : 0;
  const bias = doc.position.bias;
  return html`
    <div class="controls"><${LayerChoice} layers=${encoder.attn.length} /><${StageChoice} value=${stage} onChoose=${setStage} stages=${["scores", "weights"]} /></div>
    <${OneHead}
      use="encoder"
      side=${encoder}
      attn=${encoder.attn}
      shown=${stage === "scores" ? encoder.scores : undefined}
      kind=${stage === "scores" ? "score" : "weight"}
      rows=${names}
      cols=${names}
      mask=${mask}
      row=${index}
      col=${preview?.kind === "source" ? index : null}
      rowSide="source"
      colSide="source"
      qToKv=${doc.gqa.q_to_kv.encoder}
      bias=${bias}
      caption=${t(`encoder.caption.${stage}`, { score: scoreName(encoder, bias) })}
      covers=${(_, col) => !real[col]}
      onPreview=${(cell) => set({ preview: cell ? { kind: "source", index: cell.row } : null })}
      onPin=${(row, col) => set({ cell: same(row, col, "encoder") ? null : { row, col }, use: "encoder" })}
    />
    ${one
      ? html`<div class="figures">
          <${Figure} value=${`${fixed(forward(one, real) * 100, 0)} %`} label=${t("encoder.forward")} />
          ${real.every(Boolean) ? null : html`<${Figure} value=${String(atPadding(one, real))} label=${t("encoder.padding")} />`}
        </div>`
      : null}
  `;
}

/** Whether this cell is the pinned one, which a second click lets go. */
export function same(row, col, use) {
  const { cell, use: pinned } = get();
  return Boolean(cell) && pinned === use && cell.row === row && cell.col === col;
}
