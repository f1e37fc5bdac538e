/** A closer look at one training example: beside the query, with every number that is known of it. */
import {
  type Explanation,
  METHODS,
  type Media,
  type Sign,
  type TrainingExample,
} from "../explanation";
import { digits, share, signed, whole } from "../format";
import { className, extent, influenceOf, isGlobal, rankOf, topCards } from "../lookup";
import { NO_CHECK } from "./actions";
import { labelOf } from "./card";
import { METHOD_TITLES } from "./controls";
import { button, el, focused, keyed, setText, signButton, toggleAttr, uniqueId } from "./dom";
import { drawMedia, type Sheet } from "./media";
import type { Notes, Place } from "./panels";
import { createTagChips } from "./tags";

export interface Details {
  readonly node: HTMLElement;
  open(doc: Explanation, sheet: Sheet, place: Place): void;
  /** Values changed while it is open. */
  draw(setting: { sign: Sign; stop: number }, notes: Notes, canCheck: boolean): void;
  /** The larger picture came. */
  setMedia(index: number, media: Media): void;
  close(): void;
  isOpen(): boolean;
}

export interface DetailEvents {
  requestMedia(index: number): void;
  select(indices: number[], on: boolean): void;
  tag(indices: number[], tag: string, on: boolean): void;
  like(index: number): void;
  check(indices: number[]): void;
}

export function createDetails(signal: AbortSignal, live: boolean, events: DetailEvents): Details {
  const id = uniqueId("details");
  const heading = el("h3", { class: "rw-details-name", attrs: { id } });
  const previous = signButton("‹", "Previous", { class: "rw-step", title: "Previous (←)" });
  const next = signButton("›", "Next", { class: "rw-step", title: "Next (→)" });
  const shut = signButton("×", "Close", { class: "rw-close", title: "Close (Esc)" });
  const pictures = el("div", { class: "rw-details-pictures" });
  const facts = el("dl", { class: "rw-details-facts" });
  const chips = createTagChips(signal, (tag, on) => {
    const index = example()?.index;
    if (index !== undefined) events.tag([index], tag, on);
  });
  const pick = button({ class: "rw-action" });
  const like = button({ class: "rw-action", text: "More like this" });
  const check = button({ class: "rw-action", text: "Check by retraining" });
  const actions = el(
    "div",
    { class: "rw-details-actions" },
    chips.node,
    el("div", { class: "rw-actions" }, pick, like, check),
  );
  actions.hidden = !live;
  const node = keyed(
    el(
      "dialog",
      { class: "rw-details", attrs: { "aria-labelledby": id } },
      el("div", { class: "rw-details-head" }, heading, previous, next, shut),
      el("div", { class: "rw-details-body" }, pictures, facts),
      actions,
    ),
  );

  let doc: Explanation | null = null;
  let sheet: Sheet | null = null;
  let place: Place | null = null;
  let latest: { setting: { sign: Sign; stop: number }; notes: Notes } | null = null;
  let drawn: TrainingExample | null = null;
  let large: { index: number; media: Media } | null = null;
  let opener: Element | null = null;

  const position = (): number | null => place?.row[place.at]?.position ?? null;
  const example = (): TrainingExample | null => doc?.examples[position() ?? -1] ?? null;

  function close(): void {
    if (node.open) node.close?.();
    node.removeAttribute("open");
    place = null;
    drawn = null;
    if (opener instanceof HTMLElement && opener.isConnected) opener.focus();
    opener = null;
  }

  function step(by: number): void {
    if (!place) return;
    const at = place.at + by;
    if (at < 0 || at >= place.row.length) return;
    place = { ...place, at };
    redraw();
  }

  function redraw(): void {
    const one = example();
    if (!doc || !sheet || !place || !one || !latest) return;
    const { setting, notes } = latest;
    setText(heading, `Training example #${one.index}`);
    toggleAttr(previous, "aria-disabled", place.at === 0 ? "true" : null);
    toggleAttr(next, "aria-disabled", place.at === place.row.length - 1 ? "true" : null);
    if (one !== drawn) {
      drawn = one;
      drawPictures(doc, sheet, one);
      if (large?.index !== one.index) events.requestMedia(one.index);
    }
    facts.replaceChildren(...factsOf(doc, place, one, position() ?? 0, setting, notes));
    const selected = notes.selection.has(one.index);
    setText(pick, selected ? "Deselect" : "Select");
    toggleAttr(pick, "aria-pressed", `${selected}`);
    chips.draw([notes.tags[`${one.index}`] ?? []], Object.values(notes.tags).flat());
  }

  function drawPictures(its: Explanation, cells: Sheet, one: TrainingExample): void {
    const media = large?.index === one.index ? large.media : one.media;
    const label = labelOf(its, one);
    const says = className(its, its.query.predicted) ?? its.query.output ?? "";
    const against = its.query.media;
    pictures.replaceChildren(
      figure(
        drawMedia(media, cells, `${label}, training example ${one.index}`, { rows: 24, against }),
        `training label ${label}`,
      ),
      figure(
        drawMedia(against, cells, its.query.name, { rows: 24 }),
        says ? `${its.query.name}, predicted ${says}` : its.query.name,
      ),
    );
  }

  node.addEventListener(
    "click",
    ({ target }) => {
      const pressed = target instanceof Element ? target.closest("button") : null;
      const index = example()?.index;
      // The backdrop counts as the dialog itself.
      if (pressed === shut || target === node) return close();
      if (pressed === previous) return step(-1);
      if (pressed === next) return step(1);
      if (index === undefined) return;
      if (pressed === pick) {
        events.select([index], pick.getAttribute("aria-pressed") !== "true");
      } else if (pressed === like) {
        close();
        events.like(index);
      } else if (pressed === check) {
        close();
        events.check([index]);
      }
    },
    { signal },
  );
  node.addEventListener(
    "keydown",
    (event) => {
      if (event.target instanceof HTMLInputElement) return;
      if (event.key === "ArrowLeft") step(-1);
      else if (event.key === "ArrowRight") step(1);
    },
    { signal },
  );
  // Esc closes it by itself.
  node.addEventListener("close", close, { signal });

  return {
    node,
    open(its, cells, where) {
      doc = its;
      sheet = cells;
      place = where;
      opener = focused(node);
      redraw();
      if (node.showModal) node.showModal();
      else node.setAttribute("open", "");
      shut.focus();
    },
    draw(setting, notes, canCheck) {
      latest = { setting, notes };
      check.title = canCheck ? "" : NO_CHECK;
      if (place) redraw();
    },
    setMedia(index, media) {
      large = { index, media };
      const one = example();
      if (doc && sheet && one?.index === index) drawPictures(doc, sheet, one);
    },
    close,
    isOpen: () => place !== null,
  };
}

