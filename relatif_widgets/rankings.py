"""Ranking tables: for one query, the best training examples at every slider position at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from . import scores
from .explanation import Method, Ranking, TableSign
from .index import Index, RelativeMethod
from .neighbors import Neighbors

Progress = Callable[[float], None]
RELATIVE: tuple[RelativeMethod, ...] = ("influence", "theta_relative", "loss_relative")


def criteria(
    index: Index,
    queries: Float[Tensor, "query dim"],
    dampings: Sequence[float],
    top: int,
    progress: Progress,
) -> list[list[Ranking]]:
    """For every query the rankings of IF, θ- and ℓ-RelatIF, both signs, all damping stops.

    Numerators of all stops come from one pass over the index; the three
    criteria share them. `examples` holds rows of the training set.

    Args:
        index: The rotated training gradients.
        queries: Rotated query gradients, one per label.
        dampings: The stops.
        top: Examples to keep per row.
        progress: Called with the fraction done; what it raises stops the work.
    """
    index.prepare(dampings)
    count = len(index.rows)
    influence = torch.empty(len(queries), len(dampings), count, dtype=queries.dtype, device=queries.device)
    for part, score in index.influence(queries, dampings):
        influence[:, :, part] = score
        progress(0.5 * part.stop / count)
    everything = slice(0, count)
    done = 0
    tables: list[list[Ranking]] = []
    for numerators in influence:
        panel: list[Ranking] = []
        for method in RELATIVE:
            score = torch.stack(
                [
                    index.relative(method, numerators[stop], damping, everything)
                    for stop, damping in enumerate(dampings)
                ]
            )
            panel += [_ranking(method, sign, score, top) for sign in ("positive", "negative")]
            done += 1
            progress(0.5 + 0.5 * done / (len(RELATIVE) * len(queries)))
        tables.append(panel)
    return tables


def nearest(neighbors: Neighbors | None, query: Any, top: int) -> Ranking:
    """The k-NN ranking of a batch of one query; empty where the inputs share no space."""
    if neighbors is None:
        return Ranking(method="nearest", sign="positive", examples=((),), scores=((),))
    indices, values = scores.top_k(neighbors.score(query), top)
    return Ranking(
        method="nearest",
        sign="positive",
        examples=(tuple(indices[0].tolist()),),
        scores=(tuple(rounded(value) for value in values[0].tolist()),),
    )


def renumbered(table: Ranking, position: dict[int, int]) -> Ranking:
    """The same ranking with training rows replaced by positions in a document."""
    examples = tuple(tuple(position[i] for i in row) for row in table.examples)
    return Ranking(method=table.method, sign=table.sign, examples=examples, scores=table.scores)


def rounded(value: float) -> float:
    """A number as documents store it: nine digits, which carry a float32 exactly."""
    return float(f"{value:.9g}")


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
