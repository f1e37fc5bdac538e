/**
 * Host: JupyterLab and Notebook 7, for outputs and files that hold a document. It asks no kernel,
 * and draws in notebooks that are not trusted, as nothing of a document is ever markup or script.
 */
import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import { ExplanationRenderer, FILE, MIME } from "./renderer";

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
  // Text: a file cut short must reach our own reader, which says so in a sentence.
  dataType: "string",
  fileTypes: [
    {
      name: FILE,
      displayName: "Explanation (RelatIF)",
      extensions: [".relatif.json"],
      mimeTypes: [MIME],
      fileFormat: "text",
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