function figure(media: HTMLElement, words: string): HTMLElement {
  return el("figure", {}, media, el("figcaption", { class: "rw-quiet rw-small", text: words }));
}

function factsOf(
  doc: Explanation,
  { panel }: Place,
  one: TrainingExample,
  position: number,
  { sign, stop }: { sign: Sign; stop: number },
  notes: Notes,
): HTMLElement[] {
  const facts: [term: string, text: string, title?: string][] = [];
  const says = className(doc, one.predicted);
  facts.push(["label", labelOf(doc, one)]);
  if (says !== null) {
    facts.push(["model says", `${says}${one.predicted === one.label ? " ✓" : " ✗"}`]);
  }
  if (one.probability !== null) {
    facts.push(["probability", share(one.probability), "The model’s, of the training label"]);
  }
  facts.push(["training loss", digits(one.loss)]);
  const own = one.self_influence[stop];
  const rank = one.self_influence_rank[stop];
  if (own !== undefined && rank !== undefined) {
    const global = isGlobal(doc, position, stop) ? " · global" : "";
    facts.push([
      "self-influence",
      `${digits(own)} · rank ${whole(rank + 1)} of ${whole(doc.provenance.train_size)}${global}`,
      "How much the model leans on this one example, and its place among all of them",
    ]);
  }
  for (const method of METHODS) {
    const all = topCards(panel, { method, sign, stop, k: Number.MAX_SAFE_INTEGER });
    if (all.length === 0) continue;
    const place = rankOf(panel, { method, sign, stop }, position);
    const score = all[(place ?? 0) - 1]?.score;
    const value =
      score === undefined
        ? `not among its first ${all.length}`
        : `${method === "nearest" ? `distance ${digits(extent(method, score))}` : signed(score)} · rank ${place}`;
    const back = notes.returned(method, one.index);
    const also =
      notes.of > 1 && back > 0
        ? ` · among the cards of ${whole(back)} of ${whole(notes.of)} prepared queries`
        : "";
    facts.push([METHOD_TITLES[method], `${value}${also}`]);
  }
  const influence = influenceOf(doc, panel, stop, position);
  if (influence !== null) {
    facts.push([
      "without it",
      `loss of ${panel.name} ${signed(influence / doc.provenance.train_size)}`,
      "What removing it would add to the loss of the query at this label: its influence, divided by the number of training examples",
    ]);
  }
  return facts.map(([term, text, title]) =>
    el("div", { title: title ?? text }, el("dt", { text: term }), el("dd", { text })),
  );
}
