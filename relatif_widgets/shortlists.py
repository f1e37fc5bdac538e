"""Who can be among the best of a query's rankings, where the rows of the index do not tell it to the last digit.

Every ranking (a query, a stop, a method, a sign) has its own list of the best by the rows. By
Cauchy-Schwarz nobody on it is further off than the roots of what the rows leave out of both
self-influences, and of their rounding. Hardly anybody is nearly so far off, since what is left out of
two gradients is close to orthogonal, and rounding goes either way. So the first of every list
are scored exactly before the others: how far they were off says who else is worth it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .index import Index, RelativeMethod
from .rows import Rows

GRANTED = 2.0
"""How much further off than any of the first anybody else may be, both as shares of the bound."""

Norms = tuple[Float[Tensor, "stop row"], Float[Tensor, "stop row"]]
"""‖(H+λI)⁻¹ g‖ and gᵀ (H+λI)⁻¹ g."""


@dataclass(frozen=True)
class Shortlist:
    """Exact influence of some training examples on some queries.

    Attributes:
        rows: Which training examples, ascending.
        influence: Of each on every query at every stop.
        norms: Their normalizers where those of the index come from rounded rows, else None.
    """

    rows: Int[Tensor, "some"]
    influence: Float[Tensor, "query stop some"]
    norms: Norms | None

    def joined(self, others: Shortlist) -> Shortlist:
        """With those of another list, on which none of these stand."""
        rows, order = torch.cat([self.rows, others.rows]).sort()
        norms = None
        if self.norms is not None and others.norms is not None:
            theta, own = (torch.cat(pair, 1)[:, order] for pair in zip(self.norms, others.norms, strict=True))
            norms = theta, own
        return Shortlist(rows, torch.cat([self.influence, others.influence], 2)[:, :, order], norms)

    def relative(
        self, index: Index, method: RelativeMethod, stop: int, damping: float
    ) -> Float[Tensor, "query some"]:
        """Their scores by a method at one stop."""
        return index.relative(method, self.influence[:, stop], damping, self.rows, self.norms_at(stop))

    def norms_at(self, stop: int) -> Norms | None:
        """Both normalizers at one stop, as `norms` has them at all."""
        return None if self.norms is None else (self.norms[0][stop], self.norms[1][stop])


@dataclass(frozen=True)
class _Ranking:
    """The best of one ranking of each query, by what the rows say of them.

    Attributes:
        method, stop: Which scores.
        sign: 1 where the largest are the best, -1 where the smallest are.
        rows: Of the training set, best first.
        estimates: Their scores, times the sign.
        slack: How far these may be off, by Cauchy-Schwarz.
    """

    method: RelativeMethod
    stop: int
    sign: int
    rows: Int[Tensor, "query keep"]
    estimates: Float[Tensor, "query keep"]
    slack: Float[Tensor, "query keep"]


class Lists:
    """Who can be among the `top` best of any ranking, of the `keep` best by what the rows say.

    Args:
        index: Its rows are good for a shortlist.
        core: Influence by the rows.
        queries: Complete rows of the queries.
        own: Self-influence of the queries.
        dampings: The stops.
        methods: Which scores.
        top: How many are wanted of each ranking.
        keep: How many of each ranking can be listed.

    Attributes:
        first: The `top` best of every ranking, ascending.
    """

    def __init__(
        self,
        index: Index,
        core: Float[Tensor, "query stop train"],
        queries: Rows,
        own: Float[Tensor, "stop query"],
        dampings: Sequence[float],
        methods: Sequence[RelativeMethod],
        top: int,
        keep: int,
    ) -> None:
        self._index, self._core, self._dampings, self._top = index, core, dampings, top
        everybody = slice(0, index.count)
        missing, beyond = index.query_left_out(queries, own, dampings), index.left_out(dampings)
        every = index.self_influence(dampings)
        rounding = index.rounding(index.quickest(len(own)) if index.rounded else index.dtype)
        self._reach = torch.empty_like(core)
        self._rankings: list[_Ranking] = []
        marks = self._marks()
        for stop, damping in enumerate(dampings):
            reach = torch.outer(missing[stop].sqrt(), beyond[stop].sqrt())
            reach += rounding * torch.outer(own[stop].sqrt(), every[stop].sqrt())
            self._reach[:, stop] = reach
            for method in methods:
                score = index.relative(method, core[:, stop], damping, everybody)
                slack = index.relative(method, self._reach[:, stop], damping, everybody)
                for sign in (1, -1):
                    best = (sign * score).topk(keep, dim=1)
                    off = slack.gather(1, best.indices)
                    self._rankings.append(_Ranking(method, stop, sign, best.indices, best.values, off))
                    marks[best.indices[:, :top]] = True
        self.first = torch.nonzero(marks)[:, 0]

    def rest(self, first: Shortlist) -> Int[Tensor, "some"]:
        """Who else can be among the best, now that the first are scored; ascending."""
        off = (first.influence - self._core[:, :, first.rows]).abs()
        share = (off / self._reach[:, :, first.rows].clamp(min=torch.finfo(off.dtype).tiny)).amax((1, 2))
        granted = (GRANTED * share).clamp(max=1)[:, None]
        # Normalizers of those who were not scored come from rounded rows.
        shy = torch.finfo(self._index.stored_dtype).eps if self._index.rounded else 0.0
        marks = self._marks()
        for ranking in self._rankings:
            score = ranking.sign * first.relative(
                self._index, ranking.method, ranking.stop, self._dampings[ranking.stop]
            )
            floor = score.topk(min(self._top, score.shape[1]), dim=1).values[:, -1:]
            best = ranking.estimates + granted * ranking.slack + shy * ranking.estimates.abs()
            marks[ranking.rows[best >= floor]] = True
        marks[first.rows] = False
        return torch.nonzero(marks)[:, 0]

    def _marks(self) -> Bool[Tensor, "train"]:
        return torch.zeros(self._index.count, dtype=torch.bool, device=self._core.device)
