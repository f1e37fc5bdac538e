"""Runs the first tutorial once, so that Binder has its explanation to show before anything runs.

    python binder/first_explanation.py

Leaves `notebooks/first-explanation.relatif.json`, which JupyterLab draws without a kernel, and in
`build/binder` a JupyterLab workspace that opens it beside the notebook.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "notebooks/01-first-explanation.ipynb"
DOCUMENT = "notebooks/first-explanation.relatif.json"
WORKSPACE = "first"


def explain(out: Path) -> None:
    """Execute the notebook and save the explanation that it makes; its page goes to `out`."""
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(f"explanation.save({Path(DOCUMENT).name!r})"))
    os.environ["RELATIF_OUT"] = str(out)
    folder = str((ROOT / NOTEBOOK).parent)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()


def workspace(folder: Path) -> Path:
    """A file in `folder` that opens both side by side, the explanation first."""
    shown = f"application-mimedocuments:{DOCUMENT}:Explanation"
    beside = f"notebook:{NOTEBOOK}"
    main = {
        "type": "split-area",
        "orientation": "horizontal",
        "sizes": [0.55, 0.45],
        "children": [
            {"type": "tab-area", "currentIndex": 0, "widgets": [shown]},
            {"type": "tab-area", "currentIndex": 0, "widgets": [beside]},
        ],
    }
    layout = {"main": {"dock": main, "current": shown}}
    data = {
        "layout-restorer:data": layout,
        shown: {"data": {"path": DOCUMENT, "factory": "Explanation"}},
        beside: {"data": {"path": NOTEBOOK, "factory": "Notebook"}},
    }
    file = folder / "workspace.json"
    file.write_text(json.dumps({"data": data, "metadata": {"id": WORKSPACE}}, indent=2), encoding="utf-8")
    return file


if __name__ == "__main__":
    build = ROOT / "build" / "binder"
    build.mkdir(parents=True, exist_ok=True)
    explain(build)
    print(f"wrote {DOCUMENT}, {(ROOT / DOCUMENT).stat().st_size / 1000:.0f} kB")
    print(f"wrote {workspace(build).relative_to(ROOT)}")
