// Panel 7: which query heads share which key/value head, and what that saves.
import { Bars } from "../charts.js";
import { bytes, fixed } from "../format.js";
import { t } from "../i18n.js";
import { set, useStore } from "../store.js";
import { headOf, num } from "../trace.js";
import { Choice, Figure, html, rich, useState, useWidth } from "../ui.js";

/** Query heads above, key/value heads below, a line for each. */
function Wires({ map, picked }) {
  const [box, width] = useWidth();
  const heads = map.length;
  const groups = Math.max(...map) + 1;
  const height = 150;
  const span = Math.min(width, heads * 84);
  const left = 0;
  const x = (index, n) => left + (span * (index + 0.5)) / n;
  return html`<div class="wires" ref=${box}>
    <svg width=${width} height=${height} role="group" aria-label=${t("gqa.wires", { heads, groups })}>
      ${map.map(
        (group, head) => html`<path
          class=${head === picked ? "on" : map[picked] === group ? "near" : ""}
          d=${`M${x(head, heads)},42 C${x(head, heads)},80 ${x(group, groups)},70 ${x(group, groups)},108`}
        />`,
      )}
      ${map.map(
        (group, head) => html`<g
          class=${`query ${head === picked ? "on" : map[picked] === group ? "near" : ""}`}
          role="button"
          tabindex="0"
          aria-label=${t("gqa.query_n", { n: head + 1, g: group + 1 })}
          aria-pressed=${head === picked ? "true" : "false"}
          onClick=${() => set({ head })}
          onKeyDown=${(event) => (event.key === "Enter" || event.key === " ") && (event.preventDefault(), set({ head }))}
        >
          <circle cx=${x(head, heads)} cy="24" r="17" /><text x=${x(head, heads)} y="29">Q${head + 1}</text>
        </g>`,
      )}
      ${Array.from(
        { length: groups },
        (_, group) => html`<g class=${`keyvalue ${map[picked] === group ? "on" : ""}`}>
          <rect x=${x(group, groups) - 26} y="108" width="52" height="34" rx="8" /><text x=${x(group, groups)} y="130">KV${group + 1}</text>
        </g>`,
      )}
    </svg>
  </div>`;
}

export function Gqa() {
  const { doc } = useStore("doc", "head");
  const [use, setUse] = useState("self");
  const { gqa, sizes } = doc;
  const map = gqa.q_to_kv[use];
  const head = headOf(map.length);
  const mates = map.map((group, index) => (group === map[head] ? index + 1 : 0)).filter(Boolean);
  const total = (pair) => num(pair.self) + num(pair.cross);
  const rows = gqa.what_if.map((one) => ({
    name: t("gqa.kv_heads", { n: one.kv_heads }),
    value: total(one),
    className: one.kv_heads === sizes.self_kv_heads ? "target" : "grey",
    on: one.kv_heads === sizes.self_kv_heads,
  }));
  return html`
    <div class="controls">
      <${Choice} label=${t("gqa.which")} value=${use} onChoose=${setUse}
        options=${["encoder", "self", "cross"].map((one) => ({ value: one, text: t(`gqa.${one}`) }))} />
    </div>
    <${Wires} map=${map} picked=${head} />
    <p class="finding">${rich(t(mates.length > 1 ? "gqa.shared" : "gqa.alone", { head: head + 1, kv: map[head] + 1, mates: mates.join(", "), kind: t(`gqa.kind.${gqa.kind}`) }))}</p>
    <div class="two">
      <div class="figures">
        <${Figure} value=${bytes(total(gqa.bytes_actual))} label=${t("gqa.actual")} />
        <${Figure} value=${bytes(total(gqa.bytes_mha))} label=${t("gqa.mha")} note=${t("tag.formula")} />
        ${total(gqa.bytes_mha) === total(gqa.bytes_actual)
          ? null
          : html`<${Figure} value=${`${fixed(total(gqa.bytes_mha) / total(gqa.bytes_actual), 1)} ×`} label=${t("gqa.ratio")} note=${t("tag.formula")} />`}
      </div>
      <div>
        <div class="small-title">${t("gqa.what_if")} <span class="tag">${t("tag.formula")}</span></div>
        <${Bars} rows=${rows} format=${bytes} />
      </div>
    </div>
  `;
}
