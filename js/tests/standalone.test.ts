import { beforeEach, expect, test, vi } from "vitest";
import { start } from "../src/standalone";
import { fixture } from "./fixture";
import { bar, dampingSlider, expectAccessible, move, one, texts } from "./page";

let root: HTMLElement;

function page(text: string | null): void {
  document.body.replaceChildren();
  root = document.body.appendChild(document.createElement("main"));
  root.id = "relatif-root";
  if (text === null) return;
  const data = document.body.appendChild(document.createElement("script"));
  data.type = "application/json";
  data.id = "relatif-explanation";
  data.textContent = text;
}

beforeEach(() => page(JSON.stringify(fixture())));

test("a page draws the document inside it, where its settings stand", async () => {
  const stop = start(document);
  expect(texts(root, ".rw-panel-name")).toEqual(["bird", "plane"]);
  expect(texts(one(root, ".rw-panel"), ".rw-score")).toEqual(["+9.28", "+4.00"]);
  expect(root.classList.contains("rw-standalone")).toBe(true);
  expect(one(root, ".rw-strip").hidden).toBe(true);
  await expectAccessible();
  stop?.();
  expect(root.childElementCount).toBe(0);
});

test("its controls live without a kernel", () => {
  start(document);
  move(dampingSlider(root), 1, true);
  expect(texts(one(root, ".rw-panel"), ".rw-score")).toEqual(["+6.00", "+5.00"]);
  bar(root, "plane").click();
  expect(texts(root, ".rw-panel-name")).toEqual(["bird"]);
});

test.each([
  ["cut short", JSON.stringify(fixture()).slice(0, -40), "not complete JSON"],
  ["absent", null, "holds no explanation"],
  ["of a newer major version", '{"schema_version": "2.0"}', "schema version 2.0"],
  ["damaged", '{"schema_version": "1.0"}', "Damaged explanation at query"],
  ["hostile", '{"schema_version": "<img src=x onerror=alert(1)>"}', "<img src=x onerror="],
])("a document that is %s gives one sentence, as text", (_, text, sentence) => {
  page(text);
  const stop = start(document);
  expect(one(root, "[role=alert]").textContent).toContain(sentence);
  expect(root.querySelector("img")).toBeNull();
  stop?.();
  expect(root.childElementCount).toBe(0);
});

test("a page without a root is left alone", () => {
  document.body.replaceChildren();
  expect(start(document)).toBeNull();
});

test("a report has an index by which each explanation opens, and axe finds nothing", async () => {
  const report = {
    schema_version: "1.1",
    title: "Two queries",
    explanations: [fixture(), { ...fixture(), query: { ...fixture().query, name: "test #9" } }],
  };
  page(JSON.stringify(report));
  vi.useFakeTimers();
  const stop = start(document);
  expect(one(root, "h1").textContent).toBe("Two queries");
  expect(texts(root, ".rw-entry-words b")).toEqual(["Why “bird”?", "Why “bird”?"]);
  expect(texts(root, ".rw-entry-words span")[1]).toBe("test #9 · true label plane, misclassified");
  const parts = root.querySelectorAll<HTMLElement>(".rw-report-part");
  expect([...parts].map((part) => part.childElementCount)).toEqual([1, 0]);
  vi.advanceTimersByTime(200); // the rest is drawn in advance, so that it can be printed
  expect([...parts].map((part) => part.childElementCount)).toEqual([1, 1]);
  vi.useRealTimers();
  root.querySelectorAll<HTMLElement>(".rw-entry")[1]?.click();
  expect([...parts].map((part) => part.classList.contains("rw-away"))).toEqual([true, false]);
  expect(root.querySelectorAll("[aria-current]")).toHaveLength(1);
  const style = document.head.appendChild(document.createElement("style"));
  style.textContent = ".rw-away { display: none; }";
  await expectAccessible();
  style.remove();
  stop?.();
  expect(root.childElementCount).toBe(0);
});
