"""An explanation with no kernel behind it: in a notebook that was saved, and as a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from browser.harness import Host, JupyterServer, NotebookPage
from playwright.sync_api import Locator

from relatif_widgets import Explanation

Open = Callable[..., NotebookPage]
GOLDEN = Path(__file__).parents[1] / "golden" / "documents"


def write(jupyter: JupyterServer, name: str, data: dict[str, Any]) -> str:
    """A notebook with one output, saved by somebody else: this Jupyter does not trust it."""
    output = nbformat.v4.new_output("execute_result", data=data, execution_count=1)
    cell = nbformat.v4.new_code_cell("explanation", outputs=[output], execution_count=1)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, jupyter.root / name)
    return name


def shown(root: Locator) -> dict[str, list[int]]:
    raw = root.locator(".rw-panel").evaluate_all(
        """(panels) => panels.map((panel) => [panel.querySelector(".rw-panel-name").textContent,
            [...panel.querySelectorAll(".rw-card")].map((card) => Number(card.dataset.index))])"""
    )
    return dict(raw)


def expected(explanation: Explanation, **settings: Any) -> dict[str, list[int]]:
    return {
        label: [example.index for example, _ in explanation.top(label, **settings)]
        for label in explanation.labels
    }


def test_a_saved_explanation_slides_in_a_notebook_that_is_not_trusted(
    open_notebook: Open, jupyter: JupyterServer, host: Host
) -> None:
    explanation = Explanation.load(GOLDEN / "images.relatif.json")
    page = open_notebook(write(jupyter, f"saved-{host}.ipynb", explanation._repr_mimebundle_()), host=host)
    root = page.locator(".rw-root")
    root.locator(".rw-card").first.wait_for()
    assert root.count() == 1
    assert shown(root) == expected(explanation)
    before = page.comm_messages
    slider = root.locator(".rw-slider-damping input")
    slider.press("End")
    assert shown(root) == expected(explanation, damping=0.1)
    root.get_by_role("radio", name="IF", exact=True).check()
    assert shown(root) == expected(explanation, damping=0.1, method="influence")
    root.get_by_role("radio", name="− harmful").check()
    assert shown(root) == expected(explanation, damping=0.1, method="influence", sign="negative")
    root.locator(".rw-face").first.click()
    dialog = root.get_by_role("dialog")
    dialog.wait_for()
    assert dialog.get_by_role("button", name="Check by retraining").count() == 0
    page.page.keyboard.press("Escape")
    assert page.comm_messages == before


@pytest.mark.parametrize("name", ["hostile", "names", "regression", "rows", "identity"])
def test_every_kind_of_document_is_drawn_and_never_run(
    open_notebook: Open, jupyter: JupyterServer, name: str
) -> None:
    explanation = Explanation.load(GOLDEN / f"{name}.relatif.json")
    page = open_notebook(write(jupyter, f"saved-{name}.ipynb", explanation._repr_mimebundle_()))
    root = page.locator(".rw-root")
    root.locator(".rw-why").wait_for()
    assert list(shown(root)) == list(explanation.labels)
    assert root.locator("script, iframe, [onerror], [onclick]").count() == 0
    assert page.page.evaluate("window.hacked") is None


def test_a_damaged_document_gives_one_sentence(open_notebook: Open, jupyter: JupyterServer) -> None:
    explanation = Explanation.load(GOLDEN / "images.relatif.json")
    bundle = explanation._repr_mimebundle_()
    (mime,) = [key for key in bundle if key.endswith("+json")]
    bundle[mime]["schema_version"] = "2.0"
    page = open_notebook(write(jupyter, "damaged.ipynb", bundle))
    alert = page.locator(".rw-root").get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == (
        "The explanation has schema version 2.0, but this view reads 1.x: open it with the relatif_widgets "
        "release that wrote it, or a newer one."
    )


def test_a_file_opens_as_a_document(open_notebook: Open, jupyter: JupyterServer) -> None:
    explanation = Explanation.load(GOLDEN / "images.relatif.json")
    explanation.save(jupyter.root / "why.relatif.json")
    (jupyter.root / "cut.relatif.json").write_text(json.dumps({"schema_version": "1.1"}))
    page = open_notebook(jupyter.write_notebook("empty.ipynb", ["1"]))
    page.page.evaluate(
        "() => window.jupyterapp.commands.execute('docmanager:open', {path: 'why.relatif.json'})"
    )
    root = page.page.locator(".jp-Document .rw-root")
    root.locator(".rw-card").first.wait_for()
    assert shown(root) == expected(explanation)
    root.locator(".rw-slider-k input").press("Home")
    assert shown(root) == expected(explanation, k=1)
    page.page.set_viewport_size({"width": 900, "height": 420})
    foot = root.locator(".rw-provenance")
    foot.scroll_into_view_if_needed()
    box = foot.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 420  # a small window scrolls to its end
    page.page.evaluate(
        "() => window.jupyterapp.commands.execute('docmanager:open', {path: 'cut.relatif.json'})"
    )
    alert = page.page.locator(".jp-Document .rw-root [role=alert]:visible").last
    alert.wait_for()
    assert alert.inner_text() == "Damaged explanation at query: it is missing."
    half = (jupyter.root / "why.relatif.json").read_text(encoding="utf-8")
    (jupyter.root / "half.relatif.json").write_text(half[: len(half) // 2], encoding="utf-8")
    page.page.evaluate(
        "() => window.jupyterapp.commands.execute('docmanager:open', {path: 'half.relatif.json'})"
    )
    page.page.get_by_text("The explanation is not complete JSON: was the file cut short?").wait_for()
