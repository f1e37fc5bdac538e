/** Host: a live widget in a notebook, by anywidget. */
import type { AnyModel, RenderProps } from "@anywidget/types";
import { asShown, listen } from "./bridge";
import { type Explanation, parseExplanation } from "./explanation";
import { parseMessage, type Still, type ToKernel, type Traits } from "./messages";
import { EVERYTHING } from "./view/filters";
import { STRIP_COUNT } from "./view/strip";
import { createView, type ViewState, type ViewStatus } from "./view/view";

type Model = AnyModel<Traits & Record<string, unknown>>;

const STATE = [
  "method",
  "compare",
  "k",
  "damping",
  "sign",
  "labels",
  "query",
  "selection",
  "tags",
  "like",
  "can_check",
] as const;
const STATUS = ["status", "progress", "message"] as const;
/** Milliseconds after which a kernel that says nothing is called silent. */
const PATIENCE = 8000;

function render({ model, el }: Pick<RenderProps, "model" | "el">): () => void {
  const widget = model as unknown as Model;
  /** Whether it went out: a comm whose kernel is gone throws. */
  const send = (message: ToKernel): boolean => attempt(() => model.send(message));
  const save = (): boolean => attempt(() => widget.save_changes());
  const attempt = (act: () => void): boolean => {
    try {
      act();
      return true;
    } catch {
      view.setSilent(true);
      return false;
    }
  };
  // Two views of one model hear each other's replies; a random start keeps their ids apart.
  let asked = Math.floor(Math.random() * 2 ** 31) * 1024;
  const owed = new Set<number>();

  let waiting: ReturnType<typeof setTimeout> | undefined;
  const heard = (): void => {
    clearTimeout(waiting);
    waiting = undefined;
    view.setSilent(false);
  };
  /** The kernel owes an answer from now on. */
  const expect = (): void => {
    waiting ??= setTimeout(() => view.setSilent(true), PATIENCE);
  };

  const view = createView(el, {
    live: true,
    commit(changed) {
      for (const [name, value] of Object.entries(changed)) widget.set(name, value);
      save();
    },
    pickQuery(index) {
      if (index === widget.get("query")) return;
      widget.set("query", index);
      if (save()) expect();
    },
    requestStrip(question) {
      owed.add(++asked);
      if (send({ kind: "strip", id: asked, ...question })) expect();
    },
    requestDetail(index) {
      send({ kind: "detail", index });
    },
    check(indices) {
      if (!send({ kind: "check", indices })) {
        view.setCheck(widget.get("query"), indices, "The kernel is gone.");
      }
    },
    cancelChecks() {
      send({ kind: "cancel_checks" });
    },
    cancel() {
      send({ kind: "cancel" });
    },
    resume() {
      send({ kind: "resume" });
    },
  });

  const state = (): ViewState => ({
    method: widget.get("method"),
    k: widget.get("k"),
    damping: widget.get("damping"),
    sign: widget.get("sign"),
    labels: widget.get("labels"),
    query: widget.get("query"),
    compare: widget.get("compare") ?? [],
    selection: widget.get("selection") ?? [],
    tags: widget.get("tags") ?? {},
    like: widget.get("like") ?? null,
    can_check: widget.get("can_check") ?? false,
  });
  const status = (): ViewStatus => ({
    status: widget.get("status"),
    progress: widget.get("progress"),
    message: widget.get("message"),
  });
  const fail = (reason: unknown): void =>
    view.setStatus({
      status: "error",
      progress: 0,
      message: reason instanceof Error ? reason.message : String(reason),
    });

  // The page around, where it keeps explanations with the notebook.
  const closing = new AbortController();
  let current: Explanation | null = null;
  let hosted = false;
  let still: Still | null = null;
  const askStill = (): void => {
    still = null;
    if (hosted && current) send({ kind: "still" });
  };
  const changed = listen(el, closing.signal, {
    host(defaults) {
      hosted = true;
      askStill();
      const free = widget.get("follows") ?? [];
      if (free.length === 0) return;
      for (const name of ["method", "k", "damping"] as const) {
        const value = defaults[name];
        if (value !== null && free.includes(name)) widget.set(name, value as never);
      }
      widget.set("follows", []);
      save();
    },
    shown: () => current && { document: asShown(current, state()), still },
  });

  const onState = (): void => view.setState(state());
  const onStatus = (): void => {
    heard();
    view.setStatus(status());
  };
  const onMessage = (content: unknown): void => {
    try {
      const message = parseMessage(content);
      if (!message) return;
      heard();
      if (message.kind === "explanation") {
        current = parseExplanation(message.document);
        view.setExplanation(current);
        askStill();
        changed();
      } else if (message.kind === "still") {
        still = message.still;
      } else if (message.kind === "similar") {
        const { document: found, index } = message;
        view.setSimilar(found == null ? null : parseExplanation(found), index);
      } else if (message.kind === "returned") {
        view.setReturned(message.of, message.counts);
      } else if (message.kind === "detail") {
        view.setDetail(message.index, message.media);
      } else if (message.kind === "check") {
        view.setCheck(message.query, message.removed, message.check);
      } else if (message.kind === "strip") {
        if (owed.delete(message.id)) view.setStrip(message.page);
      } else if (message.id === null) {
        fail(message.message);
      } else if (owed.delete(message.id)) {
        view.failStrip();
        fail(message.message);
      }
    } catch (error) {
      fail(error);
    }
  };

  for (const name of STATE) model.on(`change:${name}`, onState);
  for (const name of STATUS) model.on(`change:${name}`, onStatus);
  model.on("msg:custom", onMessage);
  onState();
  onStatus();
  send({ kind: "ready" });
  owed.add(++asked);
  const around = widget.get("query") ?? null;
  send({ kind: "strip", id: asked, filter: EVERYTHING, offset: 0, count: STRIP_COUNT, around });

  return () => {
    for (const name of STATE) model.off(`change:${name}`, onState);
    for (const name of STATUS) model.off(`change:${name}`, onStatus);
    model.off("msg:custom", onMessage);
    clearTimeout(waiting);
    closing.abort();
    view.dispose();
  };
}

export default { render };
