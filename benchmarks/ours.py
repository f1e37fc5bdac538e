"""What `make bench` measures of relatif_widgets, one configuration a process: python benchmarks/ours.py FOLDER NAME."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from shared import DAMPING, OTHER_DAMPING, Given, epochs, load, product_rate, seconds, tell
from torch import Tensor, nn

from relatif_widgets import Explainer, Explanation, evaluation
from relatif_widgets.evaluation.rankings import SCORED

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "ekfac": {"curvature": "ekfac"},
    "ekfac-bfloat16": {"curvature": "ekfac", "storage": "bfloat16"},
    "ekfac-2GB": {"curvature": "ekfac", "memory_limit": "2GB"},
    "low_rank": {"curvature": "low_rank"},
}

CLICKS = 5


def measure(given: Given, name: str, many: int) -> dict[str, Any]:
    """Seconds of everything that a person waits for.

    Args:
        given: Model and data.
        name: Of a configuration.
        many: Queries of the large batch.
    """
    before = epochs(given.train)
    explainer = Explainer(
        given.model, given.train, damping=DAMPING, class_names=[str(label) for label in range(10)],
        **CONFIGURATIONS[name],
    )  # fmt: skip
    fit = seconds(lambda: explainer.fit(progress=False))
    epoch = median(before + epochs(given.train))
    queries, labels = given.queries
    rows = explainer._ready().index.rows
    assert rows is not None
    streamed = seconds(
        lambda: [part.sum() for tensor in rows.tensors for part in as_float32(tensor).split(1 << 24)], 3
    )
    clicks = [clicked(explainer, queries[at]) for at in range(CLICKS)]
    document = clicks[0][0]
    slide = seconds(
        lambda: [
            document.top(panel.name, method="theta_relative", damping=damping, k=20)
            for panel in document.panels
            for damping in document.dampings
        ],
        20,
    )
    one = queries[CLICKS : CLICKS + 1], labels[CLICKS : CLICKS + 1]
    damped = seconds(lambda: explainer.top_k(*one, k=5, method="influence", damping=OTHER_DAMPING))
    own = seconds(explainer.self_influence)
    batch = {}
    for count in dict.fromkeys((min(1_000, many), many)):
        asked = (queries[:count], labels[:count])
        batch[count] = seconds(
            lambda asked=asked: evaluation.rank(explainer, *asked, methods=SCORED, k=5, progress=False)
        )
    best = explainer.top_k(queries[:100], labels[:100], k=5, method="influence")
    return {
        "name": name,
        "report": explainer.report(),
        "epoch": epoch,
        "fit": fit,
        "index": rows.nbytes,
        "streamed": streamed,
        "prepare": median(ranked for _, ranked, _ in clicks),
        "click": median(whole for _, _, whole in clicks),
        "slide": slide / (len(document.panels) * len(document.dampings)),
        "another damping": damped,
        "self-influence": own,
        "batch": batch,
        "product": 2 * len(given.train[1]) * explainer.parameter_count * many / product_rate(torch.float32),
        "top": best.indices.tolist(),
        "certified": float(best.certified.double().mean()),
    }


def as_float32(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, so that whatever its precision they are read at one speed."""
    flat = tensor.view(-1).view(torch.uint8)
    return flat[: len(flat) // 4 * 4].view(torch.float32)


def clicked(explainer: Explainer, query: Tensor) -> tuple[Explanation, float, float]:
    """One query's explanation, the seconds until its ranking tables stood, and until the document did."""
    started = last = time.perf_counter()

    def note(share: float) -> None:
        nonlocal last
        last = time.perf_counter()  # the last call is that of the last table

    document = explainer.explain(query, top=50, progress=note)
    return document, last - started, time.perf_counter() - started


def growth(given: Given, many: int) -> dict[str, Any]:
    """How fit and prepare grow with n, P and the number of queries, by EK-FAC: pairs of size and seconds."""
    count = len(given.train[1])

    def explained(model: nn.Module, rows: int) -> tuple[Explainer, float, float]:
        part = (given.train[0][:rows], given.train[1][:rows])
        # One drawn label whatever n: by default small training sets get all labels, which is another cost.
        explainer = Explainer(model, part, curvature="ekfac", fisher_labels="sample", damping=DAMPING)
        fit = seconds(lambda: explainer.fit(progress=False))
        return explainer, fit, seconds(lambda: explainer.explain(given.queries[0][0], top=50), 3)

    found: dict[str, list[tuple[int, float, float]]] = {"n": [], "P": []}
    for share in (8, 4, 2, 1):
        explainer, fit, prepare = explained(given.model, count // share)
        found["n"].append((count // share, fit, prepare))
    asked = []
    for queries in (1, 10, 100, many):
        part = tuple(values[:queries] for values in given.queries)
        asked.append((queries, seconds(lambda part=part: explainer.top_k(*part, k=5))))
    for width in (8, 16, 32, 48):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(8),
            nn.Flatten(), nn.Linear(4 * width, 10),
        )  # fmt: skip
        size = sum(parameter.numel() for parameter in model.parameters())
        _, fit, prepare = explained(model, count // 8)
        found["P"].append((size, fit, prepare))
    return {"name": "growth", "epoch": median(epochs(given.train)), "queries": asked, **found}


def main() -> None:
    folder, name, many = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    given = load(folder)
    tell(growth(given, many) if name == "growth" else measure(given, name, many))


if __name__ == "__main__":
    main()
