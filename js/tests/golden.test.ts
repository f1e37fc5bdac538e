// @vitest-environment node
/** Documents that Python's tests read too; the schema is Python's. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import Ajv2020 from "ajv/dist/2020";
import { describe, expect, test } from "vitest";
import { parseExplanation } from "../src/explanation";
import { longestList, topCards } from "../src/lookup";
import { fixture, regression } from "./fixture";

const schemaPath = new URL("../../relatif_widgets/explanation.schema.json", import.meta.url);
const folder = new URL("../../tests/golden/documents/", import.meta.url);
const names = existsSync(folder)
  ? readdirSync(folder).filter((name) => name.endsWith(".relatif.json"))
  : [];

const validate = existsSync(schemaPath)
  ? new Ajv2020({ strict: false }).compile(JSON.parse(readFileSync(schemaPath, "utf8")))
  : null;

const documents: [name: string, doc: unknown][] = [
  ["a classification", fixture()],
  ["a regression", regression()],
  ...names.map((name): [string, unknown] => [
    name,
    JSON.parse(readFileSync(new URL(name, folder), "utf8")),
  ]),
];

describe.skipIf(!validate)("Python's schema", () => {
  test.each(documents)("accepts %s", (_, doc) => {
    validate?.(doc);
    expect(validate?.errors ?? []).toEqual([]);
  });
});

describe.skipIf(names.length === 0)("golden documents", () => {
  test.each(names)("%s opens, and every slider position shows finite scores", (name) => {
    const doc = parseExplanation(JSON.parse(readFileSync(new URL(name, folder), "utf8")));
    const k = longestList(doc);
    for (const panel of doc.panels) {
      for (const { method, sign } of panel.rankings) {
        doc.dampings.forEach((_, stop) => {
          for (const { position, score } of topCards(panel, { method, sign, k, stop })) {
            expect(doc.examples[position]).toBeDefined();
            expect(Number.isFinite(score)).toBe(true);
          }
        });
      }
    }
  });
});
