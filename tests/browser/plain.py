"""A host that is no Jupyter: the widget's module by anywidget's contract alone, its Python half in this process.

What VS Code, Colab and marimo give a widget is what this page gives it: a
model with get, set, on, off, send and save_changes, and an element.
"""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from playwright.sync_api import Browser, Locator, Page, Route

from relatif_widgets import ExplanationWidget

STATIC = Path(__file__).parents[2] / "relatif_widgets" / "static"
ADDRESS = "http://plain.test/"

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>plain host</title>
<link rel="stylesheet" href="widget.css"><style>body { margin: 12px; background: BACK }</style></head>
<body class="THEME"><main id="root"></main></body></html>"""

HOST = """async (state) => {
  const listeners = new Map();
  const emit = (event, value) => { for (const one of [...(listeners.get(event) ?? [])]) one(value); };
  let dirty = {};
  const model = {
    get: (name) => state[name],
    set: (name, value) => {
      if (JSON.stringify(state[name]) === JSON.stringify(value)) return;
      state[name] = value; dirty[name] = value; emit(`change:${name}`);
    },
    save_changes: () => { const changes = dirty; dirty = {}; window.fromPage("sync", changes); },
    on: (event, listener) => listeners.set(event, (listeners.get(event) ?? new Set()).add(listener)),
    off: (event, listener) => listeners.get(event)?.delete(listener),
    send: (content) => window.fromPage("message", content),
  };
  window.deliver = (kind, content) => {
    if (kind === "message") return emit("msg:custom", content);
    for (const [name, value] of Object.entries(content)) { state[name] = value; }
    for (const name of Object.keys(content)) emit(`change:${name}`);
  };
  const widget = (await import("ADDRESSwidget.js")).default;
  window.stop = await widget.render({ model, el: document.getElementById("root") });
}""".replace("ADDRESS", ADDRESS)


class PlainHost:
    """One widget on one page.

    Args:
        browser: Chromium.
        widget: The Python half; its messages are queued, as they come from its threads too.
        width: Of the page, in pixels.
        dark: The theme.
    """

    def __init__(
        self, browser: Browser, widget: ExplanationWidget, *, width: int = 1100, dark: bool = False
    ) -> None:
        self.widget = widget
        self.errors: list[str] = []
        self.sent: list[dict[str, Any]] = []  # what the page said to Python
        self._outgoing: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._context = browser.new_context(viewport={"width": width, "height": 1000})
        self.page: Page = self._context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page = PAGE.replace("BACK", "#111418" if dark else "#fff").replace("THEME", "dark" if dark else "")
        self.page.route("**/*", lambda route: self._serve(route, page))
        self.page.expose_function("fromPage", self._from_page)
        widget.send = lambda content, buffers=None: self._outgoing.put(("message", content))  # type: ignore[method-assign]
        widget.observe(self._on_trait, names=widget.keys)
        self.page.goto(ADDRESS)
        self.page.evaluate(HOST, json.loads(json.dumps(self._state())))
        self.root: Locator = self.page.locator(".rw-root")

    def __enter__(self) -> PlainHost:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.close()
        if kind is None:
            assert self.errors == []

    def pump(self, seconds: float = 0.0) -> None:
        """Carry messages both ways until nothing has been said for a moment."""
        until = time.monotonic() + max(seconds, 0.05)
        while time.monotonic() < until or not self._outgoing.empty():
            try:
                kind, content = self._outgoing.get(timeout=0.01)
            except queue.Empty:
                self.page.wait_for_timeout(10)
                continue
            self.page.evaluate("([kind, content]) => window.deliver(kind, content)", [kind, _plain(content)])

    def until(self, holds: Callable[[], bool], seconds: float = 20) -> None:
        """Carry messages until something holds.

        Raises:
            AssertionError: It does not within the time.
        """
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, "it never came to hold"
            self.pump()
        self.pump()

    def ready(self) -> None:
        """Until the explanation that the traits ask for is on display."""
        self.until(lambda: self.widget.status == "ready" and self.root.locator(".rw-card").count() > 0)

    def _state(self) -> dict[str, Any]:
        state = {name: getattr(self.widget, name) for name in self.widget.keys if not name.startswith("_")}
        del state["layout"], state["tabbable"], state["tooltip"]
        return state

    def _on_trait(self, change: Any) -> None:
        if not change["name"].startswith("_"):
            self._outgoing.put(("sync", {change["name"]: change["new"]}))

    def _from_page(self, kind: str, content: dict[str, Any]) -> None:
        self.sent.append(content)
        if kind == "sync":
            self.widget.set_state(content)
        else:
            self.widget._on_message(self.widget, content, [])

    def _serve(self, route: Route, page: str) -> None:
        name = route.request.url.removeprefix(ADDRESS)
        if name == "":
            route.fulfill(body=page, content_type="text/html")
        elif name in ("widget.js", "widget.css"):
            kind = "text/javascript" if name.endswith("js") else "text/css"
            route.fulfill(path=STATIC / name, content_type=kind)
        elif name == "favicon.ico":
            route.fulfill(status=204)
        else:
            self.errors.append(f"asked for {route.request.url}")
            route.abort()


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
