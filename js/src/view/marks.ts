/** What an example has in common with the query, for texts, and what differs, for table rows. */
import type { Media } from "../explanation";

export interface Span {
  text: string;
  shared: boolean;
}

/** Shorter runs are shared by chance. */
const SHORTEST = 3;
const SHORTEST_WORD = 4;
const LONGEST_TEXT = 400;

/** A text cut where it begins or ends to share with another: runs of letters in names, words in sentences. */
export function sharedSpans(text: string, other: string): Span[] {
  const limited = text.slice(0, LONGEST_TEXT);
  const name = (value: string): boolean => value.trim().split(/\s+/).length <= 3;
  const shared =
    name(text) && name(other)
      ? sharedRuns(limited.toLowerCase(), other.slice(0, LONGEST_TEXT).toLowerCase())
      : sharedWords(limited, other);
  const spans: Span[] = [];
  for (let at = 0; at < limited.length; at++) {
    const last = spans[spans.length - 1];
    const on = shared[at] ?? false;
    if (last && last.shared === on) last.text += limited[at];
    else spans.push({ text: limited[at] ?? "", shared: on });
  }
  if (text.length > limited.length) {
    spans.push({ text: text.slice(limited.length), shared: false });
  }
  return spans;
}

/** The longest common run, then the longest of what is left on either side of it, and so on. */
function sharedRuns(text: string, other: string): boolean[] {
  const shared: boolean[] = new Array(text.length).fill(false);
  const find = (from: number, to: number, otherFrom: number, otherTo: number): void => {
    let best = { length: 0, at: 0, there: 0 };
    for (let i = from; i < to; i++) {
      for (let j = otherFrom; j < otherTo; j++) {
        let length = 0;
        while (i + length < to && j + length < otherTo && text[i + length] === other[j + length]) {
          length++;
        }
        if (length > best.length) best = { length, at: i, there: j };
      }
    }
    if (best.length < SHORTEST) return;
    shared.fill(true, best.at, best.at + best.length);
    find(from, best.at, otherFrom, best.there);
    find(best.at + best.length, to, best.there + best.length, otherTo);
  };
  find(0, text.length, 0, other.length);
  return shared;
}

function sharedWords(text: string, other: string): boolean[] {
  const words = /[\p{L}\p{N}]+/gu;
  const known = new Set(
    [...other.matchAll(words)]
      .map(([word]) => word.toLowerCase())
      .filter((word) => word.length >= SHORTEST_WORD),
  );
  const shared: boolean[] = new Array(text.length).fill(false);
  for (const match of text.matchAll(words)) {
    if (known.has(match[0].toLowerCase())) {
      shared.fill(true, match.index, match.index + match[0].length);
    }
  }
  return shared;
}

/** The query's value in a column, where the example's differs; null where it is the same or unknown. */
export function differsFrom(query: Media | null, column: string, value: string): string | null {
  if (query?.kind !== "row") return null;
  const at = query.columns.indexOf(column);
  const theirs = query.values[at];
  return theirs === undefined || theirs === value ? null : theirs;
}
