/**
 * Host: JupyterLab and Notebook 7, for outputs and files that hold a document. It asks no kernel,
 * and draws in notebooks that are not trusted, as nothing of a document is ever markup or script.
 */
import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import { Widget } from "@lumino/widgets";
import { drawDocument } from "../document";
import css from "../style.css";

export const MIME = "application/vnd.relatif.explanation.v1+json";
const FILE = "relatif-explanation";

class ExplanationRenderer extends Widget implements IRenderMime.IRenderer {
  private stop: (() => void) | null = null;
  private drawn = "";

  constructor(private readonly mime: string) {
    super();
    this.addClass("rw-document");
    style();
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    const data: unknown = model.data[this.mime];
    // JupyterLab renders an output again whenever anything beside it changes.
    const text = JSON.stringify(data);
    if (text === this.drawn) return;
    this.drawn = text;
    this.stop?.();
    this.node.replaceChildren();
    this.stop = drawDocument(this.node, () => data);
  }

  override dispose(): void {
    this.stop?.();
    this.stop = null;
    super.dispose();
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

const extension: IRenderMime.IExtension = {
  id: "relatif-widgets:mime",
  description: "Shows explanations by training examples, sliders alive, without a kernel.",
  rendererFactory: {
    safe: true,
    mimeTypes: [MIME],
    createRenderer: ({ mimeType }) => new ExplanationRenderer(mimeType),
  },
  // Before text/html, the fallback of hosts that lack this extension.
  rank: 40,
  dataType: "json",
  fileTypes: [
    {
      name: FILE,
      displayName: "Explanation (RelatIF)",
      extensions: [".relatif.json"],
      mimeTypes: [MIME],
      fileFormat: "json",
    },
  ],
  documentWidgetFactoryOptions: {
    name: "Explanation",
    primaryFileType: FILE,
    fileTypes: [FILE],
    defaultFor: [FILE],
  },
};

export default extension;
