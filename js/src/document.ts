/** An explanation drawn from its document alone: no kernel answers, all sliders do. */
import { parseExplanation } from "./explanation";
import { el } from "./view/dom";
import { createView } from "./view/view";

/** Draw a document, or say in one sentence why it cannot be drawn. Returns the clean-up. */
export function drawDocument(root: HTMLElement, read: () => unknown): () => void {
  try {
    const explanation = parseExplanation(read());
    const view = createView(root, {
      live: false,
      commit: () => {},
      pickQuery: () => {},
      requestStrip: () => {},
      requestDetail: () => {},
      check: () => {},
      cancel: () => {},
      cancelChecks: () => {},
      resume: () => {},
    });
    view.setState(explanation.settings);
    view.setExplanation(explanation);
    return () => view.dispose();
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    const sentence = el("p", { class: "rw-alert", text, attrs: { role: "alert" } });
    root.replaceChildren(el("div", { class: "rw-root" }, sentence));
    return () => root.replaceChildren();
  }
}
