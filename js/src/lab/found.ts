/** The explanations of a notebook or a file, wherever they are. */
import type { Cell, ICodeCellModel } from "@jupyterlab/cells";
import type { DocumentWidget, IDocumentWidget } from "@jupyterlab/docregistry";
import type { NotebookPanel } from "@jupyterlab/notebook";
import type { Widget } from "@lumino/widgets";
import { parseDocument, type Report } from "../report";
import type { LiveOutput } from "./live";
import { unpack } from "./packed";
import { MIME } from "./renderer";

export interface Found extends Read {
  /** The same place keeps its key while its explanation changes. */
  key: string;
  /** The position of its cell in the notebook. */
  cell: number;
}

/** What a notebook shows, from top to bottom; what cannot be read is left out. */
export function explanationsOf(panel: NotebookPanel, live: ReadonlySet<LiveOutput>): Found[] {
  const found: Found[] = [];
  panel.content.widgets.forEach((cell, at) => {
    const outputs = [...outputsOf(cell)];
    if (outputs.length === 0) return;
    const drawn = [...live].filter((one) => cell.node.contains(one.node)).sort(byPlace);
    outputs.forEach(([place, data], seen) => {
      const read = readDocument(drawn[seen]?.shown() ?? data);
      if (read) found.push({ key: `${cell.model.id}/${place}`, ...read, cell: at });
    });
  });
  return found;
}

/** Whether a notebook has an output of ours; nothing is read, as menus ask often. */
export const showsExplanation = (panel: NotebookPanel): boolean =>
  panel.content.widgets.some((cell) => !outputsOf(cell).next().done);

/** The outputs of a cell that hold our MIME type: their place among all, and what they hold. */
function* outputsOf(cell: Cell): Generator<[number, unknown]> {
  const { outputs } = cell.model as Partial<ICodeCellModel>;
  for (let at = 0; at < (outputs?.length ?? 0); at++) {
    const data = outputs?.get(at).data ?? {};
    if (MIME in data) yield [at, data[MIME]];
  }
}

/** What a `*.relatif.json` that is open holds, or null. */
export function explanationOfFile(widget: Widget | null): (Read & { name: string }) | null {
  const context = (widget as Partial<IDocumentWidget> | null)?.context as
    | DocumentWidget["context"]
    | undefined;
  if (!context?.path?.endsWith(".relatif.json")) return null;
  try {
    const read = readDocument(JSON.parse(context.model.toString()));
    return read && { ...read, name: context.path };
  } catch {
    return null;
  }
}

interface Read {
  report: Report;
  /** The document itself, to be drawn or written. */
  data: unknown;
}

/** A document as it was read, packed or not; null for what is none. */
function readDocument(found: unknown): Read | null {
  try {
    const data = unpack(found);
    return { data, report: parseDocument(data) };
  } catch {
    return null;
  }
}

const byPlace = (a: LiveOutput, b: LiveOutput): number =>
  a.node.compareDocumentPosition(b.node) & Node.DOCUMENT_POSITION_FOLLOWING ? -1 : 1;
