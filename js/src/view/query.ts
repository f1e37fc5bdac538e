/** The test example, the question in words, and the model's answer as bars. */
import type { Explanation } from "../explanation";
import { decimal, share } from "../format";
import { className, likeliest, panelNamed } from "../lookup";
import { arrange, button, el, hush, setText, toggleAttr } from "./dom";
import { drawMedia, type Sheet } from "./media";

const FIRST = 5;

export interface QueryColumn {
  readonly node: HTMLElement;
  setDocument(doc: Explanation, sheet: Sheet): void;
  draw(shown: readonly string[]): void;
  /** Put the focus on a label's bar, where there is one. */
  focusLabel(label: string): void;
}

export function createQuery(
  signal: AbortSignal,
  live: boolean,
  onToggle: (label: string) => void,
): QueryColumn {
  const picture = el("div", { class: "rw-query-picture" });
  const heading = el("h2", { class: "rw-why" });
  const facts = el("p", { class: "rw-facts" });
  const bars = el("div", {
    class: "rw-bars",
    attrs: { role: "group", "aria-label": "Labels to explain, by the model's probability" },
  });
  const more = button({ class: "rw-more" });
  const node = el(
    "div",
    { class: "rw-query" },
    picture,
    el("div", { class: "rw-query-words" }, heading, facts, bars, more),
  );
  let doc: Explanation | null = null;
  let shown: readonly string[] = [];
  let all = false;
  let buttons = new Map<string, HTMLButtonElement>();
  const names = new WeakMap<Element, string>();

  bars.addEventListener(
    "click",
    ({ target }) => {
      const bar = target instanceof Element ? target.closest("button") : null;
      const name = bar && names.get(bar);
      if (
        bar &&
        name !== undefined &&
        name !== null &&
        bar.getAttribute("aria-disabled") !== "true"
      )
        onToggle(name);
    },
    { signal },
  );
  more.addEventListener(
    "click",
    () => {
      all = !all;
      drawBars();
    },
    { signal },
  );

  function drawBars(): void {
    if (!doc) return;
    const ranked = likeliest(doc);
    const listed = ranked.filter(({ name }, at) => all || at < FIRST || shown.includes(name));
    const nodes = listed.map(({ name, probability }) => {
      let bar = buttons.get(name);
      if (!bar) {
        bar = barButton(name, probability);
        names.set(bar, name);
        buttons.set(name, bar);
      }
      const on = shown.includes(name);
      const refusal = whyNot(name, on);
      toggleAttr(bar, "aria-pressed", `${on}`);
      // Not `disabled`: that would drop the focus and hide the reason.
      toggleAttr(bar, "aria-disabled", refusal ? "true" : null);
      bar.title = refusal ?? (on ? `Remove the panel of “${name}”` : `Explain “${name}” too`);
      return bar;
    });
    arrange(bars, nodes);
    bars.hidden = nodes.length === 0;
    more.hidden = ranked.length <= FIRST;
    toggleAttr(more, "aria-expanded", `${all}`);
    setText(more, all ? "fewer labels" : `all ${ranked.length} labels`);
  }

  function whyNot(name: string, on: boolean): string | null {
    if (on) return shown.length === 1 ? "The last panel stays" : null;
    if (live || (doc && panelNamed(doc, name))) return null;
    return "This document holds no panel for this label";
  }

  return {
    node,
    setDocument(next, sheet) {
      const before = doc?.query;
      const same = next.query.name === before?.name && next.query.index === before.index;
      doc = next;
      if (!same) {
        // The same query keeps its bars, and so the focus that asked for another panel.
        all = false;
        buttons = new Map();
      }
      const { query } = next;
      picture.replaceChildren(drawMedia(query.media, sheet, query.name, { rows: 12 }));
      heading.textContent = questionOf(next);
      facts.replaceChildren(...factsOf(next));
    },
    draw(labels) {
      shown = labels;
      drawBars();
    },
    focusLabel(label) {
      buttons.get(label)?.focus();
    },
  };
}

/** The question that an explanation answers. */
export function questionOf(doc: Explanation): string {
  const { predicted, output, target } = doc.query;
  const says = className(doc, predicted);
  if (output === null) return says === null ? "Why?" : `Why “${says}”?`;
  // A regression is explained at its target.
  return target === null
    ? `Why ${decimal(output)}?`
    : `Why ${decimal(output)}, not ${decimal(target)}?`;
}

/** What is known of the query's true class, in words. */
export function truthOf(doc: Explanation): string {
  const truth = className(doc, doc.query.label);
  if (truth === null) return "";
  return doc.query.label === doc.query.predicted
    ? `true label ${truth}, predicted correctly`
    : `true label ${truth}, misclassified`;
}

function factsOf(doc: Explanation): Node[] {
  const { query } = doc;
  const name = document.createTextNode(query.name);
  if (query.probabilities.length === 0) {
    const parts = [
      query.output && `predicted ${decimal(query.output)}`,
      query.target && `true ${decimal(query.target)}`,
    ];
    const text = parts.filter(Boolean).join(" · ");
    return [name, el("br"), document.createTextNode(text)];
  }
  const truth = className(doc, query.label);
  if (truth === null) return [name];
  const right = query.label === query.predicted;
  return [
    document.createTextNode(`${query.name} · true label ${truth}\u00a0`),
    el("span", {
      class: right ? "rw-right" : "rw-wrong",
      text: right ? "✓" : "✗",
      attrs: { "aria-hidden": "true" },
    }),
    hush(right ? "predicted correctly" : "misclassified"),
  ];
}

function barButton(name: string, probability: number): HTMLButtonElement {
  const fill = el("i");
  fill.style.width = `${probability * 100}%`;
  return button(
    { class: "rw-label" },
    el("span", { class: "rw-name", text: name }),
    el("span", { class: "rw-bar", attrs: { "aria-hidden": "true" } }, fill),
    el("span", { class: "rw-num", text: share(probability) }),
  );
}
