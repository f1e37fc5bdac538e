/** Small documents with answers known by hand. */
import { type Explanation, METHODS, type Method, type Ranking } from "../src/explanation";
import type { StripPage } from "../src/messages";
import { EVERYTHING } from "../src/view/filters";

export const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

export const DAMPINGS = [0.001, 0.01, 0.1];

/** Scores shrink with damping; example 0 leads at the first stop and example 1 from the second. */
function tables(shift: number): Ranking[] {
  const signed = METHODS.slice(0, 3).flatMap((method): Ranking[] => [
    {
      method,
      sign: "positive",
      examples: [[0 + shift, 1 + shift], [1 + shift, 0 + shift], [1 + shift]],
      scores: [[9.28, 4], [6, 5], [0.5]],
    },
    {
      method,
      sign: "negative",
      examples: [[2, 3], [2, 3], []],
      scores: [[-6, -4], [-3, -1], []],
    },
  ]);
  return [
    ...signed,
    { method: "nearest", sign: "positive", examples: [[3, 0]], scores: [[-4, -6.25]] },
  ];
}

export function fixture(): Explanation {
  return {
    schema_version: "1.0",
    query: {
      name: "test #375",
      index: 375,
      label: 1,
      target: null,
      predicted: 0,
      output: null,
      probabilities: [0.52, 0.4, 0.04, 0.02, 0.01, 0.006, 0.004],
      media: { kind: "cell", cell: 0 },
    },
    class_names: ["bird", "plane", "cat", "deer", "dog", "frog", "ship"],
    dampings: [...DAMPINGS],
    panels: [
      { label: 0, name: "bird", rankings: tables(0) },
      { label: 1, name: "plane", rankings: tables(2) },
    ],
    examples: [10, 11, 12, 13].map((index, at) => ({
      index,
      label: at % 2,
      target: null,
      predicted: at === 2 ? 1 : at % 2,
      probability: 0.25 * (at + 1),
      loss: 0.5,
      media: { kind: "cell", cell: at + 1 } as const,
      // Example 11 is the one that the model leans on: rank 0 of 4,000, from the second stop 50.
      self_influence: [4, 2.25, 1].map((value) => value / (at === 1 ? 0.25 : 1)),
      self_influence_rank: at === 1 ? [0, 50, 50] : [40 + at, 900, 900],
    })),
    sprite: { mime: "image/png", data: PIXEL, width: 4, height: 4, columns: 3, count: 5 },
    settings: { method: "loss_relative", sign: "positive", k: 2, damping: 0.001 },
    provenance: {
      package_version: "0.1.0",
      created: "2026-11-02T10:00:00Z",
      curvature: "fisher",
      curvature_detail: "exact Fisher",
      loss: "cross_entropy",
      parameters: 2202,
      train_size: 4000,
      mean_eigenvalue: 0.0037,
      model_fingerprint: "a",
      data_fingerprint: "b",
      prepare_seconds: 0.31,
      nearest_space: "inputs",
      examined: null,
    },
  };
}

export function regression(): Explanation {
  const doc = fixture();
  doc.class_names = [];
  doc.sprite = null;
  const media = { kind: "row", more: 0, columns: ["rooms", "age"], values: ["5", "41"] } as const;
  doc.query = {
    ...doc.query,
    label: null,
    predicted: null,
    target: "2.9",
    output: "3.1",
    probabilities: [],
    media: { kind: "text", text: "a small house" },
  };
  doc.panels = [{ label: null, name: "2.9", rankings: tables(0) }];
  for (const example of doc.examples) {
    Object.assign(example, {
      label: null,
      predicted: null,
      probability: null,
      target: "1.5",
      media,
    });
  }
  return doc;
}

export const METHOD_NAMES: Record<Method, string> = {
  influence: "IF",
  theta_relative: "θ-RelatIF",
  loss_relative: "ℓ-RelatIF",
  nearest: "k-NN",
};

/** A page of 400 test examples; every seventh, from the second, is a bird taken for a plane. */
export function stripPage(overrides: Partial<StripPage> = {}): StripPage {
  const { offset = 0, total = 400 } = overrides;
  const count = Math.max(0, Math.min(24, total - offset));
  return {
    filter: EVERYTHING,
    offset,
    total,
    around: null,
    position: null,
    counts: { all: 400, misclassified: 57, close: 0 },
    labels: ["bird"],
    predictions: ["bird", "plane"],
    sorts: ["index", "confidence", "loss", "margin"],
    searchable: false,
    items: Array.from({ length: count }, (_, at) => ({
      index: offset + at,
      label: "bird",
      predicted: (offset + at) % 7 === 1 ? "plane" : "bird",
      probability: 0.5,
      loss: 0.7,
      caption: "",
      media: { kind: "cell", cell: at } as const,
    })),
    sprite: { mime: "image/png", data: PIXEL, width: 4, height: 4, columns: 5, count },
    ...overrides,
  };
}
