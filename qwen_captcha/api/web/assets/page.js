/**
 * The events of the page and its list of cards.
 *
 * An image is read with the options that were set when it was added.
 */

import { Card } from "./card.js";
import { curlCommand } from "./command.js";
import { say, showLanguage, switchLanguage, translate } from "./languages.js";
import { watchModel } from "./model.js";
import { Reader } from "./reader.js";

const byId = (id) => document.getElementById(id);
const reader = new Reader();
let cards = [];
// Cards whose outcome has not been announced to screen readers yet.
let untold = [];
let modelState = "asking";
let wantsKey = false;

/** Return the options of the form that have a value. */
function chosenOptions() {
  const entries = [...new FormData(byId("options"))].map(([name, value]) => [name, value.trim()]);
  return Object.fromEntries(entries.filter(([, value]) => value !== ""));
}

function addImages(files) {
  const added = [...files].map((file) => new Card(file));
  if (added.length === 0) return;
  cards.push(...added);
  byId("cards").append(...added.map((card) => card.element));
  // The details of a single answer are open, those of several are closed.
  if (cards.length === 1) cards[0].find(".more").open = true;
  added.forEach(wire);
  added.forEach(read);
  showCommand();
}

function wire(card) {
  card.find(".copy").addEventListener("click", (event) => copy(card.text, event.currentTarget));
  card.find(".retry").addEventListener("click", () => {
    // The button is removed, and the focus must not be lost with it.
    card.element.focus();
    read(card);
  });
}

function read(card) {
  card.set("waiting");
  showSummary();
  reader.read(card.file, chosenOptions(), {
    begin: () => card.set("reading"),
    end: (outcome) => finish(card, outcome),
  });
}

function finish(card, outcome) {
  if (!cards.includes(card)) return;
  card.set("done", outcome);
  untold.push(card);
  if (outcome.status === 401) askForKey();
  showSummary();
  if (reader.idle) tell();
}

/** Announce new outcomes to screen readers; of several images only their number. */
function tell() {
  byId("news").textContent = untold.length === 1 ? untold[0].news : summary();
  untold = [];
}

function summary() {
  const done = cards.filter((card) => card.state === "done");
  const read = done.filter((card) => card.succeeded).length;
  return say("summary", { done: done.length, all: cards.length, read, failed: done.length - read });
}

function showSummary() {
  const some = cards.length > 0;
  byId("nothing").hidden = some;
  byId("list-actions").hidden = !some;
  byId("again").disabled = !some;
  byId("summary").textContent = cards.length > 1 ? summary() : "";
}

function showCommand() {
  const name = cards.at(-1)?.file.name ?? "captcha.png";
  const address = new URL("ocr", document.baseURI).href;
  byId("command").textContent = curlCommand(address, name, chosenOptions(), wantsKey);
}

function askForKey() {
  const wasHidden = byId("key").hidden;
  wantsKey = true;
  byId("key").hidden = false;
  showCommand();
  if (wasHidden) byId("key-value").focus();
}

function useKey(event) {
  event.preventDefault();
  reader.key = byId("key-value").value.trim();
  cards.filter((card) => card.outcome?.status === 401).forEach(read);
}

function clear() {
  reader.clear();
  cards.forEach((card) => card.discard());
  cards = [];
  untold = [];
  showSummary();
  showCommand();
  byId("files").focus();
}

/** Copy a text to the clipboard, and show that on the button for a moment. */
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    copyBySelection(text);
  }
  const label = button.textContent;
  button.textContent = say("copied");
  byId("news").textContent = say("copied");
  setTimeout(() => {
    if (button.textContent === say("copied")) button.textContent = label;
  }, 1500);
}

/** Copy where there is no clipboard interface: on plain HTTP from another machine. */
function copyBySelection(text) {
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

function showModel(state, health) {
  const facts = [health.model, health.device, health.version, health.error];
  const shown = facts.filter(Boolean).join(" · ");
  if (modelState !== state) byId("model-state").dataset.text = state;
  modelState = state;
  byId("model").dataset.state = state;
  if (byId("model-facts").textContent !== shown) byId("model-facts").textContent = shown;
  if (byId("model-state").textContent !== say(state)) byId("model-state").textContent = say(state);
  // Images that are added while the model loads are read when it is ready.
  if (state === "loading") reader.hold();
  else reader.release();
}

function takePaste(event) {
  if (event.clipboardData.files.length === 0) return;
  event.preventDefault();
  addImages(event.clipboardData.files);
}

function takeDrop(event) {
  event.preventDefault();
  document.body.classList.remove("dragging");
  addImages(event.dataTransfer.files);
}

function dragOver(event) {
  event.preventDefault();
  document.body.classList.add("dragging");
}

function dragLeave(event) {
  // Between two elements of the page there is a related one; outside of the page there is none.
  if (event.relatedTarget === null) document.body.classList.remove("dragging");
}

byId("files").addEventListener("change", (event) => {
  addImages(event.target.files);
  // The same file can be chosen again.
  event.target.value = "";
});
document.addEventListener("paste", takePaste);
document.addEventListener("drop", takeDrop);
document.addEventListener("dragover", dragOver);
document.addEventListener("dragleave", dragLeave);
byId("options").addEventListener("input", showCommand);
byId("options").addEventListener("submit", (event) => {
  event.preventDefault();
  cards.filter((card) => card.state === "done").forEach(read);
});
byId("key").addEventListener("submit", useKey);
byId("clear").addEventListener("click", clear);
byId("copy-command").addEventListener("click", (event) => copy(byId("command").textContent, event.currentTarget));
byId("copy-all").addEventListener("click", (event) => {
  copy(cards.map((card) => `${card.file.name}\t${card.text}`).join("\n"), event.currentTarget);
});
byId("language").addEventListener("click", () => {
  switchLanguage();
  showLanguage(byId("language"));
  cards.forEach((card) => card.render());
  showSummary();
});

showLanguage(byId("language"));
byId("options-panel").open = matchMedia("(min-width: 60rem)").matches;
showCommand();
watchModel(showModel);
