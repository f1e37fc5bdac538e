"""How faithful is an affordable curvature to the whole Fisher? The paper's ConvNet on CIFAR-10.

    python benchmarks/faithfulness.py CHECKPOINT.npz [--curvatures low_rank:rademacher:1024 ekfac:sample ...]

CHECKPOINT.npz holds the trained weights (`param_<name>`), 100 test rows (`query`), and for each
criterion the right answer, `top20_predicted_0.1_<method>`: the best training rows under the whole
Fisher of all parameters at damping 0.1. Prints, for every curvature, how well its top 5 agree
(Jaccard index, mean over the queries), how often they were certified, and what the fit cost in
training epochs of the same machine in the same run.

benchmarks/whole_fisher.py writes such a file with answers that approximate nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from relatif_widgets import Explainer
from relatif_widgets.curvature import EKFAC, KFAC, Curvature, Identity, LowRank

sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
import cifar
import paper
import tutorial_data
from shared import DAMPING, epochs, jaccard

METHODS = ("influence", "theta_relative", "loss_relative")
DEFAULT = [
    "low_rank:sample:1024",
    "low_rank:rademacher:1024",
    "low_rank:rademacher:2048",
    "low_rank:exact:2048",
    "ekfac:sample",
    "kfac:sample",
    "identity",
]


def make(name: str) -> Curvature:
    kind, labels, rank, iterations = ([*name.split(":"), "", "", ""])[:4]
    if kind == "low_rank":
        labels, _, percent = labels.partition("@")
        return LowRank(
            rank=int(rank),
            labels=labels,  # type: ignore[arg-type]
            iterations=int(iterations or 1),
            coverage=float(percent or 100) / 100,
        )
    return {"ekfac": EKFAC, "kfac": KFAC}[kind](labels) if labels else Identity()  # type: ignore[arg-type]


def load(checkpoint: Path) -> tuple[nn.Sequential, tuple[Tensor, Tensor], Tensor, dict[str, np.ndarray]]:
    """The trained model, the training set, the queries, and what CHECKPOINT.npz holds."""
    answers = dict(np.load(checkpoint))
    model = cifar.convnet()
    paper.load_convnet(model, checkpoint)
    (train, labels), (test, _) = tutorial_data.cifar10()
    queries = cifar.as_inputs(test[torch.from_numpy(answers["query"])])
    return model, (cifar.as_inputs(train), labels), queries, answers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--curvatures", nargs="*", default=DEFAULT)
    parser.add_argument("--queries", type=int, default=100)
    arguments = parser.parse_args()
    model, data, queries, answers = load(arguments.checkpoint)
    queries = queries[: arguments.queries]
    print(f"{len(data[1]):,} training examples, {torch.get_num_threads()} threads", flush=True)
    print(
        f"{'curvature':28} {'epochs':>7} {'IF':>6} {'theta':>6} {'loss':>6} {'certified':>9} {'top_k s':>8}"
    )
    for name in arguments.curvatures:
        before = epochs(data)
        started = time.perf_counter()
        explainer = Explainer(model, data, curvature=make(name), damping=DAMPING).fit(progress=False)
        fit = time.perf_counter() - started
        epoch = median(before + epochs(data))
        agreement, certified = [], []
        started = time.perf_counter()
        for method in METHODS:
            right = answers[f"top20_predicted_{DAMPING}_{method}"][: arguments.queries, :5]
            found = explainer.top_k(queries, k=5, method=method)
            agreement.append(jaccard(found.indices.tolist(), right.tolist()))
            certified.append(float(found.certified.double().mean()))
        asked = time.perf_counter() - started
        scores = " ".join(f"{value:6.3f}" for value in agreement)
        print(
            f"{name:28} {fit / epoch:7.1f} {scores} {np.mean(certified):9.2f} {asked:8.1f}"
            f"   (epoch {epoch:.1f} s, fit {fit:.1f} s)",
            flush=True,
        )
        print("\n".join(f"    {line}" for line in explainer.report().splitlines()[1:]), flush=True)


if __name__ == "__main__":
    main()
