/** An explanation as DOM. It knows no host: values come in by methods, wishes go out by callbacks. */
import type { Explanation, Provenance } from "../explanation";
import { seconds, whole } from "../format";
import { panelNamed, shownLabels, stopOf } from "../lookup";
import type { StripPage } from "../messages";
import { createControls } from "./controls";
import { el, setText, toggleAttr } from "./dom";
import { loadSheet, type Sheet } from "./media";
import { createPanels } from "./panels";
import { createQuery } from "./query";
import type { Callbacks, Commit, ViewState, ViewStatus } from "./state";
import { createStrip } from "./strip";

export interface View {
  setExplanation(doc: Explanation): void;
  setState(state: Partial<ViewState>): void;
  setStatus(status: ViewStatus): void;
  setStrip(page: StripPage | null): void;
  /** A question about the strip will not be answered. */
  failStrip(): void;
  dispose(): void;
}

const FIRST = "Preparing the first explanation…";

export function createView(root: HTMLElement, callbacks: Callbacks): View {
  const listening = new AbortController();
  const { signal } = listening;
  let doc: Explanation | null = null;
  let sheet: Sheet | null = null;
  let status: ViewStatus = { status: "idle", progress: 0, message: "" };
  let state: ViewState = {
    method: "loss_relative",
    sign: "positive",
    k: 5,
    damping: 1e-3,
    labels: [],
    query: null,
  };
  /** Labels asked for here whose panels have not come yet. */
  let coming = new Set<string>();

  const controls = createControls(
    signal,
    (changed) => change(changed),
    (changed) => {
      change(changed);
      callbacks.commit(changed);
    },
  );
  const query = createQuery(signal, callbacks.canPrepare, toggleLabel);
  const panels = createPanels(signal, (label) => {
    toggleLabel(label);
    // Its button has gone with the panel.
    query.focusLabel(label);
  });
  const strip = createStrip(
    signal,
    (index) => {
      change({ query: index });
      callbacks.pickQuery(index);
    },
    (question) => callbacks.requestStrip(question),
  );

  const meter = el("i");
  const progress = el(
    "div",
    {
      class: "rw-progress",
      attrs: {
        role: "progressbar",
        "aria-label": "Preparation",
        "aria-valuemin": "0",
        "aria-valuemax": "100",
      },
    },
    meter,
  );
  const alert = el("div", { class: "rw-alert", attrs: { role: "alert" } });
  const empty = el("p", { class: "rw-empty", text: FIRST });
  const main = el("div", { class: "rw-main" }, query.node, panels.node);
  const live = el("span", { attrs: { role: "status", "aria-live": "polite" } });
  const percent = el("span", { class: "rw-num", attrs: { "aria-hidden": "true" } });
  const facts = el("span", { class: "rw-provenance" });
  const frame = el(
    "div",
    { class: "rw-frame" },
    progress,
    controls.node,
    alert,
    main,
    empty,
    strip.node,
    el("div", { class: "rw-foot" }, el("span", { class: "rw-live" }, live, percent), facts),
  );
  const outer = el(
    "div",
    {
      class: "rw-root",
      attrs: { role: "group", "aria-label": "Explanation by training examples" },
    },
    frame,
  );
  // Keys belong to the control that has the focus, not to the notebook around it.
  outer.addEventListener("keydown", (event) => event.stopPropagation(), { signal });
  root.append(outer);

  const watch =
    typeof ResizeObserver === "undefined"
      ? null
      : new ResizeObserver(([entry]) => {
          if (entry && entry.contentRect.width > 0) strip.setWidth(entry.contentRect.width);
        });
  watch?.observe(outer);

  function shown(): string[] {
    if (!doc) return [];
    const { class_names, query: explained } = doc;
    const preparing = status.status === "preparing" && state.query === explained.index;
    return shownLabels(
      doc,
      state.labels,
      (label) => coming.has(label) || (preparing && class_names.includes(label)),
    );
  }

  function toggleLabel(label: string): void {
    const now = shown();
    const labels = now.includes(label) ? now.filter((one) => one !== label) : [...now, label];
    if (labels.length === 0) return;
    if (doc && !panelNamed(doc, label)) {
      if (now.includes(label)) coming.delete(label);
      else coming.add(label);
    }
    change({ labels });
    callbacks.commit({ labels });
  }

  function change(changed: Partial<ViewState>): void {
    const before = state;
    state = { ...state, ...changed };
    const keys = Object.keys(changed) as (keyof ViewState)[];
    if (keys.every((key) => JSON.stringify(state[key]) === JSON.stringify(before[key]))) return;
    drawSettings();
    if (changed.labels) query.draw(shown());
    strip.setCurrent(state.query ?? doc?.query.index ?? null);
  }

  function drawSettings(): void {
    controls.draw(state, doc);
    if (!doc) return;
    const { method, sign, k } = state;
    panels.draw(shown(), { method, sign, k, stop: stopOf(doc.dampings, state.damping) });
  }

  function drawStatus(): void {
    const preparing = status.status === "preparing";
    const failed = status.status === "error";
    const portion = Math.round(Math.max(0, Math.min(1, status.progress || 0)) * 100);
    frame.classList.toggle("rw-busy", preparing);
    progress.hidden = !preparing;
    meter.style.width = `${portion}%`;
    toggleAttr(progress, "aria-valuenow", `${portion}`);
    setText(live, preparing ? status.message || "Preparing…" : failed ? "" : status.message);
    setText(percent, preparing && portion > 0 ? ` ${portion} %` : "");
    setText(alert, failed ? status.message : "");
    alert.hidden = !failed;
    main.hidden = !doc;
    empty.hidden = doc !== null || failed;
  }

  controls.draw(state, doc);
  drawStatus();

  return {
    setExplanation(next) {
      const other = next.query.name !== doc?.query.name || next.query.index !== doc?.query.index;
      coming = other ? new Set() : new Set([...coming].filter((label) => !panelNamed(next, label)));
      doc = next;
      const old = sheet;
      sheet = loadSheet(next.sprite);
      query.setDocument(next, sheet);
      panels.setDocument(next, sheet);
      old?.dispose();
      setText(facts, provenanceLine(next.provenance));
      facts.title = `${next.provenance.curvature}, loss ${next.provenance.loss}, ${next.provenance.created}, relatif_widgets ${next.provenance.package_version}`;
      drawSettings();
      query.draw(shown());
      strip.setCurrent(state.query ?? next.query.index);
      drawStatus();
    },
    setState: change,
    setStatus(next) {
      const settled = next.status === "error";
      if (settled) coming.clear();
      const turned = next.status !== status.status;
      status = next;
      drawStatus();
      if (turned && doc) {
        drawSettings();
        query.draw(shown());
      }
    },
    setStrip(page) {
      strip.setPage(page);
    },
    failStrip: strip.fail,
    dispose() {
      listening.abort();
      watch?.disconnect();
      strip.dispose();
      sheet?.dispose();
      outer.remove();
    },
  };
}

function provenanceLine(provenance: Provenance): string {
  return [
    `${whole(provenance.train_size)} training examples`,
    `${provenance.curvature_detail}, ${whole(provenance.parameters)} parameters`,
    `prepared in ${seconds(provenance.prepare_seconds)}`,
  ].join(" · ");
}

export type { Callbacks, Commit, ViewState, ViewStatus };
