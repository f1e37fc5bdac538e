/** A live widget and the page around it. */
import { beforeEach, expect, test, vi } from "vitest";
import { askShown, asShown, CHANGED, tellHost } from "../src/bridge";
import widget from "../src/widget";
import { fixture } from "./fixture";
import { one } from "./page";

type Listener = (value?: unknown) => void;

const listeners = new Map<string, Listener>();
const sent: Record<string, unknown>[] = [];
let traits: Record<string, unknown>;
let root: HTMLElement;
const save = vi.fn();

beforeEach(() => {
  document.body.replaceChildren();
  listeners.clear();
  sent.length = 0;
  save.mockClear();
  traits = {
    query: 375,
    labels: ["plane"],
    method: "influence",
    k: 1,
    damping: 0.01,
    sign: "both",
    status: "ready",
    progress: 1,
    message: "",
    follows: ["k", "damping"],
  };
  root = document.body.appendChild(document.createElement("div"));
  const model = {
    get: (name: string) => traits[name],
    set: (name: string, value: unknown) => {
      traits[name] = value;
      listeners.get(`change:${name}`)?.();
    },
    on: (event: string, listener: Listener) => listeners.set(event, listener),
    off: () => {},
    send: (message: Record<string, unknown>) => sent.push(message),
    save_changes: save,
  };
  widget.render({ model: model as never, el: root });
});

const deliver = (): void =>
  listeners.get("msg:custom")?.({ kind: "explanation", document: fixture() });
const view = (): Element => one(root, ".rw-root");

test("asked, it gives what is on display: its panels, its controls", () => {
  expect(askShown(view())).toBe(null);
  deliver();
  const shown = askShown(view());
  expect(shown?.document.panels.map(({ name }) => name)).toEqual(["plane"]);
  expect(shown?.document.settings).toEqual({
    method: "influence",
    sign: "both",
    k: 1,
    damping: 0.01,
  });
  expect(shown?.document.query).toEqual(fixture().query);
  expect(shown?.still).toBe(null);
});

test("it says when something else is on display", () => {
  const heard = vi.fn();
  document.body.addEventListener(CHANGED, heard);
  deliver();
  expect(heard).toHaveBeenCalledTimes(1);
});

test("only where it is kept does it ask the kernel for static HTML, for each explanation anew", () => {
  deliver();
  expect(sent.filter(({ kind }) => kind === "still")).toHaveLength(0);
  tellHost(view(), { method: null, k: null, damping: null });
  expect(sent.filter(({ kind }) => kind === "still")).toHaveLength(1);
  listeners.get("msg:custom")?.({ kind: "still", html: "<b>x</b>", text: "x" });
  expect(askShown(view())?.still).toEqual({ html: "<b>x</b>", text: "x" });
  deliver();
  expect(askShown(view())?.still).toBe(null); // that was the last one's
  expect(sent.filter(({ kind }) => kind === "still")).toHaveLength(2);
});

test("controls that nobody set follow the host, once", () => {
  tellHost(view(), { method: "nearest", k: 7, damping: null });
  expect([traits.method, traits.k, traits.damping]).toEqual(["influence", 7, 0.01]);
  expect(traits.follows).toEqual([]);
  expect(save).toHaveBeenCalledTimes(1);
  tellHost(view(), { method: null, k: 9, damping: 0.1 });
  expect([traits.k, traits.damping]).toEqual([7, 0.01]);
});

test("a damping between the stops is kept as the nearest stop, labels that are gone as all", () => {
  const state = { ...fixture().settings, damping: 0.04, labels: ["gone"] } as never;
  expect(asShown(fixture(), state).settings.damping).toBe(0.1);
  expect(asShown(fixture(), state).panels).toHaveLength(2);
});
