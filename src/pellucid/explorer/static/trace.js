// The trace document that the page shows, and how it gets here: inlined, recorded, or from the server. See docs/trace.md.
import { t } from "./i18n.js";
import { get, set } from "./store.js";
import { tensor } from "./tensors.js";

export const SCHEMA = 1;

/** An error with a code of the server's or of the page's own; the page says it in its language. */
export class TraceError extends Error {
  /** @param {string} code @param {string} [message] */
  constructor(code, message = "") {
    super(message);
    this.code = code;
  }
}

/** A JSON number of the document: "NaN" and "Infinity" are strings there. @returns {number | null} */
export const num = (value) => (value === null || value === undefined ? null : Number(value));

/** @param {any[]} values @returns {number[]} */
export const nums = (values) => values.map(Number);

function checked(document) {
  if (!document || document.format !== "pellucid-trace") throw new TraceError("not_a_trace");
  if (document.schema !== SCHEMA) throw new TraceError("schema", `${document.schema}`);
  return document;
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw new TraceError("cancelled");
    throw new TraceError("server_gone");
  }
  let body;
  try {
    body = await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw new TraceError("cancelled");
    throw new TraceError(response.ok ? "server_gone" : "internal", `status ${response.status}`);
  }
  if (!response.ok) throw new TraceError(body.error?.code || "internal", body.error?.message || "");
  return body;
}

/** The document that is part of the page itself (a saved page, a notebook), if there is one. */
function inlined() {
  const element = document.getElementById("pellucid-trace");
  return element ? JSON.parse(element.textContent) : null;
}

/** @type {AbortController | null} */
let running = null;

export const cancel = () => running?.abort();

/** Run something that brings a document; the old view stays, dimmed, until it is here. */
async function loading(stage, bring) {
  cancel();
  const controller = new AbortController();
  running = controller;
  set({ stage, error: null });
  try {
    const document = checked(await bring(controller.signal));
    if (running !== controller) return null;
    show(document);
    return document;
  } catch (error) {
    if (running !== controller) return null;
    const code = error.code || "internal";
    set({ error: code === "cancelled" ? null : { code, message: error.message } });
    return null;
  } finally {
    if (running === controller) {
      running = null;
      set({ stage: null });
    }
  }
}

function show(document) {
  const previous = get().doc;
  const fresh = !previous || previous.id !== document.id;
  const steps = document.writings[0].tgt?.length || 1;
  const changes = { doc: document, parts: 0, preview: null };
  if (previous && fresh) Object.assign(changes, { hyp: 0, cell: null, node: null, t: Math.min(get().t, steps - 1) });
  set(changes);
}

/** Ask the server to trace; `request` as docs/trace.md says. Earlier requests can be undone. */
export async function ask(body, { remember = true } = {}) {
  const before = get().doc;
  const undoable = before && (before.source === "live" || ofModel(before));
  const document = await loading("computing", (signal) =>
    request("/api/traces", {
      method: "POST",
      signal,
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    }),
  );
  if (document && remember && undoable) set({ undo: [...get().undo, before.request] });
  if (document) set({ trace: `live:${addressOf(document.request)}` });
  return document;
}

/** Whether this document is of the model that is served: then its tokens can be sent to it. */
export const ofModel = (document) => Boolean(document) && document.checkpoint_sha === get().model?.model?.checkpoint_sha;

/** A request as the address holds it: its text, or what is not the model's default with it. */
function addressOf(asked) {
  const usual = get().model?.model?.defaults || {};
  const same = (name) => JSON.stringify(asked[name] ?? null) === JSON.stringify(usual[name] ?? null);
  const own = Object.keys(asked).filter((name) => name !== "text" && !same(name));
  if (!own.length && !asked.text.startsWith("{")) return asked.text;
  return JSON.stringify(Object.fromEntries(["text", ...own].map((name) => [name, asked[name]])));
}

function requestOf(address) {
  try {
    return address.startsWith("{") ? JSON.parse(address) : { text: address };
  } catch {
    return { text: address };
  }
}

/** The request before the last one. */
export async function undo() {
  const past = get().undo;
  if (!past.length) return;
  if (await ask(past[past.length - 1], { remember: false })) set({ undo: past.slice(0, -1) });
}

/** Show a recorded trace that came with pellucid. @param {string} name */
export async function openRecorded(name) {
  const entry = get().model?.recorded?.find((one) => one.name === name);
  const url = entry?.url || `/recorded/${encodeURIComponent(name)}.json`;
  if (await loading("reading", (signal) => request(url, { signal }))) set({ trace: name, undo: [] });
}

