/** The command "Export explanation as HTML": the page that Python's `to_html` writes, without a kernel. */
import type { Report } from "../report";
import { questionOf } from "../view/query";

/** The file's text. The template is Python's too; the build has put script and style in. */
export function pageOf(template: string, data: unknown, { title, explanations }: Report): string {
  const [first] = explanations;
  const named = title || (first ? `${questionOf(first)} ${first.query.name}` : "Explanation");
  const parts: Record<string, string> = {
    title: asText(named),
    still:
      "<p>This page draws its explanation by a script of its own, which this reader does not run.</p>",
    document: inert(JSON.stringify(data)),
  };
  // One pass over the template: what data puts in is not looked at again.
  return template.replace(
    /\{\{(title|still|document)\}\}/g,
    (_, name: string) => parts[name] ?? "",
  );
}

/** JSON that no HTML parser takes for markup, nor a script for a line end. */
const inert = (json: string): string =>
  json.replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");

const MARKS: Record<string, string> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#x27;",
};
const asText = (text: string): string => text.replace(/[&<>"']/g, (mark) => MARKS[mark] ?? mark);

/** A file name that every system takes. */
export function fileName(name: string): string {
  const plain = name
    .normalize("NFKD")
    .replace(/[^\p{L}\p{N}._-]+/gu, "-")
    .replace(/^[-.]+|[-.]+$/g, "")
    .slice(0, 60);
  return `${plain || "explanation"}.html`;
}

/** Hand a file to the browser, as JupyterLab's own exports do. */
export function download(name: string, text: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/html" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
