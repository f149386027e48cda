// Panel 8: the search as a lattice of (step, rank), the score with its numbers, greedy beside it, and forcing a token.
import { Bars } from "../charts.js";
import { fixed } from "../format.js";
import { t } from "../i18n.js";
import { set, useStore } from "../store.js";
import { ask, name, num, ofModel, stepOf, writing } from "../trace.js";
import { html, px, rich, useEffect, useMemo, useNarrow, useRef } from "../ui.js";

const COLUMN = 124;
const ROW = 46;
const MOST_RANKS = 9;

/** The nodes from the root to this one. */
function pathTo(nodes, id) {
  const found = [];
  for (let at = id; at !== null && at !== undefined; at = nodes[at].parent) found.unshift(at);
  return found;
}

function Lattice({ search, step, picked, chosenPath }) {
  const { nodes } = search;
  const scroller = useRef(null);
  const shown = useMemo(() => nodes.filter((node) => node.rank < MOST_RANKS || node.status !== "pruned"), [search]);
  const steps = Math.max(...nodes.map((node) => node.step)) + 1;
  const ranks = Math.max(...shown.map((node) => node.rank)) + 1;
  const x = (node) => node.step * COLUMN;
  const y = (node) => node.rank * ROW;
  const greedy = useMemo(() => new Set(search.greedy.nodes), [search]);
  const path = new Set(chosenPath);
  const size = { width: steps * COLUMN, height: ranks * ROW + 8 };
  useEffect(() => {
    const box = scroller.current;
    if (box && box.scrollWidth > box.clientWidth) box.scrollLeft = step * COLUMN - box.clientWidth / 2;
  }, [step]);
  const visible = new Set(shown.map((node) => node.id));
  return html`<div class="lattice-scroll" ref=${scroller} tabindex="0" role="region" aria-label=${t("search.lattice")}>
    <div class="lattice" style=${{ width: px(size.width), height: px(size.height + 26) }}>
      ${Array.from({ length: steps }, (_, index) => html`<button type="button" class=${`lattice-step ${index === step ? "on" : ""}`} style=${{ left: px(index * COLUMN), width: px(COLUMN - 14) }} onClick=${() => set({ t: index })}>${index + 1}</button>`)}
      <svg class="lattice-edges" width=${size.width} height=${size.height} aria-hidden="true">
        ${shown
          .filter((node) => node.parent !== null && visible.has(node.parent))
          .map((node) => {
            const from = nodes[node.parent];
            const [x1, y1, x2, y2] = [x(from) + COLUMN - 14, y(from) + 18, x(node), y(node) + 18];
            const kind = path.has(node.id) ? "path" : greedy.has(node.id) ? "greedy" : node.status;
            return html`<path class=${kind} d=${`M${x1},${y1} C${x1 + 9},${y1} ${x2 - 9},${y2} ${x2},${y2}`} />`;
          })}
      </svg>
      ${shown.map(
        (node) => html`<button
          type="button"
          key=${node.id}
          class=${`node ${node.status} ${path.has(node.id) ? "path" : ""} ${greedy.has(node.id) ? "greedy" : ""} ${node.step === step ? "now" : ""}`}
          aria-pressed=${node.id === picked ? "true" : "false"}
          style=${{ left: px(x(node)), top: px(y(node) + 26), width: px(COLUMN - 14) }}
          title=${`${name(node.token)} · ${t(`search.status.${node.status}`)}`}
          onClick=${() => set({ node: node.id, t: node.step })}
        >
          <b>${name(node.token)}</b><small>${fixed(num(node.sum_logp))}</small>
        </button>`,
      )}
    </div>
  </div>`;
}

