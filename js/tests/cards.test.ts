import { beforeEach, describe, expect, test } from "vitest";
import type { Explanation, Media } from "../src/explanation";
import { differsFrom, sharedSpans } from "../src/view/marks";
import { fixture } from "./fixture";
import { all, expectAccessible, move, one, open, type Page, press, radio, texts } from "./page";

let doc: Explanation;
let page: Page;
let root: HTMLElement;

const faces = (): HTMLButtonElement[] => all<HTMLButtonElement>(root, ".rw-face");
const face = (index: number): HTMLButtonElement =>
  one<HTMLButtonElement>(root, `.rw-card[data-index="${index}"] .rw-face`);
const pressed = (): string[] =>
  faces()
    .filter((one) => one.getAttribute("aria-pressed") === "true")
    .map((node) => node.closest<HTMLElement>(".rw-card")?.dataset.index ?? "");
const click = (node: Element, init: MouseEventInit = {}): void => {
  node.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true, ...init }));
};
const named = (parent: ParentNode, text: string): HTMLButtonElement => {
  const found = all<HTMLButtonElement>(parent, "button").find((one) => one.textContent === text);
  if (!found) throw new Error(`no button ${text}`);
  return found;
};
const facts = (): Record<string, string> => {
  const dialog = one(root, ".rw-details");
  const terms = texts(dialog, "dl.rw-details-facts dt");
  const values = texts(dialog, "dl.rw-details-facts dd");
  return Object.fromEntries(terms.map((term, at) => [term, values[at] ?? ""]));
};

beforeEach(() => {
  doc = fixture();
  page = open(doc);
  page.view.setState({ can_check: true });
  root = page.root;
});

describe("selecting", () => {
  test("by a click, and again to take it back", () => {
    click(face(10));
    expect(page.host.commit).toHaveBeenLastCalledWith({ selection: [10] });
    expect(pressed()).toEqual(["10"]);
    click(face(12));
    expect(page.host.commit).toHaveBeenLastCalledWith({ selection: [10, 12] });
    click(face(10));
    expect(page.host.commit).toHaveBeenLastCalledWith({ selection: [12] });
    expect(one(root, ".rw-count").textContent).toBe("1 selected");
  });

  test("by Shift, a range of one row", () => {
    click(face(10));
    click(face(11), { shiftKey: true });
    expect(page.host.commit).toHaveBeenLastCalledWith({ selection: [10, 11] });
  });

  test("by Shift and arrows", () => {
    face(10).focus();
    face(10).dispatchEvent(
      new KeyboardEvent("keydown", { key: "ArrowRight", shiftKey: true, bubbles: true }),
    );
    expect(page.host.commit).toHaveBeenLastCalledWith({ selection: [10, 11] });
    expect(document.activeElement).toBe(face(11));
  });

  test("ends with Escape", () => {
    click(face(10));
    press(face(10), "Escape");
    expect(page.host.commit).toHaveBeenLastCalledWith({ selection: [] });
    expect(one(root, ".rw-frame > .rw-actions").hidden).toBe(true);
  });

  test("follows the host", async () => {
    page.view.setState({ selection: [12, 13] });
    expect(pressed()).toEqual(["12", "13"]);
    expect(one(root, ".rw-count").textContent).toBe("2 selected");
    expect(page.host.commit).not.toHaveBeenCalled();
    await expectAccessible();
  });

  test("has no use without a kernel: a click opens the card", () => {
    root = open(fixture(), false).root;
    click(face(10));
    expect(one(root, ".rw-details").hasAttribute("open")).toBe(true);
    expect(face(10).hasAttribute("aria-pressed")).toBe(false);
    expect(root.querySelector(".rw-open")).toBeNull();
    expect(one(root, ".rw-details-actions").hidden).toBe(true);
  });
});

