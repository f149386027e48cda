// Panel 4: the row that writes asks the source; arcs, heads ranked, and what covering a source word costs.
import { LayerChoice, OneHead, StageChoice, scoreName } from "../attention.js";
import { Bars } from "../charts.js";
import { fixed } from "../format.js";
import { t } from "../i18n.js";
import { textWidth } from "../matrix.js";
import { set, useStore } from "../store.js";
import { array, headOf, layerOf, name, num, nums, rowName, stepOf, value, writing } from "../trace.js";
import { at, strongest } from "../tensors.js";
import { html, px, rich, useState, useWidth } from "../ui.js";
import { same } from "./encoder.js";

/** Names on a line, centred in their shares of the width; crowded where they would not fit. */
function places(names, width) {
  const widths = names.map((one) => Math.max(26, textWidth(one) + 16));
  const total = widths.reduce((sum, one) => sum + one, 0);
  const gap = Math.max(2, Math.min(26, (width - total) / Math.max(1, names.length)));
  const shrink = Math.min(1, (width - gap * names.length) / total);
  let x = (width - (total * shrink + gap * (names.length - 1))) / 2;
  const at = widths.map((one) => {
    const middle = x + (one * shrink) / 2;
    x += one * shrink + gap;
    return middle;
  });
  return { at, crowded: shrink < 0.8, inside: (index) => Math.min(width - widths[index] / 2, Math.max(widths[index] / 2, at[index])) };
}

/** Arcs from the row that writes to every source word, as thick as the attention. */
function Arcs({ attn, step, sources, targets, picked }) {
  const [box, width] = useWidth();
  const height = 148;
  const top = places(targets, width);
  const bottom = places(sources, width);
  const row = at(attn, step);
  const best = strongest(attn, step).index;
  return html`<div class="arcs" ref=${box}>
    ${width
      ? html`<svg width=${width} height=${height} role="img" aria-label=${t("cross.arcs", { row: targets[step], word: sources[best], weight: fixed(row.data[best]) })}>
          ${sources.map((_, index) => {
            const weight = row.data[index];
            if (!(weight > 0.004)) return null;
            const middle = height / 2;
            const curve = `M${top.at[step]},34 C${top.at[step]},${middle + 12} ${bottom.at[index]},${middle - 12} ${bottom.at[index]},${height - 34}`;
            return html`<path d=${curve} class=${index === picked ? "on" : ""} style=${{ strokeWidth: 1 + weight * 11, opacity: 0.16 + 0.8 * weight ** 0.6 }} />`;
          })}
          ${targets.map((one, index) =>
            top.crowded && index !== step
              ? html`<circle cx=${top.at[index]} cy="17" r="2" onClick=${() => set({ t: index })} />`
              : html`<text x=${top.crowded ? top.inside(index) : top.at[index]} y="22" class=${`target ${index === step ? "on" : ""}`} onClick=${() => set({ t: index })}>${one}</text>`,
          )}
          ${sources.map((one, index) =>
            bottom.crowded && index !== (picked ?? best)
              ? html`<circle cx=${bottom.at[index]} cy=${height - 19} r="2" />`
              : html`<text x=${bottom.crowded ? bottom.inside(index) : bottom.at[index]} y=${height - 14} class=${`source ${index === best || index === picked ? "on" : ""}`}>${one}</text>`,
          )}
        </svg>`
      : html`<div style=${{ height: px(height) }}></div>`}
  </div>`;
}

/** Heads by how well they alone agree with alignments that hiding words gives. */
function Ranking({ align }) {
  if (!align) return html`<p class="note">${rich(t("cross.no_ranking"))}</p>`;
  const table = align.reading === "write" ? align.write : align.read;
  const chosen = new Set(align.heads.map((one) => one.join()));
  const heads = table.flatMap((row, layer) => row.map((agreement, head) => ({ layer, head, agreement: num(agreement) })));
  heads.sort((one, other) => other.agreement - one.agreement);
  return html`<h3>${t("cross.ranking")}</h3>
    <p class="note">${t("cross.ranking_note", { agreement: fixed(num(align.agreement), 1), n: align.heads.length })}</p>
    <div class="ranking">
      ${heads.slice(0, 12).map(
        (one) => html`<button type="button" class="chip-button" aria-pressed=${chosen.has(`${one.layer},${one.head}`) ? "true" : "false"} onClick=${() => set({ layer: one.layer, head: one.head })}>
          ${t("cross.layer_head", { layer: one.layer + 1, head: one.head + 1 })} <b>${fixed(one.agreement, 0)} %</b>
        </button>`,
      )}
    </div>`;
}

const MOST_WORDS = 24;

