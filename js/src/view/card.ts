/** One training example in a panel. */
import type { Explanation, Method, TrainingExample } from "../explanation";
import { digits, share, signed } from "../format";
import { className, extent } from "../lookup";
import { el, keyed, setText } from "./dom";
import { drawMedia, type Sheet } from "./media";

export interface Card {
  readonly node: HTMLLIElement;
  /** Show this score; a full bar is `longest`. */
  update(method: Method, score: number, longest: number): void;
}

export function createCard(doc: Explanation, example: TrainingExample, sheet: Sheet): Card {
  const label = className(doc, example.label) ?? example.target ?? "";
  const says = className(doc, example.predicted);
  const differs = example.label !== null && says !== null && example.predicted !== example.label;
  const fill = el("i");
  const bar = el("div", { class: "rw-bar", attrs: { "aria-hidden": "true" } }, fill);
  const score = el("span", { class: "rw-score" });
  const probability =
    example.probability === null
      ? null
      : el("span", {
          class: "rw-quiet rw-small",
          text: share(example.probability),
          title: `The model gives “${label}” a probability of ${share(example.probability)}`,
        });

  const node = keyed(
    el(
      "li",
      { class: "rw-card", attrs: { tabindex: "-1" } },
      drawMedia(example.media, sheet, `${label}, training example ${example.index}`),
      el(
        "div",
        { class: "rw-pair" },
        el("b", { class: "rw-name", text: label, title: label }),
        probability,
      ),
      bar,
      el(
        "div",
        { class: "rw-pair rw-small" },
        el("span", { class: "rw-quiet", text: `#${example.index}` }),
        score,
      ),
      differs
        ? el(
            "div",
            { class: "rw-mark rw-small", title: `The model says “${says}” here` },
            el("span", { text: "▲ ", attrs: { "aria-hidden": "true" } }),
            el("span", { text: `says ${says}` }),
          )
        : null,
    ),
  );

  return {
    node,
    update(method, value, longest) {
      const nearest = method === "nearest";
      const length = extent(method, value);
      fill.style.width = `${longest > 0 ? Math.min(100, (length / longest) * 100) : 0}%`;
      const kind = nearest ? "distance" : value < 0 ? "negative" : "positive";
      if (bar.dataset.kind !== kind) bar.dataset.kind = kind;
      const text = nearest ? digits(length) : signed(value);
      setText(score, text);
      const spoken = nearest ? `distance ${text}` : `score ${text}`;
      const parts = [
        `Training example ${example.index}`,
        label,
        spoken,
        example.probability === null ? "" : `probability ${share(example.probability)}`,
        differs ? `the model says ${says}` : "",
      ];
      node.setAttribute("aria-label", parts.filter(Boolean).join(", "));
    },
  };
}
