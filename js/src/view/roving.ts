/** One tab stop for a group of nodes, arrows inside it. */
import { focused, toggleAttr } from "./dom";

/** Let exactly one node be the tab stop: the focused one, else the last one used, else the first. */
export function settle(nodes: readonly HTMLElement[], preferred?: HTMLElement | null): void {
  const held = nodes[0] && focused(nodes[0]);
  const stop =
    nodes.find((node) => node === held) ??
    nodes.find((node) => node === preferred) ??
    nodes.find((node) => node.tabIndex === 0) ??
    nodes[0];
  for (const node of nodes) toggleAttr(node, "tabindex", node === stop ? "0" : "-1");
}

/** The node that a key leads to; null for a key that means nothing here. */
export function follow(
  nodes: readonly HTMLElement[],
  from: HTMLElement,
  key: string,
): number | null {
  const at = nodes.indexOf(from);
  const top = nodes[0]?.offsetTop;
  const below = nodes.findIndex((node) => node.offsetTop !== top);
  const columns = below < 0 ? nodes.length : below;
  switch (key) {
    case "ArrowRight":
      return at + 1;
    case "ArrowLeft":
      return at - 1;
    case "ArrowDown":
      return at + columns < nodes.length ? at + columns : at;
    case "ArrowUp":
      return at - columns >= 0 ? at - columns : at;
    case "Home":
      return 0;
    case "End":
      return nodes.length - 1;
    default:
      return null;
  }
}

export function focusStop(nodes: readonly HTMLElement[], at: number): void {
  const node = nodes[Math.max(0, Math.min(at, nodes.length - 1))];
  if (!node) return;
  settle(nodes, node);
  node.focus();
  settle(nodes);
}
