"""What pip installs: built front ends, an extension that JupyterLab finds, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTENSION = "share/jupyter/labextensions/relatif-widgets"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and a source distribution of the front end as it stands."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "SKIP_JUPYTER_BUILDER": "1"},
        check=True,
        capture_output=True,
    )
    return folder


def test_a_wheel_holds_the_front_ends_and_the_extension_once(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    data = [name.partition(".data/data/")[2] for name in names if ".data/data/" in name]
    assert {f"{EXTENSION}/package.json", f"{EXTENSION}/install.json"} <= set(data)
    assert any(name.startswith(f"{EXTENSION}/static/remoteEntry.") for name in data)
    package = {name.removeprefix("relatif_widgets/") for name in names if name.startswith("relatif_widgets/")}
    assert {
        "static/widget.js",
        "static/widget.css",
        "static/page.html",
        "report.schema.json",
        "explanation.schema.json",
        "py.typed",
    } <= package
    assert not any(
        name.startswith(("labextension", "tests", "js")) or "__pycache__" in name for name in package
    )


def test_jupyterlab_finds_the_extension_of_an_installed_wheel(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(venv), "install", "-q", "--no-deps", str(wheel)],
        check=True,
        capture_output=True,
    )
    listed = subprocess.run(
        [sys.executable, "-m", "jupyter", "labextension", "list"],
        env={**os.environ, "JUPYTER_PATH": str(venv / "share" / "jupyter"), "NO_COLOR": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    found = listed.stdout + listed.stderr
    (section,) = [part for part in found.split(str(venv))[1:2]]
    line = next(line for line in section.splitlines() if "relatif-widgets" in line)
    assert "enabled" in line
    assert "OK" in line
    assert "(python, relatif-widgets)" in line


def test_a_source_distribution_builds_without_node_and_holds_no_caches(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    assert "relatif_widgets/labextension/package.json" in names
    assert "relatif_widgets/static/widget.js" in names
    assert "js/src/lab/mime.ts" in names
    unwanted = ("node_modules", "__pycache__", ".venv", ".yarn", "js/lib", "build/", ".ipynb_checkpoints")
    assert [name for name in names if any(part in name for part in unwanted)] == []
    assert sdist.stat().st_size < 2_000_000
