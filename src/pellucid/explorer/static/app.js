// The page: header, spine, the story of nine panels, or a workbench with two of them.
import { t, preferred, LANGUAGES, language } from "./i18n.js";
import { Sight, catchUp, get, readHash, set, useStore } from "./store.js";
import { ask, cancel, openNamed, openRecorded, start, undo, writing } from "./trace.js";
import { Component, html, render, rich, useEffect, useMemo, useRef, useState } from "./ui.js";
import { Spine } from "./spine.js";
import { Position } from "./panels/position.js";
import { Encoder } from "./panels/encoder.js";
import { Mask } from "./panels/mask.js";
import { Cross } from "./panels/cross.js";
import { Forcing } from "./panels/forcing.js";
import { Cache } from "./panels/cache.js";
import { Gqa } from "./panels/gqa.js";
import { Search } from "./panels/search.js";
import { Questions } from "./panels/questions.js";

const PANELS = {
  position: Position,
  encoder: Encoder,
  mask: Mask,
  cross: Cross,
  forcing: Forcing,
  cache: Cache,
  gqa: Gqa,
  search: Search,
  questions: Questions,
};
const NAMES = Object.keys(PANELS);

/** What a panel could not do is said in its place, and the other panels stand. */
class Fence extends Component {
  componentDidCatch(error) {
    console.error(error);
    this.setState({ error });
  }

  componentDidUpdate(before) {
    if (this.state.error && before.doc !== this.props.doc) this.setState({ error: null });
  }

  render({ children }, { error }) {
    return error ? html`<p class="error-line" role="alert">${t("error.panel")} <span class="soft">${error.message}</span></p>` : children;
  }
}

