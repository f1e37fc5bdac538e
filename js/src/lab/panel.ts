/** The side panel that lists a notebook's explanations, and the view that puts two beside each other. */
import { Widget } from "@lumino/widgets";
import { arrange, button, el, signButton, toggleAttr } from "../view/dom";
import { createEntry } from "../view/entry";
import { loadSheet, type Sheet } from "../view/media";
import type { Found } from "./found";
import { DocumentWidget } from "./renderer";

export interface PanelActions {
  /** The panel has become visible. */
  appear(): void;
  /** Show the cell. */
  jump(found: Found): void;
  pin(found: Found): void;
  isPinned(found: Found): boolean;
  export(found: Found): void;
}

export class ExplanationList extends Widget {
  private sheets: Sheet[] = [];
  private readonly list = el("ul", { class: "rw-listed" });
  private readonly nothing = el("p", { class: "rw-listed-empty" });

  constructor(private readonly actions: PanelActions) {
    super();
    this.addClass("rw-list");
    const heading = el("h2", { class: "rw-list-heading", text: "Explanations" });
    this.node.append(el("div", { class: "rw-root" }, heading, this.nothing, this.list));
  }

  /** List these; `name` is that of the notebook, or null where none is open. */
  fill(name: string | null, found: readonly Found[]): void {
    const old = this.sheets;
    this.sheets = [];
    this.nothing.hidden = found.length > 0;
    this.nothing.textContent =
      name === null
        ? "Open a notebook to see its explanations here."
        : `${name} shows no explanation. "Explain a model…" in the command palette writes one.`;
    arrange(
      this.list,
      found.map((one) => this.entry(one)),
    );
    for (const sheet of old) sheet.dispose();
  }

  private entry(found: Found): HTMLElement {
    const { actions } = this;
    const { title, explanations } = found.report;
    const [first] = explanations;
    if (!first) return el("li");
    const sheet = loadSheet(first.sprite);
    this.sheets.push(sheet);
    const count = explanations.length;
    const named = count > 1 ? { title: title || `${count} explanations` } : {};
    const jump = createEntry(first, sheet, { ...named, more: [`cell ${found.cell + 1}`] });
    jump.title = `Go to cell ${found.cell + 1}`;
    const pinned = actions.isPinned(found);
    const pin = button({ class: "rw-action", text: pinned ? "Unpin" : "Pin" });
    pin.title = pinned ? "Take it out of the comparison" : "Put it beside another one";
    toggleAttr(pin, "aria-pressed", `${pinned}`);
    const save = button({ class: "rw-action", text: "HTML", title: "Export as a page of its own" });
    jump.addEventListener("click", () => actions.jump(found));
    pin.addEventListener("click", () => actions.pin(found));
    save.addEventListener("click", () => actions.export(found));
    return el("li", {}, jump, el("div", { class: "rw-entry-actions" }, pin, save));
  }

  protected override onAfterShow(): void {
    this.actions.appear();
  }

  override dispose(): void {
    for (const sheet of this.sheets) sheet.dispose();
    this.sheets = [];
    super.dispose();
  }
}

interface Pinned {
  key: string;
  node: HTMLElement;
  drawn: DocumentWidget;
}

/** At most two explanations beside each other; a third takes the place of the one pinned first. */
export class PinBoard extends Widget {
  private pinned: Pinned[] = [];

  constructor(private readonly changed: () => void) {
    super();
    this.id = "relatif-pinned";
    this.title.label = "Explanations compared";
    this.title.closable = true;
    this.addClass("rw-board");
  }

  has(key: string): boolean {
    return this.pinned.some((one) => one.key === key);
  }

  get count(): number {
    return this.pinned.length;
  }

  pin(key: string, name: string, data: unknown): void {
    while (this.pinned.length >= 2) this.remove(this.pinned[0]?.key ?? "");
    const drawn = new DocumentWidget();
    const close = signButton("×", "Unpin", { class: "rw-close", title: "Unpin" });
    close.addEventListener("click", () => this.unpin(key));
    const head = el("div", { class: "rw-board-head" }, el("span", { text: name }), close);
    const node = el(
      "section",
      { class: "rw-board-part", attrs: { "aria-label": name } },
      el("div", { class: "rw-root" }, head),
      drawn.node,
    );
    drawn.draw(data);
    this.pinned.push({ key, node, drawn });
    this.node.append(node);
    this.changed();
  }

  unpin(key: string): void {
    this.remove(key);
    this.changed();
  }

  private remove(key: string): void {
    for (const one of this.pinned.filter((each) => each.key === key)) {
      one.drawn.dispose();
      one.node.remove();
    }
    this.pinned = this.pinned.filter((one) => one.key !== key);
  }

  override dispose(): void {
    for (const { key } of [...this.pinned]) this.remove(key);
    super.dispose();
    this.changed();
  }
}
