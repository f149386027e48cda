// Panel 6: what the KV cache holds at this step: new, reused, cross; its bytes, the arithmetic it saves, the time.
import { LineChart } from "../charts.js";
import { bytes, count, fixed, ms } from "../format.js";
import { t } from "../i18n.js";
import { set, useStore } from "../store.js";
import { name, num, nums, runsOf, stepOf, writing } from "../trace.js";
import { Figure, html, rich, useNarrow } from "../ui.js";

/** Layers × KV heads × positions: one line for each KV head of each layer, one cell for each stored position. */
function Shelf({ kv, written, step, sources }) {
  const narrow = useNarrow();
  const lines = [];
  for (let layer = 0; layer < kv.layers; layer += 1) {
    const heads = Math.max(kv.self_kv_heads, kv.cross_kv_heads);
    for (let head = 0; head < heads; head += 1) lines.push({ layer, head });
  }
  const now = kv.steps[step];
  const positions = written.input.length;
  const cell = (kind, key) => html`<i key=${key} class=${kind}></i>`;
  const label = t("cache.shelf", { layers: kv.layers, heads: kv.self_kv_heads, self: now.self_len, cross: now.cross_len });
  const target = {
    names: () => html`<div class="shelf-names target">${written.input.map((token, index) => html`<span class=${index === step ? "on" : index > step ? "later" : ""} onClick=${() => set({ t: index })}>${name(token)}</span>`)}</div>`,
    cells: (head) => html`<div class="shelf-cells">
      ${Array.from({ length: positions }, (_, index) =>
        cell(head >= kv.self_kv_heads ? "none" : index < now.reused_rows ? "reused" : index < now.self_len ? "new" : "empty", index),
      )}
    </div>`,
  };
  const source = {
    names: () => html`<div class="shelf-names source">${sources.map((one) => html`<span>${one}</span>`)}</div>`,
    cells: (head) => html`<div class="shelf-cells">${sources.map((_, index) => cell(head < kv.cross_kv_heads ? "cross" : "none", index))}</div>`,
  };
  // Side by side; where that is too narrow, the source's cells stand below the target's.
  const shelves = narrow ? [[target], [source]] : [[target, source]];
  const columns = narrow ? { "--positions": Math.max(positions, sources.length), "--sources": 0 } : { "--positions": positions, "--sources": sources.length };
  return html`<div class="shelf-scroll" style=${columns} tabindex="0" role="region" aria-label=${label}>
    ${shelves.map(
      (sides) => html`<div class="shelf">
        <div class="shelf-head"><span class="shelf-name"></span>${sides.map((side) => side.names())}</div>
        ${lines.map(
          ({ layer, head }) => html`<div class=${`shelf-line ${head === 0 ? "first" : ""}`}>
            <span class="shelf-name">${head === 0 ? t("cache.layer", { n: layer + 1 }) : ""}</span>
            ${sides.map((side) => side.cells(head))}
          </div>`,
        )}
      </div>`,
    )}
  </div>`;
}

export function Cache() {
  const { doc } = useStore("doc", "hyp", "t", "parts");
  const written = writing();
  if (!written) return html`<p class="soft">${t("state.fetching")}</p>`;
  const { kv } = written;
  const step = stepOf(written);
  const now = kv.steps[step];
  const labels = written.tgt.map(name);
  const every = (read) => kv.steps.map((one) => num(read(one)));
  const saved = num(now.macs.uncached) / num(now.macs.cached);
  return html`
    <div class="keys">
      <span><i class="new"></i>${t("cache.new", { n: now.new_rows })}</span>
      <span><i class="reused"></i>${t("cache.reused", { n: now.reused_rows })}</span>
      <span><i class="cross"></i>${t("cache.cross", { n: now.cross_len })}</span>
      <span><i class="empty"></i>${t("cache.empty")}</span>
    </div>
    <${Shelf} kv=${kv} written=${written} step=${step} sources=${doc.src.map(name)} />
    <div class="figures">
      <${Figure} value=${bytes(num(now.bytes.self))} label=${t("cache.self_bytes")} />
      <${Figure} value=${bytes(num(now.bytes.cross))} label=${t("cache.cross_bytes")} />
      <${Figure} value=${bytes(num(now.bytes.allocated_self) + num(now.bytes.allocated_cross))} label=${t("cache.allocated")} />
      <${Figure} value=${`${fixed(saved, 1)} ×`} label=${t("cache.saved")} note=${t("tag.formula")} />
    </div>
    <p class="formula-line">
      2 × ${kv.layers} × ${kv.self_kv_heads} × ${kv.head_size} × ${now.self_len} × ${kv.bytes_per_number} = <b>${bytes(num(now.formula.self))}</b>${" "}
      <span class="tag">${t("tag.formula")}</span> <span class="soft">${t("cache.formula_names")}</span>
    </p>
    <div class="three">
      <${LineChart} caption=${t("cache.bytes_chart")} labels=${labels} step=${step} format=${bytes}
        series=${[
          { name: t("cache.self"), values: every((one) => one.bytes.self), className: "target" },
          { name: t("cache.cross_name"), values: every((one) => one.bytes.cross), className: "source" },
        ]} />
      <${LineChart} caption=${t("cache.macs_chart")} labels=${labels} step=${step} format=${count}
        series=${[
          { name: t("cache.with"), values: every((one) => one.macs.cached), className: "target" },
          { name: t("cache.without"), values: every((one) => one.macs.uncached), className: "grey" },
        ]} />
      <${LineChart} caption=${t("cache.time_chart", { runs: runsOf(written) })} labels=${labels} step=${step} format=${ms}
        series=${[
          { name: t("cache.with"), values: every((one) => one.ms.cached), className: "target" },
          { name: t("cache.without"), values: every((one) => one.ms.uncached), className: "grey" },
        ]} />
    </div>
    <p class="finding">${rich(t(kv.same_ids === null ? "cache.not_compared" : kv.same_ids ? "cache.same" : "cache.not_same", { total: bytes(nums(Object.values(kv.steps[kv.steps.length - 1].bytes)).slice(0, 2).reduce((a, b) => a + b, 0)) }))}</p>
  `;
}