describe("tags", () => {
  test("go to every selected example, and off again", () => {
    page.view.setState({ selection: [10, 12], tags: { "12": ["outlier"] } });
    const bar = one(root, ".rw-frame > .rw-actions");
    expect(texts(bar, ".rw-tag")).toEqual(["mislabelled", "duplicate", "outlier", "fine"]);
    expect(named(bar, "outlier").getAttribute("aria-pressed")).toBe("mixed");
    named(bar, "outlier").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({
      tags: { "10": ["outlier"], "12": ["outlier"] },
    });
    expect(named(bar, "outlier").getAttribute("aria-pressed")).toBe("true");
    expect(one(face(10), ".rw-tags").textContent).toBe(" tagged outlier");
    named(bar, "outlier").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ tags: {} });
  });

  test("may be any text, which stays text", () => {
    page.view.setState({ selection: [10] });
    const input = one<HTMLInputElement>(root, ".rw-frame > .rw-actions .rw-tag-new");
    input.value = " <b>two birds</b> ";
    press(input, "Enter");
    expect(page.host.commit).toHaveBeenLastCalledWith({ tags: { "10": ["<b>two birds</b>"] } });
    expect(input.value).toBe("");
    expect(one(face(10), ".rw-tags").textContent).toBe(" tagged <b>two birds</b>");
    expect(texts(one(root, ".rw-frame > .rw-actions"), ".rw-tag")).toContain("<b>two birds</b>");
  });
});

test("a tag that is too long is refused in words, not cut", () => {
  page.view.setState({ selection: [10] });
  const input = one<HTMLInputElement>(root, ".rw-frame > .rw-actions .rw-tag-new");
  input.value = "x".repeat(61);
  press(input, "Enter");
  expect(input.validationMessage).toBe("A tag has at most 60 characters; this one has 61.");
  expect(page.host.commit).not.toHaveBeenCalled();
  input.value = "x".repeat(60);
  input.dispatchEvent(new Event("input"));
  press(input, "Enter");
  expect(page.host.commit).toHaveBeenLastCalledWith({ tags: { "10": ["x".repeat(60)] } });
});

describe("comparing", () => {
  const rows = (panel = 0): HTMLElement[] =>
    all(all(root, ".rw-panel")[panel] as HTMLElement, ".rw-row-of");
  const toggle = (): HTMLInputElement => one<HTMLInputElement>(root, ".rw-switch input");

  test("puts the contrast of the paper in rows, in its order", () => {
    toggle().click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ compare: ["influence"] });
    expect(rows().map((row) => texts(row, ".rw-row-name")[0])).toEqual(["IF", "ℓ-RelatIF"]);
    expect(texts(root, ".rw-note")[0]).toBe("2 methods, one query, helpful first");
    radio(root, "influence").click();
    expect(rows()).toHaveLength(1);
    toggle().click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ compare: ["loss_relative"] });
  });

  test("counts what the rows share, and gives each card its rank by the others", () => {
    const table = doc.panels[0]?.rankings.find(
      (one) => one.method === "influence" && one.sign === "positive",
    );
    if (table) table.examples = [[2, 1], [1, 0], [1]];
    page.view.setExplanation(doc);
    page.view.setState({ compare: ["influence"] });
    const [influence, relative] = rows() as [HTMLElement, HTMLElement];
    expect(texts(influence, ".rw-row-facts span")).toEqual(["mean probability 0.63"]);
    expect(texts(relative, ".rw-row-facts span")).toEqual([
      "mean probability 0.38",
      "shares 1 of 2 with IF",
    ]);
    expect(texts(influence, ".rw-ranks")).toEqual(["ℓ rank >2", "ℓ rank 2"]);
    expect(texts(relative, ".rw-ranks")).toEqual(["IF rank >2", "IF rank 2"]);
  });

  test("adds any method, and takes the last away with the switch", async () => {
    page.view.setState({ compare: ["influence", "nearest"] });
    expect(rows().map((row) => texts(row, ".rw-row-name")[0])).toEqual(["IF", "ℓ-RelatIF", "k-NN"]);
    await expectAccessible();
    const boxes = all<HTMLInputElement>(root, ".rw-compare fieldset input");
    expect(boxes.map((box) => [box.value, box.checked, box.closest("label")?.hidden])).toEqual([
      ["influence", true, false],
      ["theta_relative", false, false],
      ["loss_relative", false, true],
      ["nearest", true, false],
    ]);
    boxes[1]?.click();
    expect(page.host.commit).toHaveBeenLastCalledWith({
      compare: ["influence", "theta_relative", "nearest"],
    });
    toggle().click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ compare: [] });
    expect(rows()).toHaveLength(1);
  });

  test("scales each method for itself", () => {
    page.view.setState({ compare: ["nearest"] });
    const [relative, nearest] = rows() as [HTMLElement, HTMLElement];
    const widths = (row: HTMLElement): string[] =>
      all(row, ".rw-bar i").map((fill) => fill.style.width);
    expect(widths(relative)[0]).toBe("100%");
    expect(widths(nearest)).toEqual(["80%", "100%"]);
  });
});

