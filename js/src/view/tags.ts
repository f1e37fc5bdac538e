/** Chips that put tags on examples and take them off. */
import { arrange, button, el, hush, keyed, toggleAttr } from "./dom";

export const SUGGESTED = ["mislabelled", "duplicate", "outlier", "fine"];
const LONGEST = 60;

export interface TagChips {
  readonly node: HTMLElement;
  /** `given`: the tags of each example that is meant; `known`: tags in use elsewhere. */
  draw(given: readonly (readonly string[])[], known: readonly string[]): void;
}

export function createTagChips(
  signal: AbortSignal,
  onTag: (tag: string, on: boolean) => void,
): TagChips {
  const list = el("div", { class: "rw-tag-list" });
  const free = keyed(
    el("input", {
      class: "rw-tag-new",
      attrs: {
        type: "text",
        placeholder: "another tag…",
        "aria-label": "Another tag",
      },
    }),
  );
  const node = el(
    "div",
    { class: "rw-tagging", attrs: { role: "group", "aria-label": "Tags" } },
    hush("Tag as"),
    list,
    free,
  );
  const chips = new Map<string, HTMLButtonElement>();
  const tags = new WeakMap<Element, string>();

  list.addEventListener(
    "click",
    ({ target }) => {
      const chip = target instanceof Element ? target.closest("button") : null;
      const tag = chip && tags.get(chip);
      if (chip && tag) onTag(tag, chip.getAttribute("aria-pressed") !== "true");
    },
    { signal },
  );
  const add = (): void => {
    const tag = free.value.trim();
    if (tag.length > LONGEST) {
      free.setCustomValidity(
        `A tag has at most ${LONGEST} characters; this one has ${tag.length}.`,
      );
      free.reportValidity();
      return;
    }
    free.value = "";
    if (tag) onTag(tag, true);
  };
  free.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Enter") {
        event.preventDefault();
        add();
      }
    },
    { signal },
  );
  free.addEventListener("change", add, { signal });
  free.addEventListener("input", () => free.setCustomValidity(""), { signal });

  return {
    node,
    draw(given, known) {
      const listed = [...new Set([...SUGGESTED, ...known, ...given.flat()])];
      arrange(
        list,
        listed.map((tag) => {
          let chip = chips.get(tag);
          if (!chip) {
            chip = button({ class: "rw-tag", text: tag });
            tags.set(chip, tag);
            chips.set(tag, chip);
          }
          const having = given.filter((one) => one.includes(tag)).length;
          const pressed = having === 0 ? "false" : having === given.length ? "true" : "mixed";
          toggleAttr(chip, "aria-pressed", pressed);
          return chip;
        }),
      );
    },
  };
}
