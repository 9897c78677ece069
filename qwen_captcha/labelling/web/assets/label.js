/**
 * The label page: one image at a time, the one with the lowest confidence first.
 *
 * A late guess never overwrites typed text. Labels are sent in order, each when it is accepted. An
 * image whose label cannot be saved is shown again.
 */

import { percent, say, showLanguage, switchLanguage } from "./languages.js";

const POLL_MS = 500;

const byId = (id) => document.getElementById(id);
// In the order of the folder: file, label, mark, guess, error.
let images = [];
const byFile = new Map();
let current = null;
// Images that were shown before the current one.
let visited = [];
const model = { taken: 0, read: 0, finished: false, failure: "" };
// A request waits for the requests before it.
let saving = Promise.resolve();

async function ask(path, options = {}) {
  const reply = await fetch(path, options);
  const body = await reply.json();
  if (!reply.ok) throw Object.assign(new Error(body.error), { status: reply.status });
  return body;
}

/** Return the images that still have to be looked at, the next one first. */
function waiting() {
  const open = images.filter((image) => !image.label && !image.mark && !image.error);
  const refused = images.filter((image) => image.mark === "wrong" && !image.error);
  const sure = (image) => image.guess?.confidence ?? Infinity;
  return [...refused, ...open.sort((one, other) => sure(one) - sure(other))];
}

function showNext() {
  const [next] = waiting();
  if (next) show(next);
  else showEnd();
}

function show(image) {
  current = image;
  byId("end").hidden = true;
  byId("one").hidden = false;
  byId("image").src = `images/${encodeURIComponent(image.file)}`;
  byId("label").value = image.label ?? image.guess?.text ?? "";
  render();
  byId("label").focus();
  byId("label").select();
  byId("news").textContent = say("shown", { file: image.file, guess: guessOf(image) });
}

function showEnd() {
  current = null;
  byId("one").hidden = true;
  byId("end").hidden = false;
  render();
  (byId("again").hidden ? byId("end-title") : byId("again")).focus();
  byId("news").textContent = say("done");
}

function goBack() {
  const image = visited.pop();
  if (image) show(image);
}

function leave() {
  visited.push(current);
  byId("problem").hidden = true;
  showNext();
}

function accept(event) {
  event.preventDefault();
  const label = byId("label").value.trim();
  if (label === "") {
    complain(say("empty"));
    return;
  }
  save(current, { label, mark: null });
  leave();
}

/** Continue with the next image; labels and marks remain. */
function skip() {
  if (current.label || current.mark === "unreadable") leave();
  else mark("skipped");
}

function mark(name) {
  save(current, { label: null, mark: name });
  leave();
}

/** Store the label or mark of an image, and send it. */
function save(image, decided) {
  const before = { label: image.label, mark: image.mark };
  Object.assign(image, decided);
  const body = decided.mark ? { file: image.file, mark: decided.mark } : { file: image.file, label: decided.label };
  saving = saving.then(() => send(body)).catch((error) => {
    Object.assign(image, before);
    if (error.status === 404) {
      image.error = error.message;
      showNext();
    } else {
      show(image);
      byId("label").value = decided.label ?? byId("label").value;
    }
    complain(error instanceof TypeError ? say("noConnection") : say("notSaved", { error: error.message }));
  });
}

