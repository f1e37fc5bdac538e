/** Text from data stays text, and a damaged document is one sentence: the lists are Python's too. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeEach, describe, expect, test } from "vitest";
import { drawDocument } from "../src/document";
import type { Explanation } from "../src/explanation";
import { fileName, pageOf } from "../src/lab/export";
import { parseDocument } from "../src/report";
import { fixture } from "./fixture";
import { all, one, texts } from "./page";

const golden = join(__dirname, "../../tests/golden");
const read = <T>(name: string): T => JSON.parse(readFileSync(join(golden, name), "utf8")) as T;
const HOSTILE = Object.entries(read<Record<string, string>>("hostile.json"));
const DAMAGE = read<{ name: string; path: (string | number)[]; value?: unknown }[]>("damage.json");

let root: HTMLElement;
beforeEach(() => {
  document.body.replaceChildren();
  root = document.body.appendChild(document.createElement("main"));
});

/** A document that holds the text wherever text can come from data. */
function everyField(text: string): Explanation {
  const base = fixture();
  const class_names = base.class_names.map((_, at) => `${text}${at}`);
  return {
    ...base,
    class_names,
    query: { ...base.query, name: text, media: { kind: "text", text } },
    panels: base.panels.map((panel, at) => ({ ...panel, name: class_names[at] ?? "" })),
    examples: base.examples.map((example, at) => ({
      ...example,
      media:
        at % 2
          ? { kind: "row", columns: [text, "b"], values: ["1", text], more: 0 }
          : { kind: "text", text },
    })),
    provenance: { ...base.provenance, curvature_detail: text, package_version: text, loss: text },
  };
}

function tags(): string[] {
  return [...new Set(all(root, "*").map((node) => node.localName))].sort();
}

describe.each(HOSTILE)("%s", (_, text) => {
  test("is text in the view", () => {
    const stop = drawDocument(root, () => everyField(text));
    expect(texts(root, ".rw-panel-name")).toEqual([`${text}0`, `${text}1`]);
    expect(one(root, ".rw-text").textContent).toBe(text);
    const calm = document.createElement("main");
    const stopCalm = drawDocument(calm, () => everyField("calm"));
    const usual = new Set(all(calm, "*").map((node) => node.localName));
    expect(tags().filter((tag) => tag !== "mark" && !usual.has(tag))).toEqual([]);
    for (const node of all(root, "*")) {
      for (const { name, value } of node.attributes) {
        expect(name).not.toMatch(/^on/);
        if (name === "src" || name === "href") expect(value).toMatch(/^data:image\//);
      }
    }
    stop();
    stopCalm();
  });

  test("is text in a report's index", () => {
    const stop = drawDocument(root, () => ({
      schema_version: "1.1",
      title: text,
      explanations: [everyField(text), everyField(text)],
    }));
    if (text) expect(one(root, ".rw-report-title").textContent).toBe(text);
    expect(all(root, ".rw-entry")).toHaveLength(2);
    expect(all(root, "script, iframe, svg, img[onerror]")).toEqual([]);
    stop();
  });

  test("stays in its place in an exported page", () => {
    const doc = everyField(text);
    const template = "<title>{{title}}</title>{{still}}<script id=d>{{document}}</script>";
    const page = pageOf(template, doc, parseDocument(doc));
    const parsed = new DOMParser().parseFromString(page, "text/html");
    expect(parsed.querySelectorAll("script")).toHaveLength(1);
    expect(parsed.querySelectorAll("img, svg, style")).toHaveLength(0);
    expect(JSON.parse(parsed.querySelector("#d")?.textContent ?? "")).toEqual(doc);
    expect(fileName(text)).toMatch(/^[\p{L}\p{N}][\p{L}\p{N}\p{M}._-]{0,62}\.html$/u);
  });
});

test.each(DAMAGE.map((edit) => [edit.name, edit] as const))("%s gives one sentence", (_, edit) => {
  const doc = read<Explanation>("documents/images.relatif.json");
  const last = edit.path.at(-1) as string;
  // biome-ignore lint/suspicious/noExplicitAny: an edit reaches wherever it likes
  const place = edit.path.slice(0, -1).reduce((at: any, step) => at[step], doc);
  if ("value" in edit) place[last] = edit.value;
  else if (Array.isArray(place)) place.splice(Number(last), 1);
  else delete place[last];
  const stop = drawDocument(root, () => doc);
  expect(all(root, ".rw-root > *")).toHaveLength(1);
  expect(one(root, "[role=alert]").textContent).toMatch(
    /^Damaged explanation at [\w.]+: [^\n]+\.$/,
  );
  stop();
});

test("a damaged part of a report is named with its place", () => {
  const doc = {
    schema_version: "1.1",
    title: "",
    explanations: [fixture(), { ...fixture(), dampings: [] }],
  };
  const stop = drawDocument(root, () => doc);
  expect(one(root, "[role=alert]").textContent).toBe(
    "Damaged explanation at explanations.1.dampings: it is empty.",
  );
  stop();
});

test.each([
  [{ schema_version: "1.1", explanations: [] }, "This report holds no explanation."],
  [{ schema_version: "1.1", pending: true }, "run the cell to see it."],
  [{ schema_version: "3.0", explanations: [] }, "schema version 3.0"],
])("a report that is %j says so", (doc, sentence) => {
  const stop = drawDocument(root, () => doc);
  expect(one(root, "[role=alert]").textContent).toContain(sentence);
  stop();
});