/** The score of a node with its numbers, and why it is where it is. */
function NodeCard({ search, node }) {
  const path = pathTo(search.nodes, node.id).map((id) => name(search.nodes[id].token));
  const why = node.why || {};
  const words = {
    needed: fixed(num(why.needed), 3),
    bound: fixed(num(why.bound), 3),
    worst: fixed(num(why.worst_kept), 3),
    sum: fixed(num(node.sum_logp), 3),
  };
  return html`<div class="node-card">
    <div class="cell-title"><span class="small-title">${t("search.node", { step: node.step + 1, rank: node.rank + 1 })}</span> <b>${path.join(" ")}</b></div>
    <div class="equation">
      <span><small>Σ log p</small>${fixed(num(node.sum_logp), 4)}</span>
      <i>÷</i><span><small>${t(`search.penalty.${search.length_penalty}`, { alpha: fixed(num(search.length_alpha), 2), len: node.len })}</small>${fixed(num(node.penalty), 4)}</span>
      <i>=</i><span class="strong"><small>${t("search.score")}</small>${fixed(num(node.score), 4)}</span>
    </div>
    <p class="note">${t(`search.why.${node.status}`, words)}</p>
  </div>`;
}

/** The n-best list; choosing one swaps every decoder panel to it. */
function Best({ search, hyp }) {
  const narrow = useNarrow();
  const entries = search.nbest.map((one) => ({ ...one, label: one.rank + 1 }));
  const { greedy } = search;
  if (!entries.some((one) => one.writing === greedy.writing)) entries.push({ ...greedy, label: "–" });
  const wide = (cells) => (narrow ? null : cells);
  return html`<div><p class="small-title" id="best-title">${t("search.nbest")}</p>
  <div class="table-scroll" tabindex="0" role="region" aria-labelledby="best-title">
    <table class="values best" aria-labelledby="best-title">
      <thead>
        <tr><th></th><th class="text" scope="col">${t("search.text")}</th>${wide(html`<th scope="col">Σ log p</th><th scope="col">${t("search.length")}</th><th scope="col">${t("search.penalty_short")}</th>`)}<th scope="col">${t("search.score")}</th></tr>
      </thead>
      <tbody>
        ${entries.map(
          (one) => html`<tr class=${one.writing === hyp ? "on" : ""}>
            <td>${one.label}</td>
            <td class="text"><button type="button" class="pick" aria-pressed=${one.writing === hyp ? "true" : "false"} onClick=${() => set({ hyp: one.writing })}>${one.text || "∅"}</button>${one.writing === greedy.writing ? html` <span class="tag">${t("search.greedy")}</span>` : null}</td>
            ${wide(html`<td>${fixed(num(one.sum_logp), 4)}</td><td>${one.len}</td><td>${fixed(num(one.penalty), 4)}</td>`)}<td><b>${fixed(num(one.score), 4)}</b></td>
          </tr>`,
        )}
      </tbody>
    </table>
  </div></div>`;
}

/** The most probable next tokens of this step; with a server, one of them can be forced. */
function TopK({ written, step, live, served }) {
  const options = written.topk[step];
  const force = (token) => {
    const { doc } = live;
    const before = written.tgt.slice(0, step).map((one) => one.id);
    ask({ ...doc.request, prefix_ids: [...before, token.id] }).then((done) => done && set({ t: step }));
  };
  const rows = options.map((option) => {
    const chosen = option.token.id === written.tgt[step].id;
    return {
      name: name(option.token),
      value: Math.exp(num(option.logp)),
      className: chosen ? "target" : "heat",
      on: chosen,
      action: live && !chosen && option.token.piece !== "</s>" ? html`<button type="button" class="quiet" onClick=${() => force(option.token)}>${t("search.force")}</button>` : html`<span class="bar-note">${chosen ? t("search.written") : ""}</span>`,
    };
  });
  return html`<div class="topk">
    <div class="small-title">${t("search.topk", { n: step + 1 })}</div>
    <${Bars} rows=${rows} format=${(v) => fixed(v, 3)} most=${1} />
    ${live ? null : html`<p class="note">${t(served ? "search.force_other" : "search.force_live")}</p>`}
  </div>`;
}

