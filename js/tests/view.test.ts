import { beforeEach, describe, expect, test, vi } from "vitest";
import type { Explanation } from "../src/explanation";
import { fixture, METHOD_NAMES, regression } from "./fixture";
import {
  all,
  bar,
  dampingSlider,
  expectAccessible,
  kSlider,
  move,
  one,
  open,
  type Page,
  press,
  radio,
  texts,
} from "./page";

let doc: Explanation;
let page: Page;
let root: HTMLElement;

const firstCards = (): string[] => texts(one(root, ".rw-panel"), ".rw-card .rw-score");
/** What screen readers say of a card after its picture. */
const spoken = (card: ParentNode): string =>
  all(one(card, ".rw-face"), "span, b")
    .filter((node) => node.childElementCount === 0 && !node.closest("[hidden], [aria-hidden]"))
    .map((node) => node.textContent?.trim())
    .join(" ");
const panelNames = (): string[] => texts(root, ".rw-panel-name");

beforeEach(() => {
  doc = fixture();
  page = open(doc);
  root = page.root;
});

describe("a document", () => {
  test("asks the question in words", () => {
    expect(one(root, ".rw-why").textContent).toBe("Why “bird”?");
    expect(one(root, ".rw-facts").textContent).toContain("test #375 · true label plane");
    expect(one(root, ".rw-facts").textContent).toContain("misclassified");
    expect(one(root, ".rw-facts").textContent).toContain("✗");
  });

  test("shows a panel per label with its cards, best first", () => {
    expect(panelNames()).toEqual(["bird", "plane"]);
    expect(texts(root, ".rw-note")).toEqual([
      "taught the model to say bird",
      "taught the model to say plane",
    ]);
    expect(firstCards()).toEqual(["+9.28", "+4.00"]);
  });

  test("says of a card what it is, in text and to screen readers", () => {
    const card = one(root, ".rw-card");
    expect(texts(card, ".rw-name, .rw-pair .rw-quiet")).toEqual(["bird", "0.25", "#10"]);
    expect(spoken(card)).toBe("bird probability 0.25 #10 score +9.28");
    expect(one(card, "canvas").getAttribute("role")).toBe("img");
    expect(one(card, "canvas").getAttribute("aria-label")).toBe("bird, training example 10");
  });

  test("marks where the model disagrees with a training label, by shape and words", () => {
    expect(texts(root, ".rw-mark")).toEqual(["▲ the model says plane"]);
    expect(one(root, ".rw-mark").closest("li")?.textContent).toContain("#12");
  });

  test("scales every bar by the longest on display", () => {
    const widths = all(root, ".rw-card .rw-bar i").map((fill) => fill.style.width);
    expect(widths[0]).toBe("100%");
    expect(widths[2]).toBe("100%"); // the same score in the other panel
    expect(Number.parseFloat(widths[1] ?? "")).toBeCloseTo((4 / 9.28) * 100, 3);
  });

  test("tells in one line where the numbers come from", () => {
    expect(one(root, ".rw-provenance").textContent).toBe(
      "4,000 training examples · exact Fisher, 2,202 parameters · this query prepared in 0.3 s",
    );
  });

  test("shows damping as a multiple of the mean eigenvalue", () => {
    expect(one(root, ".rw-mean").textContent).toBe("0.27 × mean");
    move(dampingSlider(root), 2);
    expect(one(root, ".rw-mean").textContent).toBe("27 × mean");
    doc.provenance.mean_eigenvalue = null;
    page.view.setExplanation(doc);
    expect(one(root, ".rw-mean").textContent).toBe("");
  });

  test("draws markup in names and texts as text", () => {
    const evil = '<img src=x onerror="alert(1)">';
    doc.class_names[0] = evil;
    doc.query.name = evil;
    doc.query.media = { kind: "text", text: evil };
    for (const example of doc.examples) example.media = { kind: "text", text: evil };
    for (const panel of doc.panels) panel.name = panel.label === 0 ? evil : panel.name;
    doc.provenance.curvature_detail = evil;
    page.view.setExplanation(doc);
    page.view.setStatus({ status: "error", progress: 0, message: evil });
    expect(root.querySelector("img, script, [onerror]")).toBeNull();
    expect(one(root, ".rw-why").textContent).toBe(`Why “${evil}”?`);
    expect(one(root, ".rw-alert").textContent).toBe(evil);
    expect(one(root, ".rw-card .rw-text").textContent).toBe(evil);
  });

  test("says so quietly when nothing has that sign", () => {
    move(dampingSlider(root), 2);
    radio(root, "negative").click();
    expect(texts(root, ".rw-panel .rw-nothing").filter(Boolean)).toEqual([
      "No training example argued against bird at this setting.",
      "No training example argued against plane at this setting.",
    ]);
  });

  test("shows a regression without classes", async () => {
    page = open(regression());
    root = page.root;
    expect(one(root, ".rw-why").textContent).toBe("Why 3.1, not 2.9?");
    expect(one(root, ".rw-facts").textContent).toContain("predicted 3.1 · true 2.9");
    expect(root.querySelector(".rw-label")).toBeNull();
    expect(one(root, ".rw-note").textContent).toBe("pulled the model towards 2.9");
    expect(texts(one(root, ".rw-card"), "dt, dd")).toEqual(["rooms", "5", "age", "41"]);
    await expectAccessible();
  });
});

