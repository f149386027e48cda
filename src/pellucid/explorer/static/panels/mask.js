// Panel 3: the decoder's causal mask: scores, mask, weights; and what the same model does when nobody covers the future.
import { LayerChoice, OneHead, StageChoice } from "../attention.js";
import { fixed, tiny } from "../format.js";
import { t } from "../i18n.js";
import { set, useStore } from "../store.js";
import { array, headOf, layerOf, name, nums, rowName, stepOf, writing } from "../trace.js";
import { at } from "../tensors.js";
import { Choice, Figure, html, rich, useState } from "../ui.js";
import { same } from "./encoder.js";

/** The largest weight on a later position; exactly 0 under a causal mask. */
export function future(attn) {
  const [rows, cols] = attn.shape;
  let most = 0;
  for (let row = 0; row < rows; row += 1) for (let col = row + 1; col < cols; col += 1) most = Math.max(most, attn.data[row * cols + col]);
  return most;
}

export function Mask() {
  const { doc } = useStore("doc", "hyp", "t", "layer", "head", "parts", "preview");
  const [stage, setStage] = useState("weights");
  const [removed, setRemoved] = useState(false);
  const written = writing();
  if (!written) return html`<p class="soft">${t("state.fetching")}</p>`;
  const { decoder } = written;
  const mask = array(decoder, "mask");
  if (!mask) return html`<p class="soft">${t("state.fetching")}</p>`;
  const rows = written.tgt.map((_, row) => rowName(written, row));
  const cols = written.input.map(name);
  const step = stepOf(written);
  const attn = removed ? decoder.unmasked.attn : decoder.attn;
  const shown = removed ? attn : { scores: decoder.scores, mask: decoder.attn.map(() => null), weights: decoder.attn }[stage];
  const layer = layerOf(attn.length);
  const current = array(attn, layer);
  const head = current ? headOf(current.shape[0]) : 0;
  const maskStage = !removed && stage === "mask";
  const logp = nums(written.tf.logp);
  const free = nums(decoder.unmasked.logp);
  const pinned = (row, col) => {
    const again = same(row, col, "decoder");
    set({ cell: again ? null : { row, col }, use: "decoder", t: row });
  };
  const shownLayers = maskStage ? decoder.attn.map(() => maskOf(mask, decoder, layer)) : shown;
  return html`
    <div class="controls">
      <${LayerChoice} layers=${decoder.attn.length} />
      ${removed ? null : html`<${StageChoice} value=${stage} onChoose=${setStage} />`}
      <${Choice}
        label=${t("mask.mask")}
        options=${[
          { value: false, text: t("mask.there") },
          { value: true, text: t("mask.removed") },
        ]}
        value=${removed}
        onChoose=${setRemoved}
      />
    </div>
    ${removed ? html`<p class="counterfactual">${t("mask.counterfactual")}</p>` : null}
    <${OneHead}
      use="decoder"
      side=${removed ? { ...decoder, attn } : decoder}
      attn=${attn}
      shown=${shownLayers}
      kind=${!removed && stage === "scores" ? "score" : "weight"}
      rows=${rows}
      cols=${cols}
      mask=${removed ? null : mask}
      row=${step}
      col=${null}
      rowSide="target"
      colSide="target"
      qToKv=${doc.gqa.q_to_kv.self}
      bias=${decoder.bias}
      caption=${t(removed ? "mask.caption.removed" : `mask.caption.${stage}`)}
      covers=${(row, col) => !removed && !at(mask, row).data[col]}
      onPreview=${(cell) => set({ preview: cell ? { kind: "target", index: cell.row } : null })}
      onPin=${pinned}
    />
    <div class="figures">
      ${current ? html`<${Figure} value=${String(future(at(current, head)))} label=${t(removed ? "mask.future_removed" : "mask.future")} />` : null}
      <${Figure} value=${fixed(logp[step], 3)} label=${t("mask.logp", { token: name(written.tgt[step]) })} />
      <${Figure} value=${fixed(free[step], 3)} label=${t("mask.logp_removed", { token: name(written.tgt[step]) })} />
      <${Figure} value=${tiny(Math.max(...nums(decoder.unmasked.logit_maxdiff)))} label=${t("mask.logits_move")} />
    </div>
    <p class="note">${rich(t("mask.note"))}</p>
  `;
}

/** @type {WeakMap<object, any>} */
const masks = new WeakMap();

/** The mask laid out like a layer's heads: the same for each. */
function maskOf(mask, decoder, layer) {
  const attn = array(decoder.attn, layer);
  if (!attn) return undefined;
  let known = masks.get(mask);
  if (!known) {
    const [heads] = attn.shape;
    const data = new Float32Array(heads * mask.data.length);
    for (let head = 0; head < heads; head += 1) data.set(mask.data, head * mask.data.length);
    known = { shape: [heads, ...mask.shape], data };
    masks.set(mask, known);
  }
  return known;
}
