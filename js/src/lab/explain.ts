/** The command "Explain a model…": asks what to explain, and writes a cell that does it. */
import { Dialog, showErrorMessage } from "@jupyterlab/apputils";
import { NotebookActions, type NotebookPanel } from "@jupyterlab/notebook";
import { Widget } from "@lumino/widgets";
import { el } from "../view/dom";
import {
  CANDIDATES,
  type Candidates,
  explainCode,
  guess,
  isExpression,
  type Names,
  readCandidates,
} from "./code";

const FIELDS: { key: keyof Names; label: string; among: keyof Candidates }[] = [
  { key: "model", label: "Model (a torch.nn.Module)", among: "model" },
  { key: "train_set", label: "Training set", among: "sets" },
  { key: "test_set", label: "Examples to explain", among: "sets" },
];

/** Ask, write the cell below the active one, and put the cursor there. Not run: it is read first. */
export async function explainModel(panel: NotebookPanel): Promise<void> {
  const form = new Form(await candidates(panel));
  const dialog = new Dialog({
    title: "Explain a model",
    body: form,
    buttons: [Dialog.cancelButton(), Dialog.okButton({ label: "Insert code" })],
    focusNodeSelector: "input",
  });
  const { button, value } = await dialog.launch();
  if (!button.accept) return;
  if (!value) {
    const expected = "Each field takes a Python name, such as model or data.train.";
    await showErrorMessage("Explain a model", expected);
    return;
  }
  const { content } = panel;
  const { activeCell } = content;
  const empty = activeCell?.model.type === "code" && activeCell.model.sharedModel.source === "";
  if (!empty) NotebookActions.insertBelow(content);
  content.activeCell?.model.sharedModel.setSource(explainCode(value));
  content.activate();
  await content.scrollToItem(content.activeCellIndex, "smart").catch(() => undefined);
}

/** Variables of the kernel that could be meant; none where it is busy, absent or not Python. */
async function candidates(panel: NotebookPanel): Promise<Candidates> {
  const nothing = readCandidates(null);
  const kernel = panel.sessionContext.session?.kernel;
  if (kernel?.status !== "idle" || !kernel.name.includes("python")) return nothing;
  const future = kernel.requestExecute({
    code: "",
    silent: true,
    store_history: false,
    user_expressions: { found: CANDIDATES },
  });
  const answered = future.done.then(({ content }) =>
    content.status === "ok" ? readCandidates(content.user_expressions.found) : nothing,
  );
  const late = new Promise<Candidates>((resolve) => setTimeout(resolve, 1000, nothing));
  const found = await Promise.race([answered.catch(() => nothing), late]);
  future.dispose();
  return found;
}

class Form extends Widget {
  private readonly inputs = new Map<keyof Names, HTMLInputElement>();

  constructor(candidates: Candidates) {
    const node = el("div", { class: "rw-form" });
    super({ node });
    const start = guess(candidates);
    for (const { key, label, among } of FIELDS) {
      const list = el("datalist", { attrs: { id: `rw-form-${key}` } });
      for (const name of candidates[among]) list.append(el("option", { attrs: { value: name } }));
      const input = el("input", {
        class: "jp-mod-styled",
        attrs: { type: "text", list: list.id, spellcheck: "false", autocomplete: "off" },
      });
      input.value = start[key];
      input.addEventListener("input", () =>
        input.setCustomValidity(
          isExpression(input.value.trim()) ? "" : "A Python name, such as model or data.train",
        ),
      );
      node.append(el("label", {}, el("span", { text: label }), input), list);
      this.inputs.set(key, input);
    }
    node.append(
      el("p", {
        class: "rw-form-note",
        text: "Names as they stand in the notebook. A cell is written, and not run.",
      }),
    );
  }

  /** What the dialog gives back; null where a field is no name. */
  getValue(): Names | null {
    const value = (key: keyof Names): string => this.inputs.get(key)?.value.trim() ?? "";
    const names = {
      model: value("model"),
      train_set: value("train_set"),
      test_set: value("test_set"),
    };
    return Object.values(names).every(isExpression) ? names : null;
  }
}