describe("a control", () => {
  test("redraws at each step of a drag and asks the host for nothing", () => {
    move(kSlider(root), 1);
    expect(firstCards()).toEqual(["+9.28"]);
    move(kSlider(root), 2);
    move(dampingSlider(root), 1);
    expect(firstCards()).toEqual(["+6.00", "+5.00"]);
    move(dampingSlider(root), 2);
    expect(firstCards()).toEqual(["+0.500"]);
    expect(page.host.commit).not.toHaveBeenCalled();
  });

  test("tells the host once, on release, only what changed", () => {
    move(dampingSlider(root), 1);
    move(dampingSlider(root), 2, true);
    expect(page.host.commit.mock.calls).toEqual([[{ damping: 0.1 }]]);
    move(kSlider(root), 1, true);
    expect(page.host.commit).toHaveBeenLastCalledWith({ k: 1 });
    radio(root, "influence").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ method: "influence" });
    radio(root, "both").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ sign: "both" });
    expect(page.host.commit).toHaveBeenCalledTimes(4);
  });

  test("keeps a card's node while it stays on display", () => {
    const [first, second] = all(one(root, ".rw-panel"), ".rw-card");
    move(dampingSlider(root), 1);
    expect(all(one(root, ".rw-panel"), ".rw-card")).toEqual([second, first]);
    move(dampingSlider(root), 2);
    move(dampingSlider(root), 0);
    expect(all(one(root, ".rw-panel"), ".rw-card")).toEqual([first, second]);
  });

  test("shows its value and speaks it", () => {
    move(dampingSlider(root), 1);
    expect(dampingSlider(root).getAttribute("aria-valuetext")).toBe("damping 0.01");
    expect(one(root, ".rw-slider-damping output").textContent).toBe("0.01");
    expect(one(root, ".rw-slider-k output").textContent).toBe("2");
    expect(kSlider(root).max).toBe("2");
  });

  test("stands where a host puts it, without telling the host", () => {
    page.view.setState({ damping: 0.1 * (1 + 1e-12), k: 1, sign: "both", method: "influence" });
    expect(dampingSlider(root).value).toBe("2");
    expect(kSlider(root).value).toBe("1");
    expect(radio(root, "both").checked).toBe(true);
    expect(radio(root, "influence").checked).toBe(true);
    expect(firstCards()).toEqual(["+0.500"]);
    page.view.setState({ damping: 0.02 });
    expect(dampingSlider(root).value).toBe("1");
    expect(page.host.commit).not.toHaveBeenCalled();
  });

  test("without meaning for k-NN is disabled and says why", () => {
    radio(root, "nearest").click();
    expect(dampingSlider(root).disabled).toBe(true);
    expect(all<HTMLInputElement>(root, ".rw-segments input:disabled").map((i) => i.value)).toEqual([
      "positive",
      "negative",
      "both",
    ]);
    expect(one(root, ".rw-slider-damping").title).toContain("k-NN");
    expect(one(root, ".rw-segments.rw-idle").title).toContain("k-NN");
    expect(one(root, ".rw-note").textContent).toBe("nearest pictures, whatever the label");
    expect(firstCards()).toEqual(["2.00", "2.50"]); // distances
    radio(root, "influence").click();
    expect(dampingSlider(root).disabled).toBe(false);
  });

  test("k-NN says where it measured if that is not the input", () => {
    doc.provenance.nearest_space = "features";
    root = open(doc).root;
    radio(root, "nearest").click();
    expect(one(root, ".rw-note").textContent).toBe(
      "nearest pictures to the model’s last layer, whatever the label",
    );
  });

  test("k-NN cannot be chosen where examples have no distance to each other", () => {
    for (const panel of doc.panels) {
      const nearest = panel.rankings.find((one) => one.method === "nearest");
      if (nearest) Object.assign(nearest, { examples: [[]], scores: [[]] });
    }
    root = open(doc).root;
    expect(radio(root, "nearest").disabled).toBe(true);
    expect(radio(root, "nearest").closest("label")?.title).toContain('space="features"');
    const chip = one<HTMLInputElement>(root, '.rw-compare input[value="nearest"]');
    expect(chip.closest("label")?.hidden).toBe(true);
  });

  test("for damping is disabled where there is one stop", () => {
    doc.dampings = [0.001];
    for (const ranking of doc.panels.flatMap((panel) => panel.rankings)) {
      ranking.examples.splice(1);
      ranking.scores.splice(1);
    }
    page.view.setExplanation(doc);
    expect(dampingSlider(root).disabled).toBe(true);
    expect(one(root, ".rw-slider-damping").title).toContain("one damping stop");
  });

  test("names every method and says what it is good for", () => {
    for (const [method, name] of Object.entries(METHOD_NAMES)) {
      const label = radio(root, method).closest("label");
      expect(label?.textContent).toBe(name);
      expect(label?.title.length).toBeGreaterThan(20);
    }
  });

  test("notes the sign in words", () => {
    radio(root, "negative").click();
    expect(one(root, ".rw-note").textContent).toBe("argued against bird");
    expect(firstCards()).toEqual(["−6.00", "−4.00"]);
    radio(root, "both").click();
    expect(one(root, ".rw-note").textContent).toBe("for and against, strongest first");
    expect(firstCards()).toEqual(["+9.28", "−6.00"]);
  });
});

