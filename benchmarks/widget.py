"""How soon the widget answers: progress, cancel and prepare at full size. The paper's ConvNet on CIFAR-10.

    python benchmarks/widget.py CHECKPOINT.npz [--curvature ekfac] [--queries 5]

CHECKPOINT.npz as in benchmarks/faithfulness.py. Prints the slowest of some queries, in milliseconds:
from the click to the first progress report, from cancel to the widget being idle, and the whole
preparation; beside them one training epoch and one pass over the stored rows in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from statistics import median

from relatif_widgets import Explainer, ExplanationWidget, RelatifError

sys.path.insert(0, str(Path(__file__).parent))
from faithfulness import load
from shared import DAMPING, epochs


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--curvature", default="ekfac")
    parser.add_argument("--queries", type=int, default=5)
    arguments = parser.parse_args()
    model, data, queries, _ = load(arguments.checkpoint)
    epoch = median(epochs(data))
    explainer = Explainer(model, data, curvature=arguments.curvature, damping=DAMPING).fit(progress=False)
    rows = explainer._ready().index.rows
    started = time.perf_counter()
    if rows is not None:
        for part in rows.tensors:
            float(part.sum())
    stream = time.perf_counter() - started
    widget = ExplanationWidget(explainer, queries)
    widget.wait()
    heard: list[float] = []
    widget.observe(lambda change: heard.append(time.perf_counter()), ["status", "progress"])
    first, whole, idle = [], [], []
    for row in range(1, arguments.queries + 1):
        heard.clear()
        started = time.perf_counter()
        widget.query = row
        widget.wait()
        first.append(heard[0] - started)
        whole.append(time.perf_counter() - started)
    for row in range(arguments.queries + 1, 2 * arguments.queries + 1):
        widget.query = row
        time.sleep(0.3 * min(whole))
        started = time.perf_counter()
        widget.cancel()
        with contextlib.suppress(RelatifError):  # where nothing was ranked yet
            widget.wait()
        idle.append(time.perf_counter() - started)
    for name, values in (("first progress", first), ("cancelled", idle), ("prepared", whole)):
        print(f"{name:16} {1000 * max(values):8.0f} ms")
    print(f"{'epoch':16} {1000 * epoch:8.0f} ms")
    print(f"{'rows streamed':16} {1000 * stream:8.0f} ms")


if __name__ == "__main__":
    main()