function send(body) {
  return ask("labels", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

function complain(text) {
  byId("problem").textContent = text;
  byId("problem").hidden = false;
}

function guessOf({ guess, label }) {
  if (!guess) return label || model.finished ? "" : say("noGuess");
  if (guess.text === "") return say("noText");
  const name = guess.raw_response.trim() === guess.text ? "guess" : "computed";
  return say(name, { text: guess.text, confidence: percent(guess.confidence), raw: guess.raw_response });
}

function remarkOf({ label, mark: name }) {
  if (label) return say("wasLabelled");
  return { wrong: say("refused"), unreadable: say("wasUnreadable"), skipped: say("wasSkipped") }[name] ?? "";
}

/** Show the state in the chosen language; typed text remains. */
function render() {
  if (current) {
    byId("file").textContent = current.file;
    byId("image").alt = say("image", { file: current.file });
    byId("remark").textContent = remarkOf(current);
    byId("guess").textContent = guessOf(current);
  }
  byId("back").disabled = visited.length === 0;
  byId("end-back").disabled = visited.length === 0;
  renderProgress();
  renderBroken();
}

function renderProgress() {
  const shown = images.filter((image) => !image.error);
  const count = (test) => shown.filter(test).length;
  const labelled = count((image) => image.label);
  const skipped = count((image) => image.mark === "skipped");
  const unreadable = count((image) => image.mark === "unreadable");
  const counts = { all: shown.length, labelled, skipped, unreadable, left: waiting().length };
  byId("counts").textContent = say(skipped + unreadable > 0 ? "countsMarked" : "counts", counts);
  byId("progress").max = Math.max(1, shown.length);
  byId("progress").value = labelled + unreadable;
  byId("again").hidden = skipped === 0;
  byId("again").textContent = say("again", { skipped });
  byId("guessing").textContent = guessing(shown);
}

function guessing(shown) {
  if (model.failure) return say("noGuesses", { failure: model.failure });
  if (model.finished) return say("guessed");
  const toRead = shown.filter((image) => image.guess || !image.label).length;
  return model.read === 0 ? say("loading") : say("guessing", { read: model.read, toRead });
}

function renderBroken() {
  const broken = images.filter((image) => image.error);
  byId("broken").hidden = broken.length === 0;
  byId("broken-title").textContent = say("broken", { broken: broken.length });
  byId("broken-files").replaceChildren(
    ...broken.map(({ file, error }) => {
      const item = document.createElement("li");
      item.textContent = `${file}: ${error}`;
      return item;
    }),
  );
}

/** Add new guesses of the model. */
function takeGuess({ error, ...guess }) {
  const image = byFile.get(guess.file);
  if (error) {
    image.error = error;
    return;
  }
  model.read += 1;
  const field = byId("label");
  const untouched = image === current && !image.label && field.value === "";
  image.guess = guess;
  if (!untouched) return;
  field.value = guess.text;
  field.select();
  byId("news").textContent = say("shown", { file: image.file, guess: guessOf(image) });
}

/** Request the guesses since the last request. */
async function askModel() {
  const { guesses, finished, failure } = await ask(`guesses?after=${model.taken}`);
  model.taken += guesses.length;
  guesses.forEach(takeGuess);
  Object.assign(model, { finished, failure });
}

async function watchModel() {
  while (!model.finished) {
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    try {
      await askModel();
      if (current?.error) showNext();
      else render();
    } catch {
      complain(say("noConnection"));
    }
  }
}

function onKey(event) {
  // An input method chooses characters with the same keys.
  if (event.isComposing) return;
  const actions = current
    ? { ArrowDown: skip, ArrowUp: goBack, "Control Enter": () => mark("unreadable") }
    : { ArrowUp: goBack };
  const action = actions[event.ctrlKey ? `Control ${event.key}` : event.key];
  if (!action || event.altKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  action();
}

function goThroughSkipped() {
  images.filter((image) => image.mark === "skipped").forEach((image) => Object.assign(image, { mark: null }));
  showNext();
}

byId("one").addEventListener("submit", accept);
byId("skip").addEventListener("click", skip);
byId("unreadable").addEventListener("click", () => mark("unreadable"));
byId("back").addEventListener("click", goBack);
byId("end-back").addEventListener("click", goBack);
byId("again").addEventListener("click", goThroughSkipped);
document.addEventListener("keydown", onKey);
byId("language").addEventListener("click", () => {
  switchLanguage();
  showLanguage(byId("language"));
  render();
});

showLanguage(byId("language"));
try {
  const state = await ask("state");
  images = state.images;
  images.forEach((image) => byFile.set(image.file, image));
  byId("folder").textContent = state.folder;
  await askModel();
  showNext();
  watchModel();
} catch (error) {
  complain(error.message);
}
