// @vitest-environment node
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";

const out = mkdtempSync(join(tmpdir(), "relatif-bundle-"));
const read = (name: string): string => readFileSync(join(out, name), "utf8");

beforeAll(() => {
  execFileSync("node", [fileURLToPath(new URL("../build.mjs", import.meta.url)), out]);
});
afterAll(() => rmSync(out, { recursive: true }));

test("the widget stays within 60 kB, since a saved notebook holds it", () => {
  expect(Buffer.byteLength(read("widget.js"))).toBeLessThanOrEqual(60_000);
});

test("the widget is a module with a default export", () => {
  expect(read("widget.js")).toMatch(/export\s*\{[^}]*\bas default\b/);
});

test("nothing is fetched: no address in any bundle", () => {
  for (const name of ["widget.js", "page.html", "widget.css"]) {
    expect(read(name)).not.toMatch(/https?:|\/\/[a-z]+\.|@import|url\(/);
  }
});

test("the page's policy allows its own script and nothing else", () => {
  const page = read("page.html");
  const script = page.slice(page.lastIndexOf("<script>") + 8, page.lastIndexOf("</script>"));
  expect(script).not.toMatch(/<\/script|<!--/i);
  const digest = createHash("sha256").update(script).digest("base64");
  expect(page).toContain(
    `default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-${digest}'`,
  );
  expect(page.match(/\{\{\w+\}\}/g)).toEqual(["{{title}}", "{{still}}", "{{document}}"]);
});

test("no data becomes markup", () => {
  for (const name of ["widget.js", "page.html"]) {
    expect(read(name)).not.toMatch(/innerHTML|outerHTML|insertAdjacentHTML|document\.write/);
  }
});
