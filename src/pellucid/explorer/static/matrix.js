// A matrix to be looked into: a DOM grid with keyboard and readout, a canvas where it is large, a table of exact values,
// and on a phone the bars of one row. Masked cells are hatched; what is not a number says NaN.
import { exact, fixed } from "./format.js";
import { t } from "./i18n.js";
import { useStore } from "./store.js";
import { largest } from "./tensors.js";
import { html, px, useEffect, useMemo, useNarrow, useRef, useState, useWidth } from "./ui.js";

/** @typedef {import("./tensors.js").Tensor} Tensor */

const MOST_DOM_CELLS = 1600;

const gamma = (share) => Math.min(1, Math.max(0, share)) ** 0.75;

/** How dark a value is, from -1 to 1. */
function shade(value, scale) {
  if (!Number.isFinite(value) || scale === 0) return 0;
  return Math.sign(value) * gamma(Math.abs(value) / scale);
}

/** Colours of the style sheet as [r, g, b], for canvases. */
function palette(element) {
  const style = getComputedStyle(element);
  const channels = (name) => style.getPropertyValue(name).trim().split(/\s+/).map(Number);
  return { heat: channels("--heat-rgb"), negative: channels("--neg-rgb"), empty: channels("--cell-rgb"), hatch: channels("--hatch-rgb") };
}

function mix(from, to, share) {
  return from.map((channel, index) => Math.round(channel + (to[index] - channel) * share));
}

/** A matrix as pixels; one pixel a cell, scaled up by the browser without smoothing. */
export function Thumbnail({ values, scale, mask, label, height, crisp = true, className = "" }) {
  const ref = useRef(null);
  const { theme } = useStore("theme");
  useEffect(() => {
    const canvas = ref.current;
    const [rows, cols] = values.shape;
    const context = canvas.getContext("2d");
    const image = context.createImageData(cols, rows);
    const colours = palette(canvas);
    const most = scale || largest(values);
    for (let index = 0; index < rows * cols; index += 1) {
      const share = shade(values.data[index], most);
      const masked = mask && !mask.data[index];
      const colour = masked ? colours.hatch : mix(colours.empty, share < 0 ? colours.negative : colours.heat, Math.abs(share));
      image.data.set([...colour, 255], index * 4);
    }
    canvas.width = cols;
    canvas.height = rows;
    context.putImageData(image, 0, 0);
  }, [values, mask, scale, theme]);
  const style = { ...(height ? { height } : {}), imageRendering: crisp ? "pixelated" : "auto" };
  return html`<canvas ref=${ref} class=${`thumbnail ${className}`} style=${style} role="img" aria-label=${label}></canvas>`;
}

/** Columns of names above, or the name upright where it would not fit. */
function ColumnNames({ cols, size, col, side }) {
  const fits = cols.every((name) => textWidth(name) <= size - 4);
  return html`<div class=${`matrix-cols ${side} ${fits ? "" : "upright"}`} aria-hidden="true">
    ${cols.map((name, index) => html`<span class=${index === col ? "on" : ""} style=${{ width: px(size) }}><span>${name}</span></span>`)}
  </div>`;
}

/** About how wide a name is at 13 px; CJK characters are square. */
export function textWidth(name) {
  let width = 0;
  for (const character of name) width += /[\u2e80-\uffef]/.test(character) ? 13.5 : 7.4;
  return width;
}

function cellClass(value, masked, share) {
  const classes = ["cell"];
  if (masked) classes.push("masked");
  if (Number.isNaN(value)) classes.push("nan");
  if (share < 0) classes.push("negative");
  // Where black and white stand out equally; light and dark themes cross over at different shades.
  const size = Math.abs(share);
  if (size > (share < 0 ? 0.92 : 0.68)) classes.push("dark");
  else if (size > 0.53) classes.push("mid");
  return classes.join(" ");
}

/** Short enough for a cell: .71, 0 where it is exactly 0, NaN. */
function cellText(value, size, kind) {
  if (Number.isNaN(value)) return "NaN";
  if (size < 34) return "";
  if (value === 0) return "0";
  if (kind === "weight") return value >= 0.995 ? "1.0" : value < 0.005 ? "" : value.toFixed(2).slice(1);
  return fixed(value, 1);
}

