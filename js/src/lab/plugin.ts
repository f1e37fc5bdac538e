/** JupyterLab's and Notebook 7's side: live outputs that outlive their kernel, commands, settings, a list. */
import type { JupyterFrontEnd, JupyterFrontEndPlugin } from "@jupyterlab/application";
import { ICommandPalette, MainAreaWidget, showErrorMessage } from "@jupyterlab/apputils";
import { ILauncher } from "@jupyterlab/launcher";
import { INotebookTracker, type NotebookPanel } from "@jupyterlab/notebook";
import { ISettingRegistry } from "@jupyterlab/settingregistry";
import { LabIcon } from "@jupyterlab/ui-components";
import { CHANGED, type Defaults } from "../bridge";
import { explainModel } from "./explain";
import { download, fileName, pageOf } from "./export";
import { explanationOfFile, explanationsOf, type Found, showsExplanation } from "./found";
import icon from "./icon.svg";
import { keepAlive, type LiveOutput } from "./live";
import { ExplanationList, PinBoard } from "./panel";
import { copyTutorial } from "./tutorials";

const ID = "relatif-widgets:plugin";
const CATEGORY = "Explanations";
/** Milliseconds that a changing notebook is given to settle before it is listed anew. */
const SETTLE = 200;

export const COMMANDS = {
  explain: "relatif:explain",
  exportHtml: "relatif:export-html",
  openTutorial: "relatif:open-tutorial",
} as const;

const plugin: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: "Keeps live explanations in saved notebooks; commands, settings and a list of them.",
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ICommandPalette, ILauncher, ISettingRegistry],
  activate,
};

