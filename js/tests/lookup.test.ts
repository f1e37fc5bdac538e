import { describe, expect, test } from "vitest";
import type { Panel } from "../src/explanation";
import { extent, likeliest, longestList, shownLabels, stopOf, topCards } from "../src/lookup";
import { DAMPINGS, fixture } from "./fixture";

const doc = fixture();
const panel = doc.panels[0] as Panel;
const setting = { method: "loss_relative", sign: "positive", k: 5, stop: 0 } as const;
const scores = (changes: object): number[] =>
  topCards(panel, { ...setting, ...changes }).map(({ score }) => score);

describe("topCards", () => {
  test("gives the stop's row, best first", () => {
    expect(topCards(panel, setting)).toEqual([
      { position: 0, score: 9.28 },
      { position: 1, score: 4 },
    ]);
    expect(topCards(panel, { ...setting, stop: 1 })[0]).toEqual({ position: 1, score: 6 });
  });

  test("stops after k", () => {
    expect(scores({ k: 1 })).toEqual([9.28]);
  });

  test("lists harmful examples, most harmful first", () => {
    expect(scores({ sign: "negative" })).toEqual([-6, -4]);
  });

  test("merges both signs by size; of equal sizes the helpful one leads", () => {
    expect(scores({ sign: "both" })).toEqual([9.28, -6, 4, -4]);
    expect(scores({ sign: "both", k: 2 })).toEqual([9.28, -6]);
  });

  test("takes nearest neighbours from one row, whatever sign and stop", () => {
    for (const sign of ["positive", "negative", "both"]) {
      for (const stop of [0, 1, 2]) {
        expect(scores({ method: "nearest", sign, stop })).toEqual([-4, -6.25]);
      }
    }
  });

  test("lets a ranking with one row serve every stop", () => {
    const single: Panel = {
      ...panel,
      rankings: panel.rankings.map((ranking) => ({
        ...ranking,
        examples: ranking.examples.slice(0, 1),
        scores: ranking.scores.slice(0, 1),
      })),
    };
    expect(topCards(single, { ...setting, stop: 2 })).toEqual(topCards(panel, setting));
  });
});

describe("stopOf", () => {
  test.each([
    [0.001, 0],
    [0.01 * (1 + 1e-10), 1],
    [0.1, 2],
    [0.03, 1], // 0.0316 is half way on a log scale
    [0.033, 2],
    [1e-9, 0],
    [50, 2],
  ])("of %d is %d", (damping, stop) => {
    expect(stopOf(DAMPINGS, damping)).toBe(stop);
  });

  test("is the first where there are none", () => {
    expect(stopOf([], 0.1)).toBe(0);
  });
});

describe("shownLabels", () => {
  const none = (): boolean => false;

  test("keeps the order asked for", () => {
    expect(shownLabels(doc, ["plane", "bird"], none)).toEqual(["plane", "bird"]);
    expect(shownLabels(doc, ["plane", "plane"], none)).toEqual(["plane"]);
  });

  test("falls back on the document when it has nothing that was asked for", () => {
    expect(shownLabels(doc, [], none)).toEqual(["bird", "plane"]);
    expect(shownLabels(doc, ["cat"], none)).toEqual(["bird", "plane"]);
  });

  test("leaves a label without a panel out, unless it is on its way", () => {
    expect(shownLabels(doc, ["bird", "cat"], none)).toEqual(["bird"]);
    expect(shownLabels(doc, ["bird", "cat"], (label) => label === "cat")).toEqual(["bird", "cat"]);
  });
});

test("longestList ends the k slider", () => {
  expect(longestList(doc)).toBe(2);
});

test("likeliest sorts by probability", () => {
  expect(likeliest(doc).map(({ name }) => name)).toEqual(doc.class_names);
});

test("a k-NN score is shown as a distance", () => {
  expect(extent("nearest", -6.25)).toBe(2.5);
  expect(extent("influence", -6.25)).toBe(6.25);
});
