// How numbers are written. Rounding is for reading; the table views show every digit that the engine computed.

/** A float32 with as many digits as bring back the same float32. @param {number} value */
export function exact(value) {
  if (!Number.isFinite(value)) return special(value);
  for (let digits = 1; digits < 9; digits += 1) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === Math.fround(value)) return String(Number(text));
  }
  return String(Number(value.toPrecision(9)));
}

/** @param {number | null | undefined} value @param {number} [digits] */
export function fixed(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return special(value);
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

/** A small number that must not look like nothing: 3.1e-7. @param {number | null | undefined} value */
export function tiny(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return special(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.001 && size < 10000) return String(Number(value.toPrecision(3))).replace("-", "−");
  const [mantissa, exponent] = value.toExponential(1).split("e");
  const raised = [...String(Number(exponent))].map((digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]).join("");
  return `${mantissa.replace("-", "−")}·10${raised}`;
}

/** @param {number | null | undefined} value */
export function whole(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return special(value);
  return String(Math.round(value)).replace(/\B(?=(\d{3})+(?!\d))/g, "\u2009");
}

/** @param {number | null | undefined} value */
export function bytes(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return special(value);
  if (value < 1024) return `${whole(value)}\u00a0B`;
  if (value < 1024 * 1024) return `${fixed(value / 1024, value < 10240 ? 1 : 0)}\u00a0KiB`;
  return `${fixed(value / 1024 / 1024, 1)}\u00a0MiB`;
}

/** @param {number | null | undefined} value */
export function count(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value) || Math.abs(value) < 100000) return whole(value);
  return value < 1e9 ? `${fixed(value / 1e6, value < 1e7 ? 2 : 1)} M` : `${fixed(value / 1e9, 2)} G`;
}

/** @param {number | null | undefined} value milliseconds */
export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return special(value);
  return value < 10 ? `${fixed(value, 2)}\u00a0ms` : `${fixed(value, value < 100 ? 1 : 0)}\u00a0ms`;
}

function special(value) {
  if (Number.isNaN(value)) return "NaN";
  return value > 0 ? "∞" : "−∞";
}
