/** One training example in a row. */
import type { Explanation, Media, Method, TrainingExample } from "../explanation";
import { digits, share, signed, whole } from "../format";
import { className, extent } from "../lookup";
import { button, el, hush, keyed, setText, signButton, toggleAttr } from "./dom";
import { drawMedia, isPicture, type Sheet } from "./media";

export interface Card {
  readonly node: HTMLLIElement;
  /** What takes the focus and the click. */
  readonly face: HTMLButtonElement;
  update(shown: CardState): void;
}

export interface CardState {
  method: Method;
  score: number;
  /** A full bar. */
  longest: number;
  selected: boolean;
  tags: readonly string[];
  /** Why it is called global; null where it is not. */
  global: string | null;
  /** Its place under the other methods in view. */
  ranks: readonly { method: Method; rank: number | null; of: number }[];
}

const SHORT: Record<Method, string> = {
  influence: "IF",
  theta_relative: "θ",
  loss_relative: "ℓ",
  nearest: "k-NN",
};

export const labelOf = (doc: Explanation, example: TrainingExample): string =>
  className(doc, example.label) ?? example.target ?? "";

export function createCard(
  doc: Explanation,
  example: TrainingExample,
  sheet: Sheet,
  against: Media,
  live: boolean,
): Card {
  const label = labelOf(doc, example);
  const says = className(doc, example.predicted);
  const differs = example.label !== null && says !== null && example.predicted !== example.label;
  const fill = el("i");
  const bar = el("span", { class: "rw-bar", attrs: { "aria-hidden": "true" } }, fill);
  const score = el("span", { class: "rw-score" });
  const probability =
    example.probability === null
      ? null
      : el("span", {
          class: "rw-quiet rw-small",
          text: share(example.probability),
          title: `The model gives “${label}” a probability of ${share(example.probability)}`,
        });
  const picture = isPicture(example.media);
  const spokenScore = hush("score ");
  const badge = el("span", { class: "rw-badge", text: "global" });
  badge.append(hush(" example"));
  const tick = el("span", { class: "rw-tick", text: "✓", attrs: { "aria-hidden": "true" } });
  const tagged = el("span", { class: "rw-tags rw-small" });
  const ranks = el("span", { class: "rw-ranks rw-quiet rw-small" });
  // Its name is what it shows, with the words that eyes do without.
  const face = button(
    { class: "rw-face" },
    picture ? null : hush(`Training example ${example.index}: `),
    el(
      "span",
      { class: "rw-shot" },
      drawMedia(example.media, sheet, `${label}, training example ${example.index}`, { against }),
      badge,
      tick,
    ),
    el(
      "span",
      { class: "rw-pair" },
      el("b", { class: "rw-name", text: label, title: label }),
      probability ? hush(" probability ") : null,
      probability,
    ),
    bar,
    el(
      "span",
      { class: "rw-pair rw-small" },
      el("span", { class: "rw-quiet rw-index", text: `#${example.index}` }),
      spokenScore,
      score,
    ),
    differs
      ? el(
          "span",
          { class: "rw-mark rw-small", title: `The model says “${says}” here` },
          el("span", { text: "▲ ", attrs: { "aria-hidden": "true" } }),
          hush("the model "),
          el("span", { text: `says ${says}` }),
        )
      : null,
    ranks,
    tagged,
  );
  // Without a kernel there is nothing to select for: the card opens.
  if (!live) face.setAttribute("aria-haspopup", "dialog");
  const open = live
    ? signButton("⤢", `Look closer at training example ${example.index}`, {
        class: "rw-open",
        title: "Look closer (Enter)",
        attrs: { tabindex: "-1" },
      })
    : null;
  const node = keyed(
    el("li", { class: "rw-card", attrs: { "data-index": `${example.index}` } }, face, open),
  );

  return {
    node,
    face,
    update({ method, score: value, longest, selected, tags, global, ranks: others }) {
      const nearest = method === "nearest";
      const length = extent(method, value);
      fill.style.width = `${longest > 0 ? Math.min(100, (length / longest) * 100) : 0}%`;
      const kind = nearest ? "distance" : value < 0 ? "negative" : "positive";
      if (bar.dataset.kind !== kind) bar.dataset.kind = kind;
      const text = nearest ? digits(length) : signed(value);
      setText(score, text);
      setText(spokenScore, nearest ? " distance " : " score ");
      score.title = nearest
        ? "Distance to the query"
        : `Score: ${value < 0 ? "raises" : "lowers"} the loss at this label`;
      badge.hidden = global === null;
      badge.title = global ?? "";
      if (live) {
        toggleAttr(face, "aria-pressed", `${selected}`);
        tick.hidden = !selected;
      } else tick.hidden = true;
      const places = others.map(
        ({ method: other, rank, of }) =>
          `${SHORT[other]} rank ${rank === null ? `>${of}` : whole(rank)}`,
      );
      setText(ranks, places.join(" · "));
      ranks.title = places.length > 0 ? "Its rank under the other methods in view" : "";
      ranks.hidden = places.length === 0;
      tagged.replaceChildren(hush(" tagged "), el("span", { text: tags.join(", ") }));
      tagged.title = tags.join(", ");
      tagged.hidden = tags.length === 0;
    },
  };
}
