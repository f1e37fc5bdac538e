/** A view on a page, with what it asked its host for. */
import axe from "axe-core";
import { expect, vi } from "vitest";
import type { Explanation } from "../src/explanation";
import { type Callbacks, createView, type View } from "../src/view/view";

// jsdom has no canvas; what is drawn on it is looked at in a browser.
HTMLCanvasElement.prototype.getContext = (() => null) as never;

export interface Page {
  root: HTMLElement;
  view: View;
  host: { [K in Exclude<keyof Callbacks, "live">]: ReturnType<typeof vi.fn> };
}

export function open(doc: Explanation | null, live = true): Page {
  document.body.replaceChildren();
  const root = document.body.appendChild(document.createElement("main"));
  const host = {
    commit: vi.fn(),
    pickQuery: vi.fn(),
    requestStrip: vi.fn(),
    requestDetail: vi.fn(),
    check: vi.fn(),
    cancel: vi.fn(),
    cancelChecks: vi.fn(),
    resume: vi.fn(),
  };
  const view = createView(root, { ...host, live } satisfies Callbacks);
  if (doc) {
    view.setState(doc.settings);
    view.setExplanation(doc);
  }
  return { root, view, host };
}

export function one<T extends HTMLElement = HTMLElement>(root: ParentNode, selector: string): T {
  const found = root.querySelector<T>(selector);
  if (!found) throw new Error(`nothing matches ${selector}`);
  return found;
}

export const all = <T extends HTMLElement = HTMLElement>(
  root: ParentNode,
  selector: string,
): T[] => [...root.querySelectorAll<T>(selector)];

export const texts = (root: ParentNode, selector: string): string[] =>
  all(root, selector).map((node) => node.textContent ?? "");

export function move(input: HTMLInputElement, value: number | string, release = false): void {
  input.value = `${value}`;
  input.dispatchEvent(new Event("input", { bubbles: true }));
  if (release) input.dispatchEvent(new Event("change", { bubbles: true }));
}

export const kSlider = (root: ParentNode): HTMLInputElement => one(root, ".rw-slider-k input");
export const dampingSlider = (root: ParentNode): HTMLInputElement =>
  one(root, ".rw-slider-damping input");
export const radio = (root: ParentNode, value: string): HTMLInputElement =>
  one(root, `.rw-segments input[value="${value}"]`);
export const bar = (root: ParentNode, label: string): HTMLButtonElement => {
  const found = all<HTMLButtonElement>(root, ".rw-label").find(
    (button) => one(button, ".rw-name").textContent === label,
  );
  if (!found) throw new Error(`no bar for ${label}`);
  return found;
};

export function press(node: Element, key: string): KeyboardEvent {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true });
  node.dispatchEvent(event);
  return event;
}

export async function expectAccessible(): Promise<void> {
  const { violations } = await axe.run(document.body, {
    // Colours and the page around the view are a browser's and a host's matter.
    rules: { "color-contrast": { enabled: false }, "page-has-heading-one": { enabled: false } },
  });
  expect(violations.map(({ id, nodes }) => `${id}: ${nodes[0]?.html}`)).toEqual([]);
}
