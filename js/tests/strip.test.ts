import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { StripFilter, StripPage, StripQuestion } from "../src/messages";
import { EVERYTHING } from "../src/view/filters";
import { fixture, stripPage } from "./fixture";
import { all, expectAccessible, move, one, open, type Page, press, texts } from "./page";

let page: Page;
let root: HTMLElement;

const thumbs = (): HTMLButtonElement[] => all<HTMLButtonElement>(root, ".rw-thumb");
const scroller = (): HTMLElement => one(root, ".rw-scroller");
const where = (): string | null => one(root, ".rw-where").textContent;
const note = (): HTMLElement => one(root, ".rw-strip-note");
const wait = (ms = 100): void => void vi.advanceTimersByTime(ms);
const field = (name: string): HTMLElement => {
  const found = all(root, ".rw-choice").find((one) => one.textContent?.startsWith(name));
  if (!found) throw new Error(`no ${name}`);
  return found;
};
const select = (name: string): HTMLSelectElement => one<HTMLSelectElement>(field(name), "select");
const choose = (name: string, text: string): void => {
  const list = select(name);
  list.selectedIndex = [...list.options].findIndex((option) => option.text === text);
  list.dispatchEvent(new Event("change", { bubbles: true }));
};
const chips = (): HTMLInputElement[] => all<HTMLInputElement>(root, ".rw-strip .rw-chips input");
const spoken = (thumb: Element | null | undefined): string => thumb?.textContent ?? "";
const index = (thumb: Element): number => Number(/^test #(\d+)/.exec(spoken(thumb))?.[1] ?? -1);

/** The questions asked since the last call, oldest first. */
function questions(): StripQuestion[] {
  wait();
  const { calls } = page.host.requestStrip.mock;
  return calls.splice(0).map(([question]) => question as StripQuestion);
}

/** Let a kernel answer what is asked, until nothing more is. */
function serve(overrides: Partial<StripPage> = {}): StripQuestion[] {
  const served: StripQuestion[] = [];
  for (let asked = questions(); asked.length > 0; asked = questions()) {
    for (const question of asked) {
      const { filter, around } = question;
      const offset = around === null ? question.offset : Math.floor(around / 24) * 24;
      page.view.setStrip(stripPage({ filter, offset, around, position: around, ...overrides }));
    }
    served.push(...asked);
  }
  return served;
}

function scroll(to: number): void {
  scroller().scrollLeft = to;
  scroller().dispatchEvent(new Event("scroll"));
}

const asking = (changed: Partial<StripFilter>, offset = 0, around: number | null = null) => ({
  filter: { ...EVERYTHING, ...changed },
  offset,
  count: 24,
  around,
});

beforeEach(() => {
  vi.useFakeTimers();
  page = open(fixture());
  root = page.root;
  page.view.setStrip(stripPage({ offset: 360, around: 375, position: 375 }));
  serve();
});

afterEach(() => vi.useRealTimers());

test("the strip shows only where a host gives one with something in it", () => {
  expect(one(root, ".rw-strip").hidden).toBe(false);
  page.view.setStrip(stripPage({ counts: { all: 0 }, total: 0, items: [] }));
  expect(one(root, ".rw-strip").hidden).toBe(true);
  page.view.setStrip(null);
  expect(one(root, ".rw-strip").hidden).toBe(true);
  expect(one(open(fixture()).root, ".rw-strip").hidden).toBe(true);
});

describe("the row", () => {
  test("opens around the example on display, as long as the whole test set", () => {
    expect(one(root, ".rw-thumbs").style.width).toBe("24000px"); // 400 of 60 pixels
    expect(scroller().scrollLeft).toBe((375 - 5.5) * 60); // twelve fit
    expect(where()).toBe("371–381 of 400");
    const shown = thumbs().find((thumb) => thumb.hasAttribute("aria-current"));
    expect(spoken(shown)).toBe("test #375:  predicted bird, true label bird");
    expect(shown?.parentElement?.style.insetInlineStart).toBe("22500px");
    expect(shown?.parentElement?.getAttribute("aria-posinset")).toBe("376");
    expect(shown?.parentElement?.getAttribute("aria-setsize")).toBe("400");
    expect(thumbs().length).toBeLessThan(20);
    page.view.setStrip(null);
    page.view.setStrip(stripPage({ offset: 360, around: 375, position: 375 }));
    expect(questions()).toEqual([asking({}, 384)]); // half a view ahead
  });

  test("asks for what comes into view when scrolling pauses, once", () => {
    for (let to = 22_000; to >= 6000; to -= 1000) {
      scroll(to);
      wait(10);
    }
    expect(page.host.requestStrip).not.toHaveBeenCalled();
    expect(spoken(thumbs()[3])).toBe("example 102, loading");
    expect(questions()).toEqual([asking({}, 72), asking({}, 96)]); // 94 to 118 are wanted
    scroll(6010);
    expect(questions()).toEqual([]);
    page.view.setStrip(stripPage({ offset: 96 }));
    expect(spoken(thumbs()[3])).toBe("test #101:  predicted bird, true label bird");
    expect(where()).toBe("101–112 of 400");
  });

  test("a scroll that does not pause is answered as well", () => {
    for (let step = 0; step < 50; step++) {
      scroll(10_000 + 10 * step);
      wait(16);
    }
    expect(page.host.requestStrip).toHaveBeenCalledWith(asking({}, 168));
  });

  test("keeps forty chunks and asks for the others again", () => {
    const far = { total: 5000, counts: { all: 5000, misclassified: 0, close: 0 } };
    choose("sort", "highest loss");
    const { filter } = serve(far)[0] as StripQuestion;
    for (let chunk = 0; chunk < 60; chunk++) {
      scroll(chunk * 24 * 60);
      serve({ ...far });
    }
    scroll(0);
    expect(questions()).toEqual([{ filter, offset: 0, count: 24, around: null }]);
    page.view.setStrip(stripPage({ ...far, filter }));
    scroll(50 * 24 * 60);
    expect(questions()).toEqual([]);
  });

  test("the buttons move by what fits and stop at both ends", () => {
    const [previous, next] = all<HTMLButtonElement>(root, ".rw-page");
    previous?.click();
    expect(scroller().scrollLeft).toBe((369.5 - 12) * 60);
    next?.click();
    next?.click();
    next?.click();
    expect(scroller().scrollLeft).toBe((400 - 12) * 60);
    expect(next?.getAttribute("aria-disabled")).toBe("true");
    expect(where()).toBe("389–400 of 400");
    scroll(0);
    expect(previous?.getAttribute("aria-disabled")).toBe("true");
    previous?.click();
    expect(scroller().scrollLeft).toBe(0);
  });

  test("a wheel over it scrolls it as long as it can move, and the page otherwise", () => {
    Object.defineProperty(scroller(), "scrollWidth", { value: 24_000 });
    Object.defineProperty(scroller(), "clientWidth", { value: 720 });
    const turn = (delta: { deltaY?: number; deltaX?: number }): boolean =>
      !scroller().dispatchEvent(new WheelEvent("wheel", { ...delta, cancelable: true }));
    scroll(100);
    expect(turn({ deltaY: 60 })).toBe(true);
    expect(scroller().scrollLeft).toBe(160);
    expect(turn({ deltaX: 60 })).toBe(false); // the browser does that by itself
    scroll(0);
    expect(turn({ deltaY: -60 })).toBe(false);
    scroll(24_000 - 720);
    expect(turn({ deltaY: 60 })).toBe(false);
    scroll(100);
    document.body.dispatchEvent(new WheelEvent("wheel", { deltaY: 60, bubbles: true }));
    expect(turn({ deltaY: 60 })).toBe(false); // it was turning the page already
    expect(scroller().scrollLeft).toBe(100);
  });

  test("a million examples scroll in a window that browsers can lay out", () => {
    const million = { total: 1_000_000, counts: { all: 1_000_000, misclassified: 9, close: 9 } };
    choose("sort", "lowest confidence");
    serve(million);
    expect(one(root, ".rw-thumbs").style.width).toBe("15000000px");
    thumbs()[0]?.focus();
    press(thumbs()[0] as Element, "End");
    serve(million);
    expect(document.activeElement?.textContent).toContain("test #999999");
    expect(where()).toBe("999,989–1,000,000 of 1,000,000");
    expect(scroller().scrollLeft).toBeLessThan(15_000_000);
    press(document.activeElement as Element, "Home");
    expect(where()).toBe("1–12 of 1,000,000");
    scroll(14_990_000); // dragged to the window's end: it moves along
    serve(million);
    const [focused, first] = thumbs();
    expect(document.activeElement).toBe(focused);
    expect(focused?.parentElement?.style.insetInlineStart).toBe("-120px");
    expect(index(first as Element)).toBe(249_831);
    expect(scroller().scrollLeft).toBeLessThan(8_000_000);
  });
});

describe("one example", () => {
  test("a wrong prediction is marked by shape, and the title tells the true label", () => {
    const wrong = thumbs().find((thumb) => thumb.title.includes("misclassified"));
    expect(index(wrong as Element) % 7).toBe(1);
    expect(one(wrong as HTMLElement, ".rw-thumb-label").textContent).toBe("▲ plane");
    expect(wrong?.title).toMatch(
      /^test #\d+, predicted plane \(0.50\), true label bird, misclassified$/,
    );
    const right = thumbs().find((thumb) => !thumb.title.includes("misclassified"));
    expect(one(right as HTMLElement, ".rw-thumb-label").textContent).toBe("bird");
  });

  test("a click asks for another example and marks it at once, without a scroll", () => {
    const before = scroller().scrollLeft;
    const chosen = thumbs().find((thumb) => index(thumb) === 377);
    chosen?.click();
    expect(page.host.pickQuery.mock.calls).toEqual([[377]]);
    expect(chosen?.getAttribute("aria-current")).toBe("true");
    expect(all(root, "[aria-current]")).toHaveLength(1);
    expect(scroller().scrollLeft).toBe(before);
    expect(questions()).toEqual([]);
  });

  test("arrows, pages and both ends are reached by key, and the focus waits for what loads", () => {
    const current = one<HTMLButtonElement>(root, ".rw-thumb[aria-current]");
    expect(thumbs().filter(({ tabIndex }) => tabIndex === 0)).toEqual([current]);
    current.focus();
    const at = (): number => index(document.activeElement as Element);
    press(current, "ArrowRight");
    expect(at()).toBe(376);
    press(document.activeElement as Element, "ArrowLeft");
    press(document.activeElement as Element, "ArrowLeft");
    expect(at()).toBe(374);
    press(document.activeElement as Element, "End");
    serve();
    expect(at()).toBe(399);
    press(document.activeElement as Element, "PageUp");
    expect(at()).toBe(387);
    press(document.activeElement as Element, "Home");
    expect(spoken(document.activeElement)).toBe("example 1, loading");
    const held = document.activeElement;
    serve();
    expect(document.activeElement).toBe(held);
    expect(at()).toBe(0);
    press(document.activeElement as Element, "PageDown");
    expect(at()).toBe(12);
    expect(thumbs().filter(({ tabIndex }) => tabIndex === 0)).toEqual([document.activeElement]);
    expect(page.host.pickQuery).not.toHaveBeenCalled();
    const other = press(document.activeElement as Element, "a");
    expect(other.defaultPrevented).toBe(false);
  });

  test("Enter on an example that is still loading picks it when it comes", () => {
    one(root, ".rw-thumb[aria-current]").focus();
    press(document.activeElement as Element, "Home");
    (document.activeElement as HTMLButtonElement).click(); // what Enter does to a button
    expect(page.host.pickQuery).not.toHaveBeenCalled();
    serve();
    expect(page.host.pickQuery.mock.calls).toEqual([[0]]);
  });

  test("the focus outlives a scroll that takes it out of view", () => {
    const current = one<HTMLButtonElement>(root, ".rw-thumb[aria-current]");
    current.focus();
    scroll(0);
    serve();
    expect(document.activeElement).toBe(current);
    expect(index(thumbs()[0] as Element)).toBe(0);
    press(current, "ArrowRight");
    expect(index(document.activeElement as Element)).toBe(376);
    expect(where()).toBe("366–377 of 400");
  });
});

describe("an example chosen elsewhere", () => {
  test("is scrolled to where it is at hand, and asked for where it is not", () => {
    page.view.setState({ query: 383 });
    expect(where()).toBe("379–389 of 400");
    expect(questions()).toEqual([]);
    page.view.setState({ query: 12 });
    wait();
    expect(page.host.requestStrip).toHaveBeenCalledWith(asking({}, 360, 12));
    serve();
    expect(where()).toBe("8–18 of 400");
    expect(index(one(root, ".rw-thumb[aria-current]"))).toBe(12);
  });

  test("while the first page was on its way is asked for when that comes", () => {
    page.view.setStrip(null);
    page.view.setState({ query: 12 });
    expect(questions()).toEqual([]);
    page.view.setStrip(stripPage({ offset: 360, around: 375, position: 375 }));
    serve();
    expect(index(one(root, ".rw-thumb[aria-current]"))).toBe(12);
  });

  test("does not pull the strip from under a hand that scrolls it", () => {
    scroll(6000);
    page.view.setState({ query: 12 });
    serve();
    expect(scroller().scrollLeft).toBe(6000);
    wait(2000);
    page.view.setState({ query: 11 });
    expect(index(one(root, ".rw-thumb[aria-current]"))).toBe(11);
  });

  test("that a filter leaves out moves nothing", () => {
    choose("sort", "lowest loss");
    serve();
    scroll(600);
    serve();
    wait(2000);
    page.view.setState({ query: 200 });
    const [question] = questions();
    expect(question?.around).toBe(200);
    page.view.setStrip(
      stripPage({ filter: question?.filter as StripFilter, around: 200, position: null }),
    );
    expect(scroller().scrollLeft).toBe(600);
    expect(note().hidden).toBe(true);
  });
});

describe("filters", () => {
  test("show their counts, and an empty one cannot be chosen", () => {
    expect(texts(root, ".rw-strip .rw-chip")).toEqual([
      "all 400",
      "misclassified 57",
      "close calls 0",
    ]);
    chips()[1]?.click();
    expect(questions()).toEqual([asking({ which: "misclassified" })]);
    expect(chips()[2]?.disabled).toBe(true);
  });

  test("keep the old thumbnails, dimmed, until the first answer to the new question", () => {
    chips()[1]?.click();
    choose("predicted", "plane");
    expect(questions()).toEqual([asking({ which: "misclassified", predicted: "plane" })]);
    expect(one(root, ".rw-strip").className).toContain("rw-strip-busy");
    expect(one(root, ".rw-thumb[aria-current]").textContent).toContain("#375");
    page.view.setStrip(stripPage({ total: 3 })); // an answer to an older question
    expect(one(root, ".rw-thumb[aria-current]").textContent).toContain("#375");
    const filter = { ...EVERYTHING, which: "misclassified" as const, predicted: "plane" };
    page.view.setStrip(stripPage({ filter, total: 2 }));
    expect(one(root, ".rw-strip").className).not.toContain("rw-strip-busy");
    expect(thumbs()).toHaveLength(2);
    expect(where()).toBe("1–2 of 2");
    page.view.setStrip(stripPage({ filter, total: 0 }));
    expect(one(root, ".rw-strip .rw-nothing").hidden).toBe(false);
  });

  test("a question that failed can be asked again", () => {
    scroll(6000);
    expect(questions()).toHaveLength(2);
    page.view.failStrip();
    scroll(6010);
    expect(questions()).toEqual([asking({}, 72), asking({}, 96)]);
  });

  test("classes, confidence and order are asked for together", () => {
    expect([...select("predicted").options].map(({ text }) => text)).toEqual([
      "any",
      "bird",
      "plane",
    ]);
    choose("predicted", "plane");
    choose("true", "bird");
    const [low, high] = all<HTMLInputElement>(root, ".rw-share");
    move(low as HTMLInputElement, "0.25", true);
    move(high as HTMLInputElement, "0.9", true);
    choose("sort", "highest loss");
    const wanted = {
      predicted: "plane",
      label: "bird",
      confidence: [0.25, 0.9] as [number, number],
      sort: "loss" as const,
      descending: true,
    };
    expect(questions()).toEqual([asking(wanted)]);
    one(root, ".rw-clear").click();
    expect(document.activeElement).toBe(chips()[0]);
    expect(one(root, ".rw-clear").hidden).toBe(true);
    expect(questions()).toEqual([asking({ sort: "loss", descending: true })]);
    expect(select("sort").selectedOptions[0]?.text).toBe("highest loss");
  });

  test("a confidence that is none is refused in words", () => {
    const [low, high] = all<HTMLInputElement>(root, ".rw-share") as [
      HTMLInputElement,
      HTMLInputElement,
    ];
    move(low, "1.5", true);
    expect(note().textContent).toBe("expected a confidence from 0 to 1");
    expect(note().hidden).toBe(false);
    expect(low.getAttribute("aria-describedby")).toBe(note().id);
    expect(high.hasAttribute("aria-invalid")).toBe(false);
    move(low, "0.8", true);
    expect(note().hidden).toBe(true);
    move(high, "0.4", true);
    expect(note().textContent).toBe("expected the lower confidence first");
    expect(questions()).toEqual([asking({ confidence: [0.8, 1] })]);
  });

  test("a search waits until the typing rests", () => {
    page.view.setStrip(stripPage({ searchable: true }));
    const search = one<HTMLInputElement>(root, ".rw-search");
    for (const text of ["b", "bi", "bird "]) {
      move(search, text);
      wait(100);
    }
    expect(page.host.requestStrip).not.toHaveBeenCalled();
    wait(250);
    expect(questions()).toEqual([asking({ search: "bird" })]);
    search.dispatchEvent(new Event("change", { bubbles: true }));
    expect(questions()).toEqual([]);
  });

  test("a control that does not apply is not there", () => {
    const hidden = (): boolean[] => [
      field("predicted").hidden,
      field("true").hidden,
      field("sort").hidden,
      one(root, ".rw-share").closest<HTMLElement>(".rw-field")?.hidden ?? false,
      one(root, ".rw-search").hidden,
    ];
    expect(hidden()).toEqual([false, false, false, false, true]);
    page.view.setStrip(
      stripPage({
        counts: { all: 400 },
        labels: [],
        predictions: [],
        sorts: ["index"],
        searchable: true,
      }),
    );
    expect(hidden()).toEqual([true, true, true, true, false]);
    expect(chips().map((chip) => chip.parentElement?.hidden)).toEqual([false, true, true]);
  });
});

describe("a number", () => {
  const jump = (value: string): void => move(one<HTMLInputElement>(root, ".rw-jump"), value, true);

  test("leads to its example", () => {
    jump("42");
    expect(page.host.pickQuery).toHaveBeenLastCalledWith(42);
    serve();
    expect(where()).toBe("38–48 of 400");
    expect(index(one(root, ".rw-thumb[aria-current]"))).toBe(42);
    expect(one<HTMLInputElement>(root, ".rw-jump").value).toBe("");
    jump("380");
    expect(index(one(root, ".rw-thumb[aria-current]"))).toBe(380);
  });

  test("outside the test set is answered in words", () => {
    for (const wrong of ["400", "-1", "1.5"]) {
      jump(wrong);
      expect(note().textContent).toBe("expected 0 to 399");
      expect(one(root, ".rw-jump").getAttribute("aria-describedby")).toBe(note().id);
    }
    expect(note().getAttribute("role")).toBe("alert");
    expect(page.host.pickQuery).not.toHaveBeenCalled();
    jump("");
    expect(note().hidden).toBe(true);
    expect(one(root, ".rw-jump").hasAttribute("aria-invalid")).toBe(false);
  });

  test("that the filters leave out is shown all the same, and said", () => {
    chips()[1]?.click();
    serve({ total: 57 });
    jump("42");
    const [question] = questions();
    expect(question?.around).toBe(42);
    page.view.setStrip(
      stripPage({
        filter: question?.filter as StripFilter,
        total: 57,
        around: 42,
        position: null,
      }),
    );
    expect(page.host.pickQuery).toHaveBeenLastCalledWith(42);
    expect(note().textContent).toBe("#42 does not pass these filters");
  });
});

test("text and rows have a place in it as text, and axe finds nothing", async () => {
  choose("sort", "highest loss");
  const filter = questions()[0]?.filter as StripFilter;
  const given = stripPage({ filter, total: 30, searchable: true });
  Object.assign(given.items[0] ?? {}, { media: { kind: "text", text: "<b>so</b> it was" } });
  Object.assign(given.items[2] ?? {}, {
    media: { kind: "row", more: 0, columns: ["a", "b"], values: ["1", "2"] },
    label: null,
    predicted: null,
    probability: null,
    caption: "3.1",
  });
  page.view.setStrip(given);
  expect(texts(root, ".rw-thumb-text")).toEqual(["<b>so</b> it was", "1 · 2"]);
  expect(texts(root, ".rw-thumb-label")[2]).toBe("3.1");
  expect(one(root, ".rw-thumbs").style.width).toBe(`${30 * 168}px`); // room to read
  move(one<HTMLInputElement>(root, ".rw-jump"), "-1", true);
  scroll(20 * 168);
  vi.useRealTimers();
  await expectAccessible();
});

test("names that look like markup stay text", () => {
  const name = "<img src=x onerror=alert(1)>";
  const given = stripPage({ labels: [name], predictions: [name], total: 1 });
  Object.assign(given.items[0] ?? {}, { label: name, predicted: name, caption: name });
  choose("sort", "closest call");
  const filter = questions()[0]?.filter as StripFilter;
  page.view.setStrip({ ...given, filter });
  expect(select("true").options[1]?.text).toBe(name);
  expect(texts(root, ".rw-thumb-label")).toEqual([name]);
  expect(root.querySelector(".rw-strip img")).toBeNull();
});
