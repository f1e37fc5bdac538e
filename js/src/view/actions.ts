/** What can be done with the selected cards, and what checks by retraining have found. */

import { digits, signed, whole } from "../format";
import type { CheckResult } from "../messages";
import { button, el, setText } from "./dom";
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

export function createActions(signal: AbortSignal, events: ActionEvents): Actions {
  const count = el("span", { class: "rw-count" });
  const chips = createTagChips(signal, (tag, on) => events.tag([...selected], tag, on));
  const like = button({ class: "rw-action", text: "More like this" });
  const check = button({
    class: "rw-action",
    text: "Check by retraining",
    title: "Retrain without the selected examples, and compare with what influence predicts",
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
      setText(count, `${whole(selection.length)} selected`);
      count.title = selection.map((index) => `#${index}`).join(", ");
      const last = selection[selection.length - 1];
      like.title = `Training examples like #${last}, the last one selected`;
      check.hidden = !canCheck;
      chips.draw(
        selection.map((index) => tags[`${index}`] ?? []),
        Object.values(tags).flat(),
      );
    },
  };
}

export interface Checks {
  readonly node: HTMLElement;
  /** A check that runs. */
  pending(indices: readonly number[]): void;
  done(check: CheckResult): void;
  failed(message: string): void;
  /** Another query: its own checks only. */
  clear(): void;
}

export function createChecks(): Checks {
  const list = el("ul", { class: "rw-check-list", attrs: { role: "list" } });
  const node = el(
    "section",
    { class: "rw-checks", attrs: { "aria-label": "Checks by retraining", "aria-live": "polite" } },
    list,
  );
  node.hidden = true;
  let waiting: HTMLElement[] = [];

  const add = (item: HTMLElement): void => {
    waiting.shift()?.remove();
    list.append(item);
    node.hidden = false;
  };
  return {
    node,
    pending(indices) {
      const text = `Retraining without ${names(indices)}…`;
      const item = el("li", { class: "rw-quiet", text });
      waiting.push(item);
      list.append(item);
      node.hidden = false;
    },
    done(check) {
      add(checkItem(check));
    },
    failed(message) {
      add(el("li", { class: "rw-check-failed", text: message }));
    },
    clear() {
      waiting = [];
      list.replaceChildren();
      node.hidden = true;
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
  return el("li", {}, el("b", { text: `Without ${names(check.removed)}` }), ...lines);
}