describe("a label's bar", () => {
  test("removes and returns its panel at once", () => {
    bar(root, "plane").click();
    expect(panelNames()).toEqual(["bird"]);
    expect(page.host.commit).toHaveBeenLastCalledWith({ labels: ["bird"] });
    bar(root, "plane").click();
    expect(panelNames()).toEqual(["bird", "plane"]);
    expect(page.host.commit).toHaveBeenLastCalledWith({ labels: ["bird", "plane"] });
    expect(bar(root, "plane").getAttribute("aria-pressed")).toBe("true");
  });

  test("leaves the last panel, and says so", () => {
    bar(root, "plane").click();
    page.host.commit.mockClear();
    expect(bar(root, "bird").getAttribute("aria-disabled")).toBe("true");
    expect(bar(root, "bird").title).toBe("The last panel stays");
    bar(root, "bird").click();
    expect(panelNames()).toEqual(["bird"]);
    expect(page.host.commit).not.toHaveBeenCalled();
    expect(one(root, ".rw-close").hidden).toBe(true);
  });

  test("asks for a panel that is not there and holds its place until it comes", () => {
    bar(root, "cat").click();
    expect(page.host.commit).toHaveBeenLastCalledWith({ labels: ["bird", "plane", "cat"] });
    expect(panelNames()).toEqual(["bird", "plane", "cat"]);
    expect(one(root, ".rw-coming").textContent).toContain("preparing…");
    doc.panels.push({ ...(doc.panels[0] as Explanation["panels"][0]), label: 2, name: "cat" });
    page.view.setExplanation(doc);
    expect(root.querySelector(".rw-coming")).toBeNull();
    expect(panelNames()).toEqual(["bird", "plane", "cat"]);
  });

  test("gives the place up when the preparation fails", () => {
    bar(root, "cat").click();
    page.view.setStatus({ status: "error", progress: 0, message: "no" });
    expect(panelNames()).toEqual(["bird", "plane"]);
    expect(bar(root, "cat").getAttribute("aria-pressed")).toBe("false");
  });

  test("cannot ask for a panel where no kernel is", () => {
    page = open(fixture(), false);
    bar(page.root, "cat").click();
    expect(bar(page.root, "cat").title).toContain("no panel");
    expect(texts(page.root, ".rw-panel-name")).toEqual(["bird", "plane"]);
    expect(page.host.commit).not.toHaveBeenCalled();
  });

  test("is there for the five likeliest, for panels, and on request for all", () => {
    const names = (): string[] => texts(root, ".rw-label .rw-name");
    expect(names()).toEqual(["bird", "plane", "cat", "deer", "dog"]);
    page.view.setStatus({ status: "preparing", progress: 0, message: "" });
    page.view.setState({ query: 375, labels: ["bird", "ship"] });
    expect(names()).toEqual(["bird", "plane", "cat", "deer", "dog", "ship"]);
    one(root, ".rw-more").click();
    expect(names()).toEqual(doc.class_names);
    expect(one(root, ".rw-more").getAttribute("aria-expanded")).toBe("true");
  });

  test("is where the focus goes when its panel is closed", () => {
    one(root, ".rw-close").click();
    expect(panelNames()).toEqual(["plane"]);
    expect(document.activeElement).toBe(bar(root, "bird"));
  });
});

