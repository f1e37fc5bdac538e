/** Explanations drawn from their document alone: no kernel answers, all sliders do. */
import type { Explanation } from "./explanation";
import { parseDocument, type Report } from "./report";
import { el, toggleAttr } from "./view/dom";
import { createEntry } from "./view/entry";
import { loadSheet, type Sheet } from "./view/media";
import { createView, type View } from "./view/view";

/** Milliseconds between one part of a report and the next: the page answers to clicks meanwhile. */
const PAUSE = 50;

/** Draw a document, or say in one sentence why it cannot be drawn. Returns the clean-up. */
export function drawDocument(root: HTMLElement, read: () => unknown): () => void {
  try {
    return drawReport(root, parseDocument(read()));
  } catch (error) {
    return drawSentence(root, error instanceof Error ? error.message : String(error));
  }
}

/** The JSON of a page or a file; throws an Error of one sentence. */
export function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("The explanation is not complete JSON: was the file cut short?");
  }
}

function drawSentence(root: HTMLElement, text: string): () => void {
  const sentence = el("p", { class: "rw-alert", text, attrs: { role: "alert" } });
  root.replaceChildren(el("div", { class: "rw-root" }, sentence));
  return () => root.replaceChildren();
}

function drawReport(root: HTMLElement, { title, explanations }: Report): () => void {
  const [first] = explanations;
  if (explanations.length === 1 && first && !title) {
    const view = drawOne(root, first);
    return () => view.dispose();
  }
  const listening = new AbortController();
  const { signal } = listening;
  const sheets: Sheet[] = [];
  const views = new Map<number, View>();
  const places = explanations.map((_, at) =>
    el("section", { class: "rw-report-part", attrs: { "aria-label": `Explanation ${at + 1}` } }),
  );
  const entries = explanations.map((one, at) => {
    const sheet = loadSheet(one.sprite);
    sheets.push(sheet);
    const entry = createEntry(one, sheet);
    entry.addEventListener("click", () => open(at), { signal });
    return entry;
  });
  const draw = (at: number): void => {
    const place = places[at];
    const one = explanations[at];
    if (place && one && !views.has(at)) views.set(at, drawOne(place, one));
  };
  function open(chosen: number): void {
    draw(chosen);
    for (const [at, place] of places.entries()) place.classList.toggle("rw-away", at !== chosen);
    for (const [at, entry] of entries.entries()) {
      toggleAttr(entry, "aria-current", at === chosen ? "true" : null);
    }
  }
  // On paper there is no index to click: every part is printed. Pictures take a moment to decode,
  // too long for one drawn as printing begins, so that the others are drawn soon after the first.
  const drawAll = (): void => {
    for (const at of explanations.keys()) draw(at);
  };
  window.addEventListener("beforeprint", drawAll, { signal });
  let waiting: ReturnType<typeof setTimeout>;
  const drawNext = (): void => {
    const next = [...explanations.keys()].find((at) => !views.has(at));
    if (next === undefined) return;
    draw(next);
    waiting = setTimeout(drawNext, PAUSE);
  };
  const head = el(
    "div",
    { class: "rw-root rw-report" },
    title ? el("h1", { class: "rw-report-title", text: title }) : null,
    el(
      "nav",
      { class: "rw-report-index", attrs: { "aria-label": "Explanations in this report" } },
      ...entries,
    ),
  );
  root.replaceChildren(head, ...places);
  open(0);
  waiting = setTimeout(drawNext, PAUSE);
  return () => {
    listening.abort();
    clearTimeout(waiting);
    for (const view of views.values()) view.dispose();
    for (const sheet of sheets) sheet.dispose();
    root.replaceChildren();
  };
}

function drawOne(root: HTMLElement, explanation: Explanation): View {
  const view = createView(root, {
    live: false,
    commit: () => {},
    pickQuery: () => {},
    requestStrip: () => {},
    requestDetail: () => {},
    check: () => {},
    cancel: () => {},
    cancelChecks: () => {},
    resume: () => {},
  });
  view.setState(explanation.settings);
  view.setExplanation(explanation);
  return view;
}
