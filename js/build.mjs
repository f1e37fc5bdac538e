import { statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const WIDGET_LIMIT = 60_000; // a notebook with saved state holds the bundle once per widget

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const out = process.argv[2] ?? here("../relatif_widgets/static");

const shared = {
  bundle: true,
  minify: true,
  target: "es2022",
  charset: "utf8",
  logLevel: "warning",
};

await Promise.all([
  build({
    ...shared,
    entryPoints: [here("src/widget.ts")],
    format: "esm",
    outfile: `${out}/widget.js`,
  }),
  build({ ...shared, entryPoints: [here("src/style.css")], outfile: `${out}/widget.css` }),
  build({
    ...shared,
    entryPoints: [here("src/standalone.ts")],
    format: "iife",
    outfile: `${out}/standalone.js`,
  }),
]);

for (const name of ["widget.js", "widget.css", "standalone.js"]) {
  console.log(`${name.padEnd(14)} ${statSync(`${out}/${name}`).size} bytes`);
}
const size = statSync(`${out}/widget.js`).size;
if (size > WIDGET_LIMIT) {
  console.error(`widget.js is ${size} bytes; the budget is ${WIDGET_LIMIT}.`);
  process.exit(1);
}
