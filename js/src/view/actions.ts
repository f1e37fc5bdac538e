/** What can be done with the selected cards, and what checks by retraining have found. */

import { damping, digits, signed, whole } from "../format";
import type { CheckResult } from "../messages";
import { arrange, button, el, setText } from "./dom";
import { createTagChips } from "./tags";

export interface Actions {
  readonly node: HTMLElement;
  draw(
    selection: readonly number[],
    tags: Readonly<Record<string, string[]>>,
    canCheck: boolean,
  ): void;
}

export interface ActionEvents {
  tag(indices: number[], tag: string, on: boolean): void;
  like(index: number): void;
  check(indices: number[]): void;
  clear(): void;
}

const CHECK = "Retrain without these examples, and compare with what influence predicts";
/** The kernel says the same where it is asked all the same. */
export const NO_CHECK =
  "This model has no exact refit: pass ExplanationWidget(..., retrain=callable(removed_indices) -> model)";

export function createActions(signal: AbortSignal, events: ActionEvents): Actions {
  const count = el("span", { class: "rw-count" });
  const chips = createTagChips(signal, (tag, on) => events.tag([...selected], tag, on));
  const like = button({ class: "rw-action", text: "More like this" });
  const check = button({
    class: "rw-action",
    text: "Check by retraining",
  });
  const clear = button({ class: "rw-action", text: "Clear", title: "Select nothing (Esc)" });
  const node = el(
    "div",
    { class: "rw-actions", attrs: { role: "group", "aria-label": "Selected training examples" } },
    count,
    chips.node,
    like,
    check,
    clear,
  );
  node.hidden = true;
  let selected: readonly number[] = [];

  node.addEventListener(
    "click",
    ({ target }) => {
      const pressed = target instanceof Element ? target.closest("button") : null;
      const last = selected[selected.length - 1];
      if (pressed === like && last !== undefined) events.like(last);
      else if (pressed === check) events.check([...selected]);
      else if (pressed === clear) events.clear();
    },
    { signal },
  );

  return {
    node,
    draw(selection, tags, canCheck) {
      selected = selection;
      node.hidden = selection.length === 0;
      if (node.hidden) return;
      setText(count, `${whole(selection.length)} selected`);
      count.title = selection.map((index) => `#${index}`).join(", ");
      const last = selection[selection.length - 1];
      like.title = `Training examples like #${last}, the last one selected`;
      setText(like, selection.length > 1 ? `More like #${last}` : "More like this");
      check.title = canCheck ? CHECK : NO_CHECK;
      chips.draw(
        selection.map((index) => tags[`${index}`] ?? []),
        Object.values(tags).flat(),
      );
    },
  };
}

export interface Checks {
  readonly node: HTMLElement;
  /** A check begins; false where the same one runs already. */
  pending(query: number, indices: readonly number[]): boolean;
  /** What a check found, or why it failed. */
  done(query: number, removed: readonly number[], check: CheckResult | string): void;
  /** Show the checks of one query. */
  show(query: number | null): void;
}

interface Kept {
  key: string;
  node: HTMLElement;
  running: boolean;
}

export function createChecks(signal: AbortSignal, onCancel: () => void): Checks {
  const list = el("ul", { class: "rw-check-list", attrs: { role: "list" } });
  const node = el(
    "section",
    { class: "rw-checks", attrs: { "aria-label": "Checks by retraining", "aria-live": "polite" } },
    list,
  );
  const kept = new Map<number, Kept[]>();
  let shown: number | null = null;
  const keyOf = (indices: readonly number[]): string => [...indices].sort((a, b) => a - b).join();
  const of = (query: number): Kept[] => {
    const known = kept.get(query) ?? [];
    kept.set(query, known);
    return known;
  };
  const draw = (): void => {
    const mine = shown === null ? [] : of(shown);
    arrange(
      list,
      mine.map((one) => one.node),
    );
    node.hidden = mine.length === 0;
  };
  list.addEventListener(
    "click",
    ({ target }) => {
      if (target instanceof Element && target.closest("button")) onCancel();
    },
    { signal },
  );
  draw();

  return {
    node,
    pending(query, indices) {
      const key = keyOf(indices);
      if (of(query).some((one) => one.running && one.key === key)) return false;
      const item = el(
        "li",
        { class: "rw-check-running" },
        el("span", { class: "rw-quiet", text: `Retraining without ${names(indices)}…` }),
        button({ class: "rw-action", text: "Cancel" }),
      );
      of(query).push({ key, node: item, running: true });
      draw();
      return true;
    },
    done(query, removed, check) {
      const key = keyOf(removed);
      const mine = of(query);
      const at = mine.findIndex((one) => one.running && one.key === key);
      if (at >= 0) mine.splice(at, 1);
      const item =
        typeof check === "string"
          ? el("li", { class: "rw-check-failed", text: check })
          : checkItem(check);
      mine.push({ key, node: item, running: false });
      draw();
    },
    show(query) {
      shown = query;
      draw();
    },
  };
}

function names(indices: readonly number[]): string {
  const shown = indices.slice(0, 3).map((index) => `#${index}`);
  const more = indices.length - shown.length;
  return more > 0 ? `${shown.join(", ")} and ${whole(more)} more` : shown.join(", ");
}

/** Two bars on one scale: the change that came, and the one that was foretold. */
function checkItem(check: CheckResult): HTMLElement {
  const longest = Math.max(...check.actual.map(Math.abs), ...check.predicted.map(Math.abs), 1e-300);
  const bar = (value: number, kind: string): HTMLElement => {
    const fill = el("i");
    fill.style.width = `${(Math.abs(value) / longest) * 100}%`;
    const node = el("span", { class: "rw-bar", attrs: { "aria-hidden": "true" } }, fill);
    node.dataset.kind = kind;
    return node;
  };
  const lines = check.labels.map((label, at) => {
    const actual = check.actual[at] ?? 0;
    const predicted = check.predicted[at] ?? 0;
    const before = digits(check.before[at] ?? 0);
    const after = digits(check.after[at] ?? 0);
    return el(
      "div",
      { class: "rw-check-line" },
      el("span", { class: "rw-check-label", text: `loss of ${label}: ${before} → ${after}` }),
      el("span", { class: "rw-quiet", text: "retrained" }),
      bar(actual, actual < 0 ? "negative" : "positive"),
      el("span", { class: "rw-num", text: signed(actual) }),
      el("span", { class: "rw-quiet", text: "predicted" }),
      bar(predicted, "distance"),
      el("span", { class: "rw-num", text: signed(predicted) }),
    );
  });
  return el(
    "li",
    {},
    el("b", { text: `Without ${names(check.removed)}` }),
    el("span", { class: "rw-quiet", text: ` at damping ${damping(check.damping)}` }),
    ...lines,
  );
}
