/** A panel for each label under consideration, in it a row of cards for each method, all on one scale. */
import { type Explanation, METHODS, type Method, type Panel, type Sign } from "../explanation";
import { share, whole } from "../format";
import { extent, isGlobal, panelNamed, type Ranked, rankOf, topCards } from "../lookup";
import { type Card, createCard } from "./card";
import { METHOD_TITLES, NO_DISTANCE } from "./controls";
import { arrange, el, setText, signButton, uniqueId } from "./dom";
import { isPicture, type Sheet } from "./media";
import { focusStop, follow, settle } from "./roving";

export interface Setting {
  /** The rows of each panel. */
  methods: readonly Method[];
  sign: Sign;
  k: number;
  stop: number;
}

/** What is known beside the document: the person's marks, and how often cards came back. */
export interface Notes {
  selection: ReadonlySet<number>;
  tags: Readonly<Record<string, string[]>>;
  /** For how many of `of` prepared queries a training example is among the cards, by method. */
  returned(method: Method, index: number): number;
  of: number;
}

export interface Panels {
  readonly node: HTMLElement;
  setDocument(doc: Explanation, sheet: Sheet, title?: string): void;
  draw(labels: readonly string[], setting: Setting, notes: Notes): void;
}

/** Where a card was asked to open: what can be leafed through is its row. */
export interface Place {
  panel: Panel;
  method: Method;
  row: Ranked[];
  at: number;
}

export interface PanelEvents {
  remove(label: string): void;
  /** New state of some cards, by training index. */
  select(indices: number[], on: boolean): void;
  open(doc: Explanation, place: Place): void;
}

interface RowView {
  readonly node: HTMLElement;
  draw(ranked: Ranked[], others: RowContext): HTMLElement[];
}

interface RowContext {
  longest: number;
  setting: Setting;
  notes: Notes;
  /** The rows above, by method: what this one shares with them is said. */
  above: readonly { method: Method; positions: ReadonlySet<number> }[];
}

interface PanelView {
  readonly node: HTMLElement;
  draw(
    setting: Setting,
    notes: Notes,
    longest: ReadonlyMap<Method, number>,
    closable: boolean,
  ): void;
}

const LIKE_NOTE = "moved the model as it does, at its own label";

/** Which row and which card of it an element belongs to. */
interface Seat {
  doc: Explanation;
  panel: Panel;
  method: Method;
  ranked: Ranked[];
  faces: HTMLElement[];
}

