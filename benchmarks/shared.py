"""What every process of `make bench` shares: model, data, and this machine's own yardsticks.

Needs torch alone, so that other libraries' environments import it too. The network is that of
notebooks/cifar.py, the paper's ConvNet for CIFAR-10.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "notebooks"))
import cifar

DAMPING = 0.1
"""The paper's, footnote 4."""

OTHER_DAMPING = 0.07
"""No stop of the slider."""


@dataclass(frozen=True)
class Given:
    """What `bench.py` laid down for all processes.

    Attributes:
        model: The trained ConvNet.
        train: Inputs and labels.
        queries: Test inputs, and the labels that the model predicts for them.
    """

    model: nn.Sequential
    train: tuple[Tensor, Tensor]
    queries: tuple[Tensor, Tensor]


def load(folder: Path) -> Given:
    kept = torch.load(folder / "given.pt", weights_only=True)
    model = cifar.convnet()
    model.load_state_dict(kept["model"])
    model.eval()
    queries = cifar.as_inputs(kept["queries"])
    with torch.no_grad():
        predicted = torch.cat([model(part).argmax(1) for part in queries.split(250)])
    return Given(model, (cifar.as_inputs(kept["train"]), kept["labels"]), (queries, predicted))


def save(folder: Path, model: nn.Module, train: Tensor, labels: Tensor, queries: Tensor) -> None:
    """Pictures as uint8."""
    torch.save(
        {"model": model.state_dict(), "train": train, "labels": labels, "queries": queries},
        folder / "given.pt",
    )


def seconds(function: Callable[[], object], repeats: int = 1) -> float:
    """Median wall time of a call."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        taken.append(time.perf_counter() - started)
    return median(taken)


def epochs(data: tuple[Tensor, Tensor]) -> list[float]:
    """Seconds of two plain training epochs over inputs and labels at batch 256, in this process.

    To be asked before and after what is measured, and the median taken: a machine is not always as quick.
    """
    model = cifar.convnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def epoch() -> None:
        for x, y in zip(data[0].split(256), data[1].split(256), strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

    return [seconds(epoch) for _ in range(2)]


def product_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Floating-point operations a second of a large matrix product."""
    one, other = (torch.randn(size, size).to(dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: one @ other, 5)


def jaccard(one: Sequence[Collection[int]], other: Sequence[Collection[int]]) -> float:
    """Jaccard index of two lists for each query, the mean over those that both have."""
    return mean(len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(one, other, strict=False))


def peak_memory() -> int:
    """Bytes that this process had resident at most."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss counts what the parent had before the process began
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def tell(values: dict[str, Any]) -> None:
    """The last line of a process: what it measured."""
    print(json.dumps({**values, "peak": peak_memory(), "threads": torch.get_num_threads()}), flush=True)
