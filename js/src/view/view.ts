/** An explanation as DOM. It knows no host: values come in by methods, wishes go out by callbacks. */
import type { Explanation, Media, Provenance } from "../explanation";
import { seconds, whole } from "../format";
import { panelNamed, shownLabels, stopOf } from "../lookup";
import type { CheckResult, Returned, StripPage } from "../messages";
import { createActions, createChecks } from "./actions";
import { createControls } from "./controls";
import { createDetails } from "./details";
import { button, el, setText, toggleAttr } from "./dom";
import { loadSheet, type Sheet } from "./media";
import { createPanels, methodsOf, type Notes, type PanelEvents } from "./panels";
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
  /** Training examples like one of them; null where there are none to show. */
  setSimilar(doc: Explanation | null, index: number | null): void;
  /** For how many of the prepared queries each example came back. */
  setReturned(of: number, counts: Returned): void;
  setDetail(index: number, media: Media): void;
  /** What a check by retraining of one query found, or why it failed. */
  setCheck(query: number, removed: readonly number[], check: CheckResult | string): void;
  /** The kernel owes an answer. */
  setSilent(silent: boolean): void;
  dispose(): void;
}

const FIRST = "Preparing the first explanation…";
const SILENT =
  "The kernel does not answer: it is busy with another cell, or was restarted. " +
  "If it was restarted, run the notebook again.";

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
    compare: [],
    selection: [],
    tags: {},
    like: null,
    can_check: false,
  };
  let similar: { doc: Explanation; sheet: Sheet; index: number } | null = null;
  let returned: { of: number; counts: Returned } = { of: 0, counts: {} };
  let silent = false;
  /** Labels asked for here whose panels have not come yet. */
  let coming = new Set<string>();

  const commit = (changed: Commit): void => {
    change(changed);
    callbacks.commit(changed);
  };
  const controls = createControls(signal, change, commit);
  const query = createQuery(signal, callbacks.live, toggleLabel);
  const marks = {
    select(indices: number[], on: boolean) {
      const rest = state.selection.filter((index) => !indices.includes(index));
      commit({ selection: on ? [...rest, ...indices] : rest });
    },
    tag(indices: number[], tag: string, on: boolean) {
      const tags = { ...state.tags };
      for (const index of indices) {
        const others = (tags[`${index}`] ?? []).filter((one) => one !== tag);
        if (on) others.push(tag);
        if (others.length > 0) tags[`${index}`] = others;
        else delete tags[`${index}`];
      }
      commit({ tags });
    },
    like: (index: number) => commit({ like: index }),
    check(indices: number[]) {
      const row = doc?.query.index ?? null;
      if (row !== null && checks.pending(row, indices)) callbacks.check(indices);
    },
  };
  const details = createDetails(signal, callbacks.live, {
    ...marks,
    requestMedia: (index) => callbacks.requestDetail(index),
  });
  const panelEvents: PanelEvents = {
    remove(label) {
      toggleLabel(label);
      // Its button has gone with the panel.
      query.focusLabel(label);
    },
    select: marks.select,
    open(its, place) {
      const cells = its === similar?.doc ? similar.sheet : sheet;
      if (cells) details.open(its, cells, place);
    },
  };
  const panels = createPanels(signal, callbacks.live, panelEvents);
  const likes = createPanels(signal, callbacks.live, {
    ...panelEvents,
    remove: () => commit({ like: null }),
  });
  likes.node.classList.add("rw-likes");
  const checks = createChecks(signal, () => callbacks.cancelChecks());
  const actions = createActions(signal, { ...marks, clear: () => commit({ selection: [] }) });
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
  const column = el("div", { class: "rw-column" }, panels.node, likes.node, checks.node);
  const main = el("div", { class: "rw-main" }, query.node, column);
  const live = el("span", { attrs: { role: "status", "aria-live": "polite" } });
  const percent = el("span", { class: "rw-num", attrs: { "aria-hidden": "true" } });
  const facts = el("span", { class: "rw-provenance" });
  const cancel = button({ class: "rw-action", text: "Cancel" });
  const resume = button({
    class: "rw-action",
    text: "Finish",
    title: "Rank all training examples",
  });
  cancel.addEventListener("click", () => callbacks.cancel(), { signal });
  resume.addEventListener("click", () => callbacks.resume(), { signal });
  const frame = el(
    "div",
    { class: "rw-frame" },
    progress,
    controls.node,
    main,
    empty,
    // Where the eyes are that picked a query below.
    alert,
    actions.node,
    strip.node,
    el(
      "div",
      { class: "rw-foot" },
      el("span", { class: "rw-live" }, live, percent),
      cancel,
      resume,
      facts,
    ),
    details.node,
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
  outer.addEventListener(
    "keydown",
    (event) => {
      event.stopPropagation();
      const typing = event.target instanceof HTMLInputElement && event.target.type !== "radio";
      if (event.key === "Escape" && state.selection.length > 0 && !typing && !details.isOpen()) {
        commit({ selection: [] });
      }
    },
    { signal },
  );
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
    commit({ labels });
  }

  function change(changed: Partial<ViewState>): void {
    const before = state;
    state = { ...state, ...changed };
    const keys = Object.keys(changed) as (keyof ViewState)[];
    if (keys.every((key) => JSON.stringify(state[key]) === JSON.stringify(before[key]))) return;
    drawSettings();
    if (changed.labels) query.draw(shown());
    if ("like" in changed && state.like !== before.like) drawSimilar();
    strip.setCurrent(state.query ?? doc?.query.index ?? null);
  }

  function drawSettings(): void {
    controls.draw(state, doc);
    if (!doc) return;
    const { sign, k } = state;
    const methods = methodsOf(state.method, state.compare);
    const notes: Notes = {
      selection: new Set(state.selection),
      tags: state.tags,
      of: returned.of,
      returned: (method, index) => returned.counts[method]?.[`${index}`] ?? 0,
    };
    const stop = stopOf(doc.dampings, state.damping);
    panels.draw(shown(), { methods, sign, k, stop }, notes);
    if (similar) {
      const { doc: its } = similar;
      const labels = its.panels.map(({ name }) => name);
      likes.draw(labels, { methods, sign, k, stop: stopOf(its.dampings, state.damping) }, notes);
    }
    actions.draw(state.selection, state.tags, state.can_check);
    details.draw({ sign, stop }, notes, state.can_check);
  }

  function drawSimilar(): void {
    const coming = state.like !== null && similar?.index !== state.like;
    likes.node.hidden = state.like === null || coming;
  }

  function drawStatus(): void {
    const preparing = status.status === "preparing";
    const failed = status.status === "error";
    const portion = Math.round(Math.max(0, Math.min(1, status.progress || 0)) * 100);
    frame.classList.toggle("rw-busy", preparing);
    progress.hidden = !preparing;
    meter.style.width = `${portion}%`;
    toggleAttr(progress, "aria-valuenow", `${portion}`);
    cancel.hidden = !preparing || !callbacks.live;
    resume.hidden = preparing || !callbacks.live || !doc || doc.provenance.examined === null;
    setText(live, preparing ? status.message || "Preparing…" : failed ? "" : status.message);
    setText(percent, preparing && portion > 0 ? ` ${portion} %` : "");
    const elsewhere = doc && state.query !== null && state.query !== doc.query.index;
    const lead = elsewhere ? `Test #${state.query}: ` : "";
    setText(alert, failed ? lead + status.message : silent ? SILENT : "");
    alert.hidden = !failed && !silent;
    main.hidden = !doc;
    empty.hidden = doc !== null || failed;
  }

  controls.draw(state, doc);
  drawStatus();
  drawSimilar();

  return {
    setExplanation(next) {
      const other = next.query.name !== doc?.query.name || next.query.index !== doc?.query.index;
      coming = other ? new Set() : new Set([...coming].filter((label) => !panelNamed(next, label)));
      doc = next;
      if (other) details.close();
      checks.show(next.query.index);
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
    setSimilar(next, index) {
      const old = similar?.sheet;
      similar = next && index !== null ? { doc: next, sheet: loadSheet(next.sprite), index } : null;
      if (similar) likes.setDocument(similar.doc, similar.sheet, `more like #${similar.index}`);
      drawSimilar();
      drawSettings();
      old?.dispose();
    },
    setReturned(of, counts) {
      returned = { of, counts };
      drawSettings();
    },
    setDetail: details.setMedia,
    setCheck: checks.done,
    setSilent(now) {
      if (now === silent) return;
      silent = now;
      drawStatus();
    },
    dispose() {
      listening.abort();
      watch?.disconnect();
      strip.dispose();
      details.close();
      sheet?.dispose();
      similar?.sheet.dispose();
      outer.remove();
    },
  };
}

function provenanceLine(provenance: Provenance): string {
  return [
    `${whole(provenance.train_size)} training examples`,
    `${provenance.curvature_detail}, ${whole(provenance.parameters)} parameters`,
    provenance.examined === null
      ? `this query prepared in ${seconds(provenance.prepare_seconds)}`
      : `cut short: ranks the first ${whole(provenance.examined)}`,
  ].join(" · ");
}

export type { Callbacks, Commit, ViewState, ViewStatus };
