/**
 * An output of the live widget. While its model exists, the widget is shown, drawn by ipywidgets'
 * own renderer; once it does not, the document that was saved with the notebook.
 *
 * ipywidgets' renderer ranks before every other, and prints "model not found" where there is none.
 * So this one ranks before that, asks whether the model is alive, and only then lets it draw.
 */
import type { NotebookPanel } from "@jupyterlab/notebook";
import type { IRenderMime } from "@jupyterlab/rendermime-interfaces";
import type { Kernel } from "@jupyterlab/services";
import { Panel, type Widget } from "@lumino/widgets";
import { askShown, CHANGED, type Defaults, type Shown, tellHost } from "../bridge";
import { pack } from "./packed";
import { DocumentWidget, MIME } from "./renderer";

const WIDGET = "application/vnd.jupyter.widget-view+json";
/** ipywidgets has -10; smaller is preferred. */
const RANK = -20;
/** Milliseconds that a living widget may take to draw before the saved document stands in. */
const GRACE = 3000;

export interface Surroundings {
  panel: NotebookPanel;
  defaults(): Defaults;
  /** Something else is on display. */
  changed(): void;
  outputs: Set<LiveOutput>;
}

/** Let explanations of one notebook be drawn by their live widgets, and be kept when it is saved. */
export function keepAlive(panel: NotebookPanel, defaults: () => Defaults): Set<LiveOutput> {
  const outputs = new Set<LiveOutput>();
  const { rendermime } = panel.content;
  const around: Surroundings = {
    panel,
    defaults,
    outputs,
    changed: () => panel.node.dispatchEvent(new CustomEvent(CHANGED)),
  };
  rendermime.addFactory(
    {
      safe: true,
      mimeTypes: [MIME],
      defaultRank: RANK,
      createRenderer: () => new LiveOutput(around),
    },
    RANK,
  );
  panel.context.saveState.connect((_, state) => {
    if (state === "started") for (const output of outputs) output.keep();
  });
  panel.sessionContext.kernelChanged.connect(() => {
    for (const output of outputs) void output.revive();
  });
  return outputs;
}

export class LiveOutput extends Panel implements IRenderMime.IRenderer {
  private readonly saved = new DocumentWidget();
  private model: IRenderMime.IMimeModel | null = null;
  /** ipywidgets' renderer, and the model that it draws. */
  private live: { widget: Widget; id: string } | null = null;
  private readonly watch = new MutationObserver(() => this.arrange());
  private readonly noticed = new WeakSet<Element>();
  private coming: ReturnType<typeof setTimeout> | undefined;

  constructor(private readonly around: Surroundings) {
    super();
    this.addClass("rw-output");
    this.addWidget(this.saved);
    around.outputs.add(this);
    this.node.addEventListener(CHANGED, around.changed);
  }

  override dispose(): void {
    if (this.isDisposed) return;
    this.around.outputs.delete(this);
    this.watch.disconnect();
    clearTimeout(this.coming);
    super.dispose();
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this.model = model;
    const id = this.modelId();
    if (id === null || !this.kernel()?.hasComm(id)) this.arrange();
    await this.revive();
  }

  /** What is on display: the live widget's, else what was saved. */
  shown(): unknown {
    return this.ask()?.document ?? this.model?.data[MIME];
  }

  /** Write what is on display into the notebook. */
  keep(): void {
    const { model } = this;
    const now = this.ask();
    if (!model || !now) return;
    const data = { ...model.data, [MIME]: pack(now.document) as never };
    if (now.still)
      Object.assign(data, { "text/html": now.still.html, "text/plain": now.still.text });
    if (JSON.stringify(data) !== JSON.stringify(model.data)) model.setData({ data });
  }

  /** Show the live widget, if its model exists. */
  async revive(): Promise<void> {
    const id = this.modelId();
    if (id === null || this.live?.id === id || !(await this.isAlive(id))) return;
    if (this.isDisposed || this.modelId() !== id || this.live?.id === id || !this.model) return;
    this.live?.widget.dispose();
    let renderer: IRenderMime.IRenderer;
    try {
      renderer = this.around.panel.content.rendermime.createRenderer(WIDGET);
    } catch {
      return; // no ipywidgets in this JupyterLab
    }
    this.live = { widget: renderer, id };
    this.coming = setTimeout(() => {
      this.coming = undefined;
      this.arrange();
    }, GRACE);
    renderer.addClass("rw-away");
    this.addWidget(renderer);
    this.watch.observe(renderer.node, { childList: true, subtree: true });
    await renderer.renderModel(this.model);
    this.arrange();
  }

  private modelId(): string | null {
    const { model } = this;
    const view = model?.trusted ? (model.data[WIDGET] as { model_id?: unknown } | undefined) : null;
    return typeof view?.model_id === "string" && view.model_id ? view.model_id : null;
  }

  private async isAlive(id: string): Promise<boolean> {
    const kernel = this.kernel();
    if (!kernel) return false;
    // What this page has seen being made; a kernel that computes would not answer.
    if (kernel.hasComm(id)) return true;
    try {
      const { content } = await kernel.requestCommInfo({ target_name: "jupyter.widget" });
      return content.status === "ok" && id in content.comms;
    } catch {
      return false; // it was shut down meanwhile
    }
  }

  private kernel(): Kernel.IKernelConnection | null {
    return this.around.panel.sessionContext.session?.kernel ?? null;
  }

  private root(): Element | null {
    return this.live?.widget.node.querySelector(".rw-root") ?? null;
  }

  private ask(): Shown | null {
    const root = this.root();
    return root && askShown(root);
  }

  /** One of the two is shown. */
  private arrange(): void {
    if (this.isDisposed) return;
    const root = this.root();
    this.live?.widget.toggleClass("rw-away", root === null);
    if (root) {
      clearTimeout(this.coming);
      this.coming = undefined;
      this.saved.clear();
      if (this.noticed.has(root)) return;
      this.noticed.add(root);
      tellHost(root, this.around.defaults());
      this.around.changed();
    } else if (this.model && this.coming === undefined) {
      this.saved.draw(this.model.data[MIME]);
    }
  }
}
