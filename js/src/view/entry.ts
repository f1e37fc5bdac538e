/** An explanation in a list: a picture, its question, and lines of facts, to be clicked. */
import type { Explanation } from "../explanation";
import { button, el } from "./dom";
import { drawMedia, type Sheet } from "./media";
import { questionOf, truthOf } from "./query";

export function createEntry(
  doc: Explanation,
  sheet: Sheet,
  { title = questionOf(doc), more = [] }: { title?: string; more?: string[] } = {},
): HTMLButtonElement {
  const facts = [doc.query.name, truthOf(doc)].filter(Boolean).join(" · ");
  return button(
    { class: "rw-entry" },
    el(
      "span",
      { class: "rw-entry-picture", attrs: { "aria-hidden": "true" } },
      drawMedia(doc.query.media, sheet, "", { rows: 2 }),
    ),
    el(
      "span",
      { class: "rw-entry-words" },
      el("b", { text: title }),
      ...[facts, ...more].map((text) => el("span", { text })),
    ),
  );
}