/** Whether greedy loses on this sentence, with both scores; measured, so it may also say that it does not. */
export function verdict(search) {
  const best = search.nbest[0];
  const { greedy } = search;
  const words = { beam: best.text, greedy: greedy.text, beam_score: fixed(num(best.score), 3), greedy_score: fixed(num(greedy.score), 3), k: search.beam_size };
  if (search.beam_size === 1) return t("search.is_greedy", words);
  if (best.ids.join() === greedy.ids.join()) return t("search.same", words);
  return t(num(greedy.score) < num(best.score) ? "search.loses" : "search.wins", words);
}

/** What beams of several widths made of an example when it was chosen, and whose sentences they are. */
function Example({ example }) {
  const { kind, outputs } = example;
  const [narrow, wide] = [outputs[0], outputs[outputs.length - 1]];
  const words = { narrow: narrow.beam, wide: wide.beam, narrow_score: fixed(narrow.score, 3), wide_score: fixed(wide.score, 3), narrow_chrf: fixed(narrow.chrf, 0), wide_chrf: fixed(wide.chrf, 0) };
  return html`<div class="example">
    <p class="small-title">${t(`example.${kind}`)}</p>
    ${outputs.length > 1 ? html`<p>${rich(t(`example.${kind}_note`, words))}</p>` : null}
    <dl>
      ${outputs.map((one) => html`<div><dt>${t("example.beam", { n: one.beam })}</dt><dd>${one.text} <small class="soft">${t("example.figures", { score: fixed(one.score, 3), chrf: fixed(one.chrf, 0) })}</small></dd></div>`)}
      <div><dt>${t("example.reference")}</dt><dd>${example.reference}</dd></div>
    </dl>
    ${example.credit ? html`<p class="note">${t("example.credit", { credit: example.credit })}</p>` : null}
  </div>`;
}

export function Search() {
  const { doc, model, node, hyp } = useStore("doc", "hyp", "t", "parts", "node", "model");
  const { search } = doc;
  const written = writing();
  const step = written ? stepOf(written) : 0;
  const entry = search.nbest.find((one) => one.writing === hyp) || search.nbest[0];
  const greedyShown = hyp === search.greedy.writing && !search.nbest.some((one) => one.writing === hyp);
  const chosenPath = useMemo(() => (greedyShown ? search.greedy.nodes : pathTo(search.nodes, entry.node)), [doc, hyp]);
  const picked = node !== null && node < search.nodes.length ? node : (chosenPath.find((id) => search.nodes[id].step === step) ?? entry.node);
  const live = ofModel(doc) ? { doc } : null;
  const shown = (model?.examples || []).find((one) => one.outputs?.length && one.text === doc.request.text);
  const kinds = (model?.examples || []).filter((one) => one.kind !== "plain");
  return html`
    <p class="finding">${rich(verdict(search))}</p>
    ${shown ? html`<${Example} example=${shown} />` : null}
    <div class="keys">
      <span><i class="line path"></i>${t("search.key_path")}</span>
      <span><i class="line greedy"></i>${t("search.key_greedy")}</span>
      <span><i class="box kept"></i>${t("search.status.kept")}</span>
      <span><i class="box finished"></i>${t("search.status.finished")}</span>
      <span><i class="box pruned"></i>${t("search.status.pruned")}</span>
    </div>
    <${Lattice} search=${search} step=${step} picked=${picked} chosenPath=${chosenPath} />
    ${picked !== null && picked !== undefined ? html`<${NodeCard} search=${search} node=${search.nodes[picked]} />` : null}
    <${Best} search=${search} hyp=${hyp} />
    ${written ? html`<${TopK} written=${written} step=${step} live=${live} served=${Boolean(model?.model)} />` : null}
    ${kinds.length
      ? html`<div class="examples"><span class="small-title">${t("search.found")}</span>
          ${kinds.map((one) => html`<button type="button" class="chip-button" onClick=${() => ask({ text: one.text, beam_size: one.beam_size ?? undefined })}>${t(`example.${one.kind}`)}: ${one.text}</button>`)}
        </div>`
      : null}
  `;
}