/** The words that matter most to this row, in the order of the source. */
function foremost(units) {
  if (units.length <= MOST_WORDS) return units;
  const chosen = new Set();
  for (const size of [(one) => one.weight, (one) => Math.abs(one.change)]) {
    [...units].sort((one, other) => size(other) - size(one)).slice(0, MOST_WORDS / 2).forEach((one) => chosen.add(one));
  }
  return units.filter((one) => chosen.has(one));
}

/** Causal evidence: hide a word from the whole model, and see what this row's token loses. */
function Cover({ written, attn, step, head, sourceUnits }) {
  const [asked, setAsked] = useState(false);
  if (!written.cover || written.cover.length === 0) return null;
  if (written.cover.ref && !asked) {
    return html`<p><button type="button" class="button" onClick=${() => setAsked(true)}>${t("cross.cover_ask")}</button></p>`;
  }
  const cover = value(written, "cover");
  if (!cover) return html`<p class="soft">${t("state.fetching")}</p>`;
  const row = at(attn, step);
  const token = name(written.tgt[step]);
  const units = cover.map((one) => ({
    text: sourceUnits[one.unit]?.text ?? String(one.unit),
    change: nums(one.change)[step],
    weight: one.tokens.reduce((sum, place) => sum + row.data[place], 0),
    first: one.tokens[0],
  }));
  const needed = units.reduce((least, one) => (one.change < least.change ? one : least), units[0]);
  const looked = units.reduce((most, one) => (one.weight > most.weight ? one : most), units[0]);
  const shown = foremost(units);
  const kind = needed === looked ? "cross.cover_agree" : "cross.cover_differ";
  return html`<h3>${t("cross.cover")}</h3>
    <div class="two">
      <div>
        <div class="small-title">${t("cross.cover_attention", { token, head: head + 1 })}</div>
        <${Bars} rows=${shown.map((one) => ({ name: one.text, value: one.weight, className: "heat", side: "source" }))} format=${(v) => fixed(v)} most=${1} />
      </div>
      <div>
        <div class="small-title">${t("cross.cover_change", { token })}</div>
        <${Bars} rows=${shown.map((one) => ({ name: one.text, value: one.change, className: one.change < 0 ? "target" : "heat", side: "source" }))} format=${(v) => fixed(v)} signed />
      </div>
    </div>
    ${shown.length < units.length ? html`<p class="note">${t("cross.cover_some", { n: shown.length, all: units.length })}</p>` : null}
    <p class="finding">${rich(t(kind, { token, word: needed.text, change: fixed(needed.change), looked: looked.text, weight: fixed(looked.weight) }))}</p>`;
}

export function Cross() {
  const { doc, preview } = useStore("doc", "hyp", "t", "layer", "head", "parts", "preview");
  const [stage, setStage] = useState("weights");
  const written = writing();
  if (!written) return html`<p class="soft">${t("state.fetching")}</p>`;
  const { cross } = written;
  const step = stepOf(written);
  const sources = doc.src.map(name);
  const rows = written.tgt.map((_, row) => rowName(written, row));
  const layer = layerOf(cross.attn.length);
  const attn = array(cross.attn, layer);
  const head = attn ? headOf(attn.shape[0]) : 0;
  const align = cross.head_align;
  const table = align && (align.reading === "write" ? align.write : align.read);
  const one = attn && at(attn, head);
  const picked = preview?.kind === "source" ? preview.index : null;
  return html`
    <div class="controls"><${LayerChoice} layers=${cross.attn.length} /><${StageChoice} value=${stage} onChoose=${setStage} stages=${["scores", "weights"]} /></div>
    ${one ? html`<${Arcs} attn=${one} step=${step} sources=${sources} targets=${written.tgt.map(name)} picked=${picked} />` : null}
    <${OneHead}
      use="cross"
      side=${cross}
      attn=${cross.attn}
      shown=${stage === "scores" ? cross.scores : undefined}
      kind=${stage === "scores" ? "score" : "weight"}
      rows=${rows}
      cols=${sources}
      row=${step}
      col=${picked}
      rowSide="target"
      colSide="source"
      qToKv=${doc.gqa.q_to_kv.cross}
      caption=${t(`cross.caption.${stage}`, { score: scoreName(cross, null) })}
      note=${table ? (index) => `${fixed(num(table[layer][index]), 0)} %` : undefined}
      onPreview=${(cell) => set({ preview: cell ? { kind: "source", index: cell.col } : null })}
      onPin=${(row, col) => set({ cell: same(row, col, "cross") ? null : { row, col }, use: "cross", t: row })}
    />
    <${Ranking} align=${align} />
    ${one ? html`<${Cover} sourceUnits=${doc.source_units} written=${written} attn=${one} step=${step} head=${head} />` : null}
  `;
}