describe("keys", () => {
  test("move between cards, one tab stop per list", () => {
    const [first, second] = all(one(root, ".rw-panel"), ".rw-face") as [HTMLElement, HTMLElement];
    expect([first.tabIndex, second.tabIndex]).toEqual([0, -1]);
    first.focus();
    expect(press(first, "ArrowRight").defaultPrevented).toBe(true);
    expect(document.activeElement).toBe(second);
    expect([first.tabIndex, second.tabIndex]).toEqual([-1, 0]);
    press(second, "ArrowRight");
    expect(document.activeElement).toBe(second);
    press(second, "Home");
    expect(document.activeElement).toBe(first);
    press(first, "End");
    expect(document.activeElement).toBe(second);
  });

  test("stay inside the view", () => {
    const heard = vi.fn();
    document.addEventListener("keydown", heard);
    for (const node of all(root, "input, button, select, .rw-card")) press(node, "ArrowRight");
    document.removeEventListener("keydown", heard);
    expect(heard).not.toHaveBeenCalled();
  });

  test("are kept from notebook shortcuts at every node that takes them", () => {
    const takers = all(root, "input, button, select, textarea, [tabindex]");
    expect(takers.length).toBeGreaterThan(15);
    for (const node of takers) {
      expect(node.getAttribute("data-lm-suppress-shortcuts"), node.outerHTML).toBe("true");
    }
  });
});

describe("status", () => {
  test("before the first document is calm", async () => {
    page = open(null);
    expect(one(page.root, ".rw-empty").hidden).toBe(false);
    expect(one(page.root, ".rw-empty").textContent).toBe("Preparing the first explanation…");
    expect(one(page.root, ".rw-main").hidden).toBe(true);
    await expectAccessible();
  });

  test("shows progress in a bar and in words, and keeps what was there usable", () => {
    page.view.setStatus({ status: "preparing", progress: 0.4, message: "Preparing test #7…" });
    expect(one(root, "[role=progressbar]").getAttribute("aria-valuenow")).toBe("40");
    expect(one(root, "[role=status]").textContent).toBe("Preparing test #7…");
    expect(one(root, ".rw-live").textContent).toBe("Preparing test #7… 40 %");
    move(kSlider(root), 1);
    expect(firstCards()).toEqual(["+9.28"]);
    page.view.setStatus({ status: "ready", progress: 1, message: "" });
    expect(one(root, "[role=progressbar]").hidden).toBe(true);
    expect(one(root, ".rw-live").textContent).toBe("");
  });

  test("shows an error's exact words until the next attempt", () => {
    const message = 'Raise damping above 0.012\nor use curvature="fisher".';
    page.view.setStatus({ status: "error", progress: 0, message });
    expect(one(root, "[role=alert]").textContent).toBe(message);
    expect(one(root, "[role=alert]").hidden).toBe(false);
    page.view.setState({ query: 8 });
    page.view.setStatus({ status: "error", progress: 0, message: "no" });
    expect(one(root, "[role=alert]").textContent).toBe("Test #8: no"); // #375 is still on display
    page.view.setStatus({ status: "preparing", progress: 0, message: "" });
    expect(one(root, "[role=alert]").hidden).toBe(true);
  });
});

test("a document for another query brings its own panels", () => {
  page.view.setState({ labels: ["bird"] });
  const next = fixture();
  next.query = { ...next.query, name: "test #8", index: 8 };
  next.panels = [{ ...(next.panels[0] as Explanation["panels"][0]), label: 3, name: "deer" }];
  page.view.setExplanation(next);
  expect(panelNames()).toEqual(["deer"]);
});

test("dispose takes every node and listener away", () => {
  const removed = { card: one(root, ".rw-card"), k: kSlider(root), plane: bar(root, "plane") };
  page.view.dispose();
  expect(root.childElementCount).toBe(0);
  root.append(removed.k.closest(".rw-controls") as Element, removed.plane);
  move(removed.k, 1, true);
  removed.plane.click();
  press(removed.card, "ArrowRight");
  expect(page.host.commit).not.toHaveBeenCalled();
});

test("axe finds nothing, whatever the method", async () => {
  for (const method of Object.keys(METHOD_NAMES)) {
    radio(root, method).click();
    await expectAccessible();
  }
});
