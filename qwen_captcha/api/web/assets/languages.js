/**
 * The language of the page. Its words, those of `words.js`, are set in elements that name them by
 * `data-text` (content) or `data-label` (accessible name).
 *
 * Sentences of the service are English and shown unchanged.
 */

import { LANGUAGES } from "./words.js";

const KEPT = "qwen-captcha-language";

let current = LANGUAGES[kept()] ? kept() : navigator.language.startsWith("zh") ? "zh" : "en";

/** Return a text in the language that is shown, with its `{names}` filled in. */
export function say(name, values = {}) {
  return LANGUAGES[current][name].replace(/\{(\w+)\}/g, (_, value) => values[value]);
}

/** Return a share of one as a percentage. */
export function percent(share) {
  const digits = share >= 0.995 || share < 0.1 ? 1 : 0;
  return `${(100 * share).toFixed(digits)} %`;
}

/** Set the words of the language in the elements of `root` that name them. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-text]")) {
    element.textContent = say(element.dataset.text);
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", say(element.dataset.label));
  }
}

/** Show the page in the language that is chosen, and offer the other one on `button`. */
export function showLanguage(button) {
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  button.textContent = current === "zh" ? "English" : "中文";
  button.lang = current === "zh" ? "en" : "zh-CN";
  translate(document);
}

/** Choose the other language, for later visits too. */
export function switchLanguage() {
  current = current === "zh" ? "en" : "zh";
  try {
    localStorage.setItem(KEPT, current);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
}

function kept() {
  try {
    return localStorage.getItem(KEPT);
  } catch {
    return null;
  }
}
