/**
 * The explanation document as Python writes it, and the guard through which every document enters.
 * Python owns the layout: explanation.py and its JSON schema.
 */
import {
  base64,
  count,
  fail as damaged,
  field,
  finite,
  integer,
  list,
  nullable,
  object,
  oneOf,
  optional,
  positive,
  probability,
  type Reader,
  string,
} from "./read";

export const METHODS = ["influence", "theta_relative", "loss_relative", "nearest"] as const;
export const SIGNS = ["positive", "negative", "both"] as const;
export type Method = (typeof METHODS)[number];
export type Sign = (typeof SIGNS)[number];
export type TableSign = "positive" | "negative";

export type Media =
  | { kind: "cell"; cell: number }
  | { kind: "picture"; mime: Mime; data: string; width: number; height: number }
  | { kind: "text"; text: string }
  | { kind: "row"; columns: string[]; values: string[]; more: number };

export type Mime = "image/png" | "image/webp";

export interface Sprite {
  mime: Mime;
  data: string;
  width: number;
  height: number;
  columns: number;
  count: number;
}

export interface Query {
  name: string;
  index: number | null;
  label: number | null;
  target: string | null;
  predicted: number | null;
  output: string | null;
  probabilities: number[];
  media: Media;
}

export interface TrainingExample {
  index: number;
  label: number | null;
  target: string | null;
  predicted: number | null;
  probability: number | null;
  loss: number;
  media: Media;
  /** By damping stop; empty in documents older than 1.1. */
  self_influence: number[];
  /** The place among all training examples by self-influence, 0 the largest. */
  self_influence_rank: number[];
}

export interface Ranking {
  method: Method;
  sign: TableSign;
  examples: number[][];
  scores: number[][];
}

export interface Panel {
  label: number | null;
  name: string;
  rankings: Ranking[];
}

export interface Provenance {
  package_version: string;
  created: string;
  curvature: string;
  curvature_detail: string;
  loss: string;
  parameters: number;
  train_size: number;
  mean_eigenvalue: number | null;
  model_fingerprint: string;
  data_fingerprint: string;
  prepare_seconds: number;
  nearest_space: "inputs" | "features";
  /** The preparation was cut short after so many training examples; null where it ranks all. */
  examined: number | null;
}

export interface Settings {
  method: Method;
  sign: Sign;
  k: number;
  damping: number;
}

export interface Explanation {
  query: Query;
  class_names: string[];
  dampings: number[];
  panels: Panel[];
  examples: TrainingExample[];
  sprite: Sprite | null;
  settings: Settings;
  provenance: Provenance;
  schema_version: string;
}

const SCHEMA_MAJOR = "1";
const TABLES = [
  ...METHODS.slice(0, 3).flatMap((method) => [`${method} positive`, `${method} negative`]),
  "nearest positive",
].sort();

/** Whether a damping is this stop, to 1e-9. */
export const sameDamping = (stop: number, damping: number): boolean =>
  Math.abs(stop - damping) <= 1e-9 * stop;

/** Whether this is a document that this view reads, by its version; throws an Error of one sentence. */
export function checkVersion(value: unknown): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Error("This is not an explanation: expected a JSON object.");
  }
  const fields = value as Record<string, unknown>;
  const found: unknown = fields.schema_version;
  if (typeof found !== "string" && typeof found !== "number") {
    throw new Error("This is not an explanation: it has no schema_version.");
  }
  const version = `${found}`;
  if (version.split(".")[0] !== SCHEMA_MAJOR) {
    throw new Error(
      `The explanation has schema version ${version.slice(0, 20)}, but this view reads ` +
        `${SCHEMA_MAJOR}.x: open it with the relatif_widgets release that wrote it, or a newer one.`,
    );
  }
  return fields;
}

/** Check a document and give it its types; throws an Error of one sentence. */
export function parseExplanation(value: unknown, path = ""): Explanation {
  checkVersion(value);
  const explanation = readExplanation(value, path);
  checkReferences(explanation, path);
  return explanation;
}