export function createPanels(signal: AbortSignal, live: boolean, events: PanelEvents): Panels {
  const node = el("div", { class: "rw-panels" });
  let doc: Explanation | null = null;
  let sheet: Sheet | null = null;
  let title: string | undefined;
  let views = new Map<string, PanelView>();
  const names = new WeakMap<Element, string>();
  const seats = new WeakMap<Element, Seat>();
  /** Where a range of selected cards begins. */
  let anchor: { list: Element; at: number } | null = null;

  function seatOf(target: EventTarget | null): { seat: Seat; list: Element; at: number } | null {
    const card = target instanceof Element ? target.closest(".rw-card") : null;
    const list = card?.parentElement;
    const seat = list && seats.get(list);
    if (!card || !list || !seat) return null;
    return { seat, list, at: [...list.children].indexOf(card) };
  }
  const indexAt = (seat: Seat, at: number): number | undefined =>
    seat.doc.examples[seat.ranked[at]?.position ?? -1]?.index;
  function range(seat: Seat, from: number, to: number): number[] {
    const [first, last] = from < to ? [from, to] : [to, from];
    return seat.ranked
      .slice(first, last + 1)
      .map((_, offset) => indexAt(seat, first + offset))
      .filter((index) => index !== undefined);
  }
  function open(place: { seat: Seat; at: number }): void {
    const { doc: its, panel, method, ranked } = place.seat;
    events.open(its, { panel, method, row: ranked, at: place.at });
  }

  node.addEventListener(
    "click",
    (event) => {
      const target = event.target instanceof Element ? event.target : null;
      const close = target?.closest(".rw-close");
      const name = close && names.get(close);
      if (name !== undefined && name !== null) return events.remove(name);
      const place = seatOf(target);
      if (!place) return;
      if (!live || target?.closest(".rw-open")) return open(place);
      const { seat, list, at } = place;
      const index = indexAt(seat, at);
      if (index === undefined) return;
      const on = seat.faces[at]?.getAttribute("aria-pressed") !== "true";
      if (event.shiftKey && anchor?.list === list) {
        events.select(range(seat, anchor.at, at), true);
      } else {
        anchor = { list, at };
        events.select([index], on);
      }
    },
    { signal },
  );
  node.addEventListener(
    "keydown",
    (event) => {
      const place = seatOf(event.target);
      if (!place || event.altKey || event.ctrlKey || event.metaKey) return;
      const { seat, at } = place;
      if (event.key === "Enter" && live) {
        event.preventDefault();
        return open(place);
      }
      const face = seat.faces[at];
      const to = face ? follow(seat.faces, face, event.key) : null;
      if (to === null) return;
      event.preventDefault();
      focusStop(seat.faces, to);
      if (event.shiftKey && live) {
        const within = Math.max(0, Math.min(to, seat.faces.length - 1));
        events.select(range(seat, at, within), true);
      }
    },
    { signal },
  );
  node.addEventListener(
    "focusin",
    ({ target }) => {
      const place = seatOf(target);
      const face = place?.seat.faces[place.at];
      if (face) settle(place.seat.faces, face);
    },
    { signal },
  );

  function panelView(panel: Panel): PanelView {
    const head = panelHead(title ?? panel.name, names, panel.name);
    const rows = new Map<Method, RowView>();
    const body = el("div", { class: "rw-rows" });
    const node = el(
      "section",
      { class: "rw-panel", attrs: { "aria-labelledby": head.id } },
      head.node,
      body,
    );
    return {
      node,
      draw(setting, notes, longest, closable) {
        if (!doc || !sheet) return;
        head.close.hidden = !closable;
        const compared = setting.methods.length > 1;
        const pictures = doc.examples.every((example) => isPicture(example.media));
        const note = noteOf(doc, panel, setting, pictures);
        setText(head.note, title === undefined ? note : LIKE_NOTE);
        const above: { method: Method; positions: ReadonlySet<number> }[] = [];
        const nodes: HTMLElement[] = [];
        for (const method of setting.methods) {
          let row = rows.get(method);
          if (!row) {
            row = rowView(doc, sheet, panel, method, head.id);
            rows.set(method, row);
          }
          const ranked = topCards(panel, { ...setting, method });
          row.draw(ranked, { longest: longest.get(method) ?? 0, setting, notes, above });
          above.push({ method, positions: new Set(ranked.map(({ position }) => position)) });
          row.node.classList.toggle("rw-compared", compared);
          nodes.push(row.node);
        }
        arrange(body, nodes);
      },
    };
  }

  function rowView(
    its: Explanation,
    pictures: Sheet,
    panel: Panel,
    method: Method,
    heading: string,
  ): RowView {
    const cards = new Map<number, Card>();
    const small = its.examples.every((example) => isPicture(example.media));
    const id = uniqueId("row");
    const name = el("h4", { class: "rw-row-name", text: METHOD_TITLES[method], attrs: { id } });
    const facts = el("p", {
      class: "rw-quiet rw-row-facts",
      title: "The model’s probability of the training labels, on average over these cards",
    });
    const list = el("ul", {
      class: small ? "rw-cards" : "rw-cards rw-wide",
      attrs: { role: "list", "aria-labelledby": `${heading} ${id}` },
    });
    const nothing = el("p", { class: "rw-nothing" });
    const side = el("div", { class: "rw-row-head" }, name, facts);
    const node = el("div", { class: "rw-row-of" }, side, list, nothing);
    return {
      node,
      draw(ranked, { longest, setting, notes, above }) {
        const compared = setting.methods.length > 1;
        // In the tree in any case: it names the list.
        side.classList.toggle("rw-sr", !compared);
        if (compared) {
          const said = rowFacts(its, ranked, above);
          facts.replaceChildren(...said.map((text) => el("span", { text })));
        }
        const faces: HTMLElement[] = [];
        const nodes: HTMLElement[] = [];
        const others = setting.methods.filter((other) => other !== method);
        for (const { position, score } of ranked) {
          const example = its.examples[position];
          if (!example) continue;
          let card = cards.get(position);
          if (!card) {
            card = createCard(its, example, pictures, its.query.media, live);
            cards.set(position, card);
          }
          card.update({
            method,
            score,
            longest,
            selected: notes.selection.has(example.index),
            tags: notes.tags[`${example.index}`] ?? [],
            global: isGlobal(its, position, setting.stop)
              ? globalNote(notes, method, example.index)
              : null,
            ranks: others.map((other) => ({
              method: other,
              rank: rankOf(panel, { ...setting, method: other }, position),
              of: tableLength(panel, { ...setting, method: other }),
            })),
          });
          faces.push(card.face);
          nodes.push(card.node);
        }
        arrange(list, nodes);
        settle(faces);
        seats.set(list, { doc: its, panel, method, ranked, faces });
        list.hidden = nodes.length === 0;
        nothing.hidden = nodes.length > 0;
        const empty = method === "nearest" ? NO_DISTANCE : emptyNote(setting.sign, panel.name);
        setText(nothing, nodes.length > 0 ? "" : empty);
        return faces;
      },
    };
  }

  return {
    node,
    setDocument(next, pictures, heading) {
      doc = next;
      sheet = pictures;
      title = heading;
      views = new Map();
      anchor = null;
    },
    draw(labels, setting, notes) {
      if (!doc) return;
      const its = doc;
      const longest = new Map<Method, number>();
      const shown = labels.map((name) => {
        const panel = panelNamed(its, name);
        for (const method of panel ? setting.methods : []) {
          for (const { score } of topCards(panel as Panel, { ...setting, method })) {
            const length = extent(method, score);
            longest.set(method, Math.max(longest.get(method) ?? 0, length));
          }
        }
        const key = `${panel ? "panel" : "coming"} ${name}`;
        let view = views.get(key);
        if (!view) {
          view = panel ? panelView(panel) : comingView(name, names);
          views.set(key, view);
        }
        return view;
      });
      const closable = labels.length > 1 || title !== undefined;
      for (const view of shown) view.draw(setting, notes, longest, closable);
      arrange(
        node,
        shown.map((view) => view.node),
      );
      node.dataset.count = `${shown.length}`;
      node.classList.toggle("rw-comparing", setting.methods.length > 1);
    },
  };
}

