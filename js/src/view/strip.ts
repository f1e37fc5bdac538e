/** The test set as a row of thumbnails: as long as all of it, drawn and asked for where one looks. */
import { share, whole } from "../format";
import type { StripFilter, StripItem, StripPage, StripQuestion } from "../messages";
import { arrange, button, el, focused, hush, signButton, toggleAttr } from "./dom";
import { createFilters, EVERYTHING, keyOf } from "./filters";
import { drawMedia, isPicture, loadSheet, type Sheet } from "./media";

/** Thumbnails asked for at once; pages begin at its multiples. */
export const STRIP_COUNT = 24;
const KEPT = 40; // chunks at hand; those farthest away are forgotten
const SMALL = 60;
const WIDE = 168;
const EDGES = 98;
// Browsers lay out nothing beyond some 18 million pixels; a longer strip scrolls in a window of this.
const LONGEST = 15e6;
const PAUSE = 80; // what comes into view is asked for when scrolling pauses,
const PATIENCE = 400; // or when it has gone on for this long
const SCROLLING = 1000; // a hand was at the strip just now

export interface Strip {
  readonly node: HTMLElement;
  setPage(page: StripPage | null): void;
  /** A question will not be answered. */
  fail(): void;
  setCurrent(index: number | null): void;
  setWidth(width: number): void;
  dispose(): void;
}

interface Chunk {
  items: StripItem[];
  sheet: Sheet;
}

interface Cell {
  at: number;
  node: HTMLElement;
  thumb: HTMLButtonElement;
  item: StripItem | null;
}

