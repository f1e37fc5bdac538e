import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
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

const [, , standalone] = await Promise.all([
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
    write: false,
  }),
]);
writeFileSync(`${out}/page.html`, template());
rmSync(here("lib"), { recursive: true, force: true });
await build({
  ...shared,
  entryPoints: [here("src/lab/mime.ts"), here("src/lab/plugin.ts")],
  format: "esm",
  splitting: true, // both draw documents by the same view
  external: ["@jupyterlab/*", "@lumino/*"], // JupyterLab's own: a second copy would not be its Widget
  loader: { ".svg": "text" },
  plugins: [
    {
      name: "what is built already, as text",
      setup(to) {
        to.onLoad({ filter: /\.css$/ }, () => text("widget.css"));
        to.onResolve({ filter: /^virtual:page$/ }, () => ({
          path: "page.html",
          namespace: "built",
        }));
        to.onLoad({ filter: /.*/, namespace: "built" }, ({ path }) => text(path));
      },
    },
  ],
  outdir: here("lib"),
});
labextension();
tutorials(here("../notebooks"), here("../relatif_widgets/labextension/static/tutorials"));

function text(name) {
  return { contents: readFileSync(`${out}/${name}`, "utf8"), loader: "text" };
}

/** The page that Python and JupyterLab put a document into: one template, one digest. */
function template() {
  const script = standalone.outputFiles[0].text;
  const style = readFileSync(`${out}/widget.css`, "utf8");
  for (const part of [script, style]) {
    if (/<\/script|<\/style|<!--|\{\{\w+\}\}/i.test(part)) {
      throw new Error("The page's script or style holds what would end its own element.");
    }
  }
  const parts = {
    script,
    style,
    digest: createHash("sha256").update(script).digest("base64"),
    version: JSON.parse(readFileSync(here("package.json"), "utf8")).version,
  };
  return readFileSync(here("src/page.template"), "utf8").replace(
    /\{\{(script|style|digest|version)\}\}/g,
    (_, name) => parts[name],
  );
}

/** The notebooks and the modules they import, beside the extension, with a list of them by their headings. */
function tutorials(from, to) {
  const files = readdirSync(from).sort();
  const notebooks = files.filter((file) => file.endsWith(".ipynb"));
  const helpers = files.filter((file) => file.endsWith(".py"));
  mkdirSync(to, { recursive: true });
  // As text: within the package they are no modules of it.
  for (const file of [...notebooks, ...helpers]) cpSync(`${from}/${file}`, `${to}/${file}.txt`);
  const heading = (file) => {
    const { cells } = JSON.parse(readFileSync(`${from}/${file}`, "utf8"));
    return [cells[0].source]
      .flat()
      .join("")
      .split("\n", 1)[0]
      .replace(/^#+\s*/, "");
  };
  const listed = notebooks.map((file) => ({ file, title: heading(file) }));
  writeFileSync(`${to}/index.json`, JSON.stringify({ tutorials: listed, helpers }));
}

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

const lib = readdirSync(here("lib")).map((name) => here(`lib/${name}`));
/** The chunk with the page, which only an export loads. */
const isLazy = (path) => readFileSync(path, "utf8").includes("<!DOCTYPE html>");
const sizes = (paths) => paths.reduce((sum, path) => sum + statSync(path).size, 0);
let fits = true;
for (const [name, size, limit] of [
  ["widget.js", sizes([`${out}/widget.js`]), WIDGET_LIMIT],
  ["widget.css", sizes([`${out}/widget.css`])],
  ["page.html", sizes([`${out}/page.html`])],
  ["extension", sizes(lib.filter((path) => !isLazy(path))), EXTENSION_LIMIT],
]) {
  console.log(`${name.padEnd(14)} ${size} bytes`);
  if (limit && size > limit) {
    console.error(`${name} is ${size} bytes; the budget is ${limit}.`);
    fits = false;
  }
}
process.exit(fits ? 0 : 1);
