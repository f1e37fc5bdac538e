"""Ranking tables: for one query, the best training examples at every slider position at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from . import scores
from .errors import Cancelled
from .explanation import Method, Ranking, TableSign
from .index import RelativeMethod
from .neighbors import Neighbors
from .scoring import Progress, Scorer, stretch

RELATIVE: tuple[RelativeMethod, ...] = ("influence", "theta_relative", "loss_relative")


def criteria(
    scorer: Scorer,
    gradients: Float[Tensor, "query param"],
    dampings: Sequence[float],
    top: int,
    progress: Progress,
) -> tuple[list[list[Ranking]], int]:
    """For every query the rankings of IF, θ- and ℓ-RelatIF, both signs, all damping stops.

    Numerators of all stops come from one pass over the index; the three
    criteria share them. `examples` holds rows of the training set.

    Args:
        scorer: Of the training set.
        gradients: Query gradients, one per label.
        dampings: The stops.
        top: Examples to keep per row.
        progress: Called with the fraction done; what it raises stops the work.

    Returns:
        The rankings, query by query, and how many training examples they rank: all,
        or the first so many where the callback raised `Cancelled` on the way.
    """
    index = scorer.index
    count = index.count
    scorer.prepare(dampings, stretch(progress, 0.0, 0.3))
    listed = scorer.shortlist(gradients, dampings, RELATIVE, top, stretch(progress, 0.3, 0.7))
    if listed is None:
        influence = torch.empty(
            len(gradients), len(dampings), index.count, dtype=gradients.dtype, device=gradients.device
        )
        seen = 0
        try:
            for part, score in scorer.influence(gradients, dampings, stretch(progress, 0.3, 0.7)):
                influence[:, :, part] = score
                seen = part.stop
        except Cancelled:
            if not seen:
                raise
            count, progress = seen, _ignore
        influence = influence[:, :, :count]
    else:
        influence = listed.influence
    everybody: slice | Tensor = slice(0, count) if listed is None else listed.rows
    row_of = {} if listed is None else dict(enumerate(listed.rows.tolist()))
    done = 0
    tables: list[list[Ranking]] = []
    for numerators in influence:
        panel: list[Ranking] = []
        for method in RELATIVE:
            score = torch.stack(
                [
                    index.relative(
                        method,
                        numerators[stop],
                        damping,
                        everybody,
                        None if listed is None else listed.norms_at(stop),
                    )
                    for stop, damping in enumerate(dampings)
                ]
            )
            for sign in ("positive", "negative"):
                table = _ranking(method, sign, score, min(top, score.shape[1]))
                if listed is not None:
                    table = renumbered(table, row_of)
                panel.append(table)
            done += 1
            progress(0.7 + 0.3 * done / (len(RELATIVE) * len(gradients)))
        tables.append(panel)
    return tables, count


def self_influences(
    scorer: Scorer, dampings: Sequence[float], rows: Sequence[int]
) -> list[tuple[tuple[float, ...], tuple[int, ...]]]:
    """I_i,i of some training examples, and its place among all of them, 0 the largest, stop by stop."""
    every, place = scorer.index.self_influence(dampings), scorer.index.places(dampings)
    chosen = torch.tensor(rows, dtype=torch.int64, device=every.device)
    return [
        (tuple(float(f"{value:.5g}") for value in values), tuple(places))
        for values, places in zip(every[:, chosen].T.tolist(), place[:, chosen].T.tolist(), strict=True)
    ]


def nearest(neighbors: Neighbors | None, query: Any, top: int, progress: Progress) -> Ranking:
    """The k-NN ranking of a batch of one query; empty where the inputs share no space."""
    if neighbors is None or not neighbors.reach(query):
        return Ranking(method="nearest", sign="positive", examples=((),), scores=((),))
    indices, values = neighbors.top(query, top, progress)
    return Ranking(
        method="nearest",
        sign="positive",
        examples=(tuple(indices[0].tolist()),),
        scores=(tuple(rounded(value) for value in values[0].tolist()),),
    )


def renumbered(table: Ranking, position: dict[int, int]) -> Ranking:
    """The same ranking with its rows replaced, by their positions in a document or the other way."""
    examples = tuple(tuple(position[i] for i in row) for row in table.examples)
    return Ranking(method=table.method, sign=table.sign, examples=examples, scores=table.scores)


def rounded(value: float) -> float:
    """A number as documents store it: nine digits, which carry a float32 exactly."""
    return float(f"{value:.9g}")


def _ignore(fraction: float) -> None:
    pass


def _ranking(method: Method, sign: TableSign, score: Float[Tensor, "stop train"], top: int) -> Ranking:
    indices, values = scores.top_k(score, top, sign)
    examples, kept = [], []
    for row, numbers in zip(indices.tolist(), values.tolist(), strict=True):
        pairs = [
            (i, v) for i, v in zip(row, numbers, strict=True) if (v > 0 if sign == "positive" else v < 0)
        ]
        examples.append(tuple(i for i, _ in pairs))
        kept.append(tuple(rounded(v) for _, v in pairs))
    return Ranking(method=method, sign=sign, examples=tuple(examples), scores=tuple(kept))
