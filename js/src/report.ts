/**
 * A report: several queries in one document. Whatever opens documents reads both kinds, so a
 * single explanation is a report of one here.
 */
import { checkVersion, type Explanation, parseExplanation } from "./explanation";
import { field, list, optional, string } from "./read";

export interface Report {
  /** What stands above the index; empty for a single explanation. */
  title: string;
  explanations: Explanation[];
}

/** Check a document of either kind; throws an Error of one sentence. */
export function parseDocument(value: unknown): Report {
  const fields = checkVersion(value);
  if (fields.pending === true) {
    throw new Error(
      "No explanation had been prepared here when the notebook was saved: run the cell to see it.",
    );
  }
  if (!Object.hasOwn(fields, "explanations")) {
    return { title: "", explanations: [parseExplanation(value)] };
  }
  const title = optional(fields, "", "title", string, "");
  const explanations = field(fields, "", "explanations", list(parseOne));
  if (explanations.length === 0) throw new Error("This report holds no explanation.");
  return { title, explanations };
}

const parseOne = (value: unknown, path: string): Explanation => parseExplanation(value, path);
