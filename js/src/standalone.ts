/** Host: a page of its own, with the document inside and no kernel. */
import { drawDocument, readJson } from "./document";

export function start(page: Document): (() => void) | null {
  const root = page.getElementById("relatif-root");
  if (!root) return null;
  root.classList.add("rw-standalone");
  return drawDocument(root, () => {
    const source = page.getElementById("relatif-explanation")?.textContent;
    if (!source) throw new Error("This page holds no explanation.");
    return readJson(source);
  });
}

if (document.readyState === "loading") {
  document.addEventListener("DOMContentLoaded", () => start(document), { once: true });
} else {
  start(document);
}
