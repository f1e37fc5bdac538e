/** What the live widget says to the kernel and hears from it, and the traits they share. */
import {
  METHODS,
  type Media,
  type Method,
  readMedia,
  readSprite,
  type Sign,
  type Sprite,
} from "./explanation";
import {
  boolean,
  count,
  field,
  finite,
  list,
  nullable,
  object,
  oneOf,
  probability,
  type Reader,
  string,
} from "./read";

export type Status = "idle" | "preparing" | "ready" | "error";
export const STRIP_WHICH = ["all", "misclassified", "close"] as const;
export type StripWhich = (typeof STRIP_WHICH)[number];
export const STRIP_SORTS = ["index", "confidence", "loss", "margin"] as const;
export type StripSort = (typeof STRIP_SORTS)[number];

export interface Traits {
  query: number;
  labels: string[];
  method: Method;
  compare: Method[];
  k: number;
  damping: number;
  sign: Sign;
  /** Training indices. */
  selection: number[];
  /** Tags by training index. */
  tags: Record<string, string[]>;
  /** The training example whose like are shown. */
  like: number | null;
  can_check: boolean;
  /** Controls that nobody has set, and that follow the host's settings. */
  follows: string[];
  status: Status;
  progress: number;
  message: string;
}

/** Which test examples, in which order; every condition has to hold. */
export interface StripFilter {
  which: StripWhich;
  /** Name of the true class. */
  label: string | null;
  predicted: string | null;
  /** Least and largest probability of the predicted class. */
  confidence: [low: number, high: number];
  search: string;
  sort: StripSort;
  descending: boolean;
}

export interface StripQuestion {
  filter: StripFilter;
  offset: number;
  count: number;
  /** A test example: where the filter holds it, the answer is the page that it stands on. */
  around: number | null;
}

export type ToKernel =
  | { kind: "ready" }
  | ({ kind: "strip"; id: number } & StripQuestion)
  | { kind: "detail"; index: number }
  | { kind: "check"; indices: number[] }
  | { kind: "cancel" }
  | { kind: "cancel_checks" }
  | { kind: "resume" }
  /** What is on display as static HTML and text. */
  | { kind: "still" };

export interface StripItem {
  index: number;
  label: string | null;
  predicted: string | null;
  probability: number | null;
  loss: number | null;
  caption: string;
  media: Media;
}

export interface StripPage {
  filter: StripFilter;
  offset: number;
  /** How many test examples pass the filter. */
  total: number;
  /** The example that was asked for, and where among those it stands. */
  around: number | null;
  position: number | null;
  /** Of the whole test set; a preset that does not apply to it has none. */
  counts: { all: number } & Partial<Record<StripWhich, number>>;
  /** Names of the true classes that occur; empty where they are not known. */
  labels: string[];
  predictions: string[];
  /** The orders that apply. */
  sorts: StripSort[];
  searchable: boolean;
  items: StripItem[];
  sprite: Sprite | null;
}

/** An explanation as static HTML and as text. */
export interface Still {
  html: string;
  text: string;
}

export type FromKernel =
  /** The document is still unchecked: `parseExplanation` is its guard. */
  | { kind: "explanation"; document: unknown }
  | { kind: "strip"; id: number; page: StripPage }
  /** Training examples like one of them; without a document there are none to show. */
  | { kind: "similar"; index: number | null; document: unknown }
  | { kind: "returned"; of: number; counts: Returned }
  | { kind: "detail"; index: number; media: Media }
  | { kind: "still"; still: Still }
  | { kind: "check"; query: number; removed: number[]; check: CheckResult | string }
  | { kind: "error"; id: number | null; message: string };

/** For how many prepared queries an example is among the cards, by method and training index. */
export type Returned = Partial<Record<Method, Record<string, number>>>;

/** The query's loss at each label, before and after training without some examples. */
export interface CheckResult {
  removed: number[];
  labels: string[];
  before: number[];
  after: number[];
  predicted: number[];
  actual: number[];
  damping: number;
}

