/** The test set, a row of thumbnails at a time. */
import { whole } from "../format";
import {
  STRIP_FILTERS,
  type StripFilter,
  type StripItem,
  type StripPage,
  type StripQuestion,
} from "../messages";
import { arrange, button, el, hush, keyed, setText, toggleAttr, uniqueId } from "./dom";
import { drawMedia, isPicture, loadSheet, type Sheet } from "./media";
import { focusStop, follow, settle } from "./roving";

/** One page holds what the widest view can show; narrower ones show less of it. */
export const STRIP_COUNT = 24;
const CELL = 60;
const EDGES = 98;

const FILTERS: Record<StripFilter, [text: string, help: string]> = {
  all: ["all", "Every test example"],
  misclassified: ["misclassified", "The prediction is not the true label"],
  close: ["close calls", "The two likeliest labels are close"],
};

export interface Strip {
  readonly node: HTMLElement;
  setPage(page: StripPage | null): void;
  setCurrent(index: number | null): void;
  setWidth(width: number): void;
  dispose(): void;
}

export function createStrip(
  signal: AbortSignal,
  pick: (index: number) => void,
  request: (question: StripQuestion) => void,
): Strip {
  const group = uniqueId("filter");
  const chips = STRIP_FILTERS.map((filter) => chip(group, filter));
  const previous = button(
    { class: "rw-page", title: "Earlier test examples" },
    ...arrow("‹", "Earlier"),
  );
  const next = button({ class: "rw-page", title: "Later test examples" }, ...arrow("›", "Later"));
  const jump = keyed(
    el("input", {
      class: "rw-jump",
      attrs: { type: "number", min: "0", step: "1", inputmode: "numeric" },
    }),
  );
  const where = el("span", { class: "rw-quiet rw-where" });
  const list = el("ul", { class: "rw-thumbs", attrs: { role: "list" } });
  const nothing = el("p", { class: "rw-nothing", text: "No test example passes this filter." });
  const node = el(
    "section",
    { class: "rw-strip", attrs: { "aria-label": "Test set" } },
    el(
      "div",
      { class: "rw-strip-head" },
      el(
        "fieldset",
        { class: "rw-chips" },
        el("legend", { class: "rw-sr", text: "Show" }),
        ...chips.map(({ node: label }) => label),
      ),
      where,
      el("label", { class: "rw-goto" }, el("span", { class: "rw-quiet", text: "go to #" }), jump),
    ),
    el("div", { class: "rw-strip-row" }, previous, list, nothing, next),
  );
  node.hidden = true;

  let page: StripPage | null = null;
  let sheet: Sheet | null = null;
  let thumbs: HTMLButtonElement[] = [];
  let current: number | null = null;
  let fit = 12;
  let focusAfter: "first" | "last" | null = null;
  const indices = new WeakMap<Element, number>();

  const visible = (): HTMLButtonElement[] => thumbs.slice(0, fit);

  function ask(filter: StripFilter, offset: number): void {
    request({ filter, offset: Math.max(0, offset), count: STRIP_COUNT });
  }

  function turn(by: 1 | -1): boolean {
    if (!page) return false;
    const offset = page.offset + by * fit;
    if (by > 0 ? offset >= page.total : page.offset === 0) return false;
    ask(page.filter, offset);
    return true;
  }

  function goTo(): void {
    const index = Number(jump.value);
    const within =
      jump.value !== "" && Number.isInteger(index) && index >= 0 && index < (page?.counts.all ?? 0);
    toggleAttr(jump, "aria-invalid", within || jump.value === "" ? null : "true");
    if (!within) return;
    pick(index);
    ask("all", index - Math.floor(fit / 2));
    jump.value = "";
  }

  function draw(): void {
    if (!page) return;
    const shown = visible();
    list.style.setProperty("--rw-fit", `${fit}`);
    for (const thumb of thumbs) {
      toggleAttr(thumb, "aria-current", indices.get(thumb) === current ? "true" : null);
    }
    arrange(
      list,
      shown.map((thumb) => thumb.parentElement ?? thumb),
    );
    settle(shown, shown.find((thumb) => thumb.hasAttribute("aria-current")) ?? null);
    toggleAttr(previous, "aria-disabled", page.offset === 0 ? "true" : null);
    toggleAttr(next, "aria-disabled", page.offset + shown.length >= page.total ? "true" : null);
    const last = page.offset + shown.length;
    setText(
      where,
      shown.length ? `${whole(page.offset + 1)}–${whole(last)} of ${whole(page.total)}` : "",
    );
    list.hidden = shown.length === 0;
    nothing.hidden = shown.length > 0;
  }

  node.addEventListener(
    "change",
    ({ target }) => {
      if (target === jump) goTo();
      else if (target instanceof HTMLInputElement && target.name === group) {
        ask(target.value as StripFilter, 0);
      }
    },
    { signal },
  );
  node.addEventListener(
    "click",
    ({ target }) => {
      const pressed = target instanceof Element ? target.closest("button") : null;
      if (!pressed || pressed.getAttribute("aria-disabled") === "true") return;
      if (pressed === previous) turn(-1);
      else if (pressed === next) turn(1);
      else {
        const index = indices.get(pressed);
        if (index !== undefined) pick(index);
      }
    },
    { signal },
  );
  list.addEventListener(
    "keydown",
    (event) => {
      const thumb = event.target as HTMLButtonElement;
      const shown = visible();
      const to = follow(shown, thumb, event.key);
      if (to === null || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      if (to >= shown.length && turn(1)) focusAfter = "first";
      else if (to < 0 && turn(-1)) focusAfter = "last";
      else focusStop(shown, to);
    },
    { signal },
  );

  return {
    node,
    setPage(given) {
      sheet?.dispose();
      sheet = given ? loadSheet(given.sprite) : null;
      page = given;
      node.hidden = !given || given.counts.all === 0;
      const pictures = sheet;
      thumbs = (given?.items ?? []).map((item) => {
        const thumb = thumbnail(item, pictures ?? loadSheet(null));
        indices.set(thumb, item.index);
        el("li", {}, thumb);
        return thumb;
      });
      if (!given) return;
      for (const { filter, input, count } of chips) {
        input.checked = filter === given.filter;
        input.disabled = given.counts[filter] === 0;
        setText(count, whole(given.counts[filter]));
      }
      jump.max = `${Math.max(0, given.counts.all - 1)}`;
      draw();
      if (focusAfter) focusStop(visible(), focusAfter === "first" ? 0 : fit - 1);
      focusAfter = null;
    },
    setCurrent(index) {
      if (index === current) return;
      current = index;
      draw();
    },
    setWidth(width) {
      const fits = Math.max(3, Math.min(STRIP_COUNT, Math.floor((width - EDGES) / CELL)));
      if (fits === fit) return;
      fit = fits;
      draw();
    },
    dispose() {
      sheet?.dispose();
    },
  };
}

function chip(group: string, filter: StripFilter) {
  const [text, help] = FILTERS[filter];
  const input = keyed(el("input", { attrs: { type: "radio", name: group, value: filter } }));
  const count = el("span", { class: "rw-num" });
  const words = el("span", { class: "rw-chip" }, el("span", { text: `${text} ` }), count);
  return { filter, input, count, node: el("label", { title: help }, input, words) };
}

function thumbnail(item: StripItem, sheet: Sheet): HTMLButtonElement {
  const { index, label, predicted, caption } = item;
  const wrong = label !== null && predicted !== null && label !== predicted;
  const picture = isPicture(item.media);
  const media = picture
    ? drawMedia(item.media, sheet, "")
    : el("span", { class: "rw-thumb-text", text: brief(item) });
  if (picture) media.setAttribute("aria-hidden", "true");
  const truth = label === null ? "" : `, true label ${label}${wrong ? ", misclassified" : ""}`;
  const spoken = `test #${index}${predicted === null ? "" : `, predicted ${predicted}`}${truth}`;
  return button(
    {
      class: "rw-thumb",
      title: caption && caption !== predicted ? `${spoken}: ${caption}` : spoken,
    },
    hush(`test #${index}: `),
    media,
    hush(predicted === null ? " " : " predicted "),
    el("span", { class: "rw-thumb-label", text: predicted ?? (caption || `#${index}`) }),
    hush(truth),
  );
}

function brief({ media, caption }: StripItem): string {
  if (media.kind === "text") return media.text.slice(0, 80);
  return media.kind === "row" ? media.values.slice(0, 4).join(" · ") : caption;
}

function arrow(sign: string, words: string): Node[] {
  return [el("span", { text: sign, attrs: { "aria-hidden": "true" } }), hush(words)];
}
