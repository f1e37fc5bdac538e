/** A document drawn as JupyterLab draws outputs. */
import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import { Widget } from "@lumino/widgets";
import { drawDocument, readJson } from "../document";
import css from "../style.css";
import { unpack } from "./packed";

export const MIME = "application/vnd.relatif.explanation.v1+json";
/** JupyterLab's name for `*.relatif.json`. */
export const FILE = "relatif-explanation";

/** A place where documents are drawn, one after the other. */
export class DocumentWidget extends Widget {
  private stop: (() => void) | null = null;
  private drawn = "";

  constructor() {
    super();
    this.addClass("rw-document");
    style();
  }

  /** Draw a document; one that is drawn already keeps its controls where they stand. */
  draw(data: unknown): void {
    // JupyterLab renders an output again whenever anything beside it changes.
    const text = JSON.stringify(data);
    if (text === this.drawn) return;
    this.clear();
    this.drawn = text;
    this.stop = drawDocument(this.node, () =>
      unpack(typeof data === "string" ? readJson(data) : data),
    );
  }

  clear(): void {
    this.stop?.();
    this.stop = null;
    this.drawn = "";
    this.node.replaceChildren();
  }

  override dispose(): void {
    if (!this.isDisposed) this.clear();
    super.dispose();
  }
}

export class ExplanationRenderer extends DocumentWidget implements IRenderMime.IRenderer {
  constructor(private readonly mime: string) {
    super();
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this.draw(model.data[this.mime]);
  }
}

/** The view's style sheet, once a page. */
function style(): void {
  const id = "relatif-style";
  if (document.getElementById(id)) return;
  const node = document.createElement("style");
  node.id = id;
  node.textContent = css;
  document.head.append(node);
}
