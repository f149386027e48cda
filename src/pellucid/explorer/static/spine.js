// The spine: source, target and the step, always in sight; what every panel hangs on.
import { fixed } from "./format.js";
import { t } from "./i18n.js";
import { get, set, useStore } from "./store.js";
import { array, headOf, layerOf, name, rowName, stepOf, writing } from "./trace.js";
import { at, strongest } from "./tensors.js";
import { html, useEffect, useRef } from "./ui.js";

/** Cross-attention of the layer and head that the page shows, if it is here. */
function attention(written) {
  const { attn } = written.cross;
  const layer = array(attn, layerOf(attn.length));
  return layer ? at(layer, headOf(layer.shape[0])) : null;
}

/** Go to a step, within the writing. @param {number} to */
export function go(to) {
  const written = writing();
  if (written) set({ t: Math.min(written.tgt.length - 1, Math.max(0, to)), node: null });
}

/** Tokens that spell one character together are one chip. */
function chips(tokens) {
  const found = [];
  tokens.forEach((token, index) => {
    const previous = found[found.length - 1];
    if (previous && previous.group === token.group) previous.until = index;
    else found.push({ text: name(token), group: token.group, index, until: index });
  });
  return found;
}

/** Scroll a line of chips so that one of them is in its middle. @param {HTMLElement | null} box @param {string} selector */
function centre(box, selector) {
  const chip = box && box.scrollWidth > box.clientWidth ? box.querySelector(selector) : null;
  if (!chip) return;
  const [outer, inner] = [box.getBoundingClientRect(), chip.getBoundingClientRect()];
  box.scrollLeft += inner.left + inner.width / 2 - (outer.left + outer.width / 2);
}

function Source({ doc, weights, preview, best }) {
  const box = useRef(null);
  useEffect(() => centre(box.current, ".best"), [best, doc]);
  return html`<div class="chips" ref=${box} role="list" tabindex="0" aria-label=${t("spine.source")}>
    ${chips(doc.src).map(({ text, index, until }) => {
      let weight = 0;
      for (let place = index; place <= until; place += 1) weight += weights ? weights.data[place] : 0;
      const on = preview?.kind === "source" && preview.index >= index && preview.index <= until;
      return html`<span
        role="listitem"
        class=${`chip source ${on ? "on" : ""} ${best >= index && best <= until ? "best" : ""}`}
        style=${{ "--share": `${Math.round(Math.min(1, weight) * 100)}%` }}
        onPointerEnter=${() => set({ preview: { kind: "source", index } })}
        onPointerLeave=${() => set({ preview: null })}
        >${text}</span
      >`;
    })}
  </div>`;
}

function Target({ written, step }) {
  const box = useRef(null);
  useEffect(() => centre(box.current, "[aria-current]"), [step, written]);
  return html`<div class="chips" ref=${box} role="group" aria-label=${t("spine.target")}>
    ${chips(written.tgt).map(({ text, index, until }) => {
      const on = step >= index && step <= until;
      return html`<button
        type="button"
        class=${`chip target ${on ? "on" : ""} ${index > step ? "later" : ""} ${written.forced[index] ? "forced" : ""}`}
        aria-current=${on ? "step" : undefined}
        title=${written.forced[index] ? t("spine.forced") : rowName(written, index)}
        onClick=${() => go(index)}
      >
        ${text}
      </button>`;
    })}
  </div>`;
}

function Player({ steps, step }) {
  const { playing } = useStore("playing");
  useEffect(() => {
    if (!playing) return undefined;
    const timer = setInterval(() => {
      if (get().t >= steps - 1) set({ playing: false });
      else go(get().t + 1);
    }, 900);
    return () => clearInterval(timer);
  }, [playing, steps]);
  const play = () => {
    if (!playing && step >= steps - 1) go(0);
    set({ playing: !playing });
  };
  return html`<div class="player">
    <button type="button" class="icon" aria-label=${t("spine.back")} title=${`${t("spine.back")}  [`} disabled=${step === 0} onClick=${() => go(step - 1)}>
      <svg viewBox="0 0 16 16" aria-hidden="true"><path d="M10 3 5 8l5 5" /></svg>
    </button>
    <button type="button" class="icon play" aria-label=${t(playing ? "spine.pause" : "spine.play")} onClick=${play}>
      <svg viewBox="0 0 16 16" aria-hidden="true">${playing ? html`<path d="M5.5 3v10M10.5 3v10" />` : html`<path class="solid" d="M5 3v10l8-5z" />`}</svg>
    </button>
    <button type="button" class="icon" aria-label=${t("spine.forward")} title=${`${t("spine.forward")}  ]`} disabled=${step >= steps - 1} onClick=${() => go(step + 1)}>
      <svg viewBox="0 0 16 16" aria-hidden="true"><path d="m6 3 5 5-5 5" /></svg>
    </button>
    <input
      type="range"
      min="0"
      max=${steps - 1}
      value=${step}
      style=${{ "--done": `${steps > 1 ? (step / (steps - 1)) * 100 : 100}%` }}
      aria-label=${t("spine.step")}
      aria-valuetext=${t("spine.step_of", { n: step + 1, of: steps })}
      onInput=${(event) => go(Number(event.currentTarget.value))}
    />
    <output class="step" data-step=${step}>${step + 1}<span> / ${steps}</span></output>
  </div>`;
}

/** `[` and `]` move the step wherever the focus is, but not while someone writes. */
function useKeys() {
  useEffect(() => {
    const listen = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
      if (event.key === "[") go(get().t - 1);
      else if (event.key === "]") go(get().t + 1);
    };
    addEventListener("keydown", listen);
    return () => removeEventListener("keydown", listen);
  }, []);
}

export function Spine() {
  const { doc, preview } = useStore("doc", "hyp", "t", "layer", "head", "parts", "preview", "lang");
  useKeys();
  const written = doc && writing();
  if (!written) return null;
  const step = stepOf(written);
  const matrix = attention(written);
  const weights = matrix && at(matrix, step);
  const best = matrix ? strongest(matrix, step) : null;
  const words = { n: step + 1, row: rowName(written, step) };
  const live = best
    ? t("spine.live", { ...words, word: name(doc.src[best.index]), weight: fixed(best.value) })
    : t("spine.live_plain", words);
  return html`<div class="spine">
    <div class="spine-inner">
      <div class="spine-texts">
        <${Source} doc=${doc} weights=${weights} preview=${preview} best=${best ? best.index : -1} />
        <${Target} written=${written} step=${step} />
      </div>
      <${Player} steps=${written.tgt.length} step=${step} />
    </div>
    <p class="visually-hidden" id="now" aria-live="polite">${live}</p>
  </div>`;
}
