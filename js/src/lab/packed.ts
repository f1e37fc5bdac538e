/**
 * Documents as notebooks keep them: compressed, since a saved notebook would put each of their
 * numbers on a line of its own. Python packs and unpacks the same.
 */
import { Unzlib, zlibSync } from "fflate";
import { checkVersion } from "../explanation";

/** Somebody else's file must not fill the memory. */
const LARGEST = 64_000_000;
/** Compressed bytes at a time, so that the limit is noticed on the way. */
const STEP = 65_536;

export function pack(document: { schema_version: string }): unknown {
  const bytes = zlibSync(new TextEncoder().encode(JSON.stringify(document)), { level: 9 });
  let binary = "";
  for (let at = 0; at < bytes.length; at += STEP) {
    binary += String.fromCharCode(...bytes.subarray(at, at + STEP));
  }
  return { schema_version: document.schema_version, packed: btoa(binary) };
}

/** The document inside; what is not packed comes back as it is. Throws an Error of one sentence. */
export function unpack(data: unknown): unknown {
  const packed = (data as { packed?: unknown } | null | undefined)?.packed;
  if (typeof packed !== "string") return data;
  checkVersion(data);
  let text: string;
  try {
    text = inflate(Uint8Array.from(atob(packed), (sign) => sign.charCodeAt(0)));
  } catch (error) {
    const fault = error instanceof Error ? error.message : String(error);
    throw new Error(`Damaged explanation at packed: ${fault}.`);
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("Damaged explanation at packed: it is no complete JSON.");
  }
}

function inflate(bytes: Uint8Array): string {
  const parts: Uint8Array[] = [];
  let size = 0;
  let ended = false;
  const stream = new Unzlib((part, final) => {
    size += part.length;
    if (size > LARGEST) throw new Error(`it holds more than ${LARGEST} bytes`);
    parts.push(part);
    ended ||= final;
  });
  for (let at = 0; at < bytes.length; at += STEP) {
    stream.push(bytes.subarray(at, at + STEP), at + STEP >= bytes.length);
  }
  if (!ended) throw new Error("it ends too early");
  const all = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return new TextDecoder().decode(all);
}
