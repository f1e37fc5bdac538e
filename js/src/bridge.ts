/**
 * What a live widget and the page around it say to each other: events on the widget's root, since
 * the two are bundles that know nothing else of one another.
 */
import type { Explanation } from "./explanation";
import { stopOf } from "./lookup";
import type { Still } from "./messages";
import type { ViewState } from "./view/state";

/** From the page: an explanation is kept here with the notebook, and where new controls start. */
const HOST = "relatif:host";
/** From the page: what is on display now? Answered before `dispatchEvent` returns. */
const ASK = "relatif:ask";
/** From the widget, bubbling: something else is on display. */
export const CHANGED = "relatif:changed";

/** Where the controls of new widgets start; null leaves what the notebook says. */
export interface Defaults {
  method: string | null;
  k: number | null;
  damping: number | null;
}

export interface Shown {
  document: Explanation;
  /** The same as static HTML and as text, for hosts without scripts; null until the kernel sent them. */
  still: Still | null;
}

export function tellHost(root: Element, defaults: Defaults): void {
  root.dispatchEvent(new CustomEvent(HOST, { bubbles: true, detail: defaults }));
}

export function askShown(root: Element): Shown | null {
  const question: { answer: Shown | null } = { answer: null };
  root.dispatchEvent(new CustomEvent(ASK, { bubbles: true, detail: question }));
  return question.answer;
}

/** The widget's half. Returns a function that says that something else is on display. */
export function listen(
  el: HTMLElement,
  signal: AbortSignal,
  handlers: { host(defaults: Defaults): void; shown(): Shown | null },
): () => void {
  el.addEventListener(
    HOST,
    (event) => {
      event.stopPropagation();
      handlers.host((event as CustomEvent<Defaults>).detail);
    },
    { signal },
  );
  el.addEventListener(
    ASK,
    (event) => {
      event.stopPropagation();
      (event as CustomEvent<{ answer: Shown | null }>).detail.answer = handlers.shown();
    },
    { signal },
  );
  return () => el.dispatchEvent(new CustomEvent(CHANGED, { bubbles: true }));
}

/** The document with the panels and controls that are on display. */
export function asShown(doc: Explanation, state: ViewState): Explanation {
  const shown = state.labels.flatMap(
    (label) => doc.panels.find(({ name }) => name === label) ?? [],
  );
  const damping = doc.dampings[stopOf(doc.dampings, state.damping)] ?? doc.settings.damping;
  const { method, sign, k } = state;
  return {
    ...doc,
    panels: shown.length > 0 ? shown : doc.panels,
    settings: { method, sign, k, damping },
  };
}
