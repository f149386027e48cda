// The page's words, in the language of the state. A key that is missing shows itself, so that nobody overlooks it.
import { get } from "./store.js";
import en from "./text/en.js";
import zh from "./text/zh.js";

/** @type {Record<string, Record<string, string>>} */
const TABLES = { en, zh };

export const LANGUAGES = Object.keys(TABLES);

/** The language in force. */
export const language = () => (get().lang in TABLES ? get().lang : "en");

/** Which language the reader's browser asks for. */
export function preferred() {
  const wanted = navigator.languages?.length ? navigator.languages : [navigator.language || "en"];
  const known = wanted.map((tag) => tag.slice(0, 2).toLowerCase()).find((tag) => tag in TABLES);
  return known || "en";
}

/** A text of the tables with {name} filled in. @param {string} key @param {Record<string, any>} [values] */
export function t(key, values = {}) {
  const text = TABLES[language()][key];
  if (text === undefined) return `⟨${key}⟩`;
  return text.replace(/\{(\w+)\}/g, (all, name) => (name in values ? String(values[name]) : all));
}

/** Whether the tables have this key. @param {string} key */
export const has = (key) => key in TABLES[language()];
