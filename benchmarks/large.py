"""Models of many parameters, with CIFAR-10's pictures: P×P and n×P nowhere.

    python benchmarks/large.py resnet18 [--examples 50000] [--damping 0.1] [--memory 2GB]
    python benchmarks/large.py alexnet [--examples 256] [--damping 0.1] [--memory 9GB]

ResNet-18 (11 million parameters) is trained for one epoch, and then has EK-FAC's truncated index.
AlexNet (57 million, pictures enlarged to 224 pixels a side) has the weights of a fresh, seeded
network, whose Hessian is indefinite, hence LiSSA on the Fisher, with EK-FAC's normalizers. What is
measured is time, memory and convergence, not what the networks know.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from relatif_widgets import Explainer
from relatif_widgets.curvature import EKFAC, Lissa

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
import shared
import tutorial_data


def alexnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        nn.Sequential(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        nn.Sequential(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2)),
        nn.Flatten(),
        nn.Sequential(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True)),
        nn.Sequential(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(inplace=True)),
        nn.Linear(4096, 10),
    )


class Block(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.straight = nn.Sequential(
            nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip
        same = stride == 1 and into == out
        around = nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.around = nn.Identity() if same else around

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.straight(x) + self.around(x))


def resnet18() -> nn.Module:
    torch.manual_seed(0)
    stem = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    )
    widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
    blocks = [
        block for into, out, stride in widths for block in (Block(into, out, stride), Block(out, out, 1))
    ]
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


class Pictures(Dataset[tuple[Tensor, int]]):
    """Bytes that are scaled, and enlarged, when they are asked for."""

    def __init__(self, pictures: Tensor, labels: Tensor, size: int) -> None:
        self.pictures, self.labels, self.size = pictures, labels, size

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self.scaled(slice(row, row + 1))[0], int(self.labels[row])

    def scaled(self, rows: slice | Tensor) -> Tensor:
        """Some pictures as the network takes them."""
        found = (self.pictures[rows].permute(0, 3, 1, 2).float() / 255 - 0.47) / 0.25
        if self.size == found.shape[-1]:
            return found
        return nn.functional.interpolate(found, size=self.size, mode="bilinear")


class Laps:
    """Prints what each stage took."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def __call__(self, what: str) -> float:
        seconds = time.perf_counter() - self._started
        print(f"{what:44} {seconds:7.1f} s   peak memory {shared.peak_memory() / 1e9:.2f} GB", flush=True)
        self._started = time.perf_counter()
        return seconds


def with_ekfac(model: nn.Module, data: Pictures, queries: Pictures, damping: float, memory: str) -> None:
    """One epoch of training, a truncated index, and its questions."""
    lap = Laps()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    for rows in torch.randperm(len(data)).split(64):
        loss = nn.functional.cross_entropy(model(data.scaled(rows)), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    epoch = lap("an epoch of training")
    explainer = Explainer(
        model,
        data,
        curvature=EKFAC("sample"),
        damping=damping,
        memory_limit=memory,
        class_names=list("0123456789"),
    )
    print(f"{explainer.parameter_count:,} parameters, {explainer.train_size:,} examples")
    lap("attached")
    explainer.fit(progress=False)
    fit = lap("fitted: EK-FAC, all normalizers, an index")
    clicks = []
    for row in range(3):
        explainer.explain(queries.scaled(slice(row, row + 1))[0], top=20)
        clicks.append(lap("explained, all stops and methods, best 20"))
    best = explainer.top_k(queries.scaled(slice(3, 4)), k=5)
    top = lap(f"top 5 at one damping, certified: {bool(best.certified)}")
    report = explainer.report()
    print(report)
    result = {
        "name": "resnet18", "epoch": epoch, "fit": fit, "prepare": statistics.median(clicks), "top": top,
        "parameters": explainer.parameter_count, "examples": explainer.train_size, "memory": memory,
        "index": next(line.split(" with ")[0] for line in report.splitlines() if line.startswith("index: ")),
        "peak": shared.peak_memory(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    print(json.dumps(result))


def with_lissa(model: nn.Module, data: Pictures, queries: Pictures, damping: float, memory: str) -> None:
    """Questions to a model too large for an index."""
    lap = Laps()
    curvature = Lissa(matrix="fisher", batch_size=4, steps=150, tolerance=0.05, repeats=1)
    explainer = Explainer(model, data, curvature=curvature, damping=damping, memory_limit=memory)
    size = explainer.parameter_count
    print(
        f"{size:,} parameters, {explainer.train_size:,} examples; P x P would be {4 * size**2 / 1e15:,.0f} PB"
    )
    lap("attached")
    explainer.fit(progress=False)
    lap("fitted: EK-FAC's factors and normalizers")
    query = queries.scaled(slice(0, 1))
    influence = explainer.scores(query, method="influence")
    lap("IF of one query: LiSSA and one forward pass")
    relative = explainer.scores(query, method="loss_relative")
    lap("l-RelatIF of the same query")
    print(explainer.report())
    print("finite:", bool(influence.isfinite().all() and relative.isfinite().all()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=["resnet18", "alexnet"])
    parser.add_argument("--examples", type=int)
    parser.add_argument("--damping", type=float, default=0.1)
    parser.add_argument("--memory")
    given = parser.parse_args()
    small = given.model == "resnet18"
    (images, labels), (test, truth) = tutorial_data.cifar10()
    count, size = given.examples or (50_000 if small else 256), 32 if small else 224
    data, queries = Pictures(images[:count], labels[:count], size), Pictures(test, truth, size)
    if small:
        with_ekfac(resnet18(), data, queries, given.damping, given.memory or "2GB")
    else:
        with_lissa(alexnet(), data, queries, given.damping, given.memory or "9GB")


if __name__ == "__main__":
    main()
