import { beforeEach, describe, expect, test, vi } from "vitest";
import type { StripFilter } from "../src/messages";
import { EVERYTHING } from "../src/view/filters";
import widget from "../src/widget";
import { fixture, stripPage } from "./fixture";
import { all, bar, dampingSlider, kSlider, move, one, radio, texts } from "./page";

type Listener = (value?: unknown) => void;

/** The answer to the first question about the strip. */
const opening = stripPage({ offset: 360, around: 375, position: 375 });

/** As much of anywidget's model as the widget uses. */
class FakeModel {
  readonly sent: Record<string, unknown>[] = [];
  readonly save_changes = vi.fn();
  readonly listeners = new Map<string, Set<Listener>>();

  constructor(readonly traits: Record<string, unknown>) {}

  get = (name: string): unknown => this.traits[name];
  set = (name: string, value: unknown): void => {
    if (JSON.stringify(this.traits[name]) === JSON.stringify(value)) return;
    this.traits[name] = value;
    this.emit(`change:${name}`);
  };
  on = (event: string, listener: Listener): void => {
    this.listeners.set(event, (this.listeners.get(event) ?? new Set()).add(listener));
  };
  off = (event: string, listener: Listener): void => {
    this.listeners.get(event)?.delete(listener);
  };
  send = (message: Record<string, unknown>): void => {
    this.sent.push(message);
  };
  emit(event: string, value?: unknown): void {
    for (const listener of this.listeners.get(event) ?? []) listener(value);
  }
  receive(message: unknown): void {
    this.emit("msg:custom", message);
  }
  get listening(): number {
    return [...this.listeners.values()].reduce((sum, set) => sum + set.size, 0);
  }
  strips(): Record<string, unknown>[] {
    return this.sent.filter(({ kind }) => kind === "strip");
  }
}

let model: FakeModel;
let root: HTMLElement;
let stop: () => void;

beforeEach(() => {
  document.body.replaceChildren();
  root = document.body.appendChild(document.createElement("div"));
  model = new FakeModel({
    query: 375,
    labels: ["bird", "plane"],
    method: "loss_relative",
    k: 2,
    damping: 0.001,
    sign: "positive",
    status: "preparing",
    progress: 0.2,
    message: "Preparing test #375…",
  });
  stop = widget.render({ model: model as never, el: root });
});

const deliver = (): void => model.receive({ kind: "explanation", document: fixture() });
const shownScores = (): string[] => texts(one(root, ".rw-panel"), ".rw-score");

describe("the conversation", () => {
  test("opens with one ready and one question for the strip around the query", () => {
    expect(model.sent).toEqual([
      { kind: "ready" },
      {
        kind: "strip",
        id: expect.any(Number),
        filter: EVERYTHING,
        offset: 0,
        count: 24,
        around: 375,
      },
    ]);
    expect(model.listeners.get("msg:custom")?.size).toBe(1);
    expect(model.save_changes).not.toHaveBeenCalled();
  });

  test("starts with the kernel's status", () => {
    expect(one(root, ".rw-live").textContent).toBe("Preparing test #375… 20 %");
    model.set("progress", 0.6);
    expect(one(root, ".rw-live").textContent).toBe("Preparing test #375… 60 %");
  });

  test("draws the document it is sent", () => {
    deliver();
    expect(texts(root, ".rw-panel-name")).toEqual(["bird", "plane"]);
    expect(shownScores()).toEqual(["+9.28", "+4.00"]);
  });

  test("shows a damaged document as one sentence and keeps the last good one", () => {
    deliver();
    model.receive({ kind: "explanation", document: { ...fixture(), schema_version: "2.0" } });
    expect(one(root, "[role=alert]").textContent).toContain("schema version 2.0");
    expect(shownScores()).toEqual(["+9.28", "+4.00"]);
  });

  test("ignores what it does not know", () => {
    for (const message of [null, 7, "ready", {}, { kind: "applause" }]) model.receive(message);
    expect(one(root, "[role=alert]").hidden).toBe(true);
  });

  test("takes each answer about the strip once, and an older filter's not at all", () => {
    vi.useFakeTimers();
    const first = model.strips()[0]?.id as number;
    model.receive({ kind: "strip", id: first, ...opening });
    expect(all(root, ".rw-thumb[aria-current]")).toHaveLength(1);
    vi.advanceTimersByTime(100);
    const ahead = model.strips()[1]?.id as number;
    expect(ahead).not.toBe(first);
    one<HTMLInputElement>(root, ".rw-strip input[value=misclassified]").click();
    vi.advanceTimersByTime(100);
    const second = model.strips()[2]?.id as number;
    const filter: StripFilter = { ...EVERYTHING, which: "misclassified" };
    const answer = { kind: "strip", ...stripPage({ filter, total: 1 }) };
    model.receive({ ...answer, id: first }); // answered already
    expect(all(root, ".rw-thumb").length).toBeGreaterThan(1);
    model.receive({ ...answer, id: second });
    expect(all(root, ".rw-thumb")).toHaveLength(1);
    model.receive({ kind: "strip", id: ahead, ...stripPage({ offset: 384 }) });
    expect(all(root, ".rw-thumb")).toHaveLength(1);
    vi.useRealTimers();
  });

  test("shows an error message, unless it answers another view's question", () => {
    model.receive({ kind: "error", id: 1, message: "not for us" });
    expect(one(root, "[role=alert]").hidden).toBe(true);
    model.receive({ kind: "error", message: "out of memory" });
    expect(one(root, "[role=alert]").textContent).toBe("out of memory");
    model.receive({ kind: "error", id: model.strips()[0]?.id, message: "row 3 cannot be read" });
    expect(one(root, "[role=alert]").textContent).toBe("row 3 cannot be read");
  });

  test("says what is wrong with a damaged answer", () => {
    const id = model.strips()[0]?.id;
    model.receive({ kind: "strip", id, ...stripPage({ items: [{}] as never }) });
    expect(one(root, "[role=alert]").textContent).toContain("strip.items.0");
  });
});

