import { deflateSync } from "node:zlib";
import { expect, test } from "vitest";
import { pack, unpack } from "../src/lab/packed";
import { fixture } from "./fixture";

test("a packed document comes back, and keeps its version in the open", () => {
  const packed = pack(fixture()) as { schema_version: string; packed: string };
  expect(Object.keys(packed)).toEqual(["schema_version", "packed"]);
  expect(packed.schema_version).toBe("1.0");
  expect(packed.packed.length).toBeLessThan(JSON.stringify(fixture()).length);
  expect(unpack(packed)).toEqual(fixture());
});

test("what zlib elsewhere wrote is read, and what is not packed is left alone", () => {
  const text = JSON.stringify({ ...fixture(), class_names: ["Größe", "名前", "🦆"] });
  const packed = deflateSync(text, { level: 9 }).toString("base64");
  expect(unpack({ schema_version: "1.1", packed })).toEqual(JSON.parse(text));
  expect(unpack(fixture())).toEqual(fixture());
  expect(unpack(null)).toBe(null);
  expect(unpack({ pending: true })).toEqual({ pending: true });
});

test.each([
  ["no base64", "no base64!", /^Damaged explanation at packed: /],
  ["no deflate", "AAAA", /^Damaged explanation at packed: /],
  [
    "cut short",
    deflateSync(JSON.stringify(fixture())).toString("base64").slice(0, 40),
    /at packed: /,
  ],
  ["half a document", deflateSync('{"a": ').toString("base64"), /no complete JSON/],
  [
    "a bomb",
    deflateSync(Buffer.alloc(65_000_000)).toString("base64"),
    /holds more than 64000000 bytes/,
  ],
])("%s gives one sentence", (_, packed, sentence) => {
  expect(() => unpack({ schema_version: "1.1", packed })).toThrow(sentence);
});
