import { expect, test } from "vitest";
import { DEFAULT_NAMES, explainCode, guess, isExpression, readCandidates } from "../src/lab/code";
import { fileName } from "../src/lab/export";

test("the cell explains what it was asked to", () => {
  const code = explainCode({ model: "net", train_set: "data.train", test_set: "sets['test']" });
  expect(code).toContain("from relatif_widgets import Explainer, ExplanationWidget");
  expect(code).toContain("explainer = Explainer(net, data.train).fit()");
  expect(code.split("\n").at(-1)).toBe("ExplanationWidget(explainer, sets['test'])");
});

test.each([
  ["model", true],
  ["data.train", true],
  ["sets['test']", true],
  ["größe_2", true],
  ["model; import os", false],
  ["f(x)", false],
  ["2x", false],
  ["", false],
])("%s: an expression that names something is %s", (text, right) => {
  expect(isExpression(text)).toBe(right);
});

test("the dialog starts with what the kernel has", () => {
  const answer = (value: unknown): unknown => ({
    data: { "text/plain": `'${JSON.stringify(value)}'` },
  });
  const found = readCandidates(answer({ model: ["net"], sets: ["testing", "my_train"] }));
  expect(guess(found)).toEqual({ model: "net", train_set: "my_train", test_set: "testing" });
  const usual = readCandidates(answer({ model: ["backbone", "model"], sets: ["val"] }));
  expect(guess(usual)).toEqual({ model: "model", train_set: "train_set", test_set: "val" });
  for (const nothing of [null, {}, { data: {} }, answer(7), answer({ model: 3, sets: null })]) {
    expect(guess(readCandidates(nothing))).toEqual(DEFAULT_NAMES);
  }
});

test.each([
  ["notes-test #7", "notes-test-7.html"],
  ["../../etc/passwd", "etc-passwd.html"],
  ["  ", "explanation.html"],
  ["x".repeat(100), `${"x".repeat(60)}.html`],
])("%s is written as %s", (name, file) => {
  expect(fileName(name)).toBe(file);
});
