"""AlexNet with 57 million parameters: LiSSA for the numerators, EK-FAC for the normalizers, P×P and n×P nowhere.

    python benchmarks/large.py [--examples 256] [--damping 0.1]

The weights are those of a fresh, seeded network, whose Hessian is indefinite, hence the Fisher. What
is measured is time, memory and convergence, not what the network knows. CIFAR-10 is enlarged to 224
pixels a side.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn

from relatif_widgets import Explainer
from relatif_widgets.curvature import Lissa

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--damping", type=float, default=0.1)
    arguments = parser.parse_args()
    (images, labels), (test, _) = tutorial_data.cifar10()

    def enlarge(pictures: torch.Tensor) -> torch.Tensor:
        scaled = (pictures.permute(0, 3, 1, 2).float() / 255 - 0.47) / 0.25
        return nn.functional.interpolate(scaled, size=224, mode="bilinear")

    data = enlarge(images[: arguments.examples]), labels[: arguments.examples]
    curvature = Lissa(matrix="fisher", batch_size=4, steps=150, tolerance=0.05, repeats=1)

    def lap(what: str) -> None:
        nonlocal started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{what:44} {time.perf_counter() - started:7.1f} s   peak memory {peak:.1f} GB", flush=True)
        started = time.perf_counter()

    started = time.perf_counter()
    explainer = Explainer(alexnet(), data, curvature=curvature, damping=arguments.damping, memory_limit="9GB")
    size = explainer.parameter_count
    print(
        f"{size:,} parameters, {explainer.train_size:,} examples; P x P would be {4 * size**2 / 1e15:,.0f} PB"
    )
    lap("attached")
    explainer.fit(progress=False)
    lap("fitted: EK-FAC's factors and normalizers")
    query = enlarge(test[:1])
    influence = explainer.scores(query, method="influence")
    lap("IF of one query: LiSSA and one forward pass")
    relative = explainer.scores(query, method="loss_relative")
    lap("l-RelatIF of the same query")
    print(explainer.report())
    print("finite:", bool(influence.isfinite().all() and relative.isfinite().all()))


if __name__ == "__main__":
    main()