/** What the page shows first: the inlined document, what the address names, or the first recorded trace. */
export async function start() {
  const own = inlined();
  if (own) {
    try {
      show(checked(own));
    } catch (error) {
      set({ error: { code: error.code || "internal", message: error.message } });
    }
    return;
  }
  set({ stage: "model" });
  let model = null;
  try {
    model = await request("/api/model");
    set({ model, stage: null });
  } catch (error) {
    set({ stage: null, error: { code: error.code, message: error.message } });
    return;
  }
  watch();
  await openNamed();
  if (get().doc) return;
  if (model.recorded.length) await openRecorded(model.recorded[0].name);
  else if (model.model && model.examples.length) await ask({ text: model.examples[0].text });
}

/** Show what the address names, where it names something that this server can bring. */
export async function openNamed() {
  const { model, trace: wanted } = get();
  if (wanted.startsWith("live:") && model?.model) await ask(requestOf(wanted.slice(5)), { remember: false });
  else if (model?.recorded.some((one) => one.name === wanted)) await openRecorded(wanted);
}

const WATCH_MS = 2000;

/** Notice a server that is gone, or a model whose folder is, before anyone asks it for something. */
function watch() {
  let there = true;
  setInterval(async () => {
    if (document.hidden || get().stage) return;
    try {
      const model = await request("/api/model");
      const gone = get().error?.code === "server_gone";
      // Parts that could not be fetched are asked for again by being drawn again.
      if (gone || !there) set({ model, parts: get().parts + 1, ...(gone ? { error: null } : {}) });
      else set({ model });
      there = true;
    } catch (error) {
      if (there) set({ error: { code: error.code, message: error.message } });
      there = false;
    }
  }, WATCH_MS);
}

/** @type {Map<string, Promise<void>>} */
const fetching = new Map();

let again = ""; // the trace that the server had forgotten and was asked for once more
let restoring = false;

/** What a part that did not come means: forgotten traces are asked for again, once; all else is said. */
async function missing(error, document) {
  const gone = error.code === "trace_gone" && document.source === "live";
  if (gone && restoring) return;
  if (gone && again !== document.id) {
    again = document.id;
    restoring = true;
    await ask(document.request, { remember: false });
    restoring = false;
  } else set({ error: { code: error.code, message: error.message } });
}

/** The value at holder[key]; a ref is fetched first, and undefined until then. The page redraws when it is here. */
export function value(holder, key) {
  const found = holder[key];
  if (!found || typeof found !== "object" || !("ref" in found)) return found;
  const { doc } = get();
  const path = `/api/traces/${doc.id}/parts/${found.ref}`;
  if (!fetching.has(path)) {
    fetching.set(
      path,
      request(path).then(
        (body) => {
          holder[key] = body;
          fetching.delete(path);
          again = "";
          set({ parts: get().parts + 1 });
        },
        (error) => {
          fetching.delete(path);
          if (get().doc === doc) missing(error, doc);
          else set({ parts: get().parts + 1 }); // the document that replaced it may wait for the same path
        },
      ),
    );
  }
  return undefined;
}

/** The decoded array at holder[key], or null where there is none, or undefined while it is fetched. */
export function array(holder, key) {
  const packed = value(holder, key);
  return packed ? tensor(packed) : packed;
}

/** The writing that the page shows, or undefined while it is fetched. */
export function writing() {
  const { doc, hyp } = get();
  return doc ? value(doc.writings, Math.min(Math.max(hyp, 0), doc.writings.length - 1)) : undefined;
}

/** Over how many runs the times of the steps were taken, in words. */
export const runsOf = ({ ar }) => (ar.runs > 1 ? t("times.median", { n: ar.runs }) : t("times.one"));

/** What a token is called on the page. */
export function name(token) {
  if (token.text === "") return "·";
  const text = token.text.trim();
  return text === "" ? "␣" : text;
}

/** `I ▸ love`: the row that reads I and writes love. */
export const rowName = (written, row) => `${name(written.input[row])} ▸ ${name(written.tgt[row])}`;

/** The layer that a stack of this many shows: the chosen one, else its last. */
export const layerOf = (layers) => (get().layer < 0 ? layers - 1 : Math.min(get().layer, layers - 1));

/** @param {number} heads */
export const headOf = (heads) => Math.min(Math.max(get().head, 0), heads - 1);

/** The step that the page shows, within the writing. */
export const stepOf = (written) => Math.min(Math.max(get().t, 0), written.tgt.length - 1);