/** Check a message; null for one that is not ours to read. Throws where ours is damaged. */
export function parseMessage(value: unknown): FromKernel | null {
  if (typeof value !== "object" || value === null) return null;
  const fields = value as Record<string, unknown>;
  switch (fields.kind) {
    case "explanation":
      return { kind: "explanation", document: fields.document };
    case "strip":
      return {
        kind: "strip",
        id: field(fields, "strip", "id", count),
        page: readPage(value, "strip"),
      };
    case "similar":
      return {
        kind: "similar",
        index: field(fields, "similar", "index", nullable(count)),
        document: fields.document,
      };
    case "returned":
      return {
        kind: "returned",
        of: field(fields, "returned", "of", count),
        counts: field(fields, "returned", "counts", readReturned),
      };
    case "detail":
      return {
        kind: "detail",
        index: field(fields, "detail", "index", count),
        media: field(fields, "detail", "media", readMedia),
      };
    case "still":
      return {
        kind: "still",
        still: {
          html: field(fields, "still", "html", string),
          text: field(fields, "still", "text", string),
        },
      };
    case "check":
      return {
        kind: "check",
        query: field(fields, "check", "query", count),
        removed: field(fields, "check", "removed", list(count)),
        check:
          typeof fields.error === "string"
            ? fields.error
            : field(fields, "check", "check", readCheck),
      };
    case "error":
      return {
        kind: "error",
        id: typeof fields.id === "number" ? fields.id : null,
        message: field(fields, "error", "message", string),
      };
    default:
      return null;
  }
}

const readReturned: Reader<Returned> = (value, path) => {
  const fields = object(value, path);
  const counts: Returned = {};
  for (const method of METHODS) {
    if (!Object.hasOwn(fields, method)) continue;
    const byIndex = object(fields[method], `${path}.${method}`);
    counts[method] = Object.fromEntries(
      Object.keys(byIndex).map((index) => [
        index,
        field(byIndex, `${path}.${method}`, index, count),
      ]),
    );
  }
  return counts;
};

const readCheck: Reader<CheckResult> = (value, path) => {
  const fields = object(value, path);
  return {
    removed: field(fields, path, "removed", list(count)),
    labels: field(fields, path, "labels", list(string)),
    before: field(fields, path, "before", list(finite)),
    after: field(fields, path, "after", list(finite)),
    predicted: field(fields, path, "predicted", list(finite)),
    actual: field(fields, path, "actual", list(finite)),
    damping: field(fields, path, "damping", finite),
  };
};

const readItem: Reader<StripItem> = (value, path) => {
  const fields = object(value, path);
  return {
    index: field(fields, path, "index", count),
    label: field(fields, path, "label", nullable(string)),
    predicted: field(fields, path, "predicted", nullable(string)),
    probability: field(fields, path, "probability", nullable(probability)),
    loss: field(fields, path, "loss", nullable(finite)),
    caption: field(fields, path, "caption", string),
    media: field(fields, path, "media", readMedia),
  };
};

const readFilter: Reader<StripFilter> = (value, path) => {
  const fields = object(value, path);
  const [low = 0, high = 1] = field(fields, path, "confidence", list(probability));
  return {
    which: field(fields, path, "which", oneOf(...STRIP_WHICH)),
    label: field(fields, path, "label", nullable(string)),
    predicted: field(fields, path, "predicted", nullable(string)),
    confidence: [low, high],
    search: field(fields, path, "search", string),
    sort: field(fields, path, "sort", oneOf(...STRIP_SORTS)),
    descending: field(fields, path, "descending", boolean),
  };
};

const readCounts: Reader<StripPage["counts"]> = (value, path) => {
  const fields = object(value, path);
  const counts: StripPage["counts"] = { all: field(fields, path, "all", count) };
  for (const which of STRIP_WHICH) {
    if (Object.hasOwn(fields, which)) counts[which] = field(fields, path, which, count);
  }
  return counts;
};

const readPage: Reader<StripPage> = (value, path) => {
  const fields = object(value, path);
  return {
    filter: field(fields, path, "filter", readFilter),
    offset: field(fields, path, "offset", count),
    total: field(fields, path, "total", count),
    around: field(fields, path, "around", nullable(count)),
    position: field(fields, path, "position", nullable(count)),
    counts: field(fields, path, "counts", readCounts),
    labels: field(fields, path, "labels", list(string)),
    predictions: field(fields, path, "predictions", list(string)),
    sorts: field(fields, path, "sorts", list(oneOf(...STRIP_SORTS))),
    searchable: field(fields, path, "searchable", boolean),
    items: field(fields, path, "items", list(readItem)),
    sprite: field(fields, path, "sprite", nullable(readSprite)),
  };
};