/** The rows to show: the chosen method and those compared with it, in the paper's order. */
export const methodsOf = (method: Method, compare: readonly Method[]): Method[] =>
  METHODS.filter((one) => one === method || compare.includes(one));

function panelHead(words: string, names: WeakMap<Element, string>, name: string) {
  const id = uniqueId("panel");
  const note = el("span", { class: "rw-note" });
  const close = signButton("×", `Remove ${words}`, {
    class: "rw-close",
    title: `Remove the panel of “${words}”`,
  });
  names.set(close, name);
  const node = el(
    "div",
    { class: "rw-panel-head" },
    el("h3", { class: "rw-panel-name", text: words, title: words, attrs: { id } }),
    note,
    close,
  );
  return { id, node, note, close };
}

function comingView(name: string, names: WeakMap<Element, string>): PanelView {
  const head = panelHead(name, names, name);
  const node = el(
    "section",
    { class: "rw-panel rw-coming", attrs: { "aria-labelledby": head.id } },
    head.node,
    el("p", { class: "rw-nothing", text: "preparing…" }),
  );
  return {
    node,
    draw(_setting, _notes, _longest, closable) {
      head.close.hidden = !closable;
    },
  };
}

function tableLength(panel: Panel, setting: { method: Method; sign: Sign; stop: number }): number {
  return topCards(panel, { ...setting, k: Number.MAX_SAFE_INTEGER }).length;
}

function rowFacts(
  doc: Explanation,
  ranked: readonly Ranked[],
  above: RowContext["above"],
): string[] {
  const facts: string[] = [];
  const probabilities = ranked
    .map(({ position }) => doc.examples[position]?.probability ?? null)
    .filter((value) => value !== null);
  if (probabilities.length > 0) {
    const sum = probabilities.reduce((total, value) => total + value, 0);
    facts.push(`mean probability ${share(sum / probabilities.length)}`);
  }
  for (const { method, positions } of above) {
    const both = ranked.filter(({ position }) => positions.has(position)).length;
    facts.push(`shares ${both} of ${ranked.length} with ${METHOD_TITLES[method]}`);
  }
  return facts;
}

function globalNote(notes: Notes, method: Method, index: number): string {
  const top = "In the top percentile of self-influence: it may come back for any query";
  const others = notes.returned(method, index) - 1;
  if (notes.of < 2) return `${top}.`;
  return `${top}. Also returned for ${whole(Math.max(0, others))} of ${whole(notes.of - 1)} other prepared queries.`;
}

function noteOf(
  { provenance }: Explanation,
  panel: Panel,
  { methods, sign }: Setting,
  pictures: boolean,
): string {
  if (methods.length > 1) {
    const side = { positive: "helpful first", negative: "harmful first", both: "strongest first" };
    return `${methods.length} methods, one query, ${side[sign]}`;
  }
  if (methods[0] === "nearest") {
    const where = provenance.nearest_space === "features" ? " to the model’s last layer" : "";
    return `nearest ${pictures ? "pictures" : "examples"}${where}, whatever the label`;
  }
  const { name } = panel;
  if (panel.label === null) {
    if (sign === "both") return "towards it and away, strongest first";
    return sign === "positive" ? `pulled the model towards ${name}` : `pulled it away from ${name}`;
  }
  if (sign === "both") return "for and against, strongest first";
  return sign === "positive" ? `taught the model to say ${name}` : `argued against ${name}`;
}

function emptyNote(sign: Sign, name: string): string {
  const what = sign === "positive" ? "helped" : sign === "negative" ? "argued against" : "moved";
  return `No training example ${what} ${name} at this setting.`;
}