function GridCells({ id, values, mask, size, kind, scale }) {
  const [rows, cols] = values.shape;
  const lines = [];
  for (let row = 0; row < rows; row += 1) {
    const cells = [];
    for (let col = 0; col < cols; col += 1) {
      const value = values.data[row * cols + col];
      const masked = Boolean(mask && !mask.data[row * cols + col]);
      const share = shade(value, scale);
      cells.push(html`<div
        role="gridcell"
        id=${`${id}-${row}-${col}`}
        class=${cellClass(value, masked, share)}
        style=${{ "--share": `${Math.round(Math.abs(share) * 100)}%` }}
      >
        ${cellText(value, size, kind)}
      </div>`);
    }
    lines.push(html`<div role="row" class="line" style=${{ height: px(size) }}>${cells}</div>`);
  }
  return lines;
}

/** The exact values as a table. */
export function ValueTable({ values, rows, cols, caption }) {
  const width = values.shape[1];
  return html`<div class="table-scroll" tabindex="0" role="region" aria-label=${caption}>
    <table class="values">
      <caption>${caption}</caption>
      <thead>
        <tr><th></th>${cols.map((name) => html`<th scope="col">${name}</th>`)}</tr>
      </thead>
      <tbody>
        ${rows.map(
          (name, row) => html`<tr>
            <th scope="row">${name}</th>
            ${cols.map((_, col) => html`<td>${exact(values.data[row * width + col])}</td>`)}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** One row as labelled bars: what a matrix is on a phone. */
function RowBars({ values, mask, row, rows, cols, kind, scale, col, onPin, side }) {
  const width = values.shape[1];
  return html`<div class="row-bars">
    <div class="row-bars-name">${rows[row]}</div>
    ${cols.map((name, index) => {
      const value = values.data[row * width + index];
      const masked = mask && !mask.data[row * width + index];
      const share = Number.isFinite(value) && scale ? (Math.abs(value) / scale) * 100 : 0;
      return html`<button type="button" class=${`bar-line ${index === col ? "on" : ""}`} onClick=${() => onPin?.(row, index)}>
        <span class=${`bar-name ${side}`}>${name}</span>
        <span class=${`bar ${masked ? "masked" : ""} ${value < 0 ? "negative" : ""}`}><span style=${{ width: `${share}%` }}></span></span>
        <span class="bar-value">${masked && kind === "weight" ? exact(value) : fixed(value, kind === "weight" ? 3 : 2)}</span>
      </button>`;
    })}
  </div>`;
}

/** Whether a matrix of this many cells is drawn on a canvas. */
const isLarge = (values) => values.shape[0] * values.shape[1] > MOST_DOM_CELLS;

/**
 * @param {{id: string, values: Tensor, mask?: Tensor | null, rows: string[], cols: string[], kind?: "weight" | "score",
 *   row?: number, col?: number | null, pinned?: {row: number, col: number} | null, caption: string, most?: number,
 *   rowSide?: string, colSide?: string, scale?: number,
 *   onPin?: (row: number, col: number) => void, onPreview?: (cell: {row: number, col: number} | null) => void}} props
 */
export function Matrix(props) {
  const { id, values, mask, rows, cols, kind = "weight", caption } = props;
  const [asTable, setAsTable] = useState(false);
  const narrow = useNarrow();
  const scale = props.scale || (kind === "weight" ? 1 : largest(values));
  const row = Math.min(props.row ?? 0, rows.length - 1);
  const shown = { ...props, kind, scale, row };
  return html`<figure class="matrix" id=${id}>
    ${narrow ? html`<${RowBars} ...${shown} side=${props.colSide || "source"} />` : html`<${Grid} ...${shown} />`}
    <figcaption class="matrix-foot">
      <span class="matrix-caption">${caption}</span>
      <button type="button" class="quiet" aria-expanded=${asTable ? "true" : "false"} onClick=${() => setAsTable(!asTable)}>
        ${t(asTable ? "matrix.hide" : "matrix.table")}
      </button>
    </figcaption>
    ${asTable ? html`<${ValueTable} values=${values} rows=${rows} cols=${cols} caption=${caption} />` : null}
  </figure>`;
}

function Grid(props) {
  const { id, values, mask, rows, cols, kind, scale, row, col, pinned, caption } = props;
  const [box, width] = useWidth();
  const [hover, setHover] = useState(null);
  const [focus, setFocus] = useState(null);
  const label = Math.min(140, Math.max(...rows.map(textWidth)) + 18);
  const size = Math.max(14, Math.min(props.most || 46, Math.floor((width - label - 2) / cols.length)));
  const cells = useMemo(
    () => (isLarge(values) ? null : GridCells({ id, values, mask, size, kind, scale })),
    [id, values, mask, size, kind, scale],
  );
  const current = hover || focus || pinned;
  const shownRow = current ? current.row : row;
  const shownCol = current ? current.col : col;

  const move = (event) => {
    const bounds = event.currentTarget.getBoundingClientRect();
    const cell = {
      row: Math.min(rows.length - 1, Math.max(0, Math.floor((event.clientY - bounds.top) / size))),
      col: Math.min(cols.length - 1, Math.max(0, Math.floor((event.clientX - bounds.left) / size))),
    };
    if (hover && hover.row === cell.row && hover.col === cell.col) return;
    setHover(cell);
    props.onPreview?.(cell);
  };
  const leave = () => {
    setHover(null);
    props.onPreview?.(null);
  };
  const key = (event) => {
    const from = focus || pinned || { row, col: col ?? 0 };
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key in steps) {
      const [down, right] = steps[event.key];
      const cell = {
        row: Math.min(rows.length - 1, Math.max(0, from.row + down)),
        col: Math.min(cols.length - 1, Math.max(0, from.col + right)),
      };
      setFocus(cell);
      props.onPreview?.(cell);
    } else if (event.key === "Enter" || event.key === " ") props.onPin?.(from.row, from.col);
    else if (event.key === "Escape") setFocus(null);
    else return;
    event.preventDefault();
  };
  const readout = current ? t("matrix.readout", { row: rows[current.row], col: cols[current.col] }) : "";
  const number = current ? values.data[current.row * cols.length + current.col] : null;
  const covered = current && mask && !mask.data[current.row * cols.length + current.col];
  const grid = { width: px(size * cols.length), height: px(size * rows.length) };
  return html`<div class="matrix-box" ref=${box}>
    <div class="matrix-scroll">
      <div class="matrix-plane" style=${{ width: px(label + size * cols.length), "--label": `${label}px` }}>
        <${ColumnNames} cols=${cols} size=${size} col=${shownCol} side=${props.colSide || "source"} />
        <div class="matrix-middle">
          <div class=${`matrix-rows ${props.rowSide || "target"}`} aria-hidden="true">
            ${rows.map((name, index) => html`<span class=${index === shownRow ? "on" : ""} style=${{ height: px(size) }}>${name}</span>`)}
          </div>
          <div class="matrix-cells" style=${grid}>
            <div
              role="grid"
              tabindex="0"
              class="grid"
              aria-label=${caption}
              aria-rowcount=${rows.length}
              aria-colcount=${cols.length}
              aria-activedescendant=${focus && cells ? `${id}-${focus.row}-${focus.col}` : undefined}
              onPointerMove=${move}
              onPointerLeave=${leave}
              onClick=${() => hover && props.onPin?.(hover.row, hover.col)}
              onKeyDown=${key}
              onBlur=${() => setFocus(null)}
            >
              ${cells || html`<div role="row"><div role="gridcell"><${Thumbnail} values=${values} mask=${mask} scale=${scale} label=${caption} height="100%" /></div></div>`}
            </div>
            <div class="bands" aria-hidden="true">
              ${Number.isInteger(shownRow) ? html`<i class=${`band row ${props.rowSide || "target"}`} style=${{ top: px(shownRow * size), height: px(size) }}></i>` : null}
              ${Number.isInteger(shownCol) ? html`<i class="band col" style=${{ left: px(shownCol * size), width: px(size) }}></i>` : null}
              ${current
                ? html`<i class="spot" style=${{ top: px(current.row * size), left: px(current.col * size), width: px(size), height: px(size) }}></i>`
                : null}
            </div>
          </div>
        </div>
      </div>
    </div>
    <div class="readout" aria-live=${focus ? "polite" : "off"}>
      ${current ? html`<span>${readout}</span> <b>${exact(number)}</b>${covered ? html` <span class="tag">${t("matrix.masked")}</span>` : null}` : html`<span class="soft">${t("matrix.hint")}</span>`}
    </div>
  </div>`;
}
