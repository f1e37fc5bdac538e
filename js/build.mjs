import { spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const WIDGET_LIMIT = 60_000; // a notebook with saved state holds the bundle once per widget
const EXTENSION_LIMIT = 150_000;

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const resolve = createRequire(import.meta.url).resolve;
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
await build({
  ...shared,
  entryPoints: [here("src/lab/mime.ts")],
  format: "esm",
  external: ["@lumino/widgets"], // JupyterLab's own: a second copy would not be its Widget
  plugins: [
    {
      name: "style sheet as text",
      setup: (to) =>
        to.onLoad({ filter: /\.css$/ }, () => ({
          contents: readFileSync(`${out}/widget.css`, "utf8"),
          loader: "text",
        })),
    },
  ],
  outfile: here("lib/mime.js"),
});
labextension();

/** JupyterLab's own builder wraps lib/ as a prebuilt extension, beside the Python package. */
function labextension() {
  const core = resolve("@jupyterlab/core-meta/core.package.json");
  const builder = resolve("@jupyter/builder/lib/build-labextension.js");
  const built = spawnSync(process.execPath, [builder, "--core-package-file", core, "."], {
    cwd: here("."),
    encoding: "utf8",
  });
  if (built.status !== 0) {
    console.error(built.stdout + built.stderr);
    process.exit(1);
  }
}

let fits = true;
for (const [path, limit] of [
  [`${out}/widget.js`, WIDGET_LIMIT],
  [`${out}/widget.css`],
  [`${out}/standalone.js`],
  [here("lib/mime.js"), EXTENSION_LIMIT],
]) {
  const { size } = statSync(path);
  console.log(`${path.split("/").pop().padEnd(14)} ${size} bytes`);
  if (limit && size > limit) {
    console.error(`${path} is ${size} bytes; the budget is ${limit}.`);
    fits = false;
  }
}
process.exit(fits ? 0 : 1);