describe("a global example", () => {
  test("has a badge in the top percentile of self-influence only", () => {
    expect(one(face(11), ".rw-badge").hidden).toBe(false);
    expect(one(face(10), ".rw-badge").hidden).toBe(true); // rank 40 of 4,000 is the first outside
    expect(one(face(11), ".rw-badge").textContent).toBe("global example");
    move(one<HTMLInputElement>(root, ".rw-slider-damping input"), 1);
    expect(one(face(11), ".rw-badge").hidden).toBe(true); // rank 50 at this damping
  });

  test("says for how many prepared queries it came back", () => {
    expect(one(face(11), ".rw-badge").title).not.toContain("returned");
    page.view.setReturned(8, { loss_relative: { "11": 6 } });
    expect(one(face(11), ".rw-badge").title).toContain(
      "Also returned for 5 of 7 other prepared queries.",
    );
  });
});

describe("a closer look", () => {
  test("opens with Enter and with the card's own button, and tells every number", async () => {
    face(11).focus();
    expect(press(face(11), "Enter").defaultPrevented).toBe(true);
    const dialog = one(root, ".rw-details");
    expect(dialog.hasAttribute("open")).toBe(true);
    expect(page.host.requestDetail.mock.calls).toEqual([[11]]);
    expect(one(dialog, "h3").textContent).toBe("Training example #11");
    expect(facts()).toEqual({
      label: "plane",
      "model says": "plane ✓",
      probability: "0.50",
      "training loss": "0.500",
      "self-influence": "16.0 · rank 1 of 4,000 · global",
      IF: "+4.00 · rank 2",
      "θ-RelatIF": "+4.00 · rank 2",
      "ℓ-RelatIF": "+4.00 · rank 2",
      "k-NN": "not among its first 2",
      "without it": "loss of bird +0.00100", // 4 / 4,000
    });
    await expectAccessible();
    press(dialog, "ArrowLeft");
    expect(one(dialog, "h3").textContent).toBe("Training example #10");
    one<HTMLButtonElement>(dialog, ".rw-close").click();
    expect(dialog.hasAttribute("open")).toBe(false);
    expect(document.activeElement).toBe(face(11));
    click(one(root, '.rw-card[data-index="12"] .rw-open'));
    expect(one(dialog, "h3").textContent).toBe("Training example #12");
  });

  test("computes influence from ℓ-RelatIF where IF's table has ended", () => {
    const table = doc.panels[0]?.rankings.find(
      (one) => one.method === "influence" && one.sign === "positive",
    );
    if (table) table.examples = [[2, 3], [1, 0], [1]];
    page.view.setExplanation(doc);
    press(face(11), "Enter");
    expect(facts()["without it"]).toBe("loss of bird +0.00400"); // 4 · √16 / 4,000
  });

  test("shows the larger picture when it comes", () => {
    press(face(10), "Enter");
    const dialog = one(root, ".rw-details");
    page.view.setDetail(11, { kind: "text", text: "another's" });
    expect(dialog.querySelector(".rw-text")).toBeNull();
    page.view.setDetail(10, { kind: "text", text: "large" });
    expect(one(dialog, ".rw-text").textContent).toBe("large");
  });

  test("selects, tags, asks for more and for a check", () => {
    press(face(10), "Enter");
    const dialog = one(root, ".rw-details");
    named(dialog, "Select").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ selection: [10] });
    named(dialog, "Deselect").click();
    named(dialog, "mislabelled").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ tags: { "10": ["mislabelled"] } });
    named(dialog, "Check by retraining").click();
    expect(page.host.check).toHaveBeenLastCalledWith([10]);
    press(face(10), "Enter");
    named(dialog, "More like this").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ like: 10 });
    expect(dialog.hasAttribute("open")).toBe(false);
  });
});