function activate(
  app: JupyterFrontEnd,
  tracker: INotebookTracker,
  palette: ICommandPalette | null,
  launcher: ILauncher | null,
  registry: ISettingRegistry | null,
): void {
  const { commands, shell } = app;
  const shownAs = new LabIcon({ name: "relatif-widgets:icon", svgstr: icon });
  const live = new WeakMap<NotebookPanel, ReadonlySet<LiveOutput>>();
  let defaults: Defaults = { method: null, k: null, damping: null };

  const listed = (panel: NotebookPanel): Found[] =>
    explanationsOf(panel, live.get(panel) ?? new Set());

  // Settings

  void registry?.load(ID).then((settings) => {
    const follow = (): void => {
      const { method, k, damping } = settings.composite;
      defaults = {
        method: typeof method === "string" ? method : null,
        k: typeof k === "number" ? k : null,
        damping: typeof damping === "number" && damping > 0 ? damping : null,
      };
    };
    follow();
    settings.changed.connect(follow);
  });

  // The list

  let board: MainAreaWidget<PinBoard> | null = null;
  const keyOf = (found: Found): string => `${tracker.currentWidget?.context.path}/${found.key}`;
  const list = new ExplanationList({
    appear: () => refresh(),
    jump(found) {
      const panel = tracker.currentWidget;
      if (!panel) return;
      shell.activateById(panel.id);
      panel.content.activeCellIndex = found.cell;
      void panel.content.scrollToItem(found.cell, "start");
    },
    isPinned: (found) => board?.content.has(keyOf(found)) ?? false,
    pin(found) {
      const key = keyOf(found);
      if (board?.content.has(key)) {
        board.content.unpin(key);
        if (board.content.count === 0) board.dispose();
        return;
      }
      if (!board || board.isDisposed) {
        const made = new MainAreaWidget({ content: new PinBoard(refresh) });
        made.title.icon = shownAs;
        made.disposed.connect(() => {
          if (board === made) board = null;
          refresh();
        });
        board = made;
      }
      const notebook = tracker.currentWidget?.title.label ?? "";
      board.content.pin(key, `${notebook}, cell ${found.cell + 1}`, found.data);
      if (!board.isAttached) shell.add(board, "main", { mode: "tab-after" });
    },
    export: (found) => void exportFound(found, notebookName()),
  });
  list.id = "relatif-explanations";
  list.title.icon = shownAs;
  list.title.caption = "Explanations in this notebook";
  shell.add(list, "right", { rank: 900 });

  const notebookName = (): string =>
    tracker.currentWidget?.title.label.replace(/\.ipynb$/, "") ?? "";
  let waiting: ReturnType<typeof setTimeout> | undefined;
  function refresh(): void {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (!list.isVisible) return; // it asks again when it appears
      const panel = tracker.currentWidget;
      list.fill(panel ? panel.title.label : null, panel ? listed(panel) : []);
    }, SETTLE);
  }

  // Notebooks

  const attach = (panel: NotebookPanel): void => {
    live.set(
      panel,
      keepAlive(panel, () => defaults),
    );
    panel.node.addEventListener(CHANGED, refresh);
    panel.content.modelContentChanged.connect(refresh);
  };
  tracker.forEach(attach);
  tracker.widgetAdded.connect((_, panel) => attach(panel));
  tracker.currentChanged.connect(refresh);
  refresh();

  // Commands

  /** What is meant by "the explanation": the file in front, the active cell's, else the notebook's first. */
  function current(): { found: Pick<Found, "data" | "report">; name: string } | null {
    const file = explanationOfFile(shell.currentWidget);
    if (file) return { found: file, name: file.name };
    const panel = tracker.currentWidget;
    if (!panel) return null;
    const found = listed(panel);
    const chosen = found.find(({ cell }) => cell === panel.content.activeCellIndex) ?? found[0];
    return chosen ? { found: chosen, name: notebookName() } : null;
  }

  async function exportFound(
    { data, report }: Pick<Found, "data" | "report">,
    name: string,
  ): Promise<void> {
    const { default: template } = await import("./template");
    const [first] = report.explanations;
    const stem = name.replace(/^.*\//, "").replace(/\.relatif\.json$/, "");
    const which = report.title || first?.query.name || "explanation";
    download(fileName(`${stem}-${which}`), pageOf(template, data, report));
  }

  commands.addCommand(COMMANDS.explain, {
    label: "Explain a model…",
    caption: "Write a cell that shows which training examples taught a model its answers",
    icon: (args) => (args.isPalette ? undefined : shownAs) as never,
    execute: async ({ cwd }) => {
      let panel = tracker.currentWidget;
      if (!panel || cwd !== undefined) {
        // From the launcher, or with no notebook open: into a new one.
        const { kernelspecs } = app.serviceManager;
        await kernelspecs.ready;
        // With a kernel's name it does not ask which.
        const kernelName = kernelspecs.specs?.default ?? "python3";
        const options = { cwd: cwd ?? "", kernelName };
        const made: unknown = await commands.execute("notebook:create-new", options);
        panel = (made as NotebookPanel | undefined) ?? tracker.currentWidget;
        await panel?.context.ready;
      }
      if (panel) await explainModel(panel);
    },
  });
  commands.addCommand(COMMANDS.exportHtml, {
    label: "Export Explanation as HTML",
    caption: "One file, sliders alive, that needs neither kernel nor network",
    isEnabled: () =>
      explanationOfFile(shell.currentWidget) !== null ||
      (tracker.currentWidget !== null && showsExplanation(tracker.currentWidget)),
    execute: async () => {
      const chosen = current();
      if (chosen) await exportFound(chosen.found, chosen.name);
      else
        await showErrorMessage("Export explanation", "It cannot be read, or is not prepared yet.");
    },
  });
  commands.addCommand(COMMANDS.openTutorial, {
    label: (args) => (args.isLauncher ? "Tutorials" : "Open Tutorial on Explanations…"),
    caption: "Explanations by training examples, one idea each",
    icon: (args) => (args.isPalette ? undefined : shownAs) as never,
    execute: async ({ file }) => {
      try {
        const path = await copyTutorial(
          app.serviceManager.contents,
          typeof file === "string" ? file : null,
        );
        if (path) await commands.execute("docmanager:open", { path });
      } catch (error) {
        await showErrorMessage(
          "Open tutorial",
          error instanceof Error ? error.message : String(error),
        );
      }
    },
  });
  for (const command of Object.values(COMMANDS)) {
    palette?.addItem({ command, category: CATEGORY, args: { isPalette: true } });
  }
  for (const [rank, command] of [COMMANDS.explain, COMMANDS.openTutorial].entries()) {
    launcher?.add({ command, category: CATEGORY, rank, args: { isLauncher: true } });
  }
}

export default plugin;
