// Arrays of the trace document, bit for bit: {dtype, shape, b64}, little-endian, row by row.

/** @typedef {{shape: number[], data: any}} Tensor */

/** @type {Record<string, (buffer: ArrayBuffer) => any>} */
const READERS = {
  float32: (buffer) => new Float32Array(buffer),
  float64: (buffer) => new Float64Array(buffer),
  float16: (buffer) => Float32Array.from(new Uint16Array(buffer), half),
  bfloat16: (buffer) => new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer),
  int64: (buffer) => Float64Array.from(new BigInt64Array(buffer), Number),
  bool: (buffer) => new Uint8Array(buffer),
};

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
}

/** @type {WeakMap<object, Tensor>} */
const decoded = new WeakMap();

const sizeOf = (shape) => shape.reduce((product, length) => product * length, 1);

/** The tensor behind a {dtype, shape, b64}; the same object gives the same tensor, a tensor gives itself. @returns {Tensor} */
export function tensor(packed) {
  if (packed.data) return packed;
  const known = decoded.get(packed);
  if (known) return known;
  const reader = READERS[packed.dtype];
  if (!reader) throw new Error(`this page does not know arrays of type ${packed.dtype}`);
  const text = atob(packed.b64);
  const bytes = new Uint8Array(text.length);
  for (let place = 0; place < text.length; place += 1) bytes[place] = text.charCodeAt(place);
  const result = { shape: packed.shape, data: reader(bytes.buffer) };
  if (result.data.length !== sizeOf(packed.shape)) {
    throw new Error(`an array has ${result.data.length} numbers where its shape says ${sizeOf(packed.shape)}`);
  }
  decoded.set(packed, result);
  return result;
}

/** @type {WeakMap<object, Map<string, Tensor>>} */
const parts = new WeakMap();

/** The sub-array at the first indices, as a view; the same indices give the same object. @returns {Tensor} */
export function at(whole, ...indices) {
  let known = parts.get(whole);
  if (!known) parts.set(whole, (known = new Map()));
  const key = indices.join(",");
  let part = known.get(key);
  if (!part) {
    const shape = whole.shape.slice(indices.length);
    const size = sizeOf(shape);
    let index = 0;
    indices.forEach((value, axis) => {
      if (!(value >= 0 && value < whole.shape[axis])) throw new Error(`index ${value} of an axis of ${whole.shape[axis]}`);
      index = index * whole.shape[axis] + value;
    });
    part = { shape, data: whole.data.subarray(index * size, (index + 1) * size) };
    known.set(key, part);
  }
  return part;
}

/** Where a row of a matrix is largest. @param {Tensor} matrix @param {number} row */
export function strongest(matrix, row) {
  const width = matrix.shape[1];
  let index = 0;
  for (let col = 1; col < width; col += 1) {
    if (matrix.data[row * width + col] > matrix.data[row * width + index]) index = col;
  }
  return { index, value: matrix.data[row * width + index] };
}

/** The largest magnitude, leaving out what is not finite. @param {Tensor} values */
export function largest(values) {
  let most = 0;
  for (const value of values.data) if (Number.isFinite(value) && Math.abs(value) > most) most = Math.abs(value);
  return most;
}
