/** A panel for each label under consideration, all on one scale. */
import type { Explanation, Method, Panel, Sign } from "../explanation";
import { extent, panelNamed, type Ranked, topCards } from "../lookup";
import { type Card, createCard } from "./card";
import { arrange, button, el, hush, setText, uniqueId } from "./dom";
import { isPicture, type Sheet } from "./media";
import { focusStop, follow, settle } from "./roving";

export interface Setting {
  method: Method;
  sign: Sign;
  k: number;
  stop: number;
}

export interface Panels {
  readonly node: HTMLElement;
  setDocument(doc: Explanation, sheet: Sheet): void;
  draw(labels: readonly string[], setting: Setting): void;
}

interface PanelView {
  readonly node: HTMLElement;
  draw(ranked: Ranked[], longest: number, setting: Setting, only: boolean): void;
}

export function createPanels(signal: AbortSignal, onRemove: (label: string) => void): Panels {
  const node = el("div", { class: "rw-panels" });
  let doc: Explanation | null = null;
  let sheet: Sheet | null = null;
  let views = new Map<string, PanelView>();
  const names = new WeakMap<Element, string>();

  node.addEventListener(
    "click",
    ({ target }) => {
      const close = target instanceof Element ? target.closest(".rw-close") : null;
      const name = close && names.get(close);
      if (name !== undefined && name !== null) onRemove(name);
    },
    { signal },
  );
  node.addEventListener("keydown", (event) => moveFocus(event), { signal });
  node.addEventListener(
    "focusin",
    ({ target }) => {
      const card = target instanceof HTMLElement ? target.closest<HTMLElement>(".rw-card") : null;
      if (card?.parentElement) settle(cardsOf(card.parentElement), card);
    },
    { signal },
  );

  function viewOf(name: string, panel: Panel | undefined): PanelView {
    const key = `${panel ? "panel" : "coming"} ${name}`;
    let view = views.get(key);
    if (!view) {
      view = panel && doc && sheet ? panelView(doc, panel, sheet, names) : comingView(name, names);
      views.set(key, view);
    }
    return view;
  }

  return {
    node,
    setDocument(next, pictures) {
      doc = next;
      sheet = pictures;
      views = new Map();
    },
    draw(labels, setting) {
      if (!doc) return;
      const shown = labels.map((name) => {
        const panel = doc ? panelNamed(doc, name) : undefined;
        return { view: viewOf(name, panel), ranked: panel ? topCards(panel, setting) : [] };
      });
      let longest = 0;
      for (const { ranked } of shown) {
        for (const { score } of ranked) longest = Math.max(longest, extent(setting.method, score));
      }
      for (const { view, ranked } of shown) {
        view.draw(ranked, longest, setting, labels.length === 1);
      }
      arrange(
        node,
        shown.map(({ view }) => view.node),
      );
      node.dataset.count = `${shown.length}`;
    },
  };
}

function cardsOf(list: Element): HTMLElement[] {
  return [...list.querySelectorAll<HTMLElement>(".rw-card")];
}

function moveFocus(event: KeyboardEvent): void {
  const card =
    event.target instanceof HTMLElement ? event.target.closest<HTMLElement>(".rw-card") : null;
  if (!card?.parentElement || event.altKey || event.ctrlKey || event.metaKey) return;
  const cards = cardsOf(card.parentElement);
  const to = follow(cards, card, event.key);
  if (to === null) return;
  event.preventDefault();
  focusStop(cards, to);
}

function head(name: string, note: string, names: WeakMap<Element, string>) {
  const id = uniqueId("panel");
  const words = el("span", { class: "rw-note", text: note });
  const close = button(
    { class: "rw-close", title: `Remove the panel of “${name}”` },
    el("span", { text: "×", attrs: { "aria-hidden": "true" } }),
    hush(`Remove ${name}`),
  );
  names.set(close, name);
  const node = el(
    "div",
    { class: "rw-panel-head" },
    el("h3", { class: "rw-panel-name", text: name, title: name, attrs: { id } }),
    words,
    close,
  );
  return { id, node, words, close };
}

function panelView(
  doc: Explanation,
  panel: Panel,
  sheet: Sheet,
  names: WeakMap<Element, string>,
): PanelView {
  const { id, node: top, words, close } = head(panel.name, "", names);
  const cards = new Map<number, Card>();
  const pictures = doc.examples.every((example) => isPicture(example.media));
  const list = el("ul", {
    class: pictures ? "rw-cards" : "rw-cards rw-wide",
    attrs: { role: "list", "aria-labelledby": id },
  });
  const nothing = el("p", { class: "rw-nothing" });
  const node = el(
    "section",
    { class: "rw-panel", attrs: { "aria-labelledby": id } },
    top,
    list,
    nothing,
  );

  return {
    node,
    draw(ranked, longest, setting, only) {
      setText(words, noteOf(doc, panel, setting, pictures));
      close.hidden = only;
      const nodes: HTMLElement[] = [];
      for (const { position, score } of ranked) {
        const example = doc.examples[position];
        if (!example) continue;
        let card = cards.get(position);
        if (!card) {
          card = createCard(doc, example, sheet);
          cards.set(position, card);
        }
        card.update(setting.method, score, longest);
        nodes.push(card.node);
      }
      arrange(list, nodes);
      settle(nodes);
      list.hidden = nodes.length === 0;
      nothing.hidden = nodes.length > 0;
      setText(nothing, nodes.length > 0 ? "" : emptyNote(setting.sign, panel.name));
    },
  };
}

function comingView(name: string, names: WeakMap<Element, string>): PanelView {
  const { id, node: top, close } = head(name, "", names);
  const node = el(
    "section",
    { class: "rw-panel rw-coming", attrs: { "aria-labelledby": id } },
    top,
    el("p", { class: "rw-nothing", text: "preparing…" }),
  );
  return {
    node,
    draw(_ranked, _longest, _setting, only) {
      close.hidden = only;
    },
  };
}

function noteOf(
  { provenance }: Explanation,
  panel: Panel,
  { method, sign }: Setting,
  pictures: boolean,
): string {
  if (method === "nearest") {
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
