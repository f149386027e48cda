// Panel 5: the same rows two ways: one call for all (teacher forcing), one call each (autoregressive); and exposure bias.
import { LineChart } from "../charts.js";
import { fixed, ms, tiny } from "../format.js";
import { t } from "../i18n.js";
import { set, useStore } from "../store.js";
import { name, num, nums, rowName, runsOf, stepOf, writing } from "../trace.js";
import { Figure, html, rich } from "../ui.js";

/** One lane: the calls of the decoder as blocks over the tokens that each fills. */
function Lane({ title, written, step, one, note }) {
  return html`<div class="lane">
    <div class="lane-title"><b>${title}</b><span>${note}</span></div>
    <div class=${`lane-calls ${one ? "together" : "apart"}`}>
      ${written.tgt.map(
        (token, index) => html`<button
          type="button"
          class=${`lane-token ${index === step ? "on" : ""} ${!one && index > step ? "later" : ""}`}
          onClick=${() => set({ t: index })}
          title=${rowName(written, index)}
        >
          <small>${name(written.input[index])}</small>${name(token)}
        </button>`,
      )}
    </div>
  </div>`;
}

function Drift({ drift, written, step }) {
  if (!drift) return html`<p class="note">${t("forcing.no_drift")}</p>`;
  const clean = nums(drift.clean_logp);
  const wrong = nums(drift.logp);
  const after = drift.at + 1;
  const loss = wrong.slice(after).reduce((sum, one, index) => sum + one - clean[after + index], 0);
  return html`<h3>${t("forcing.drift")}</h3>
    <p>${rich(t("forcing.drift_text", { n: drift.at + 1, original: name(drift.original), replaced: name(drift.replaced) }))}</p>
    <div class="two">
      <${LineChart}
        caption=${t("forcing.drift_chart")}
        labels=${written.tgt.map(name)}
        step=${step}
        format=${(v) => fixed(v)}
        series=${[
          { name: t("forcing.clean"), values: clean, className: "heat" },
          { name: t("forcing.corrupted"), values: wrong, className: "target" },
        ]}
      />
      <div class="drift-texts">
        <div class="small-title">${t("forcing.original_text")}</div>
        <p class="line">${written.text}</p>
        <div class="small-title">${t("forcing.drift_written")}</div>
        <p class="line">${drift.text}</p>
        <div class="figures">
          <${Figure} value=${fixed(loss)} label=${t("forcing.drift_loss")} />
          <${Figure} value=${drift.rejoins === null ? "–" : drift.rejoins + 1} label=${t(drift.rejoins === null ? "forcing.never" : "forcing.rejoins")} />
        </div>
      </div>
    </div>`;
}

export function Forcing() {
  useStore("doc", "hyp", "t", "parts");
  const written = writing();
  if (!written) return html`<p class="soft">${t("state.fetching")}</p>`;
  const step = stepOf(written);
  const { tf, ar, maxdiff } = written;
  const stepMs = nums(ar.step_ms);
  return html`
    <${Lane} title=${t("forcing.tf")} written=${written} step=${step} one note=${t("forcing.tf_note", { calls: tf.calls, ms: ms(num(tf.ms)) })} />
    <${Lane} title=${t("forcing.ar")} written=${written} step=${step} note=${t("forcing.ar_note", { calls: ar.calls, ms: ms(num(ar.ms)) })} />
    <div class="figures">
      <${Figure} value=${`${tf.calls} : ${ar.calls}`} label=${t("forcing.calls")} />
      <${Figure} value=${ms(num(tf.ms))} label=${t("forcing.tf_time")} />
      <${Figure} value=${ms(num(ar.ms))} label=${t("forcing.ar_time")} />
      <${Figure} value=${tiny(num(maxdiff.relative))} label=${t("forcing.maxdiff")} />
    </div>
    <div class="two">
      <div>
        <div class="small-title">${t("forcing.row", { row: rowName(written, step) })}</div>
        <table class="values plain">
          <tbody>
            <tr><th scope="row">${t("forcing.logp_tf")}</th><td>${fixed(num(tf.logp[step]), 6)}</td></tr>
            <tr><th scope="row">${t("forcing.logp_ar")}</th><td>${fixed(num(ar.logp[step]), 6)}</td></tr>
            <tr><th scope="row">${t("forcing.difference")}</th><td>${tiny(Math.abs(num(tf.logp[step]) - num(ar.logp[step])))}</td></tr>
          </tbody>
        </table>
      </div>
      <div>
        <${LineChart} caption=${t("forcing.step_times", { runs: runsOf(written) })} labels=${written.tgt.map(name)} step=${step} format=${ms} height=${104}
          series=${[{ name: rowName(written, step), values: stepMs, className: "heat" }]} />
      </div>
    </div>
    <${Drift} drift=${written.drift} written=${written} step=${step} />
  `;
}
