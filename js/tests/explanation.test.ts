import { describe, expect, test } from "vitest";
import { parseExplanation } from "../src/explanation";
import { fixture, regression } from "./fixture";

type Loose = Record<string, unknown>;

/** A copy of the fixture with the value at a dotted path replaced, or removed if undefined. */
function damaged(path: string, value: unknown): unknown {
  const copy = JSON.parse(JSON.stringify(fixture())) as Loose;
  const keys = path.split(".");
  const last = keys.pop() as string;
  const parent = keys.reduce<Loose>((at, key) => at[key] as Loose, copy);
  if (value === undefined) delete parent[last];
  else parent[last] = value;
  return copy;
}

describe("parseExplanation", () => {
  test.each([
    ["a classification", fixture()],
    ["a regression", regression()],
  ])("gives %s back unchanged", (_, doc) => {
    expect(parseExplanation(JSON.parse(JSON.stringify(doc)))).toEqual(doc);
  });

  test("ignores fields of a newer minor version", () => {
    const doc = { ...fixture(), schema_version: "1.7", novelty: { any: "thing" } };
    const { novelty: _, ...known } = doc;
    expect(parseExplanation(doc)).toEqual(known);
  });

  test("fills in settings that the schema gives defaults", () => {
    expect(parseExplanation(damaged("settings", {})).settings).toEqual({
      method: "loss_relative",
      sign: "positive",
      k: 5,
      damping: 1e-3,
    });
  });

  test.each([[null], [undefined], [7], ["{}"], [[]]])("refuses %j", (value) => {
    expect(() => parseExplanation(value)).toThrow("This is not an explanation");
  });

  test("refuses a newer major version and says what to do", () => {
    expect(() => parseExplanation(damaged("schema_version", "2.0"))).toThrow(
      /schema version 2\.0, but this view reads 1\.x: open it with/,
    );
    expect(() => parseExplanation(damaged("schema_version", undefined))).toThrow("schema_version");
    expect(() => parseExplanation(damaged("schema_version", 1))).toThrow("schema_version");
  });

  test.each([
    ["query", undefined, "query: it is missing"],
    ["query.media", null, "query.media: expected an object"],
    ["query.media.kind", "html", "query.media.kind: expected one of"],
    ["query.media.cell", 5, "cell 5 is not one of the 5"],
    ["query.media.cell", -1, "at least 0"],
    ["query.label", 7, "class 7 has no name"],
    ["query.probabilities.0", 1.5, "from 0 to 1"],
    ["query.probabilities", { length: 9 }, "expected a list"],
    ["class_names.0", 4, "class_names.0: expected text"],
    ["dampings", [], "dampings: it is empty"],
    ["dampings", [0.1, 0.01, 0.001], "must ascend"],
    ["dampings.0", 0, "above 0"],
    ["dampings.2", Number.POSITIVE_INFINITY, "expected a number"],
    ["panels", [], "panels: it is empty"],
    ["panels.0.name", { toString: "x" }, "expected text"],
    ["panels.0.rankings", [], "one ranking for each method and sign"],
    ["panels.0.rankings.0.method", "magic", "expected one of"],
    ["panels.0.rankings.0.sign", "both", "expected one of"],
    ["panels.0.rankings.0.examples.0.0", 4, "mentions example 4 of 4"],
    ["panels.0.rankings.0.examples.0.0", 0.5, "whole number"],
    ["panels.0.rankings.0.scores.0", [1], "differ in shape"],
    ["panels.0.rankings.0.scores.0.0", Number.NaN, "expected a number"],
    ["panels.0.rankings.0.scores.0.0", "9", "expected a number"],
    ["examples.1.probability", -0.1, "from 0 to 1"],
    ["examples.1.loss", null, "expected a number"],
    ["examples.1.index", 1e300, "whole number"],
    ["sprite", null, "not one of the 0"],
    ["sprite.mime", "image/svg+xml", "expected one of"],
    ["sprite.data", '"><script>', "expected base64"],
    ["sprite.width", 0, "at least 1"],
    ["settings.k", 0, "at least 1"],
    ["settings.method", "IF", "expected one of"],
    ["settings.damping", 0.02, "damping 0.02 is none of the stops"],
    ["query.probabilities", [0.5], "1 probabilities for 7 classes"],
    ["panels.0.label", 9, "class 9 has no name"],
    ["provenance.mean_eigenvalue", "1", "expected a number"],
  ])("refuses %s = %j in one sentence", (path, value, message) => {
    const parse = (): unknown => parseExplanation(damaged(path, value));
    expect(parse).toThrow(message);
    expect(parse).toThrow(/^Damaged explanation at \S+: [^.]*(\.\w[^.]*)*\.$/);
  });

  test("refuses a table whose rows fit neither one stop nor all", () => {
    const doc = fixture();
    const ranking = doc.panels[0]?.rankings[0];
    ranking?.examples.pop();
    ranking?.scores.pop();
    expect(() => parseExplanation(doc)).toThrow("2 rows for 3 damping stops");
  });

  test("refuses a row with a column too many", () => {
    const media = { kind: "row", more: 0, columns: ["a", "b"], values: ["1"] };
    expect(() => parseExplanation(damaged("examples.0.media", media))).toThrow(
      "2 columns but 1 values",
    );
  });

  test("survives every top-level field being absent or of another type", () => {
    for (const key of Object.keys(fixture())) {
      for (const value of [undefined, null, 0, "", [], {}, [null], { a: 1 }]) {
        if (key === "sprite" || key === "settings" || (key === "examples" && !value)) continue;
        try {
          parseExplanation(damaged(key, value));
        } catch (error) {
          expect(error).toBeInstanceOf(Error);
          expect(error).not.toBeInstanceOf(TypeError);
        }
      }
    }
  });
});
