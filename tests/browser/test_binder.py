"""What a person sees who follows the first Binder badge: an explanation, before anything runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from browser.harness import JupyterServer, NotebookPage
from playwright.sync_api import Browser, expect

from relatif_widgets import Explanation

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "documents" / "images.relatif.json"


def badge() -> str:
    """The place in JupyterLab that the README's badge of the first tutorial opens."""
    found = re.search(r"^\[b01\]: \S+\?urlpath=(\S+)$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return unquote(found[1])


@pytest.fixture(scope="module")
def as_on_binder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JupyterServer]:
    """A server over what postBuild leaves, with a document of the golden ones in place of the tutorial's."""
    home = tmp_path_factory.mktemp("binder")
    notebooks = home / "root" / "notebooks"
    shutil.copytree(ROOT / "notebooks", notebooks, ignore=shutil.ignore_patterns("__pycache__", "*.json"))
    shutil.copy(GOLDEN, notebooks / "first-explanation.relatif.json")
    spec = importlib.util.spec_from_file_location("first_explanation", ROOT / "binder/first_explanation.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    subprocess.run(
        [sys.executable, "-m", "jupyterlab", "workspaces", "import", str(script.workspace(home))],
        env={**os.environ, "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")},
        check=True,
        capture_output=True,
    )
    server = JupyterServer(home)
    yield server
    server.stop()


def test_the_first_badge_opens_the_tutorial_with_an_explanation_that_is_there_already(
    browser: Browser, as_on_binder: JupyterServer
) -> None:
    opened = NotebookPage(as_on_binder, browser, "lab")
    try:
        page = opened.page
        page.goto(f"{as_on_binder.url}/{badge()}?token={as_on_binder.token}", wait_until="domcontentloaded")
        document = page.locator(".jp-MimeDocument .rw-document")
        expect(document.locator(".rw-card").first).to_be_visible(timeout=60_000)
        assert document.locator(".rw-panel").count() == len(Explanation.load(GOLDEN).panels)
        # The tutorial beside it, nothing of which has run.
        expect(page.locator(".jp-Notebook h1").first).to_contain_text("A first explanation", timeout=60_000)
        assert page.locator(".jp-Notebook .jp-OutputArea-output:not(.jp-MarkdownOutput)").count() == 0
    finally:
        opened.close()
    opened.assert_quiet()