/** A panel is drawn when it comes near the window, and from then on; out of sight, at leisure. */
function Panel({ id, eager }) {
  const { doc, bench } = useStore("doc", "lang", "bench");
  const ref = useRef(null);
  const [drawn, setDrawn] = useState(Boolean(eager));
  const sight = useMemo(() => ({ near: true, late: new Set() }), []);
  useEffect(() => {
    const drawing = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && setDrawn(true), {
      rootMargin: "900px 0px",
    });
    const seeing = new IntersectionObserver(
      (entries) => {
        sight.near = entries[entries.length - 1].isIntersecting;
        if (sight.near) catchUp(sight);
      },
      { rootMargin: "200px 0px" },
    );
    drawing.observe(ref.current);
    seeing.observe(ref.current);
    return () => (drawing.disconnect(), seeing.disconnect());
  }, []);
  const body = PANELS[id];
  return html`<section class="panel" id=${id} ref=${ref} aria-labelledby=${`${id}-title`}>
    <header class="panel-head">
      <span class="panel-number" aria-hidden="true">${NAMES.indexOf(id) + 1}</span>
      <h2 id=${`${id}-title`} tabindex="-1">${t(`panel.${id}`)}</h2>
      ${bench ? null : html`<p class="lead">${rich(t(`lead.${id}`))}</p>`}
    </header>
    <div class="panel-body">${drawn && doc ? html`<${Sight.Provider} value=${sight}><${Fence} doc=${doc}><${body} /><//><//>` : html`<div class="panel-wait"></div>`}</div>
  </section>`;
}

/** The rail: where one is, and the way to every panel. */
function Rail() {
  const { doc } = useStore("doc", "lang", "bench");
  const [current, setCurrent] = useState(NAMES[0]);
  useEffect(() => {
    const seen = () => {
      const line = innerHeight * 0.4;
      let found = NAMES[0];
      for (const id of NAMES) {
        const element = document.getElementById(id);
        if (element && element.getBoundingClientRect().top < line) found = id;
      }
      setCurrent(found);
    };
    addEventListener("scroll", seen, { passive: true });
    seen();
    return () => removeEventListener("scroll", seen);
  }, [doc]);
  const go = (event, id) => {
    event.preventDefault();
    set({ bench: "" });
    requestAnimationFrame(() => document.getElementById(id)?.scrollIntoView());
  };
  return html`<nav class="rail" aria-label=${t("rail.label")}>
    <ol>
      ${NAMES.map((id, index) => html`<li><a href=${`#${id}`} aria-current=${id === current ? "true" : undefined} onClick=${(event) => go(event, id)}><span>${index + 1}</span>${t(`panel.${id}`)}</a></li>`)}
    </ol>
  </nav>`;
}

const THEMES = ["", "light", "dark"];

function TopBar() {
  const { theme, bench } = useStore("lang", "theme", "bench", "undo", "doc");
  const cycle = () => set({ theme: THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length] });
  return html`<div class="topbar">
    <span class="brand">pellucid</span>
    <div class="topbar-actions">
      <button type="button" class="quiet" aria-pressed=${bench ? "true" : "false"} onClick=${() => set({ bench: bench ? "" : "cross,cache" })}>${t("bar.bench")}</button>
      <button type="button" class="quiet" onClick=${cycle}>${t(`bar.theme.${theme || "auto"}`)}</button>
      <div class="languages" role="group" aria-label=${t("bar.language")}>
        ${LANGUAGES.map((one) => html`<button type="button" class="quiet" lang=${one} aria-pressed=${one === language() ? "true" : "false"} onClick=${() => set({ lang: one })}>${{ en: "English", zh: "中文" }[one]}</button>`)}
      </div>
    </div>
  </div>`;
}

/** What the numbers come from: recorded or live, which model, computed on what. */
function Badges({ doc }) {
  const { sizes } = doc;
  return html`<p class="badges">
    <span class=${`badge ${doc.source}`} title=${t(`badge.${doc.source}_note`)}>${t(`badge.${doc.source}`)}</span>
    <span>${doc.model}</span>
    <span>${t("badge.size", { enc: sizes.encoder_layers, dec: sizes.decoder_layers, heads: sizes.heads, kv: sizes.self_kv_heads, millions: (sizes.parameters / 1e6).toFixed(1) })}</span>
    <span>${doc.dtype} · ${doc.device} · ${t("badge.threads", { n: doc.threads })}</span>
    <span>pellucid ${doc.engine_version}</span>
    <span title=${doc.checkpoint_sha}>sha256 ${doc.checkpoint_sha.slice(0, 8)}</span>
  </p>`;
}

const PENALTIES = ["average", "power", "gnmt", "none"];

/** Beam width and length penalty; a change is a new request. */
function Settings({ request, limit, onChange }) {
  const beam = (event) => onChange({ beam_size: Math.min(limit, Math.max(1, Math.round(Number(event.currentTarget.value)) || 1)) });
  const alpha = (event) => onChange({ length_alpha: Number(event.currentTarget.value) || 0 });
  return html`<div class="ask-settings">
    <label>${t("hero.beam")} <input id="beam-size" type="number" min="1" max=${limit} value=${request.beam_size} onChange=${beam} /></label>
    <label>${t("hero.penalty")}
      <select id="length-penalty" value=${request.length_penalty} onChange=${(event) => onChange({ length_penalty: event.currentTarget.value })}>
        ${PENALTIES.map((one) => html`<option value=${one}>${t(`hero.penalty.${one}`)}</option>`)}
      </select>
    </label>
    ${request.length_penalty === "power" || request.length_penalty === "gnmt"
      ? html`<label>α <input id="length-alpha" type="number" step="0.1" min="-10" max="10" value=${request.length_alpha} onChange=${alpha} /></label>`
      : null}
  </div>`;
}

/** The sentence, its translation, and with a server the field to write another one. */
function Hero() {
  const { doc, model, undo: past } = useStore("doc", "hyp", "model", "parts", "lang", "undo");
  const [text, setText] = useState(null);
  const written = doc && writing();
  const can = Boolean(model?.model);
  const live = doc && doc.source === "live";
  const run = (changes = {}) => {
    const value = text ?? doc?.request.text ?? "";
    const kept = live ? doc.request : {};
    const fresh = kept.text === value ? {} : { prefix_ids: [], permutation: null, corrupt: null };
    ask({ ...kept, ...fresh, ...changes, text: value, n_best: null });
  };
  return html`<header class="hero">
    <h1>${t("hero.title")}</h1>
    <p class="lead">${t("hero.lead")}</p>
    ${doc
      ? html`<div class="sentence">
          <p class="sentence-source">${doc.request.text}</p>
          <p class="sentence-target">${written ? written.text || "∅" : "…"}</p>
        </div>
        <${Badges} doc=${doc} />`
      : null}
    ${can
      ? html`<form class="ask" onSubmit=${(event) => (event.preventDefault(), run())}>
          <label class="visually-hidden" for="source-text">${t("hero.label")}</label>
          <input id="source-text" type="text" autocomplete="off" maxlength=${model.limits.text_chars} placeholder=${t("hero.placeholder")} value=${text ?? doc?.request.text ?? ""} onInput=${(event) => setText(event.currentTarget.value)} />
          <button type="submit" class="button primary">${t("hero.run")}</button>
          ${past.length ? html`<button type="button" class="button" onClick=${undo}>${t("hero.undo")}</button>` : null}
          ${doc ? html`<${Settings} request=${live ? doc.request : model.model.defaults} limit=${model.limits.beam_size} onChange=${run} />` : null}
        </form>`
      : doc
        ? html`<p class="note">${rich(t("hero.recorded"))}</p>`
        : null}
    ${model
      ? html`<div class="examples">
          ${can ? model.examples.filter((one) => one.kind === "plain").map((one) => html`<button type="button" class="chip-button" onClick=${() => (setText(null), ask({ text: one.text }))}>${one.text}</button>`) : null}
          ${model.recorded.length > 1 || can ? model.recorded.map((one) => html`<button type="button" class="chip-button" onClick=${() => (setText(null), openRecorded(one.name))}>${t("hero.open_recorded", { name: one.name })}</button>`) : null}
        </div>`
      : null}
  </header>`;
}

/** Which stage is running, with a way to stop it; or what went wrong, and what to do. */
function Status() {
  const { stage, error, doc, model } = useStore("stage", "error", "doc", "lang", "model");
  const fallback = !stage && !error && model && !model.model && model.error;
  return html`<div class="status" aria-live="polite">
    ${stage
      ? html`<div class="status-line">
          <span class="spinner" aria-hidden="true"></span>${t(`stage.${stage}`)}${doc ? html` <span class="soft">${t("state.stale")}</span>` : null}
          ${stage === "model" ? null : html`<button type="button" class="quiet" onClick=${cancel}>${t("state.cancel")}</button>`}
        </div>`
      : null}
    ${error ? html`<${Failure} error=${error} />` : null}
    ${model?.model && model.error && !error ? html`<${Failure} error=${model.error} lasting />` : null}
    ${fallback ? html`<div class="status-line">${t("state.fallback")} <span class="soft">${model.error.message}</span></div>` : null}
  </div>`;
}

const KNOWN_ERRORS = ["server_gone", "schema", "not_a_trace", "empty", "too_long", "input", "no_model", "model_gone", "trace_gone", "too_large", "bad_request", "bad_host", "bad_origin", "not_found", "bad_method", "internal"];

function Failure({ error, lasting }) {
  const known = KNOWN_ERRORS.includes(error.code) ? error.code : "internal";
  return html`<div class="status-line failure" role="alert">
    <span>${t(`error.${known}`, { schema: error.message })}${error.message && known !== "schema" ? html` <span class="soft">${error.message}</span>` : null}</span>
    ${lasting ? null : html`<button type="button" class="quiet" onClick=${() => set({ error: null })}>${t("state.close")}</button>`}
  </div>`;
}

/** Two panels side by side, without prose. */
function Bench({ pinned }) {
  const choose = (place, id) => {
    const next = [...pinned];
    next[place] = id;
    set({ bench: next.join() });
  };
  return html`<div class="bench">
    ${pinned.map(
      (id, place) => html`<div class="bench-side" key=${`${place}-${id}`}>
        <label class="bench-choice"><span class="visually-hidden">${t("bench.choose")}</span>
          <select value=${id} onChange=${(event) => choose(place, event.currentTarget.value)}>
            ${NAMES.map((one) => html`<option value=${one} disabled=${pinned.includes(one) && one !== id}>${t(`panel.${one}`)}</option>`)}
          </select>
        </label>
        <${Panel} id=${id} eager />
      </div>`,
    )}
  </div>`;
}

function App() {
  const { doc, stage, theme, bench } = useStore("doc", "stage", "lang", "theme", "bench");
  useEffect(() => {
    const root = document.documentElement;
    root.lang = language() === "zh" ? "zh-Hans" : "en";
    document.title = t("hero.page_title");
    root.toggleAttribute("data-bench", Boolean(bench));
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
  });
  const stale = Boolean(stage && doc);
  const pinned = bench.split(",").filter((id, index, all) => NAMES.includes(id) && all.indexOf(id) === index).slice(0, 2);
  return html`<a class="skip" href="#position" onClick=${(event) => (event.preventDefault(), document.getElementById("position-title")?.focus())}>${t("bar.skip")}</a>
    <${TopBar} />
    <${Status} />
    <main class=${stale ? "stale" : ""} aria-busy=${stage ? "true" : "false"}>
      ${pinned.length ? null : html`<${Hero} />`}
      ${doc ? html`<${Spine} />` : null}
      ${doc && pinned.length === 2
        ? html`<${Bench} pinned=${pinned} />`
        : doc
          ? html`<div class="story"><${Rail} /><div class="panels">${NAMES.map((id, index) => html`<${Panel} key=${id} id=${id} eager=${index === 0} />`)}</div></div>`
          : null}
    </main>
    <footer class="footer">${t("footer")}</footer>`;
}

set({ doc: null, model: null, stage: null, error: null, undo: [], node: null, parts: 0 });
readHash();
if (!LANGUAGES.includes(get().lang)) set({ lang: preferred() });
addEventListener("hashchange", () => {
  const before = get().trace;
  readHash();
  if (get().trace !== before) openNamed();
});
render(html`<${App} />`, document.getElementById("app"));
start();
