/** Slider positions looked up in a document; the same answers as Python's `Explanation.top`. */
import {
  type Explanation,
  type Method,
  type Panel,
  type Sign,
  sameDamping,
  type TableSign,
} from "./explanation";

export interface Ranked {
  /** Position in the document's `examples`. */
  position: number;
  score: number;
}

/** The damping stop that is meant: the equal one (to 1e-9), else the nearest on a log scale. */
export function stopOf(dampings: readonly number[], damping: number): number {
  const equal = dampings.findIndex((stop) => sameDamping(stop, damping));
  if (equal >= 0) return equal;
  const apart = (value: number): number => Math.abs(Math.log(value) - Math.log(damping));
  return dampings.reduce(
    (best, value, at) => (apart(value) < apart(dampings[best] ?? value) ? at : best),
    0,
  );
}

function rankedRow(panel: Panel, method: Method, sign: TableSign, stop: number): Ranked[] {
  const ranking = panel.rankings.find((one) => one.method === method && one.sign === sign);
  if (!ranking) return [];
  const row = Math.min(stop, ranking.examples.length - 1);
  const scores = ranking.scores[row] ?? [];
  return (ranking.examples[row] ?? []).map((position, at) => ({
    position,
    score: scores[at] ?? 0,
  }));
}

export function topCards(
  panel: Panel,
  { method, sign, k, stop }: { method: Method; sign: Sign; k: number; stop: number },
): Ranked[] {
  if (method === "nearest") return rankedRow(panel, method, "positive", stop).slice(0, k);
  if (sign !== "both") return rankedRow(panel, method, sign, stop).slice(0, k);
  return [
    ...rankedRow(panel, method, "positive", stop),
    ...rankedRow(panel, method, "negative", stop),
  ]
    .sort((a, b) => Math.abs(b.score) - Math.abs(a.score))
    .slice(0, k);
}

/** The place, from 1, of an example in the whole table of a method; null where the table has ended. */
export function rankOf(
  panel: Panel,
  setting: { method: Method; sign: Sign; stop: number },
  position: number,
): number | null {
  const all = topCards(panel, { ...setting, k: Number.MAX_SAFE_INTEGER });
  const at = all.findIndex((one) => one.position === position);
  return at < 0 ? null : at + 1;
}

/** Influence I of an example on the panel's label, where a table tells it; I = ℓ · √(self-influence). */
export function influenceOf(
  doc: Explanation,
  panel: Panel,
  stop: number,
  position: number,
): number | null {
  const found = (method: Method): number | undefined =>
    topCards(panel, { method, sign: "both", stop, k: Number.MAX_SAFE_INTEGER }).find(
      (one) => one.position === position,
    )?.score;
  const influence = found("influence");
  if (influence !== undefined) return influence;
  const relative = found("loss_relative");
  const own = doc.examples[position]?.self_influence[stop];
  return relative === undefined || own === undefined ? null : relative * Math.sqrt(own);
}

/** Whether an example is in the top percentile of self-influence: it may come back for any query. */
export function isGlobal(doc: Explanation, position: number, stop: number): boolean {
  const rank = doc.examples[position]?.self_influence_rank[stop];
  return rank !== undefined && rank < doc.provenance.train_size / 100;
}

/** The length of the score bar before scaling: the size of a score, or a distance for k-NN. */
export function extent(method: Method, score: number): number {
  return method === "nearest" ? Math.sqrt(Math.max(0, -score)) : Math.abs(score);
}

export function panelNamed(doc: Explanation, name: string): Panel | undefined {
  return doc.panels.find((panel) => panel.name === name);
}

/** How many cards any setting could show: where the k slider ends. */
export function longestList(doc: Explanation): number {
  let longest = 1;
  for (const panel of doc.panels) {
    for (const ranking of panel.rankings) {
      for (const row of ranking.examples) longest = Math.max(longest, row.length);
    }
  }
  return longest;
}

/** Whether k-NN has anything to show: examples of different shapes have no distance. */
export const hasNeighbours = (doc: Explanation): boolean =>
  doc.panels.some((panel) =>
    panel.rankings.some(
      ({ method, examples }) => method === "nearest" && examples.some((row) => row.length > 0),
    ),
  );

export function className(doc: Explanation, label: number | null): string | null {
  return label === null ? null : (doc.class_names[label] ?? null);
}

/** Names and probabilities of the classes, most likely first; of equals the lower class first. */
export function likeliest(doc: Explanation): { name: string; probability: number }[] {
  return doc.query.probabilities
    .map((probability, label) => ({ name: doc.class_names[label] ?? `${label}`, probability }))
    .sort((a, b) => b.probability - a.probability);
}

/**
 * The panels to show, in the order asked for. Labels without a panel stay only while they are on
 * their way; when nothing asked for is in the document, the document decides.
 */
export function shownLabels(
  doc: Explanation,
  labels: readonly string[],
  coming: (label: string) => boolean,
): string[] {
  const asked = [...new Set(labels)];
  if (!asked.some((label) => panelNamed(doc, label))) {
    return [...new Set([...doc.panels.map((panel) => panel.name), ...asked.filter(coming)])];
  }
  return asked.filter((label) => panelNamed(doc, label) || coming(label));
}
