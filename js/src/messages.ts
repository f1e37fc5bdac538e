/** What the live widget says to the kernel and hears from it, and the traits they share. */
import {
  type Media,
  type Method,
  readMedia,
  readSprite,
  type Sign,
  type Sprite,
} from "./explanation";
import {
  count,
  field,
  list,
  nullable,
  object,
  oneOf,
  probability,
  type Reader,
  string,
} from "./read";

export type Status = "idle" | "preparing" | "ready" | "error";
export type StripFilter = "all" | "misclassified" | "close";
export const STRIP_FILTERS = ["all", "misclassified", "close"] as const;

export interface Traits {
  query: number;
  labels: string[];
  method: Method;
  k: number;
  damping: number;
  sign: Sign;
  status: Status;
  progress: number;
  message: string;
}

export interface StripQuestion {
  filter: StripFilter;
  offset: number;
  count: number;
}

export type ToKernel = { kind: "ready" } | ({ kind: "strip"; id: number } & StripQuestion);

export interface StripItem {
  index: number;
  label: string | null;
  predicted: string | null;
  probability: number | null;
  caption: string;
  media: Media;
}

export interface StripPage {
  filter: StripFilter;
  offset: number;
  /** How many test examples pass the filter. */
  total: number;
  counts: Record<StripFilter, number>;
  items: StripItem[];
  sprite: Sprite | null;
}

export type FromKernel =
  /** The document is still unchecked: `parseExplanation` is its guard. */
  | { kind: "explanation"; document: unknown }
  | { kind: "strip"; id: number; page: StripPage }
  | { kind: "error"; id: number | null; message: string };

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

const readItem: Reader<StripItem> = (value, path) => {
  const fields = object(value, path);
  return {
    index: field(fields, path, "index", count),
    label: field(fields, path, "label", nullable(string)),
    predicted: field(fields, path, "predicted", nullable(string)),
    probability: field(fields, path, "probability", nullable(probability)),
    caption: field(fields, path, "caption", string),
    media: field(fields, path, "media", readMedia),
  };
};

const readCounts: Reader<Record<StripFilter, number>> = (value, path) => {
  const fields = object(value, path);
  return {
    all: field(fields, path, "all", count),
    misclassified: field(fields, path, "misclassified", count),
    close: field(fields, path, "close", count),
  };
};

const readPage: Reader<StripPage> = (value, path) => {
  const fields = object(value, path);
  return {
    filter: field(fields, path, "filter", oneOf(...STRIP_FILTERS)),
    offset: field(fields, path, "offset", count),
    total: field(fields, path, "total", count),
    counts: field(fields, path, "counts", readCounts),
    items: field(fields, path, "items", list(readItem)),
    sprite: field(fields, path, "sprite", nullable(readSprite)),
  };
};
