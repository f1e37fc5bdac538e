"""The widget in a marimo app, clicked in a real browser, then asserted by what the app's next cell shows of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser.harness import LOCAL, free_port
from playwright.sync_api import Browser, Locator, Page

APP = '''
import marimo

app = marimo.App()


@app.cell
def _():
    import json
    import marimo as mo
    import torch
    from torch import nn
    from relatif_widgets import Explainer, ExplanationWidget

    def bars(count, seed):
        """Level and upright bars in noise."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 2
        images = torch.rand(count, 1, 8, 8, generator=generator) * 0.5
        images[labels == 0, :, 3] += 0.4
        images[labels == 1, :, :, 3] += 0.4
        return images, labels

    torch.manual_seed(0)
    images, labels = bars(60, seed=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    explainer = Explainer(model, (images, labels), class_names=["level", "upright"]).fit(progress=False)
    again = mo.ui.run_button(label="again")
    made = []
    again
    return ExplanationWidget, again, bars, explainer, json, made, mo


@app.cell
def _(ExplanationWidget, again, bars, explainer, made, mo):
    again.value  # runs this cell
    made.append(ExplanationWidget(explainer, bars(40, seed=2)))
    w = mo.ui.anywidget(made[-1])
    w
    return (w,)


@app.cell
def _(json, made, mo, w):
    seen = {
        "query": w.query,
        "method": w.value["method"],
        "k": w.widget.k,
        "selection": w.selection,
        "hold": sum(hasattr(one, "_explainer") for one in made),
        "cards": w.to_frame()["index"].tolist(),  # waits until they are prepared
    }
    mo.Html(f"<pre id='python'>{json.dumps(seen)}</pre>")
    return
'''

# marimo, saying so where it, or the app in it, turns to another machine.
GUARDED = """
import runpy, sys

def hook(event, given):
    host = {"socket.connect": lambda: given[1][0], "socket.getaddrinfo": lambda: given[0]}.get(event, str)()
    if host not in ("", None, "localhost", "127.0.0.1", "::1", "0.0.0.0"):
        print("asked for outside this machine:", host, file=sys.__stderr__, flush=True)

sys.addaudithook(hook)
runpy.run_module("marimo", run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where marimo serves the app, anew to each page; at the end neither may have asked for anything outside."""
    home = tmp_path_factory.mktemp("marimo")
    (home / "app.py").write_text(APP)
    port, log = free_port(), home / "marimo.log"
    own = {f"XDG_{kind}_HOME": str(home / kind) for kind in ("CONFIG", "STATE", "CACHE")}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", GUARDED, "run", "app.py", "--headless", "--no-token", "--port", str(port)],
            cwd=home,
            env={**os.environ, **own, "MARIMO_SKIP_UPDATE_CHECK": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 30
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "outside this machine" not in log.read_text()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The app's page; at the end it may have neither erred nor asked for anything outside."""
    errors: list[str] = []
    asked: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 1200})
    context.on("console", lambda said: errors.extend([said.text] if said.type == "error" else []))
    context.on("weberror", lambda error: errors.append(error.error.stack or str(error.error)))
    context.on("request", lambda request: asked.append(request.url))
    opened = context.new_page()
    opened.on("websocket", lambda socket: asked.append(socket.url))
    opened.goto(address, wait_until="domcontentloaded")
    yield opened
    context.close()
    assert errors == []
    web = [urlsplit(url) for url in asked]
    assert {url.hostname for url in web if url.scheme not in ("data", "blob")} <= LOCAL
    assert "ws" in {url.scheme for url in web}  # it was listened to


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except OSError:
        return False
    return True


def python(page: Page) -> dict[str, Any]:
    """What the second cell shows."""
    seen: dict[str, Any] = json.loads(page.locator("#python").inner_text())
    return seen


def expect(page: Page, **values: Any) -> None:
    """Wait until Python has these values, and the cards that the page shows.

    Raises:
        AssertionError: It had others to the end.
    """
    read = "(cards) => cards.map((card) => Number(card.dataset.index))"
    deadline = time.monotonic() + 10
    while True:
        shown = page.locator(".rw-card").evaluate_all(read)
        found = python(page)
        if found == {**found, **values, "cards": shown}:
            return
        assert time.monotonic() < deadline, f"Python has {found}; expected {values} and the cards {shown}"
        page.wait_for_timeout(50)


def card(page: Page, at: int) -> Locator:
    return page.locator(".rw-card").nth(at)


def test_in_marimo_python_hears_every_click_and_cells_that_read_the_widget_run_again(page: Page) -> None:
    card(page, 0).wait_for(timeout=60_000)
    expect(page, query=0, method="loss_relative", k=5, selection=[])
    opened = python(page)["cards"]
    assert len(opened) % 5 == 0

    page.get_by_role("radio", name="IF", exact=True).click()
    expect(page, method="influence", k=5)
    page.locator(".rw-slider-k input[type=range]").press("ArrowRight")
    expect(page, method="influence", k=6)

    first, second = python(page)["cards"][:2]
    card(page, 0).click()
    expect(page, selection=[first])
    page.keyboard.press("Shift+ArrowRight")
    expect(page, selection=[first, second])

    page.locator(".rw-thumb[title^='test #3,']").click()
    expect(page, query=3, method="influence", k=6, selection=[first, second])
    assert python(page)["cards"] != opened


def test_in_marimo_a_cell_that_runs_again_lets_go_of_its_last_widget(page: Page) -> None:
    card(page, 0).wait_for(timeout=60_000)
    page.locator(".rw-thumb[title^='test #3,']").click()
    expect(page, query=3)
    page.get_by_role("button", name="again").click()
    expect(page, query=0, hold=1)


def test_in_marimo_the_wheel_moves_the_strip_and_a_thumbnail_keeps_the_focus(page: Page) -> None:
    card(page, 0).wait_for(timeout=60_000)
    thumb = page.locator(".rw-thumb").first
    thumb.focus()
    page.locator(".rw-scroller").hover()
    page.mouse.wheel(0, 1500)
    page.locator(".rw-thumb[title^='test #30,']").wait_for(timeout=5000)
    assert thumb.evaluate("(node) => node.isConnected && node.matches(':focus')")
