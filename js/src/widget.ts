/** Host: a live widget in a notebook, by anywidget. */
import type { AnyModel, RenderProps } from "@anywidget/types";
import { parseExplanation } from "./explanation";
import { parseMessage, type ToKernel, type Traits } from "./messages";
import { EVERYTHING } from "./view/filters";
import { STRIP_COUNT } from "./view/strip";
import { createView, type ViewState, type ViewStatus } from "./view/view";

type Model = AnyModel<Traits & Record<string, unknown>>;

const STATE = ["method", "k", "damping", "sign", "labels", "query"] as const;
const STATUS = ["status", "progress", "message"] as const;

function render({ model, el }: Pick<RenderProps, "model" | "el">): () => void {
  const widget = model as unknown as Model;
  const send = (message: ToKernel): void => model.send(message);
  // Two views of one model hear each other's replies; a random start keeps their ids apart.
  let asked = Math.floor(Math.random() * 2 ** 31) * 1024;
  const owed = new Set<number>();

  const view = createView(el, {
    canPrepare: true,
    commit(changed) {
      for (const [name, value] of Object.entries(changed)) widget.set(name, value);
      widget.save_changes();
    },
    pickQuery(index) {
      widget.set("query", index);
      widget.save_changes();
    },
    requestStrip(question) {
      owed.add(++asked);
      send({ kind: "strip", id: asked, ...question });
    },
  });

  const state = (): ViewState => ({
    method: widget.get("method"),
    k: widget.get("k"),
    damping: widget.get("damping"),
    sign: widget.get("sign"),
    labels: widget.get("labels"),
    query: widget.get("query"),
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

  const onState = (): void => view.setState(state());
  const onStatus = (): void => view.setStatus(status());
  const onMessage = (content: unknown): void => {
    try {
      const message = parseMessage(content);
      if (!message) return;
      if (message.kind === "explanation") {
        view.setExplanation(parseExplanation(message.document));
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
    view.dispose();
  };
}

export default { render };
