// Panel 1: what is added to an embedding so that order can be known, and what happens without it.
import { exact, fixed, tiny } from "../format.js";
import { t } from "../i18n.js";
import { Thumbnail } from "../matrix.js";
import { set, useStore } from "../store.js";
import { array, name, num } from "../trace.js";
import { at, largest } from "../tensors.js";
import { Figure, html, rich } from "../ui.js";

const DIMENSIONS = 8;

/** An [S, M] array as one picture with the tokens beside it. */
function Plane({ values, title, sign, scale, doc, picked, className }) {
  return html`<div class=${`plane ${className || ""}`}>
    <div class="plane-title"><span class="sign">${sign}</span>${title}</div>
    <div class="plane-body">
      <div class="plane-names" aria-hidden="true">
        ${doc.src.map(
          (token, index) => html`<span class=${index === picked ? "on" : ""} onPointerEnter=${() => set({ preview: { kind: "source", index } })}
            >${name(token)}</span
          >`,
        )}
      </div>
      <div class="plane-picture"><${Thumbnail} values=${values} scale=${scale} label=${title} height="100%" /></div>
    </div>
  </div>`;
}

/** The first numbers of one token: tok · scale + pe = input. */
function Numbers({ position, row, token }) {
  const parts = [
    ["tok", array(position, "tok_emb")],
    ["pe", array(position, "pe")],
    ["input", array(position, "input")],
  ];
  if (parts.some(([, values]) => values === undefined)) return null;
  const scale = num(position.scale);
  const cells = (values, factor = 1) =>
    Array.from({ length: Math.min(DIMENSIONS, values.shape[1]) }, (_, index) => at(values, row).data[index] * factor);
  const lines = [[t("position.tok", { scale: exact(scale) }), cells(parts[0][1], scale)]];
  if (parts[1][1]) lines.push([t("position.pe"), cells(parts[1][1])]);
  lines.push([t("position.input"), cells(parts[2][1])]);
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label=${t("position.numbers", { token: name(token), n: DIMENSIONS })}>
    <table class="values sum">
      <caption>${t("position.numbers", { token: name(token), n: DIMENSIONS })}</caption>
      <tbody>
        ${lines.map(
          ([label, values], index) => html`<tr class=${index === lines.length - 1 ? "total" : ""}>
            <th scope="row">${index === lines.length - 1 ? "= " : index ? "+ " : ""}${label}</th>
            ${values.map((value) => html`<td>${fixed(value, 4)}</td>`)}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

function Ablation({ ablation, src }) {
  const words = (tokens) => tokens.map((token) => name(token)).join(" ");
  const side = (which) => {
    const found = ablation[which];
    return html`<div class=${`card ${which}`}>
      <h4>${t(`position.${which}`)}</h4>
      <div class="figures">
        <${Figure} value=${tiny(num(found.enc_maxdiff))} label=${t("position.enc_diff", { max: tiny(num(found.enc_max)) })} />
        <${Figure} value=${tiny(num(found.logit_maxdiff))} label=${t("position.logit_diff", { max: tiny(num(found.logit_max)) })} />
      </div>
      <dl class="pairs">
        <dt class="source">${words(src)}</dt>
        <dd>${found.texts[0] || "∅"}</dd>
        <dt class="source">${words(ablation.permuted)}</dt>
        <dd>${found.texts[1] || "∅"}</dd>
      </dl>
    </div>`;
  };
  return html`<h3>${t("position.ablation")}</h3>
    <div class="two">${side("on")}${side("off")}</div>
    <p class="note">${t("position.footnote")}</p>`;
}

export function Position() {
  const { doc, preview } = useStore("doc", "preview", "parts");
  const { position } = doc;
  const picked = preview?.kind === "source" ? Math.min(preview.index, doc.src.length - 1) : 0;
  const tok = array(position, "tok_emb");
  const input = array(position, "input");
  const pe = array(position, "pe");
  const formula = array(position, "formula");
  if (!tok || !input) return html`<p class="soft">${t("state.fetching")}</p>`;
  const scaled = { shape: tok.shape, data: tok.data.map((value) => value * num(position.scale)) };
  const most = Math.max(largest(scaled), largest(input));
  const limit = position.max_length;
  return html`
    <p class="finding">${rich(t(`position.scheme.${position.scheme}`, { limit: limit ?? "" }))}</p>
    <div class="planes">
      <${Plane} values=${scaled} scale=${most} title=${t("position.tok", { scale: exact(num(position.scale)) })} sign="" doc=${doc} picked=${picked} />
      ${pe ? html`<${Plane} values=${pe} scale=${largest(pe)} title=${t("position.pe")} sign="+" doc=${doc} picked=${picked} />` : null}
      <${Plane} values=${input} scale=${most} title=${t("position.input")} sign="=" doc=${doc} picked=${picked} />
      ${formula && pe && position.scheme === "learned"
        ? html`<${Plane} values=${formula} scale=${1} title=${t("position.formula")} sign="≠" doc=${doc} picked=${picked} className="aside" />`
        : null}
    </div>
    <p class="note">${t(pe ? "position.planes" : "position.planes_none", { m: input.shape[1], pe: pe ? fixed(largest(pe), 2) : "" })}</p>
    <${Numbers} position=${position} row=${picked} token=${doc.src[picked]} />
    <p class="note">
      ${t(position.beyond.error ? "position.beyond_error" : "position.beyond_fine", { n: position.beyond.length })}
      ${position.beyond.error ? html` <q>${position.beyond.error}</q>` : null}
    </p>
    ${position.ablation ? html`<${Ablation} ablation=${position.ablation} src=${doc.src} />` : html`<p class="note">${t("position.no_ablation")}</p>`}
  `;
}
