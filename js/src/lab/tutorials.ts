/** The command "Open tutorial": copies one that came with the extension into the person's files. */
import { InputDialog } from "@jupyterlab/apputils";
import { PageConfig, URLExt } from "@jupyterlab/coreutils";
import { type Contents, type ContentsManager, ServerConnection } from "@jupyterlab/services";

const FOLDER = "relatif-tutorials";

interface Listed {
  /** Their first headings, in order. */
  tutorials: { file: string; title: string }[];
  /** What they import, copied along. */
  helpers: string[];
}

/** Ask which, unless told; returns the path of the copy, or null where nothing was chosen. */
export async function copyTutorial(
  contents: Contents.IManager | ContentsManager,
  wanted: string | null,
): Promise<string | null> {
  const { tutorials, helpers } = JSON.parse(await fetchText("index.json")) as Listed;
  const titles = tutorials.map(({ title }, at) => `${at + 1}. ${title}`);
  let chosen = tutorials.find(({ file }) => file === wanted);
  if (!chosen) {
    const { value } = await InputDialog.getItem({
      title: "Open tutorial",
      label: `A copy goes into the folder ${FOLDER}, yours to change.`,
      items: titles,
      okLabel: "Open",
    });
    chosen = tutorials[titles.indexOf(value ?? "")];
  }
  if (!chosen) return null;
  if (!(await exists(contents, FOLDER))) {
    await contents.save(FOLDER, { type: "directory", format: "json" });
  }
  for (const helper of helpers) await copy(contents, helper, "file");
  return copy(contents, chosen.file, "notebook");
}

/** A copy that is there already, perhaps changed, stays. */
async function copy(
  contents: Contents.IManager | ContentsManager,
  name: string,
  type: "file" | "notebook",
): Promise<string> {
  const path = `${FOLDER}/${name}`;
  if (await exists(contents, path)) return path;
  const text = await fetchText(`${name}.txt`);
  await contents.save(path, {
    type,
    format: type === "notebook" ? "json" : "text",
    content: type === "notebook" ? JSON.parse(text) : text,
  });
  return path;
}

async function exists(
  contents: Contents.IManager | ContentsManager,
  path: string,
): Promise<boolean> {
  const folder = path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : "";
  const listed = await contents.get(folder, { content: true });
  return (listed.content as Contents.IModel[]).some((one) => one.path === path);
}

/** A file that lies beside the extension, on this JupyterLab's own server. */
async function fetchText(name: string): Promise<string> {
  const settings = ServerConnection.makeSettings();
  const extensions = new URL(PageConfig.getOption("fullLabextensionsUrl"), settings.baseUrl).href;
  const file = encodeURIComponent(name);
  const url = URLExt.join(extensions, "relatif-widgets", "static", "tutorials", file);
  const answer = await ServerConnection.makeRequest(url, {}, settings);
  if (!answer.ok) throw new Error(`${name} is not among the extension's files (${answer.status}).`);
  return answer.text();
}
