// Preact and htm under one roof, and the few small pieces of interface that every panel uses.
import { Component, createContext, h, render } from "./vendor/preact.js";
import { useContext, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
import htm from "./vendor/htm.js";

/** Markup without a build step: html`<p>${text}</p>`. */
export const html = htm.bind(h);

export { Component, createContext, render, useContext, useEffect, useLayoutEffect, useMemo, useRef, useState };

/** Sizes in styles say their unit. @param {number} size */
export const px = (size) => `${size}px`;

/** Whether a media query holds, followed live. @param {string} query @returns {boolean} */
export function useMedia(query) {
  const list = useMemo(() => matchMedia(query), [query]);
  const [holds, setHolds] = useState(list.matches);
  useEffect(() => {
    const listen = () => setHolds(list.matches);
    list.addEventListener("change", listen);
    return () => list.removeEventListener("change", listen);
  }, [list]);
  return holds;
}

/** On a phone a matrix becomes the bars of its current row. @returns {boolean} */
export const useNarrow = () => useMedia("(max-width: 560px)");

/** The width of an element, followed live. @returns {[{current: HTMLElement | null}, number]} */
export function useWidth() {
  const ref = useRef(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const element = ref.current;
    if (!element) return undefined;
    setWidth(element.clientWidth);
    const observer = new ResizeObserver(() => setWidth(element.clientWidth));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

/** `code`, *emphasis* and **strong** in a string of the tables; nothing else is markup there. @param {string} text */
export function rich(text) {
  return text.split(/(`[^`]+`|\*\*[^*]+\*\*|\*[^*]+\*)/).map((part) => {
    if (part.startsWith("`")) return html`<code>${part.slice(1, -1)}</code>`;
    if (part.startsWith("**")) return html`<strong>${part.slice(2, -2)}</strong>`;
    return part.startsWith("*") && part.length > 1 ? html`<em>${part.slice(1, -1)}</em>` : part;
  });
}

/** A row of choices of which one is pressed. */
export function Choice({ label, options, value, onChoose }) {
  return html`<div class="choice" role="group" aria-label=${label}>
    <span class="choice-label" aria-hidden="true">${label}</span>
    <div class="choice-options">
      ${options.map(
        (option) => html`<button
          type="button"
          class="chip-button"
          title=${option.title}
          aria-pressed=${option.value === value ? "true" : "false"}
          onClick=${() => onChoose(option.value)}
        >
          ${option.text}
        </button>`,
      )}
    </div>
  </div>`;
}

/** A number with its name; the figures of a panel. `note` says where it comes from where that is not the engine. */
export function Figure({ value, label, note }) {
  return html`<div class="figure">
    <div class="figure-value">${value}</div>
    <div class="figure-label">${label}${note ? html` <span class="tag">${note}</span>` : null}</div>
  </div>`;
}
