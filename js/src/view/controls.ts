/** The row of controls: method, k, damping, sign. */
import { type Explanation, METHODS, type Method, type Sign } from "../explanation";
import { damping as dampingText, ratio } from "../format";
import { hasNeighbours, longestList, stopOf } from "../lookup";
import { el, keyed, setText, uniqueId } from "./dom";
import type { Commit, ViewState } from "./state";

export const METHOD_TITLES: Record<Method, string> = {
  influence: "IF",
  theta_relative: "θ-RelatIF",
  loss_relative: "ℓ-RelatIF",
  nearest: "k-NN",
};

const METHOD_HELP: Record<Method, string> = {
  influence:
    "Influence: the most effect overall. For debugging; it often returns the same outliers for every prediction.",
  theta_relative:
    "Influence for each unit of change in the weights. For explaining this prediction.",
  loss_relative:
    "Influence for each unit of change in the training loss. For explaining this prediction.",
  nearest: "Nearest neighbours, whatever the label: a baseline without influence.",
};

const SIGNS: Record<Sign, [text: string, help: string]> = {
  positive: ["+ helpful", "Training examples that lower the loss at this label"],
  negative: ["− harmful", "Training examples that raise the loss at this label"],
  both: ["both", "The strongest of either sign"],
};

const DEFAULT_LONGEST = 20;
export const NO_DISTANCE =
  "These examples have no distance to each other, such as texts of different lengths: " +
  'Explainer(..., space="features") measures by the model’s last layer';
const NO_MODEL = "k-NN compares distances only: it has no";

export interface Controls {
  readonly node: HTMLElement;
  draw(state: ViewState, doc: Explanation | null): void;
}

export function createControls(
  signal: AbortSignal,
  onInput: (changed: Commit) => void,
  onCommit: (changed: Commit) => void,
): Controls {
  const method = segments(
    "Method",
    METHODS.map((value) => [value, METHOD_TITLES[value], METHOD_HELP[value]]),
  );
  const sign = segments(
    "Sign",
    Object.entries(SIGNS).map(([value, [text, help]]) => [value, text, help]),
  );
  const k = slider("k", "How many training examples to show in each panel");
  k.input.min = "1";
  const damping = slider("damping", "Damping λ: added to every eigenvalue of the curvature");
  damping.input.min = "0";
  const compare = comparison();
  const mean = el("span", { class: "rw-quiet rw-mean" });
  damping.node.append(mean);
  let dampings: number[] = [];

  const node = el(
    "div",
    { class: "rw-controls", attrs: { role: "group", "aria-label": "Ranking" } },
    method.node,
    k.node,
    damping.node,
    sign.node,
    compare.node,
  );

  const changed = (target: EventTarget | null): Commit | null => {
    if (target === k.input) return { k: Number(k.input.value) };
    if (target === damping.input) {
      const stop = dampings[Number(damping.input.value)];
      return stop === undefined ? null : { damping: stop };
    }
    if (!(target instanceof HTMLInputElement)) return null;
    const compared = compare.changed(target);
    if (compared) return { compare: compared };
    if (target.name === method.name) return { method: target.value as Method };
    if (target.name === sign.name) return { sign: target.value as Sign };
    return null;
  };
  const listen = (event: "input" | "change", tell: (value: Commit) => void): void => {
    node.addEventListener(
      event,
      ({ target }) => {
        const value = changed(target);
        if (value) tell(value);
      },
      { signal },
    );
  };
  listen("input", onInput);
  listen("change", onCommit);

  return {
    node,
    draw(state, doc) {
      const nearest = state.method === "nearest";
      const near = !doc || hasNeighbours(doc);
      method.draw(state.method, null, near ? {} : { nearest: NO_DISTANCE });
      const alone = nearest && state.compare.every((one) => one === "nearest");
      sign.draw(state.sign, alone ? `${NO_MODEL} sign.` : null);
      compare.draw(state.method, state.compare, near);

      const longest = doc ? longestList(doc) : DEFAULT_LONGEST;
      const shown = Math.min(state.k, longest);
      k.draw(shown, longest, `${shown}`, `${shown}`, null);

      dampings = doc?.dampings ?? [];
      const stop = stopOf(dampings, state.damping);
      const value = dampings[stop] ?? state.damping;
      const idle = alone
        ? `${NO_MODEL} damping.`
        : doc && dampings.length < 2
          ? "This explanation has one damping stop only."
          : doc
            ? null
            : "The stops come with the first explanation.";
      const text = dampingText(value);
      damping.draw(stop, Math.max(1, dampings.length - 1), text, `damping ${text}`, idle);

      const eigenvalue = doc?.provenance.mean_eigenvalue ?? 0;
      const known = eigenvalue > 0 && !alone;
      setText(mean, known ? `${ratio(value / eigenvalue)} × mean` : "");
      mean.title = known ? `The mean eigenvalue of the curvature is ${ratio(eigenvalue)}` : "";
    },
  };
}

