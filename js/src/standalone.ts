/** Host: a page of its own, with the document inside and no kernel. */
import { parseExplanation } from "./explanation";
import { el } from "./view/dom";
import { createView } from "./view/view";

export function start(page: Document): (() => void) | null {
  const root = page.getElementById("relatif-root");
  if (!root) return null;
  root.classList.add("rw-standalone");
  try {
    const source = page.getElementById("relatif-explanation")?.textContent;
    if (!source) throw new Error("This page holds no explanation.");
    const explanation = parseExplanation(readJson(source));
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
    return null;
  }
}

function readJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("The explanation in this page is not complete JSON: was the file cut short?");
  }
}

if (document.readyState === "loading") {
  document.addEventListener("DOMContentLoaded", () => start(document), { once: true });
} else {
  start(document);
}
