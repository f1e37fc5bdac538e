import { expect, test } from "vitest";
import { damping, ratio, seconds, signed, whole } from "../src/format";

test.each([
  [9.28, "+9.28"],
  [-0.5, "−0.500"],
  [16.24, "+16.2"],
  [1234.5, "+1235"],
  [0.000123, "+1.23e−4"],
  [-123456, "−1.23e5"],
  [0, "0"],
])("score %d reads %s", (score, text) => {
  expect(signed(score)).toBe(text);
});

test.each([
  [27.03, "27"],
  [0.0274, "0.027"],
  [2703, "2,700"],
  [0.000001234, "1.2e−6"],
  [0, "0"],
])("ratio %d reads %s", (value, text) => {
  expect(ratio(value)).toBe(text);
});

test.each([
  [0.01, "0.01"],
  [0.0031622776, "0.00316"],
  [1e-7, "1e-7"],
  [10, "10"],
])("damping %d reads %s", (value, text) => {
  expect(damping(value)).toBe(text);
});

test("counts and times are for people", () => {
  expect(whole(50000)).toBe("50,000");
  expect(seconds(0.31)).toBe("0.3 s");
  expect(seconds(0.001)).toBe("under 0.1 s");
  expect(seconds(75.4)).toBe("75 s");
});