describe("more like this", () => {
  test("is a panel of its own that answers the controls, and closes", () => {
    page.view.setState({ selection: [10, 12] });
    named(one(root, ".rw-frame > .rw-actions"), "More like #12").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ like: 12 });
    expect(one(root, ".rw-likes").hidden).toBe(true);
    const likes = fixture();
    likes.panels = likes.panels.slice(0, 1);
    page.view.setSimilar(likes, 12);
    expect(one(root, ".rw-likes").hidden).toBe(false);
    expect(texts(one(root, ".rw-likes"), ".rw-panel-name")).toEqual(["more like #12"]);
    expect(texts(one(root, ".rw-likes"), ".rw-score")).toEqual(["+9.28", "+4.00"]);
    move(one<HTMLInputElement>(root, ".rw-slider-damping input"), 1);
    expect(texts(one(root, ".rw-likes"), ".rw-score")).toEqual(["+6.00", "+5.00"]);
    one<HTMLButtonElement>(root, ".rw-likes .rw-close").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ like: null });
    expect(one(root, ".rw-likes").hidden).toBe(true);
  });
});

describe("check by retraining", () => {
  const result = {
    removed: [10, 12],
    labels: ["bird"],
    before: [0.65],
    after: [0.7],
    predicted: [0.045],
    actual: [0.05],
    damping: 0.01,
  };

  const action = (): HTMLButtonElement =>
    named(one(root, ".rw-frame > .rw-actions"), "Check by retraining");
  const items = (): string[] => texts(root, ".rw-check-list > li");

  test("says what it takes where the host cannot", () => {
    page.view.setState({ selection: [10] });
    expect(action().title).toContain("Retrain without these examples");
    page.view.setState({ can_check: false });
    expect(action().title).toContain("pass ExplanationWidget(..., retrain=");
    action().click(); // the kernel answers with the same words
    expect(page.host.check).toHaveBeenLastCalledWith([10]);
  });

  test("shows what came beside what was foretold, with the damping, at its own query", async () => {
    page.view.setState({ selection: [10, 12] });
    action().click();
    expect(page.host.check).toHaveBeenLastCalledWith([10, 12]);
    expect(items()).toEqual(["Retraining without #10, #12…Cancel"]);
    page.view.setCheck(7, [10, 12], result);
    expect(items()).toEqual(["Retraining without #10, #12…Cancel"]);
    page.view.setCheck(375, [10, 12], result);
    expect(texts(root, ".rw-check-list b")).toEqual(["Without #10, #12"]);
    expect(one(root, ".rw-check-list b + span").textContent).toBe(" at damping 0.01");
    expect(texts(root, ".rw-check-line > span")).toEqual([
      "loss of bird: 0.650 → 0.700",
      "retrained",
      "",
      "+0.0500",
      "predicted",
      "",
      "+0.0450",
    ]);
    await expectAccessible();
    const next = fixture();
    next.query = { ...next.query, name: "test #7", index: 7 };
    page.view.setExplanation(next);
    expect(items()).toHaveLength(1); // that of test #7, which came while #375 was on display
    next.query = { ...next.query, name: "test #8", index: 8 };
    page.view.setExplanation({ ...next });
    expect(one(root, ".rw-checks").hidden).toBe(true);
    page.view.setExplanation(doc);
    expect(texts(root, ".rw-check-list b")).toEqual(["Without #10, #12"]);
  });

  test("runs once however often it is asked for, and can be cancelled", () => {
    page.view.setState({ selection: [10, 12] });
    for (let time = 0; time < 3; time++) action().click();
    expect(page.host.check).toHaveBeenCalledTimes(1);
    expect(items()).toHaveLength(1);
    named(one(root, ".rw-checks"), "Cancel").click();
    expect(page.host.cancelChecks).toHaveBeenCalledTimes(1);
    page.view.setCheck(375, [12, 10], "The check was cancelled.");
    expect(items()).toEqual(["The check was cancelled."]);
    action().click();
    expect(page.host.check).toHaveBeenCalledTimes(2);
  });
});