export const readMedia: Reader<Media> = (value, path) => {
  const fields = object(value, path);
  const kind = field(fields, path, "kind", oneOf("cell", "picture", "text", "row"));
  switch (kind) {
    case "cell":
      return { kind, cell: field(fields, path, "cell", count) };
    case "picture":
      return {
        kind,
        mime: field(fields, path, "mime", readMime),
        data: field(fields, path, "data", base64),
        width: field(fields, path, "width", size),
        height: field(fields, path, "height", size),
      };
    case "text":
      return { kind, text: field(fields, path, "text", string) };
    case "row": {
      const columns = field(fields, path, "columns", list(string));
      const values = field(fields, path, "values", list(string));
      if (columns.length !== values.length) {
        damaged(path, `${columns.length} columns but ${values.length} values`);
      }
      return { kind, columns, values, more: optional(fields, path, "more", count, 0) };
    }
  }
};

export const readSprite: Reader<Sprite> = (value, path) => {
  const fields = object(value, path);
  return {
    mime: field(fields, path, "mime", readMime),
    data: field(fields, path, "data", base64),
    width: field(fields, path, "width", size),
    height: field(fields, path, "height", size),
    columns: field(fields, path, "columns", size),
    count: field(fields, path, "count", size),
  };
};

const size = integer(1);
const readMime: Reader<Mime> = oneOf("image/png", "image/webp");

const readQuery: Reader<Query> = (value, path) => {
  const fields = object(value, path);
  return {
    name: field(fields, path, "name", string),
    index: field(fields, path, "index", nullable(count)),
    label: field(fields, path, "label", nullable(count)),
    target: field(fields, path, "target", nullable(string)),
    predicted: field(fields, path, "predicted", nullable(count)),
    output: field(fields, path, "output", nullable(string)),
    probabilities: field(fields, path, "probabilities", list(probability)),
    media: field(fields, path, "media", readMedia),
  };
};

const readExample: Reader<TrainingExample> = (value, path) => {
  const fields = object(value, path);
  return {
    index: field(fields, path, "index", count),
    label: field(fields, path, "label", nullable(count)),
    target: field(fields, path, "target", nullable(string)),
    predicted: field(fields, path, "predicted", nullable(count)),
    probability: field(fields, path, "probability", nullable(probability)),
    loss: field(fields, path, "loss", finite),
    media: field(fields, path, "media", readMedia),
    self_influence: optional(fields, path, "self_influence", list(finite), []),
    self_influence_rank: optional(fields, path, "self_influence_rank", list(count), []),
  };
};

const readRanking: Reader<Ranking> = (value, path) => {
  const fields = object(value, path);
  const ranking = {
    method: field(fields, path, "method", oneOf(...METHODS)),
    sign: field(fields, path, "sign", oneOf("positive", "negative")),
    examples: field(fields, path, "examples", list(list(count))),
    scores: field(fields, path, "scores", list(list(finite))),
  };
  const widths = (rows: number[][]): string => rows.map((row) => row.length).join();
  if (widths(ranking.examples) !== widths(ranking.scores)) {
    damaged(path, "examples and scores differ in shape");
  }
  return ranking;
};

const readPanel: Reader<Panel> = (value, path) => {
  const fields = object(value, path);
  const rankings = field(fields, path, "rankings", list(readRanking));
  const present = rankings.map(({ method, sign }) => `${method} ${sign}`).sort();
  if (present.join() !== TABLES.join()) {
    damaged(path, "expected one ranking for each method and sign");
  }
  return {
    label: field(fields, path, "label", nullable(count)),
    name: field(fields, path, "name", string),
    rankings,
  };
};

const readSettings: Reader<Settings> = (value, path) => {
  const fields = object(value, path);
  return {
    method: optional(fields, path, "method", oneOf(...METHODS), "loss_relative"),
    sign: optional(fields, path, "sign", oneOf(...SIGNS), "positive"),
    k: optional(fields, path, "k", size, 5),
    damping: optional(fields, path, "damping", positive, 1e-3),
  };
};

