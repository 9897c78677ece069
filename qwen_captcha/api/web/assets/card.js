/**
 * One image and its outcome, as an item of the list.
 *
 * Texts from the service are set as text, never as HTML.
 */

import { percent, say, translate } from "./languages.js";

/** An image, its state (waiting, reading, done) and its outcome. */
export class Card {
  state = "waiting";
  outcome = null;

  constructor(file) {
    this.file = file;
    this.address = URL.createObjectURL(file);
    const template = document.getElementById("card");
    this.element = template.content.firstElementChild.cloneNode(true);
    this.find(".shot img").src = this.address;
    this.find(".file").textContent = file.name;
    // A file that is not an image has no picture.
    this.find(".shot img").addEventListener("error", (event) => event.target.remove());
    this.render();
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  get succeeded() {
    return this.outcome?.answer.success === true;
  }

  get text() {
    return this.succeeded ? this.outcome.answer.text : "";
  }

  /** Whether the request itself failed, so that a retry may succeed. */
  get failed() {
    return this.state === "done" && !this.succeeded;
  }

  /** The outcome as a text for screen readers. */
  get news() {
    const file = this.file.name;
    if (!this.succeeded) return say("saidError", { file, error: this.errorText });
    const confidence = `${say("confidence")} ${percent(this.outcome.answer.confidence)}`;
    return say("said", { file, text: this.text, confidence });
  }

  get errorText() {
    const { answer, status } = this.outcome;
    if (answer.error_type === "unreachable") return say("noConnection");
    if (answer.error_type === "not_json") return say("notJson", { status });
    return answer.error ?? answer.error_type;
  }

  set(state, outcome = null) {
    this.state = state;
    this.outcome = outcome;
    this.render();
  }

  /** Release the browser's object URL of the image. */
  discard() {
    URL.revokeObjectURL(this.address);
    this.element.remove();
  }

  /** Show the state in the language that is chosen. */
  render() {
    translate(this.element);
    const done = this.state === "done";
    this.element.dataset.state = done ? (this.succeeded ? "read" : "failed") : this.state;
    this.element.setAttribute("aria-busy", String(!done));
    this.find(".answer").textContent = done ? this.text : say(this.state);
    this.find(".answer").hidden = this.failed;
    this.find(".facts").hidden = !this.succeeded;
    this.find(".copy").hidden = !this.succeeded;
    this.find(".copy").setAttribute("aria-label", say("copyAnswer", { text: this.text }));
    this.find(".retry").hidden = !this.failed;
    this.find(".more").hidden = !done;
    this.find(".error").hidden = !this.failed;
    this.find(".warnings").replaceChildren();
    if (done) this.#renderOutcome();
  }

  #renderOutcome() {
    const { answer } = this.outcome;
    if (this.succeeded) this.#renderFacts();
    else this.#renderError();
    for (const warning of answer.warnings ?? []) {
      this.find(".warnings").append(element("li", warning));
    }
    this.#renderDetails();
  }

  #renderFacts() {
    const { answer, cached, options, times } = this.outcome;
    const meter = this.find("meter");
    meter.value = answer.confidence;
    meter.setAttribute("aria-label", say("confidence"));
    this.find(".confidence").textContent = percent(answer.confidence);
    this.find(".kind").textContent = say(`kind_${kindRead(answer, options.kind)}`);
    this.find(".time").textContent = say("milliseconds", { total: rounded(times.total) });
    this.find(".cached").hidden = !cached;
    this.find(".low").hidden = !answer.low_confidence;
    this.find(".low").textContent = say("below", { least: options.min_confidence });
  }

  #renderError() {
    const { answer, status } = this.outcome;
    const slug = [status || null, answer.error_type].filter(Boolean).join(" ");
    this.find(".error").replaceChildren(this.errorText, " ", element("code", slug));
  }

  #renderDetails() {
    const { answer, requestId, times } = this.outcome;
    const { characters = [], alternatives = [] } = answer.details ?? {};
    this.#renderRow(".raw", answer.raw_response !== undefined);
    this.find(".raw code").textContent = answer.raw_response;
    this.#renderRow(".characters", characters.length > 0);
    this.find(".characters dd").replaceChildren(...characters.map(([text, share]) => shares(text, share)));
    this.#renderRow(".alternatives", answer.details !== undefined);
    const others = alternatives.map(({ text, confidence }) => shares(text, confidence));
    this.find(".alternatives dd").replaceChildren(...(others.length > 0 ? others : [say("none")]));
    const known = times.inference !== undefined;
    const [total, queue, inference] = [times.total, times.queue, times.inference].map(rounded);
    this.find(".timing dd").textContent = say(known ? "parts" : "milliseconds", { total, queue, inference });
    this.#renderRow(".request", Boolean(requestId));
    this.find(".request code").textContent = requestId;
  }

  #renderRow(selector, shown) {
    this.find(selector).hidden = !shown;
  }
}

/** Return the kind of the captcha of an answer: the requested one, else by its text. */
export function kindRead(answer, asked) {
  if (asked) return asked;
  const raw = answer.raw_response.trim();
  const isNumber = /^-?\d+$/.test(answer.text);
  if (isNumber && raw !== answer.text && /[-+*/xX×÷=加减乘除]/.test(raw)) return "math";
  if (isNumber) return "digits";
  return /\p{Script=Han}/u.test(answer.text) ? "chinese" : "text";
}

function element(name, text) {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

/** Return a reading with its confidence below it. */
function shares(text, share) {
  const made = element("span", "");
  made.className = "share";
  made.append(element("code", text), element("small", percent(share)));
  return made;
}

function rounded(milliseconds) {
  return milliseconds >= 10 ? Math.round(milliseconds) : Number((milliseconds ?? 0).toFixed(1));
}
