// Lines and bars over the steps of generation, as inline SVG with the current step marked.
import { set } from "./store.js";
import { html, useWidth } from "./ui.js";

const finite = (values) => values.filter((value) => value !== null && Number.isFinite(value));

/** `values` as an SVG path; what is missing leaves a gap. */
function path(values, x, y) {
  let drawn = "";
  let down = false;
  values.forEach((value, index) => {
    if (value === null || !Number.isFinite(value)) {
      down = false;
      return;
    }
    drawn += `${down ? "L" : "M"}${x(index).toFixed(1)},${y(value).toFixed(1)}`;
    down = true;
  });
  return drawn;
}

/**
 * @param {{series: {name: string, values: (number | null)[], className: string}[], step: number, format: (v: number) => string,
 *   caption: string, labels: string[], fromZero?: boolean, height?: number}} props
 */
export function LineChart({ series, step, format, caption, labels, fromZero = true, height = 132 }) {
  const [box, width] = useWidth();
  const all = series.flatMap((one) => finite(one.values));
  const high = Math.max(...all, fromZero ? 0 : -Infinity);
  const low = Math.min(...all, fromZero ? 0 : Infinity);
  const n = labels.length;
  const left = 8;
  const right = Math.max(left + 1, width - 8);
  const x = (index) => (n === 1 ? (left + right) / 2 : left + ((right - left) * index) / (n - 1));
  const y = (value) => 12 + (height - 24) * (1 - (value - low) / (high - low || 1));
  const pick = (event) => {
    const bounds = event.currentTarget.getBoundingClientRect();
    const share = (event.clientX - bounds.left - left) / (right - left || 1);
    set({ t: Math.min(n - 1, Math.max(0, Math.round(share * (n - 1)))) });
  };
  const points = n <= 40;
  return html`<figure class="chart" ref=${box}>
    <figcaption class="small-title">${caption}</figcaption>
    <svg width=${width} height=${height} viewBox=${`0 0 ${Math.max(1, width)} ${height}`} role="img" aria-label=${caption} onClick=${pick}>
      <line class="axis" x1="0" x2=${width} y1=${y(fromZero ? 0 : low)} y2=${y(fromZero ? 0 : low)} />
      <line class="cursor" x1=${x(step)} x2=${x(step)} y1="0" y2=${height} />
      ${series.map(
        (one) => html`<g class=${`series ${one.className}`}>
          <path d=${path(one.values, x, y)} />
          ${one.values.map((value, index) =>
            value !== null && Number.isFinite(value) && (points || index === step)
              ? html`<circle cx=${x(index)} cy=${y(value)} r=${index === step ? 4.5 : 2.5} />`
              : null,
          )}
        </g>`,
      )}
    </svg>
    <div class="chart-legend">
      ${series.map((one) => {
        const value = one.values[step];
        return html`<span class=${one.className}><i></i>${one.name} <b>${value === null || value === undefined ? "–" : format(value)}</b></span>`;
      })}
    </div>
  </figure>`;
}

/** Labelled horizontal bars; negative values go to the left of the line. */
export function Bars({ rows, format, most, signed = false }) {
  const scale = most || Math.max(...finite(rows.map((row) => Math.abs(row.value))), 1e-30);
  return html`<div class=${`bars ${signed ? "signed" : ""}`}>
    ${rows.map((row) => {
      const share = Number.isFinite(row.value) ? Math.min(1, Math.abs(row.value) / scale) * (signed ? 50 : 100) : 0;
      const place = signed ? (row.value < 0 ? { right: "50%", width: `${share}%` } : { left: "50%", width: `${share}%` }) : { left: 0, width: `${share}%` };
      return html`<div class=${`bar-line ${row.on ? "on" : ""}`}>
        <span class=${`bar-name ${row.side || ""}`}>${row.name}</span>
        <span class="bar"><span class=${row.className || ""} style=${place}></span></span>
        <span class="bar-value">${format(row.value)}</span>
        ${row.action || null}
      </div>`;
    })}
  </div>`;
}
