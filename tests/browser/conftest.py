"""Fixtures of the browser tests: one Chromium and one Jupyter server for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser.harness import Host, JupyterServer, NotebookPage, launch_options
from playwright.sync_api import Browser, sync_playwright

REPOSITORY = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = os.environ.get("RELATIF_BROWSER")
    if not executable:
        found = subprocess.run(
            ["bash", str(REPOSITORY / "scripts" / "browser.sh")], capture_output=True, text=True, check=False
        )
        if found.returncode != 0:
            pytest.fail(f"no Chromium:\n{found.stderr}")
        executable = found.stdout.strip()
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, **launch_options())
        yield started
        started.close()


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A server over a copy of notebooks/, helper modules included."""
    home = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(
        REPOSITORY / "notebooks",
        home / "root",
        ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.html", "*.relatif.json"),
    )
    server = JupyterServer(home)
    yield server
    server.stop()


@pytest.fixture
def open_notebook(browser: Browser, jupyter: JupyterServer) -> Iterator[Callable[..., NotebookPage]]:
    """Opens notebooks; at the test's end no page may have erred or asked for anything outside."""
    pages: list[NotebookPage] = []

    def open_(path: str, *, host: Host = "lab") -> NotebookPage:
        page = NotebookPage(jupyter, browser, host)
        pages.append(page)
        page.open(path)
        return page

    yield open_
    for page in pages:
        page.close()
    for page in pages:
        page.assert_quiet()


@pytest.fixture(params=["lab", "notebook"])
def host(request: pytest.FixtureRequest) -> Host:
    """Each test that asks for it runs in JupyterLab 4 and in Notebook 7."""
    found: Host = request.param
    return found
