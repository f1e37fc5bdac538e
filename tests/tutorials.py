"""Runs tutorials as Binder does: at small size, each in a fresh kernel, and says what memory it took.

python tests/tutorials.py notebooks/*.ipynb
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]

LIMIT = 900
"""Megabytes (10⁶ bytes) that a tutorial's kernel may have resident; Binder ends a session at 2,000."""

PEAK = """
def peak_memory():
    import pathlib, resource, sys
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the kernel's parent had before it
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
"""


@dataclass(frozen=True)
class Run:
    """A tutorial that ran to its end.

    Attributes:
        values: What the expressions asked for were at its end.
        peak: Most that its kernel had resident, in megabytes.
        seconds: How long it took, the kernel's start included.
    """

    values: dict[str, Any]
    peak: float
    seconds: float


def run(notebook: Path, expressions: Mapping[str, str] | None = None, *, timeout: float = 600) -> Run:
    """Run a notebook in a process of its own, which is ended with its kernel when time is up.

    A client waits for ever for some kernels that died or hang; nothing waits for this process.

    Args:
        notebook: Which.
        expressions: Python expressions to evaluate at its end, by name; their values travel as JSON.
        timeout: Seconds for all of it.

    Raises:
        AssertionError: A cell raised, or time was up.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="relatif-tutorial-") as place:
        job = Path(place) / "job.json"
        result = Path(place) / "result.json"
        job.write_text(json.dumps({"notebook": str(notebook), "expressions": dict(expressions or {})}))
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "notebooks"))),
            "RELATIF_OUT": place,
            "RELATIF_CACHE": place,  # nothing was trained before
        }
        # Through Binder's own start script, which sets the size.
        command = ["bash", str(ROOT / "binder" / "start"), sys.executable, __file__, "--job", place]
        with (Path(place) / "log").open("w+") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise AssertionError(
                    f"{notebook.name} was still running after {timeout:g} s, and was ended."
                ) from None
            finally:
                _end(process)
            log.seek(0)
            said = re.sub(r"\x1b\[[0-9;]*m", "", log.read())
        assert status == 0, f"{notebook.name} did not run to its end:\n{said}"
        found = json.loads(result.read_text())
    return Run(found["values"], found["peak"] / 1e6, time.perf_counter() - started)


def over(notebook: Path, ran: Run) -> str:
    """What to say of a run that took too much memory; nothing where it did not."""
    if ran.peak < LIMIT:
        return ""
    return (
        f"{notebook.name} took {ran.peak:.0f} MB at small size, and Binder leaves it {LIMIT} MB. "
        "Give it less data or a smaller model where RELATIF_SIZE=small: tutorial_data.pick(full, small)."
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its kernels, which have sessions of their own."""
    if process.poll() is not None:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()


def _execute(place: Path) -> None:
    job = json.loads((place / "job.json").read_text())
    notebook = nbformat.read(job["notebook"], as_version=4)
    pairs = ", ".join(f"{name!r}: {expression}" for name, expression in job["expressions"].items())
    last = (
        f"{PEAK}\nimport json, pathlib\n"
        f'result = {{"peak": peak_memory(), "values": {{{pairs}}}}}\n'
        f"_ = pathlib.Path({str(place / 'result.json')!r}).write_text(json.dumps(result))"
    )
    notebook.cells.append(nbformat.v4.new_code_cell(last))
    folder = str(Path(job["notebook"]).parent)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Runs tutorials at small size and says what memory each took."
    )
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        _execute(arguments.job)
        return
    failed = False
    for notebook in arguments.notebooks:
        try:
            ran = run(notebook.resolve())
        except AssertionError as error:
            failed = True
            print(error, flush=True)
            continue
        print(f"{notebook.stem:32} {ran.peak:5.0f} MB {ran.seconds:6.1f} s", flush=True)
        if message := over(notebook, ran):
            failed = True
            print(message, flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
