/** Which test examples to show, and in which order; a control that does not apply is hidden. */
import { whole } from "../format";
import {
  STRIP_WHICH,
  type StripFilter,
  type StripPage,
  type StripSort,
  type StripWhich,
} from "../messages";
import { button, el, hush, keyed, setText, toggleAttr, uniqueId } from "./dom";

export const EVERYTHING: StripFilter = {
  which: "all",
  label: null,
  predicted: null,
  confidence: [0, 1],
  search: "",
  sort: "index",
  descending: false,
};

/** Two questions for the same rows in the same order are one. */
export const keyOf = ({ which, label, predicted, ...rest }: StripFilter): string =>
  JSON.stringify([which, label, predicted, ...rest.confidence, rest.search, orderOf(rest)]);

const WHICH: Record<StripWhich, [text: string, help: string]> = {
  all: ["all", "Every test example"],
  misclassified: ["misclassified", "The prediction is not the true label"],
  close: ["close calls", "The two likeliest labels are close"],
};

type Order = Pick<StripFilter, "sort" | "descending">;
const orderOf = ({ sort, descending }: Order): string => `${sort}${descending ? "↓" : ""}`;
const ORDERS: [sort: StripSort, descending: boolean, text: string][] = [
  ["index", false, "index"],
  ["confidence", false, "lowest confidence"],
  ["confidence", true, "highest confidence"],
  ["loss", true, "highest loss"],
  ["loss", false, "lowest loss"],
  ["margin", false, "closest call"],
];

const TYPING = 250;

export interface Filters {
  readonly head: HTMLElement;
  readonly foot: HTMLElement;
  draw(page: StripPage): void;
  /** Which part of how many is in view. */
  place(text: string): void;
  /** One sentence where something typed leads nowhere; "" takes it back. */
  say(text: string): void;
  dispose(): void;
}

