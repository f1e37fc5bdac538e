/** Typed readers of untrusted JSON: each returns a value of its type or throws, naming the place. */

export class Damage extends Error {
  constructor(
    readonly path: string,
    readonly fault: string,
  ) {
    super(`Damaged explanation at ${path || "the top"}: ${fault}.`);
  }
}

export type Reader<T> = (value: unknown, path: string) => T;
export type Fields = Record<string, unknown>;

const join = (path: string, key: string | number): string => (path ? `${path}.${key}` : `${key}`);

export function fail(path: string, fault: string): never {
  throw new Damage(path, fault);
}

export function object(value: unknown, path: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    fail(path, "expected an object");
  }
  return value as Fields;
}

export function field<T>(fields: Fields, path: string, key: string, read: Reader<T>): T {
  const at = join(path, key);
  if (!Object.hasOwn(fields, key)) fail(at, "it is missing");
  return read(fields[key], at);
}

/** A field that the schema gives a default. */
export function optional<T>(
  fields: Fields,
  path: string,
  key: string,
  read: Reader<T>,
  otherwise: T,
): T {
  return Object.hasOwn(fields, key) ? read(fields[key], join(path, key)) : otherwise;
}

export const string: Reader<string> = (value, path) =>
  typeof value === "string" ? value : fail(path, "expected text");

export const boolean: Reader<boolean> = (value, path) =>
  typeof value === "boolean" ? value : fail(path, "expected true or false");

export const finite: Reader<number> = (value, path) =>
  typeof value === "number" && Number.isFinite(value) ? value : fail(path, "expected a number");

export function integer(least: number): Reader<number> {
  return (value, path) =>
    Number.isSafeInteger(value) && (value as number) >= least
      ? (value as number)
      : fail(path, `expected a whole number of at least ${least}`);
}

export const count = integer(0);

export const positive: Reader<number> = (value, path) => {
  const number = finite(value, path);
  return number > 0 ? number : fail(path, "expected a number above 0");
};

export const probability: Reader<number> = (value, path) => {
  const number = finite(value, path);
  return number >= 0 && number <= 1 ? number : fail(path, "expected a number from 0 to 1");
};

export function nullable<T>(read: Reader<T>): Reader<T | null> {
  return (value, path) => (value === null ? null : read(value, path));
}

export function list<T>(read: Reader<T>): Reader<T[]> {
  return (value, path) =>
    Array.isArray(value)
      ? value.map((item: unknown, at) => read(item, join(path, at)))
      : fail(path, "expected a list");
}

export function oneOf<T extends string>(...known: readonly T[]): Reader<T> {
  return (value, path) =>
    known.includes(value as T) ? (value as T) : fail(path, `expected one of ${known.join(", ")}`);
}

export const base64: Reader<string> = (value, path) => {
  const text = string(value, path);
  return /^[A-Za-z0-9+/]+=*$/.test(text) ? text : fail(path, "expected base64");
};
