// The one state of the page. What is in HASH_KEYS lives in the URL, so that a reload or a sent link gives the same view.
import { createContext, useContext, useEffect, useState } from "./ui.js";

/** @typedef {{row: number, col: number} | null} Cell */

const HASH_KEYS = {
  trace: "text",
  t: "number",
  layer: "number",
  head: "number",
  cell: "cell",
  hyp: "number",
  lang: "text",
  theme: "text",
  bench: "text",
  use: "text",
};

/** @type {Record<string, any>} */
const state = {
  trace: "", // a recorded trace's name, or the source text of a live one
  t: 0, // the decoding step that every panel shows
  layer: -1, // -1: the last
  head: 0,
  cell: null, // pinned cell of the focused attention
  use: "cross", // which attention the cell is in
  hyp: 0,
  lang: "",
  theme: "",
  bench: "", // two panels pinned side by side, "cross,cache"; "" is the story
  preview: null, // what the pointer or the focus is over: {kind: "source" | "target", index}
  practice: false,
  playing: false,
};

/** @type {Set<() => void>} */
const listeners = new Set();
let scheduled = false;

/** @returns {Record<string, any>} */
export const get = () => state;

/** Change the state; listeners hear of it once per frame at most. @param {Record<string, any>} changes */
export function set(changes) {
  const changed = Object.keys(changes).filter((key) => !same(state[key], changes[key]));
  if (!changed.length) return;
  Object.assign(state, changes);
  if (changed.some((key) => key in HASH_KEYS)) writeHash();
  if (scheduled) return;
  scheduled = true;
  queueMicrotask(() => {
    scheduled = false;
    for (const listener of [...listeners]) listener();
  });
}

/**
 * What a panel tells the components in it: while it is out of sight, they are drawn again when the browser has time.
 * @typedef {{near: boolean, late: Set<() => void>}} Sight
 */
export const Sight = createContext(/** @type {Sight | null} */ (null));

/** @type {Set<Sight>} */
const behind = new Set();
const LATEST_MS = 250; // a busy browser may never call itself idle
const whenIdle = (call) => (globalThis.requestIdleCallback ? requestIdleCallback(call, { timeout: LATEST_MS }) : setTimeout(call, 50));
let waiting = false;

/** Bring up to date what waited in a panel. @param {Sight} sight */
export function catchUp(sight) {
  behind.delete(sight);
  const late = [...sight.late];
  sight.late.clear();
  for (const listen of late) listen();
}

/** One panel at a time, so that no frame is long. */
function catchUpLater() {
  if (waiting) return;
  waiting = true;
  whenIdle(() => {
    waiting = false;
    const [next] = behind;
    if (next) catchUp(next);
    if (behind.size) catchUpLater();
  });
}

/** A part of the state inside a component, which is drawn again when this part changes. @param {string[]} keys */
export function useStore(...keys) {
  const [, redraw] = useState(0);
  const sight = useContext(Sight);
  const drawn = keys.map((key) => state[key]); // what this drawing shows; it may change before the effect runs
  useEffect(() => {
    let seen = drawn;
    const catching = () => {
      const now = keys.map((key) => state[key]);
      if (now.some((value, at) => !same(value, seen[at]))) {
        seen = now;
        redraw((count) => count + 1);
      }
    };
    const listen = () => {
      if (!sight || sight.near) return catching();
      sight.late.add(catching);
      behind.add(sight);
      return catchUpLater();
    };
    listeners.add(listen);
    catching();
    return () => {
      listeners.delete(listen);
      sight?.late.delete(catching);
    };
  }, []);
  return state;
}

function same(one, other) {
  if (one === other) return true;
  return Boolean(one && other) && typeof one === "object" && JSON.stringify(one) === JSON.stringify(other);
}

let writing = 0;

function writeHash() {
  cancelAnimationFrame(writing);
  writing = requestAnimationFrame(() => {
    const parts = [];
    for (const key of Object.keys(HASH_KEYS)) {
      const value = state[key];
      if (value === null || value === "" || value === undefined) continue;
      const text = key === "cell" ? `${value.row}.${value.col}` : String(value);
      parts.push(`${key}=${encodeURIComponent(text)}`);
    }
    const hash = `#${parts.join("&")}`;
    try {
      if (hash !== location.hash) history.replaceState(null, "", hash);
    } catch {
      // A sandboxed frame (a notebook) has no address of its own; the page works without.
    }
  });
}

/** Read the state from the URL; what is not there, or no number where one is needed, keeps its value. */
export function readHash() {
  const changes = {};
  for (const part of location.hash.slice(1).split("&")) {
    const [key, raw = ""] = part.split("=");
    const kind = HASH_KEYS[key];
    if (!kind) continue;
    let text;
    try {
      text = decodeURIComponent(raw);
    } catch {
      continue;
    }
    if (kind === "number" && /^-?\d{1,6}$/.test(text)) changes[key] = Number(text);
    else if (kind === "text") changes[key] = text;
    else if (kind === "cell" && /^\d{1,5}\.\d{1,5}$/.test(text)) {
      const [row, col] = text.split(".").map(Number);
      changes[key] = { row, col };
    }
  }
  set(changes);
}