export function createStrip(
  signal: AbortSignal,
  pick: (index: number) => void,
  request: (question: StripQuestion) => void,
): Strip {
  const previous = signButton("‹", "Earlier", {
    class: "rw-page",
    title: "Earlier test examples",
  });
  const next = signButton("›", "Later", { class: "rw-page", title: "Later test examples" });
  const list = el("ul", {
    class: "rw-thumbs",
    attrs: { role: "list", "aria-label": "Test examples" },
  });
  const scroller = el("div", { class: "rw-scroller" }, list);
  const nothing = el("p", { class: "rw-nothing", text: "No test example passes these filters." });
  const filters = createFilters(signal, ask, jump);
  const row = el("div", { class: "rw-strip-row" }, previous, scroller, next);
  const node = el(
    "section",
    { class: "rw-strip", attrs: { "aria-label": "Test set" } },
    filters.head,
    row,
    nothing,
    filters.foot,
  );
  node.hidden = true;

  let wanted = EVERYTHING;
  let page: StripPage | null = null; // the newest answer to the filter on display
  const chunks = new Map<number, Chunk>();
  const asked = new Set<number>();
  const cells = new Map<number, Cell>();
  const places = new WeakMap<Element, Cell>();
  let cell = SMALL;
  let base = 0; // where the window of a very long strip begins
  let width = 12 * SMALL + EDGES;
  let current: number | null = null;
  let stop = 0; // the tab stop
  let picking: number | null = null; // Enter came before the example
  let around: number | null = null; // an example to ask for
  let jumped: number | null = null; // and whether by its number
  let timer: ReturnType<typeof setTimeout> | undefined;
  let since = 0;
  let touched = Number.NEGATIVE_INFINITY;
  let ours = 0; // where we scrolled to last
  let outside = Number.NEGATIVE_INFINITY;

  const total = (): number => page?.total ?? 0;
  const span = (): number => Math.min(total(), Math.floor(LONGEST / cell));
  const start = (): number => base + scroller.scrollLeft / cell;
  const room = (): number =>
    Math.max(1, (scroller.clientWidth || Math.max(3 * cell, width - EDGES)) / cell);
  const screen = (): number => Math.max(1, Math.floor(room()));
  const isWaiting = (): boolean => page !== null && keyOf(page.filter) !== keyOf(wanted);
  const isMoving = (): boolean => performance.now() - touched < SCROLLING;

  // Asking

  function ask(filter: StripFilter): void {
    wanted = filter;
    around = jumped = picking = null;
    showBusy();
    soon();
  }

  function soon(): void {
    const now = performance.now();
    if (timer === undefined) since = now;
    clearTimeout(timer);
    timer = setTimeout(send, Math.max(0, Math.min(PAUSE, since + PATIENCE - now)));
  }

  function send(): void {
    timer = undefined;
    if (isWaiting() || !page) {
      request({ filter: wanted, offset: 0, count: STRIP_COUNT, around: null });
      return;
    }
    for (const chunk of missing()) {
      asked.add(chunk);
      request({ filter: wanted, offset: chunk * STRIP_COUNT, count: STRIP_COUNT, around: null });
    }
    if (around === null) return;
    const offset = Math.floor(start() / STRIP_COUNT) * STRIP_COUNT;
    request({ filter: wanted, offset, count: STRIP_COUNT, around });
    around = null;
  }

  /** Chunks in view, and half a view around it, that are neither here nor on their way. */
  function missing(): number[] {
    const half = room() / 2;
    const first = Math.floor(Math.max(0, start() - half) / STRIP_COUNT);
    const last = Math.floor(Math.min(total() - 1, start() + room() + half) / STRIP_COUNT);
    const found: number[] = [];
    for (let chunk = first; chunk <= last; chunk++) {
      if (!chunks.has(chunk) && !asked.has(chunk)) found.push(chunk);
    }
    return found;
  }

  function keep(given: StripPage): void {
    const chunk = given.offset / STRIP_COUNT;
    asked.delete(chunk);
    if (!Number.isInteger(chunk) || chunks.has(chunk)) return;
    chunks.set(chunk, { items: given.items, sheet: loadSheet(given.sprite) });
    const here = (start() + room() / 2) / STRIP_COUNT;
    const far = [...chunks.keys()].sort((a, b) => Math.abs(b - here) - Math.abs(a - here));
    for (const one of far.slice(0, Math.max(0, far.length - KEPT))) forget(one);
  }

  function forget(chunk: number): void {
    chunks.get(chunk)?.sheet.dispose();
    chunks.delete(chunk);
  }

  function reset(): void {
    for (const chunk of [...chunks.keys()]) forget(chunk);
    asked.clear();
    cells.clear();
    list.replaceChildren();
    base = stop = ours = 0;
    scroller.scrollLeft = 0;
    picking = null;
  }

  // Drawing

  function draw(): void {
    if (!page) return;
    list.style.width = `${span() * cell}px`;
    const from = Math.max(base, Math.floor(start()) - 2);
    const to = Math.min(base + span(), Math.ceil(start() + room()) + 2);
    const held = focused(list);
    for (const [at, { thumb }] of cells) {
      if ((at < from || at >= to) && thumb !== held) cells.delete(at);
    }
    for (let at = from; at < to; at++) if (!cells.has(at)) cells.set(at, makeCell(at));
    const drawn = [...cells.values()].sort((a, b) => a.at - b.at);
    for (const one of drawn) fill(one);
    arrange(
      list,
      drawn.map((one) => one.node),
    );

    const first = Math.min(Math.max(0, total() - 1), Math.ceil(start() - 0.3));
    const last = Math.min(total(), Math.max(first + 1, Math.floor(start() + room() + 0.3)));
    const inView = drawn.filter(({ at }) => at >= first && at < last);
    const tab =
      drawn.find(({ thumb }) => thumb === held) ??
      inView.find(({ at }) => at === stop) ??
      inView.find(({ item }) => item?.index === current) ??
      inView[0];
    for (const one of drawn) {
      toggleAttr(one.thumb, "tabindex", one === tab ? "0" : "-1");
      const shown = one.item !== null && one.item.index === current;
      toggleAttr(one.thumb, "aria-current", shown ? "true" : null);
    }
    toggleAttr(previous, "aria-disabled", start() <= 0.01 ? "true" : null);
    toggleAttr(next, "aria-disabled", start() + room() >= total() - 0.01 ? "true" : null);
    const upTo = last > first + 1 ? `–${whole(last)}` : "";
    filters.place(total() ? `${whole(first + 1)}${upTo} of ${whole(total())}` : "");
    row.hidden = total() === 0;
    nothing.hidden = total() > 0;
    if (!isWaiting() && missing().length > 0) soon();
  }

  function makeCell(at: number): Cell {
    const thumb = button({ class: "rw-thumb" });
    const made: Cell = {
      at,
      thumb,
      item: null,
      node: el("li", { attrs: { "aria-posinset": `${at + 1}` } }, thumb),
    };
    thumb.append(
      hush(`example ${whole(at + 1)}, loading`),
      el("span", { class: "rw-thumb-blank" }),
    );
    places.set(thumb, made);
    return made;
  }

  function fill(one: Cell): void {
    // One outside the window, kept for its focus, must not make the strip longer.
    const at = one.at < base + span() ? Math.max(-2, one.at - base) : -2;
    one.node.style.insetInlineStart = `${at * cell}px`;
    one.node.style.width = `${cell}px`;
    toggleAttr(one.node, "aria-setsize", `${total()}`);
    if (one.item) return;
    const chunk = chunks.get(Math.floor(one.at / STRIP_COUNT));
    const item = chunk?.items[one.at % STRIP_COUNT];
    if (!chunk || !item) return;
    one.item = item;
    drawThumb(one.thumb, item, chunk.sheet);
  }

  function showBusy(): void {
    node.classList.toggle("rw-strip-busy", isWaiting());
    toggleAttr(list, "aria-busy", isWaiting() ? "true" : null);
  }

  // Moving

  function scrollTo(position: number, smooth = false): void {
    const to = Math.max(0, Math.min(position, total() - room()));
    if (to < base || to + room() > base + span()) {
      base = Math.round(Math.max(0, Math.min(to - span() / 2, total() - span())));
    }
    ours = (to - base) * cell;
    // A target beyond the strip's old end needs the new one.
    list.style.width = `${span() * cell}px`;
    if (smooth && !isStill()) scroller.scrollTo({ left: ours, behavior: "smooth" });
    else scroller.scrollLeft = ours;
    draw();
  }

  /** Bring a position into view: into the middle, or by the shortest way. */
  function reveal(position: number, middle: boolean): void {
    const first = start();
    if (position >= first - 0.01 && position + 1 <= first + room() + 0.01) draw();
    else if (middle) scrollTo(position - (room() - 1) / 2);
    else scrollTo(position < first ? position : position + 1 - room());
  }

  function show(index: number): void {
    for (const [chunk, { items }] of chunks) {
      const at = items.findIndex((item) => item.index === index);
      if (at < 0) continue;
      jumped = null;
      if (!isMoving()) reveal(chunk * STRIP_COUNT + at, true);
      return;
    }
    around = index;
    soon();
  }

  function jump(index: number): void {
    touched = Number.NEGATIVE_INFINITY;
    pick(index);
    current = index;
    jumped = index;
    show(index);
    draw();
  }

  function focusOn(position: number): void {
    stop = Math.max(0, Math.min(position, total() - 1));
    picking = null;
    reveal(stop, false);
    cells.get(stop)?.thumb.focus({ preventScroll: true });
    draw();
  }

  function onKey(event: KeyboardEvent): void {
    const from = event.target instanceof Element ? places.get(event.target) : undefined;
    if (!from || event.altKey || event.ctrlKey || event.metaKey) return;
    const keys: Record<string, number> = {
      ArrowRight: from.at + 1,
      ArrowLeft: from.at - 1,
      PageDown: from.at + screen(),
      PageUp: from.at - screen(),
      Home: 0,
      End: total() - 1,
    };
    const to = keys[event.key];
    if (to === undefined) return;
    event.preventDefault();
    focusOn(to);
  }

  function onWheel(event: WheelEvent): void {
    // A wheel that was turning the page when the strip came under it goes on turning the page.
    if (event.timeStamp - outside < 300) {
      outside = event.timeStamp;
      return;
    }
    if (event.ctrlKey || Math.abs(event.deltaX) >= Math.abs(event.deltaY)) return;
    const by = event.deltaY * (event.deltaMode === 1 ? 20 : event.deltaMode === 2 ? 400 : 1);
    const furthest = scroller.scrollWidth - scroller.clientWidth;
    if (by < 0 ? scroller.scrollLeft <= 0 : scroller.scrollLeft >= furthest - 1) return;
    event.preventDefault();
    scroller.scrollLeft += by;
  }

  scroller.addEventListener(
    "scroll",
    () => {
      if (Math.abs(scroller.scrollLeft - ours) > 2) touched = performance.now();
      const near = span() / 10;
      const left = start() - base;
      const low = base > 0 && left < near;
      const high = base + span() < total() && left > span() - near - room();
      if (low || high) {
        // The window follows before its end is reached.
        const at = start();
        base = Math.round(Math.max(0, Math.min(at - span() / 2, total() - span())));
        scroller.scrollLeft = (at - base) * cell;
      }
      draw();
    },
    { signal },
  );
  scroller.addEventListener("wheel", onWheel, { signal, passive: false });
  document.addEventListener(
    "wheel",
    (event) => {
      // The path, and not the target: that of an event in a shadow root is, out here, its host.
      if (!event.composedPath().includes(scroller)) outside = event.timeStamp;
    },
    { signal, passive: true, capture: true },
  );
  list.addEventListener("keydown", onKey, { signal });
  list.addEventListener(
    "focusin",
    ({ target }) => {
      const at = target instanceof Element ? places.get(target)?.at : undefined;
      if (at === undefined || at === stop) return;
      stop = at;
      draw();
    },
    { signal },
  );
  row.addEventListener(
    "click",
    ({ target }) => {
      const pressed = target instanceof Element ? target.closest("button") : null;
      if (!pressed || pressed.getAttribute("aria-disabled") === "true") return;
      if (pressed === previous) scrollTo(start() - screen(), true);
      else if (pressed === next) scrollTo(start() + screen(), true);
      const place = places.get(pressed);
      if (place?.item) pick(place.item.index);
      else if (place) picking = place.at;
    },
    { signal },
  );

  return {
    node,
    setPage(given) {
      if (!given) {
        reset();
        page = null;
        node.hidden = true;
        return;
      }
      if (keyOf(given.filter) !== keyOf(wanted)) return;
      const opening = !page;
      const fresh = opening || isWaiting();
      if (fresh) {
        reset();
        const [first] = given.items;
        cell = first && !isPicture(first.media) ? WIDE : SMALL;
      }
      page = given;
      node.hidden = given.counts.all === 0;
      keep(given);
      filters.draw(given);
      showBusy();
      draw();
      const { position } = given;
      if (given.around !== null && given.around === (current ?? given.around)) {
        if (position !== null && (fresh || !isMoving())) reveal(position, true);
        if (position === null && given.around === jumped) {
          filters.say(`#${whole(given.around)} does not pass these filters`);
        }
        jumped = null;
      } else if (opening && current !== null) show(current); // it changed on the way
      const chosen = picking === null ? null : cells.get(picking)?.item;
      if (!chosen) return;
      picking = null;
      pick(chosen.index);
    },
    fail() {
      asked.clear();
      node.classList.remove("rw-strip-busy");
      list.removeAttribute("aria-busy");
    },
    setCurrent(index) {
      if (index === current) return;
      current = index;
      draw();
      if (index !== null && page) show(index);
    },
    setWidth(given) {
      width = given;
      draw();
    },
    dispose() {
      clearTimeout(timer);
      filters.dispose();
      reset();
    },
  };
}

