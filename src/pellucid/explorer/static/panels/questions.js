// Panel 9: what an examiner asks, each answered in two sentences and by a number measured on the model loaded now.
import { bytes, fixed, ms, tiny } from "../format.js";
import { t } from "../i18n.js";
import { set, useStore } from "../store.js";
import { array, name, num, nums, writing } from "../trace.js";
import { at, strongest } from "../tensors.js";
import { html, rich, useState } from "../ui.js";
import { future } from "./mask.js";
import { forward, padMask } from "./encoder.js";

const last = (list) => list[list.length - 1];
const sum = (values) => values.reduce((total, value) => total + value, 0);

/**
 * The questions: [key, panel, numbers for the sentence]. A number that this trace does not have gives null: then the
 * sentence `.none` says so.
 * @type {[string, string, (doc: any, written: any) => Record<string, any> | null][]}
 */
const QUESTIONS = [
  ["positions", "position", ({ position }) => position.ablation && { off: tiny(num(position.ablation.off.logit_maxdiff)), on: tiny(num(position.ablation.on.logit_maxdiff)), figure: position.scheme === "none" ? "figure_none" : "figure" }],
  ["beyond", "position", ({ position }) => ({ n: position.beyond.length, scheme: t(`scheme.${position.scheme}`), outcome: t(position.beyond.error ? "q.beyond.refuses" : "q.beyond.goes_on") })],
  ["encoder", "encoder", ({ encoder }) => {
    const attn = array(encoder.attn, encoder.attn.length - 1);
    return attn && { share: fixed(forward(at(attn, 0), padMask(encoder)) * 100, 0), layer: encoder.attn.length };
  }],
  ["mask", "mask", (_, { decoder }) => {
    const layers = decoder.attn.map((_, layer) => array(decoder.attn, layer));
    if (!layers.every(Boolean)) return null;
    const most = Math.max(...layers.flatMap((attn) => Array.from({ length: attn.shape[0] }, (_, head) => future(at(attn, head)))));
    return { most: String(most), layers: layers.length, heads: layers[0].shape[0], change: tiny(Math.max(...nums(decoder.unmasked.logit_maxdiff))) };
  }],
  ["cross", "cross", ({ src }, { cross, tgt }) => {
    const attn = array(cross.attn, cross.attn.length - 1);
    if (!attn) return null;
    const found = strongest(at(attn, 0), 0);
    return { token: name(tgt[0]), word: name(src[found.index]), weight: fixed(found.value), rows: tgt.length, cols: src.length };
  }],
  ["evidence", "cross", (_, { cover, tgt }) => {
    if (!Array.isArray(cover) || !cover.length) return null;
    const one = cover.reduce((least, next) => (num(next.change[0]) < num(least.change[0]) ? next : least));
    return { token: name(tgt[0]), word: one.unitText, change: fixed(num(one.change[0])) };
  }],
  ["forcing", "forcing", (_, { tf, ar, maxdiff }) => ({ tf: tf.calls, ar: ar.calls, diff: tiny(num(maxdiff.relative)) })],
  ["parallel", "forcing", (_, { tf, ar, tgt }) => ({ tf: ms(num(tf.ms)), ar: ms(num(ar.ms)), n: tgt.length })],
  ["exposure", "forcing", (_, { drift }) => {
    if (!drift) return null;
    const loss = nums(drift.logp).slice(drift.at + 1);
    const clean = nums(drift.clean_logp).slice(drift.at + 1);
    return { original: name(drift.original), replaced: name(drift.replaced), clean: fixed(sum(clean)), wrong: fixed(sum(loss)) };
  }],
  ["cache", "cache", (_, { kv }) => ({ self: bytes(num(last(kv.steps).bytes.self)), cross: bytes(num(last(kv.steps).bytes.cross)), t: kv.steps.length })],
  ["saves", "cache", (_, { kv }) => ({ ratio: fixed(sum(kv.steps.map((one) => num(one.macs.uncached))) / sum(kv.steps.map((one) => num(one.macs.cached))), 1), t: kv.steps.length })],
  ["gqa", "gqa", ({ gqa, sizes }) => ({ q: sizes.heads, kv: sizes.self_kv_heads, actual: bytes(num(gqa.bytes_actual.self) + num(gqa.bytes_actual.cross)), mha: bytes(num(gqa.bytes_mha.self) + num(gqa.bytes_mha.cross)) })],
  ["beam", "search", ({ search }) => ({ k: search.beam_size, greedy: fixed(num(search.greedy.score), 3), beam: fixed(num(search.nbest[0].score), 3) })],
  ["beam1", "search", ({ search }) => ({ sum: fixed(num(search.greedy.sum_logp), 3), n: search.greedy.len })],
  ["length", "search", ({ search }) => {
    const best = search.nbest[0];
    return { sum: fixed(num(best.sum_logp), 3), len: best.len, penalty: fixed(num(best.penalty), 3), score: fixed(num(best.score), 3), name: search.length_penalty };
  }],
  ["stop", "search", ({ search }, { finish_reason: reason }) => ({ stop: t(search.stop === "exact" ? "q.stop.exact" : "q.stop.other", { rule: search.stop }), reason: t(`finish.${reason}`), limit: search.limit })],
];

export const KEYS = QUESTIONS.map(([key]) => key);

function Question({ number, entry, doc, written, practice }) {
  const [key, panel, read] = entry;
  const [open, setOpen] = useState(false);
  const shown = open || !practice;
  let numbers = null;
  if (shown) numbers = read(doc, written);
  return html`<li class="question">
    <span class="question-number" aria-hidden="true">${number}</span>
    <div>
      <h3>${t(`q.${key}.ask`)}</h3>
      ${shown
        ? html`<p>${rich(t(`q.${key}.answer`))}</p>
            <p class="evidence">
              <span>${numbers ? rich(t(`q.${key}.${numbers.figure || "figure"}`, numbers)) : t("q.none")}</span>
            </p>`
        : html`<button type="button" class="button" onClick=${() => setOpen(true)}>${t("questions.reveal")}</button>`}
    </div>
    <button type="button" class="jump" onClick=${() => jump(panel)}>${t(`panel.${panel}`)} →</button>
  </li>`;
}

/** Go to a panel, in the story. */
export function jump(panel) {
  set({ bench: "" });
  requestAnimationFrame(() => {
    const target = document.getElementById(panel);
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    target?.scrollIntoView({ behavior: still ? "auto" : "smooth" });
    target?.querySelector("h2")?.focus({ preventScroll: true });
  });
}

export function Questions() {
  const { doc, practice } = useStore("doc", "hyp", "parts", "practice", "lang");
  const written = writing();
  if (!written) return html`<p class="soft">${t("state.fetching")}</p>`;
  const named = { ...written, cover: Array.isArray(written.cover) ? written.cover.map((one) => ({ ...one, unitText: doc.source_units[one.unit]?.text ?? one.unit })) : null };
  return html`
    <label class="switch">
      <input type="checkbox" checked=${practice} onChange=${(event) => set({ practice: event.currentTarget.checked })} />
      <span>${t("questions.practice")}</span>
    </label>
    <ol class="questions" key=${practice}>
      ${QUESTIONS.map((entry, index) => html`<${Question} key=${entry[0]} number=${index + 1} entry=${entry} doc=${doc} written=${named} practice=${practice} />`)}
    </ol>
  `;
}
