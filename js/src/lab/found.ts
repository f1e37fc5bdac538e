/** The explanations of a notebook or a file, wherever they are. */
import type { ICodeCellModel } from "@jupyterlab/cells";
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
    const outputs = cell.model.type === "code" ? cell.model.toJSON().outputs : [];
    if (!Array.isArray(outputs)) return;
    const drawn = [...live].filter((one) => cell.node.contains(one.node));
    let seen = 0;
    outputs.forEach((output, place) => {
      const bundle = (output as { data?: Record<string, unknown> }).data;
      if (!bundle || !(MIME in bundle)) return;
      const shown = drawn.sort(byPlace)[seen++];
      const read = readDocument(shown?.shown() ?? bundle[MIME]);
      if (read) found.push({ key: `${cell.model.id}/${place}`, ...read, cell: at });
    });
  });
  return found;
}

/** Whether a notebook has an output of ours; cheap, as menus ask often. */
export function showsExplanation(panel: NotebookPanel): boolean {
  return panel.content.widgets.some((cell) => {
    const { outputs } = cell.model as Partial<ICodeCellModel>;
    for (let at = 0; at < (outputs?.length ?? 0); at++) {
      if (MIME in (outputs?.get(at).data ?? {})) return true;
    }
    return false;
  });
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