function segments(legend: string, choices: [value: string, text: string, help: string][]) {
  const name = uniqueId(legend.toLowerCase());
  const inputs = new Map<string, HTMLInputElement>();
  const helps = new Map(choices.map(([value, , help]) => [value, help]));
  const node = el(
    "fieldset",
    { class: "rw-segments" },
    el("legend", { class: "rw-sr", text: legend }),
  );
  for (const [value, text, help] of choices) {
    const input = keyed(el("input", { attrs: { type: "radio", name, value } }));
    inputs.set(value, input);
    node.append(el("label", { title: help }, input, el("span", { text })));
  }
  return {
    node,
    name,
    /** `idle` is why no choice applies, `without` why some do not. */
    draw(value: string, idle: string | null, without: Record<string, string> = {}) {
      for (const [key, input] of inputs) {
        input.checked = key === value;
        input.disabled = idle !== null || (key in without && key !== value);
        const label = input.closest("label");
        if (label) label.title = without[key] ?? helps.get(key) ?? "";
      }
      node.title = idle ?? "";
      node.classList.toggle("rw-idle", idle !== null);
    },
  };
}

/** A switch, and where it is on the methods to compare the chosen one with. */
function comparison() {
  const on = keyed(el("input", { attrs: { type: "checkbox" } }));
  const boxes = new Map<Method, HTMLInputElement>();
  const labels = new Map<Method, HTMLElement>();
  const choices = el(
    "fieldset",
    { class: "rw-chips" },
    el("legend", { class: "rw-sr", text: "Compare with" }),
  );
  for (const method of METHODS) {
    const input = keyed(el("input", { attrs: { type: "checkbox", value: method } }));
    const label = el(
      "label",
      { title: METHOD_HELP[method] },
      input,
      el("span", { class: "rw-chip", text: METHOD_TITLES[method] }),
    );
    boxes.set(method, input);
    labels.set(method, label);
    choices.append(label);
  }
  const node = el(
    "div",
    { class: "rw-compare" },
    el(
      "label",
      { class: "rw-switch", title: "Show several methods in rows under each other" },
      on,
      el("span", { text: "compare" }),
    ),
    choices,
  );
  let chosen: Method = "loss_relative";
  return {
    node,
    changed(target: HTMLInputElement): Method[] | null {
      if (target === on) {
        // The contrast of the paper's Figures 4 and 5.
        return on.checked ? [chosen === "influence" ? "loss_relative" : "influence"] : [];
      }
      if (![...boxes.values()].includes(target)) return null;
      return METHODS.filter((method) => boxes.get(method)?.checked && method !== chosen);
    },
    draw(method: Method, compared: readonly Method[], near: boolean) {
      chosen = method;
      const others = compared.filter((one) => one !== method);
      on.checked = others.length > 0;
      choices.hidden = others.length === 0;
      for (const [one, box] of boxes) {
        box.checked = others.includes(one);
        const label = labels.get(one);
        if (label) label.hidden = one === method || (one === "nearest" && !near);
      }
    },
  };
}

function slider(name: string, help: string) {
  const input = keyed(el("input", { class: "rw-range", attrs: { type: "range", step: "1" } }));
  const value = el("output", { class: "rw-value" });
  // The value changes with each step of the slider, which speaks for itself.
  value.setAttribute("aria-hidden", "true");
  const node = el(
    "label",
    { class: `rw-slider rw-slider-${name}`, title: help },
    el("span", { class: "rw-quiet", text: name }),
    input,
    value,
  );
  return {
    node,
    input,
    draw(at: number, max: number, text: string, spoken: string, idle: string | null) {
      input.max = `${max}`;
      input.value = `${at}`;
      const min = Number(input.min);
      input.style.setProperty("--rw-fill", `${max > min ? ((at - min) / (max - min)) * 100 : 0}%`);
      input.setAttribute("aria-valuetext", spoken);
      input.disabled = idle !== null || max <= min;
      setText(value, text);
      node.title = idle ?? help;
      node.classList.toggle("rw-idle", idle !== null);
    },
  };
}
