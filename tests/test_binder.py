"""What Binder needs of us, as far as it shows without a container.

The whole of it, postBuild in a clean environment included, is `bash scripts/check_binder.sh`.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import psutil
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from tutorials import LIMIT, Run, over, run

ROOT = Path(__file__).parents[1]
BINDER = ROOT / "binder"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# conda-forge's names, where they differ from PyPI's
CONDA_NAMES = {"torch": "pytorch-cpu", "matplotlib": "matplotlib-base"}
# conda-forge has none of it; postBuild's pip brings the tested release
LEFT_TO_PIP = {"ipyplot"}

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = {
    found.name: found
    for found in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["tutorials"])
}


@pytest.fixture(scope="module")
def conda() -> dict[str, SpecifierSet]:
    """Bounds by conda's name; `=3.11` is conda's for any release that begins so."""
    listed = yaml.safe_load((BINDER / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    found = {}
    for line in listed:
        name, bounds = re.fullmatch(r"([a-z0-9-]+)(.*)", line).groups()
        found[name] = SpecifierSet(re.sub(r"^=(?!=)(.+)$", r"==\1.*", bounds))
    return found


@pytest.fixture(scope="module")
def tested() -> dict[str, Version]:
    """The releases in constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if "==" in line]
    return {held().name(name): Version(version) for name, version in pins}


def held() -> ModuleType:
    spec = importlib.util.spec_from_file_location("held", BINDER / "held.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bound(bounds: SpecifierSet, operator: str) -> Version | None:
    found = [Version(one.version) for one in bounds if one.operator == operator]
    return found[0] if found else None


def test_conda_brings_everything_that_the_package_and_its_tutorials_import(
    conda: dict[str, SpecifierSet],
) -> None:
    by_conda = {CONDA_NAMES.get(name, name) for name in NEEDED.keys() - LEFT_TO_PIP}
    assert conda.keys() == by_conda | {"python", "pip", "nodejs"}


@pytest.mark.parametrize("name", sorted(NEEDED.keys() - LEFT_TO_PIP))
def test_condas_bounds_lie_within_pyprojects_and_admit_the_tested_release(
    name: str, conda: dict[str, SpecifierSet], tested: dict[str, Version]
) -> None:
    bounds, wanted = conda[CONDA_NAMES.get(name, name)], NEEDED[name].specifier
    release = tested[held().name(name)]
    assert bounds.contains(release)
    assert bound(bounds, ">=") == bound(wanted, ">=")
    assert bound(bounds, "<") == Version(str(release.major + 1))  # the next major release
    assert bound(wanted, "<") in (None, bound(bounds, "<"))


def test_binder_runs_the_python_and_node_that_are_tested(conda: dict[str, SpecifierSet]) -> None:
    assert conda["python"].contains("3.11.9")
    assert SpecifierSet(PROJECT["requires-python"]).contains("3.11")
    assert conda["nodejs"].contains("20.20.2")
    package = json.loads((ROOT / "js" / "package.json").read_text(encoding="utf-8"))
    assert package["devDependencies"]["@types/node"].startswith("20.")


def test_pip_resolves_condas_bounds_to_the_tested_releases(
    conda: dict[str, SpecifierSet], tested: dict[str, Version]
) -> None:
    # Offline: where nothing is to be installed, what is here satisfies bounds and constraints at once.
    names = {conda_name: name for name, conda_name in CONDA_NAMES.items()}
    wanted = [
        f"{names.get(name, name)}{bounds}"
        for name, bounds in conda.items()
        if name not in ("python", "nodejs")
    ]
    report = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "-qq", "--no-index", "--report", "-",
         "-c", "constraints.txt", *wanted],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert [one["metadata"]["name"] for one in json.loads(report.stdout)["install"]] == []


def test_what_is_installed_is_held_and_the_rest_pinned() -> None:
    module = held()
    results = doctest.testmod(module)
    assert results.attempted == 2
    assert results.failed == 0
    # conda's torch has releases of its own, which pip must not replace by PyPI's
    mixed = list(module.held(["torch==2.10.0.post103", "Jinja2==3.1.0"], ["torch==2.13.0", "jinja2==3.1.6"]))
    assert mixed == ["torch==2.10.0.post103", "Jinja2==3.1.0"]


@pytest.mark.parametrize("script", ["postBuild", "start"])
def test_binders_scripts_can_be_executed_and_parse(script: str) -> None:
    assert os.access(BINDER / script, os.X_OK)
    subprocess.run(["bash", "-n", str(BINDER / script)], check=True)


def test_post_build_refuses_to_go_on_without_torch(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    ended = subprocess.run(
        ["bash", str(BINDER / "postBuild")],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "torch has to be there already" in ended.stderr


def test_each_tutorial_has_a_badge_that_opens_it() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^- \[[^]]+\]\(notebooks/(\d\d)(\S+)\.ipynb\) \[!\[Binder\]\[badge\]\]\[b(\d\d)\]: ", readme, re.M
    )
    assert [f"{number}{rest}" for number, rest, _ in listed] == [path.stem for path in NOTEBOOKS]
    assert all(number == badge for number, _, badge in listed)
    addresses = re.findall(
        r"^\[b(\d\d)\]: https://mybinder\.org/v2/gh/([^/]+/[^/]+)/HEAD\?urlpath=(\S+)$", readme, re.M
    )
    assert [number for number, _, _ in addresses] == [number for number, _, _ in listed]
    assert len({repository for _, repository, _ in addresses}) == 1  # one address to change
    assert all(
        place.endswith(f"/tree/notebooks/{path.name}")
        for (_, _, place), path in zip(addresses, NOTEBOOKS, strict=True)
    )


# Running


def notebook_of(folder: Path, *cells: str) -> Path:
    path = folder / "small.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def test_a_run_measures_its_peak_and_is_at_binders_size(tmp_path: Path) -> None:
    ran = run(
        notebook_of(tmp_path, "import os", "block = b'1' * 300_000_000", "del block"),
        {"size": "os.environ['RELATIF_SIZE']", "threads": "os.environ['OMP_NUM_THREADS']"},
        timeout=120,
    )
    assert ran.values == {"size": "small", "threads": "1"}
    assert 300 < ran.peak < 500  # a bare kernel has some 70
    assert over(tmp_path, ran) == ""
    assert f"901 MB at small size, and Binder leaves it {LIMIT} MB" in over(tmp_path, Run({}, 901.0, 1.0))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("raise ValueError('no such digit')", "ValueError: no such digit"),
        ("import os; os._exit(1)", "small.ipynb did not run to its end"),
    ],
)
def test_a_tutorial_that_fails_says_how(tmp_path: Path, cell: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        run(notebook_of(tmp_path, cell), timeout=120)


def test_a_tutorial_that_hangs_is_ended_with_its_kernel(tmp_path: Path) -> None:
    path = notebook_of(
        tmp_path,
        f"import os, pathlib, time\npathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))",
        "time.sleep(600)",
    )
    with pytest.raises(AssertionError, match="still running after 20 s"):
        run(path, timeout=20)
    assert ends(int((tmp_path / "pid").read_text()))


def ends(pid: int, *, seconds: float = 30) -> bool:
    """Whether a process that was killed is gone in time, or waits only for a parent that would ask for it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)  # a signal is sent, and arrives later on a busy machine
                continue
        return True
    return False