describe("work", () => {
  test("can be cancelled while it runs, and finished where it was cut short", () => {
    expect(named(root, "Cancel").hidden).toBe(true);
    page.view.setStatus({ status: "preparing", progress: 0.2, message: "" });
    named(root, "Cancel").click();
    expect(page.host.cancel).toHaveBeenCalledTimes(1);
    doc.provenance.examined = 1200;
    page.view.setExplanation(doc);
    page.view.setStatus({ status: "ready", progress: 1, message: "Cancelled." });
    expect(one(root, ".rw-provenance").textContent).toContain("cut short: ranks the first 1,200");
    named(root, "Finish").click();
    expect(page.host.resume).toHaveBeenCalledTimes(1);
  });

  test("that gets no answer is said", () => {
    page.view.setSilent(true);
    expect(one(root, "[role=alert]").textContent).toContain("The kernel does not answer");
    page.view.setSilent(false);
    expect(one(root, "[role=alert]").hidden).toBe(true);
  });
});

describe("what cards share with the query", () => {
  const marked = (text: string, other: string): string[] =>
    sharedSpans(text, other)
      .filter(({ shared }) => shared)
      .map(({ text: span }) => span);

  test("is marked by runs of letters in names", () => {
    expect(marked("Vasyukov", "Petyukov")).toEqual(["yukov"]);
    expect(marked("Abakumov", "KUMOV")).toEqual(["kumov"]);
    expect(marked("Ng", "Ng")).toEqual([]); // too short to mean anything
    expect(
      sharedSpans("Vasyukov", "Petyukov")
        .map(({ text }) => text)
        .join(""),
    ).toBe("Vasyukov");
  });

  test("is marked by words in sentences", () => {
    const query = "The market fell sharply after the report";
    expect(marked("A report says: MARKET share grew in the east", query)).toEqual([
      "report",
      "MARKET",
    ]);
  });

  test("stays text", () => {
    doc.query.media = { kind: "text", text: "<b>bold</b> claims here now" };
    for (const example of doc.examples) {
      example.media = { kind: "text", text: "<b>bold</b> things he never said" };
    }
    page.view.setExplanation(doc);
    expect(texts(root, ".rw-card mark")[0]).toBe("bold");
    expect(one(root, ".rw-card .rw-text").textContent).toBe("<b>bold</b> things he never said");
  });

  test("is told of table rows by what differs", () => {
    const row = (values: string[]): Media => ({
      kind: "row",
      more: 0,
      columns: ["rooms", "age"],
      values,
    });
    expect(differsFrom(row(["5", "41"]), "rooms", "5")).toBeNull();
    expect(differsFrom(row(["5", "41"]), "age", "12")).toBe("41");
    expect(differsFrom(row(["5", "41"]), "street", "x")).toBeNull();
    doc.query.media = row(["5", "41"]);
    for (const example of doc.examples) example.media = row(["5", "12"]);
    page.view.setExplanation(doc);
    const card = one(root, ".rw-card");
    expect(texts(card, ".rw-differs dt")).toEqual(["age"]);
    expect(one(card, ".rw-differs dd").title).toBe("12; the query has 41");
  });
});