export function createFilters(
  signal: AbortSignal,
  change: (filter: StripFilter) => void,
  jump: (index: number) => void,
): Filters {
  const group = uniqueId("which");
  const chips = STRIP_WHICH.map((which) => chip(group, which));
  const predicted = choice("predicted", "any");
  const label = choice("true", "any");
  const order = choice("sort", "index");
  const least = number("rw-share", { "aria-label": "Lowest confidence", placeholder: "0" });
  const most = number("rw-share", { "aria-label": "Highest confidence", placeholder: "1" });
  for (const input of [least, most]) {
    for (const [name, value] of [
      ["max", "1"],
      ["step", "0.01"],
    ] as const) {
      input.setAttribute(name, value);
    }
  }
  const confidence = el(
    "div",
    { class: "rw-field", title: "Probability of the predicted class" },
    el("span", { class: "rw-quiet", text: "confidence" }),
    least,
    el("span", { class: "rw-quiet", text: "to" }),
    most,
  );
  const search = keyed(
    el("input", {
      class: "rw-search",
      attrs: { type: "search", "aria-label": "Search the test examples", placeholder: "search" },
    }),
  );
  const clear = button(
    { class: "rw-clear", title: "Take every filter back" },
    document.createTextNode("clear"),
    hush(" filters"),
  );
  const head = el(
    "div",
    { class: "rw-strip-head" },
    el(
      "fieldset",
      { class: "rw-chips" },
      el("legend", { class: "rw-sr", text: "Show" }),
      ...chips.map(({ node }) => node),
    ),
    predicted.node,
    label.node,
    confidence,
    search,
    clear,
    order.node,
  );

  const note = el("span", {
    class: "rw-strip-note",
    attrs: { role: "alert", id: uniqueId("note") },
  });
  note.hidden = true;
  const goTo = number("rw-jump", { step: "1", inputmode: "numeric" });
  const where = el("span", { class: "rw-quiet rw-where rw-num" });
  const foot = el(
    "div",
    { class: "rw-strip-foot" },
    where,
    note,
    el("label", { class: "rw-field" }, el("span", { class: "rw-quiet", text: "go to #" }), goTo),
  );

  let size = 0;
  let last = keyOf(EVERYTHING);
  let typing: ReturnType<typeof setTimeout> | undefined;
  let orders: Order[] = [EVERYTHING];

  function say(text: string, about: HTMLInputElement[] = []): void {
    setText(note, text);
    note.hidden = text === "";
    for (const input of [least, most, goTo]) {
      const wrong = about.includes(input);
      toggleAttr(input, "aria-invalid", wrong ? "true" : null);
      toggleAttr(input, "aria-describedby", wrong ? note.id : null);
    }
  }

  /** What the controls say; null, and a sentence, where that is no filter. */
  function read(): StripFilter | null {
    const low = least.value === "" ? 0 : Number(least.value);
    const high = most.value === "" ? 1 : Number(most.value);
    const typed = [least, most].filter(
      (input) => input.validity.badInput || Number(input.value) < 0 || Number(input.value) > 1,
    );
    if (typed.length > 0) {
      say("expected a confidence from 0 to 1", typed);
      return null;
    }
    if (low > high) {
      say("expected the lower confidence first", [least, most]);
      return null;
    }
    const { sort, descending } = orders[order.select.selectedIndex] ?? EVERYTHING;
    return {
      which: chips.find(({ input }) => input.checked)?.which ?? "all",
      label: label.chosen(),
      predicted: predicted.chosen(),
      confidence: [low, high],
      search: search.value.trim(),
      sort,
      descending,
    };
  }

  function apply(): void {
    clearTimeout(typing);
    const filter = read();
    if (!filter) return;
    say("");
    const { sort, descending } = filter;
    clear.hidden = keyOf(filter) === keyOf({ ...EVERYTHING, sort, descending });
    const key = keyOf(filter);
    if (key === last) return;
    last = key;
    change(filter);
  }

  function leap(): void {
    const index = Number(goTo.value);
    if (goTo.value === "" && !goTo.validity.badInput) say("");
    else if (goTo.value !== "" && Number.isInteger(index) && index >= 0 && index < size) {
      say("");
      goTo.value = "";
      jump(index);
    } else say(`expected 0 to ${whole(size - 1)}`, [goTo]);
  }

  head.addEventListener("change", apply, { signal });
  foot.addEventListener("change", leap, { signal });
  search.addEventListener(
    "input",
    () => {
      clearTimeout(typing);
      typing = setTimeout(apply, TYPING);
    },
    { signal },
  );
  clear.addEventListener(
    "click",
    () => {
      for (const { which, input } of chips) input.checked = which === "all";
      for (const { select } of [predicted, label]) select.selectedIndex = 0;
      for (const input of [least, most, search]) input.value = "";
      chips[0]?.input.focus(); // the button goes
      apply();
    },
    { signal },
  );
  clear.hidden = true;

  return {
    head,
    foot,
    draw(page) {
      size = page.counts.all;
      for (const { which, input, count, node } of chips) {
        const known = page.counts[which];
        node.hidden = known === undefined;
        input.disabled = known === 0;
        setText(count, whole(known ?? 0));
      }
      predicted.offer(page.predictions);
      label.offer(page.labels);
      const known = ORDERS.filter(([sort]) => page.sorts.includes(sort));
      orders = known.map(([sort, descending]) => ({ sort, descending }));
      order.offer(known.slice(1).map(([, , text]) => text));
      confidence.hidden = !page.sorts.includes("confidence");
      search.hidden = !page.searchable;
      goTo.max = `${Math.max(0, size - 1)}`;
    },
    place(text) {
      setText(where, text);
    },
    say,
    dispose() {
      clearTimeout(typing);
    },
  };
}

function chip(group: string, which: StripWhich) {
  const [text, help] = WHICH[which];
  const input = keyed(el("input", { attrs: { type: "radio", name: group, value: which } }));
  input.checked = which === "all";
  const count = el("span", { class: "rw-num" });
  const words = el("span", { class: "rw-chip" }, el("span", { text: `${text} ` }), count);
  return { which, input, count, node: el("label", { title: help }, input, words) };
}

/** A native list of `first` and whatever is offered; hidden where there is nothing to choose. */
function choice(name: string, first: string) {
  const select = keyed(el("select", {}, el("option", { text: first })));
  const node = el("label", { class: "rw-field rw-choice" }, null);
  node.append(el("span", { class: "rw-quiet", text: `${name}: ` }), select);
  node.hidden = true;
  let offered: readonly string[] = [];
  const chosen = (): string | null => offered[select.selectedIndex - 1] ?? null;
  return {
    select,
    node,
    chosen,
    offer(names: readonly string[]) {
      node.hidden = names.length === 0;
      if (names.length === offered.length && names.every((text, at) => text === offered[at]))
        return;
      const kept = chosen();
      offered = names;
      select.replaceChildren(
        el("option", { text: first }),
        ...names.map((text) => el("option", { text })),
      );
      select.selectedIndex = kept === null ? 0 : names.indexOf(kept) + 1;
    },
  };
}

const number = (name: string, attrs: Record<string, string>): HTMLInputElement =>
  keyed(el("input", { class: `rw-box ${name}`, attrs: { type: "number", min: "0", ...attrs } }));