const readProvenance: Reader<Provenance> = (value, path) => {
  const fields = object(value, path);
  return {
    package_version: field(fields, path, "package_version", string),
    created: field(fields, path, "created", string),
    curvature: field(fields, path, "curvature", string),
    curvature_detail: field(fields, path, "curvature_detail", string),
    loss: field(fields, path, "loss", string),
    parameters: field(fields, path, "parameters", count),
    train_size: field(fields, path, "train_size", count),
    mean_eigenvalue: field(fields, path, "mean_eigenvalue", nullable(finite)),
    model_fingerprint: field(fields, path, "model_fingerprint", string),
    data_fingerprint: field(fields, path, "data_fingerprint", string),
    prepare_seconds: field(fields, path, "prepare_seconds", finite),
    nearest_space: optional(
      fields,
      path,
      "nearest_space",
      oneOf("inputs", "features"),
      "inputs" as const,
    ),
    examined: optional(fields, path, "examined", nullable(count), null),
  };
};

const readExplanation: Reader<Explanation> = (value, path) => {
  const fields = object(value, path);
  return {
    query: field(fields, path, "query", readQuery),
    class_names: field(fields, path, "class_names", list(string)),
    dampings: field(fields, path, "dampings", list(positive)),
    panels: field(fields, path, "panels", list(readPanel)),
    examples: field(fields, path, "examples", list(readExample)),
    sprite: field(fields, path, "sprite", nullable(readSprite)),
    settings: field(fields, path, "settings", readSettings),
    provenance: field(fields, path, "provenance", readProvenance),
    schema_version: field(fields, path, "schema_version", string),
  };
};

/** What no single field can tell: every position, cell and class that is mentioned exists. */
function checkReferences(explanation: Explanation, within: string): void {
  const fail = (path: string, fault: string): never =>
    damaged(within ? `${within}.${path}` : path, fault);
  const { dampings, panels, examples, query, sprite, class_names, settings } = explanation;
  if (dampings.length === 0) fail("dampings", "it is empty");
  if (dampings.some((value, at) => at > 0 && value <= (dampings[at - 1] ?? 0))) {
    fail("dampings", "they must ascend");
  }
  if (panels.length === 0) fail("panels", "it is empty");
  if (!dampings.some((value) => sameDamping(value, settings.damping))) {
    fail("settings", `damping ${settings.damping} is none of the stops`);
  }
  const chances = query.probabilities.length;
  if (chances !== 0 && chances !== class_names.length) {
    fail("query", `${chances} probabilities for ${class_names.length} classes`);
  }
  examples.forEach((example, at) => {
    for (const values of [example.self_influence, example.self_influence_rank]) {
      if (values.length !== 0 && values.length !== dampings.length) {
        fail(`examples.${at}`, `${values.length} self-influences for ${dampings.length} stops`);
      }
    }
  });
  const cells = sprite?.count ?? 0;
  for (const [path, shown] of [
    ["query", query] as const,
    ...examples.map((example, at) => [`examples.${at}`, example] as const),
  ]) {
    if (shown.media.kind === "cell" && shown.media.cell >= cells) {
      fail(path, `cell ${shown.media.cell} is not one of the ${cells} in the sprite sheet`);
    }
    for (const label of [shown.label, shown.predicted]) {
      if (label !== null && label >= class_names.length) {
        fail(path, `class ${label} has no name`);
      }
    }
  }
  panels.forEach((panel, at) => {
    if (panel.label !== null && panel.label >= class_names.length) {
      fail(`panels.${at}`, `class ${panel.label} has no name`);
    }
    panel.rankings.forEach((ranking, which) => {
      const path = `panels.${at}.rankings.${which}`;
      if (ranking.examples.length !== 1 && ranking.examples.length !== dampings.length) {
        fail(path, `${ranking.examples.length} rows for ${dampings.length} damping stops`);
      }
      for (const row of ranking.examples) {
        for (const position of row) {
          if (position >= examples.length) {
            fail(path, `it mentions example ${position} of ${examples.length}`);
          }
        }
      }
    });
  });
}