const isStill = (): boolean =>
  typeof matchMedia !== "function" || matchMedia("(prefers-reduced-motion: reduce)").matches;

function drawThumb(thumb: HTMLButtonElement, item: StripItem, sheet: Sheet): void {
  const { index, label, predicted, probability, caption } = item;
  const wrong = label !== null && predicted !== null && label !== predicted;
  const picture = isPicture(item.media);
  const media = picture
    ? drawMedia(item.media, sheet, "")
    : el("span", { class: "rw-thumb-text", text: brief(item) });
  if (picture) media.setAttribute("aria-hidden", "true");
  const truth = label === null ? "" : `, true label ${label}${wrong ? ", misclassified" : ""}`;
  const sure = probability === null ? "" : ` (${share(probability)})`;
  const spoken = `test #${index}${predicted === null ? "" : `, predicted ${predicted}${sure}`}${truth}`;
  thumb.title = caption && caption !== predicted ? `${spoken}: ${caption}` : spoken;
  thumb.classList.toggle("rw-thumb-wrong", wrong);
  thumb.replaceChildren(
    hush(`test #${index}: `),
    media,
    hush(predicted === null ? " " : " predicted "),
    el(
      "span",
      { class: "rw-thumb-label" },
      wrong
        ? el("span", { class: "rw-thumb-mark", text: "▲ ", attrs: { "aria-hidden": "true" } })
        : null,
      el("span", { text: predicted ?? (caption || `#${index}`) }),
    ),
    hush(truth),
  );
}

function brief({ media, caption }: StripItem): string {
  if (media.kind === "text") return media.text.slice(0, 160);
  return media.kind === "row" ? media.values.slice(0, 8).join(" · ") : caption;
}
