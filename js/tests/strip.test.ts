import { beforeEach, expect, test } from "vitest";
import { fixture, stripPage } from "./fixture";
import { all, expectAccessible, move, one, open, type Page, press, texts } from "./page";

let page: Page;
let root: HTMLElement;
const thumbs = (): HTMLButtonElement[] => all<HTMLButtonElement>(root, ".rw-thumb");

beforeEach(() => {
  page = open(fixture());
  root = page.root;
  page.view.setStrip(stripPage());
});

test("the strip shows only where a host gives one with something in it", () => {
  expect(one(root, ".rw-strip").hidden).toBe(false);
  page.view.setStrip(stripPage({ counts: { all: 0, misclassified: 0, close: 0 }, items: [] }));
  expect(one(root, ".rw-strip").hidden).toBe(true);
  page.view.setStrip(null);
  expect(one(root, ".rw-strip").hidden).toBe(true);
  expect(one(open(fixture()).root, ".rw-strip").hidden).toBe(true);
});

test("filters show their counts, and an empty one cannot be chosen", () => {
  expect(texts(root, ".rw-chip")).toEqual(["all 100", "misclassified 7", "close calls 0"]);
  const [, misclassified, close] = all<HTMLInputElement>(root, ".rw-chips input");
  misclassified?.click();
  expect(page.host.requestStrip).toHaveBeenLastCalledWith({
    filter: "misclassified",
    offset: 0,
    count: 24,
  });
  expect(close?.disabled).toBe(true);
});

test("the example on display is marked, and its prediction stands under it", () => {
  expect(thumbs().map((thumb) => thumb.getAttribute("aria-current"))).toEqual([null, "true", null]);
  expect(texts(root, ".rw-thumb-label")).toEqual(["bird", "plane", "bird"]);
  expect(thumbs()[1]?.textContent).toBe(
    "test #375:  predicted plane, true label bird, misclassified",
  );
});

test("a click asks for another example and marks it at once", () => {
  thumbs()[2]?.click();
  expect(page.host.pickQuery.mock.calls).toEqual([[376]]);
  expect(thumbs()[2]?.getAttribute("aria-current")).toBe("true");
  expect(page.host.commit).not.toHaveBeenCalled();
});

test("arrows move inside the strip from the example on display", () => {
  const [first, second, third] = thumbs() as HTMLElement[] as [
    HTMLElement,
    HTMLElement,
    HTMLElement,
  ];
  expect([first, second, third].map((thumb) => thumb.tabIndex)).toEqual([-1, 0, -1]);
  second.focus();
  press(second, "ArrowLeft");
  expect(document.activeElement).toBe(first);
  press(first, "End");
  expect(document.activeElement).toBe(third);
  expect(page.host.pickQuery).not.toHaveBeenCalled();
});

test("an arrow past the end turns the page and keeps the focus", () => {
  const third = thumbs()[2] as HTMLElement;
  third.focus();
  press(third, "ArrowRight");
  expect(page.host.requestStrip).toHaveBeenLastCalledWith({ filter: "all", offset: 12, count: 24 });
  page.view.setStrip(stripPage({ offset: 12 }));
  expect(document.activeElement).toBe(thumbs()[0]);
});

test("the pager stops at both ends", () => {
  const [previous, next] = all<HTMLButtonElement>(root, ".rw-page");
  previous?.click();
  expect(page.host.requestStrip).not.toHaveBeenCalled();
  next?.click();
  expect(page.host.requestStrip).toHaveBeenCalledTimes(1);
  page.view.setStrip(stripPage({ offset: 97 }));
  next?.click();
  expect(page.host.requestStrip).toHaveBeenCalledTimes(1);
  previous?.click();
  expect(page.host.requestStrip).toHaveBeenLastCalledWith({ filter: "all", offset: 85, count: 24 });
});

test("a number leads to its example, and one outside the test set to nothing", () => {
  const jump = one<HTMLInputElement>(root, ".rw-jump");
  move(jump, "100", true);
  expect(jump.getAttribute("aria-invalid")).toBe("true");
  expect(page.host.pickQuery).not.toHaveBeenCalled();
  move(jump, "42", true);
  expect(page.host.pickQuery).toHaveBeenLastCalledWith(42);
  expect(page.host.requestStrip).toHaveBeenLastCalledWith({ filter: "all", offset: 36, count: 24 });
});

test("text and rows have a place in it, and axe finds nothing", async () => {
  const page_ = stripPage();
  Object.assign(page_.items[0] ?? {}, { media: { kind: "text", text: "<b>so</b> it was" } });
  Object.assign(page_.items[2] ?? {}, {
    media: { kind: "row", more: 0, columns: ["a", "b"], values: ["1", "2"] },
    label: null,
    predicted: null,
    caption: "3.1",
  });
  page.view.setStrip(page_);
  expect(texts(root, ".rw-thumb-text")).toEqual(["<b>so</b> it was", "1 · 2"]);
  expect(texts(root, ".rw-thumb-label")[2]).toBe("3.1");
  await expectAccessible();
});