describe("traits", () => {
  beforeEach(deliver);

  test("dragging sends nothing; release saves once", () => {
    const sent = model.sent.length;
    for (const stop of [1, 2, 1]) move(dampingSlider(root), stop);
    move(kSlider(root), 1);
    expect(model.save_changes).not.toHaveBeenCalled();
    move(kSlider(root), 1, true);
    expect(model.save_changes).toHaveBeenCalledTimes(1);
    expect(model.traits.k).toBe(1);
    move(dampingSlider(root), 1, true);
    expect(model.save_changes).toHaveBeenCalledTimes(2);
    expect(model.traits.damping).toBe(0.01);
    expect(model.sent).toHaveLength(sent);
  });

  test("a value set in Python redraws and is not sent back", () => {
    model.set("damping", 0.01);
    expect(shownScores()).toEqual(["+6.00", "+5.00"]);
    model.set("method", "nearest");
    expect(radio(root, "nearest").checked).toBe(true);
    model.set("labels", ["plane"]);
    expect(texts(root, ".rw-panel-name")).toEqual(["plane"]);
    expect(model.save_changes).not.toHaveBeenCalled();
  });

  test("a label's bar sets labels", () => {
    bar(root, "plane").click();
    expect(model.traits.labels).toEqual(["bird"]);
    expect(model.save_changes).toHaveBeenCalledTimes(1);
  });

  test("a thumbnail sets the query", () => {
    model.receive({ kind: "strip", id: model.strips()[0]?.id, ...opening });
    one(root, ".rw-thumb[title^='test #374,']").click();
    expect(model.traits.query).toBe(374);
    expect(model.save_changes).toHaveBeenCalledTimes(1);
  });

  test("labels of the next query do not disturb the picture of the last", () => {
    model.set("query", 8);
    model.set("labels", []);
    model.set("labels", ["deer"]);
    expect(texts(root, ".rw-panel-name")).toEqual(["bird", "plane"]);
  });
});

test("a kernel that is gone is said at once", () => {
  deliver();
  model.send = () => {
    throw new Error("Cannot send");
  };
  all<HTMLElement>(root, ".rw-face")[0]?.click();
  const check = all(root, ".rw-action").find((one) => one.textContent === "Check by retraining");
  check?.click();
  expect(one(root, "[role=alert]").textContent).toContain("The kernel does not answer");
  expect(texts(root, ".rw-check-list > li")).toEqual(["The kernel is gone."]);
});

test("clean-up lets go of the model and the page", () => {
  deliver();
  stop();
  expect(model.listening).toBe(0);
  expect(root.childElementCount).toBe(0);
});

test("two views of one model keep their answers apart", () => {
  const other = document.body.appendChild(document.createElement("div"));
  const stopOther = widget.render({ model: model as never, el: other });
  const [first, second] = model.strips().map(({ id }) => id);
  expect(first).not.toBe(second);
  model.receive({ kind: "strip", id: second, ...opening });
  expect(one(root, ".rw-strip").hidden).toBe(true);
  expect(one(other, ".rw-strip").hidden).toBe(false);
  stopOther();
});
