/** Small helpers over the DOM. Data reaches the page only through `text` and attributes. */

export interface Options {
  class?: string;
  text?: string;
  title?: string;
  attrs?: Record<string, string>;
}

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  options: Options = {},
  ...children: (Node | null)[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  if (options.class) node.className = options.class;
  if (options.text !== undefined) node.textContent = options.text;
  if (options.title !== undefined) node.title = options.title;
  for (const [name, value] of Object.entries(options.attrs ?? {})) node.setAttribute(name, value);
  for (const child of children) if (child) node.append(child);
  return node;
}

/** Words for screen readers only. */
export const hush = (text: string): HTMLElement => el("span", { class: "rw-sr", text });

/**
 * Marks a node that takes keys. Notebook shortcuts look for the attribute on the event's own
 * target, so a parent's does not count.
 */
export function keyed<T extends HTMLElement>(node: T): T {
  node.setAttribute("data-lm-suppress-shortcuts", "true");
  return node;
}

export function button(options: Options, ...children: (Node | null)[]): HTMLButtonElement {
  return keyed(
    el("button", { ...options, attrs: { type: "button", ...options.attrs } }, ...children),
  );
}

/** A button that shows a sign to eyes and says words to screen readers. */
export function signButton(sign: string, words: string, options: Options): HTMLButtonElement {
  const shown = el("span", { text: sign, attrs: { "aria-hidden": "true" } });
  return button(options, shown, hush(words));
}

/** Write text only where it differs: an unchanged live region stays silent. */
export function setText(node: Node, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

export function toggleAttr(node: Element, name: string, value: string | null): void {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** The focused node beside `near`. marimo draws in a shadow root, from outside of which only its host has focus. */
export function focused(near: Node): Element | null {
  const root = near.getRootNode();
  return root instanceof Document || root instanceof ShadowRoot ? root.activeElement : null;
}

/** Make `nodes` the children of `parent`, moving only what is out of place. */
export function arrange(parent: Element, nodes: readonly Element[]): void {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  nodes.forEach((node, at) => {
    const there = parent.children[at];
    if (there !== node) parent.insertBefore(node, there ?? null);
  });
}

// Each widget on a page runs a copy of this module: a count alone would name their radios alike.
const copy = Math.random().toString(36).slice(2, 10);
let made = 0;
/** An id that no other view on the page has. */
export const uniqueId = (stem: string): string => `rw-${stem}-${copy}-${++made}`;
