"""The best training examples of many queries, without ever holding [query, train].

- Where the index tells scores to the last digit, or everybody is scored by a pass over
  the training set, the best so far are kept while the scores come part by part.
- Where its rows leave something out or are rounded, their scores make a shortlist for
  each query and method. Only the pairs on a list are scored exactly, from gradients
  computed afresh; a bound on everybody else makes the certificate.
- For many queries, rows that tell everything are rounded for such a shortlist too, because
  that is faster. Then the pairs are scored by the rows as they are, and the few queries
  that the bound does not vouch for against everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import scores
from .explanation import Sign
from .index import Index, RelativeMethod
from .rows import Rows
from .scoring import SHORTLIST, Progress, Scorer, stretch

ROUNDED = 20
"""Examples on a list beside the k best, where rows are only rounded: bfloat16 held the top 5 among the top 20."""

PAIRS = 50
"""A product of one pair costs as much as so many out of one large matrix product."""


@dataclass(frozen=True)
class TopK:
    """The best training examples of each query.

    Attributes:
        indices: Rows of the training set, best first, [query, k].
        scores: Their scores, [query, k].
        certified: True where no example outside can belong to the top k under this
            curvature, [query]. Always true where every training example is scored exactly.
            Where the index leaves something out (a low-rank curvature, a memory limit) or
            is rounded, a shortlist is scored exactly, and vouched for only where a bound
            rules out everybody else.
    """

    indices: Int[Tensor, "query k"]
    scores: Float[Tensor, "query k"]
    certified: Bool[Tensor, "query"]

    @classmethod
    def joined(cls, blocks: Sequence[TopK]) -> TopK:
        """Those of consecutive queries."""
        return cls(
            torch.cat([block.indices for block in blocks]),
            torch.cat([block.scores for block in blocks]),
            torch.cat([block.certified for block in blocks]),
        )


class Candidates:
    """Those with the largest estimates, and how good anybody else can be.

    Attributes:
        rows: Of the training set, [query, at most `keep`].
        outside: The largest bound of those who are on no list, [query].
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._lists: tuple[Tensor, Tensor, Tensor] | None = None
        self.outside: Tensor | None = None

    @property
    def rows(self) -> Int[Tensor, "query keep"]:
        assert self._lists is not None
        return self._lists[0]

    def add(
        self, first: int, estimate: Float[Tensor, "query part"], bound: Float[Tensor, "query part"]
    ) -> None:
        """Signed estimates of the training examples from `first` on, and bounds; the latter are overwritten."""
        if self.outside is None:
            self.outside = torch.full_like(bound[:, 0], -torch.inf)
        place = torch.arange(first, first + estimate.shape[1], device=estimate.device).expand_as(estimate)
        lists = self._best(place, estimate, bound)
        if self._lists is not None:
            joined = (torch.cat(pair, dim=1) for pair in zip(self._lists, lists, strict=True))
            lists = self._best(*joined)
        self._lists = lists

    def _best(self, place: Tensor, estimate: Tensor, bound: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if estimate.shape[1] <= self._keep:
            return place, estimate, bound
        chosen = estimate.topk(self._keep, dim=1).indices
        kept = place.gather(1, chosen), estimate.gather(1, chosen), bound.gather(1, chosen)
        assert self.outside is not None
        self.outside = torch.maximum(self.outside, bound.scatter_(1, chosen, -torch.inf).amax(1))
        return kept


def top_k(
    scorer: Scorer,
    gradients: Float[Tensor, "query param"],
    damping: float,
    methods: Sequence[RelativeMethod],
    k: int,
    sign: Sign,
    progress: Progress,
) -> dict[RelativeMethod, TopK]:
    """The k best of every query by each method; the numerators are shared.

    Args:
        scorer: Of the training set.
        gradients: Of the queries' losses.
        damping: λ.
        methods: Which, each once.
        k: How many.
        sign: As in `scores.top_k`.
        progress: Called with the fraction done; what it raises stops the work.
    """
    index = scorer.index
    screened = _screens(index, damping, k, len(gradients))
    keep = (
        min(k + ROUNDED, index.count)
        if screened
        else _length(index, damping, k, len(gradients), len(methods))
    )
    # Bounds need normalizers, whatever the method. Those of a smaller damping are larger, and bound as well.
    bounding = index.stop_below(damping)
    if any(method != "influence" for method in methods) or (keep is not None and bounding is None):
        scorer.prepare([damping], stretch(progress, 0.0, 0.3))
        bounding = damping
    if keep is None:
        return _everybody(scorer, gradients, damping, methods, k, sign, stretch(progress, 0.3, 1.0))
    assert bounding is not None
    found = _shortlisted(
        scorer, gradients, damping, bounding, methods, k, sign, keep, stretch(progress, 0.3, 0.9)
    )
    doubtful = torch.nonzero(~torch.stack([top.certified for top in found.values()]).all(0))[:, 0]
    if screened and len(doubtful):
        again = _everybody(
            scorer, gradients[doubtful], damping, methods, k, sign, stretch(progress, 0.9, 1.0)
        )
        for method, sure in again.items():
            top = found[method]
            top.indices[doubtful], top.scores[doubtful] = sure.indices, sure.scores
            top.certified[doubtful] = sure.certified
    return found


def _everybody(
    scorer: Scorer,
    gradients: Float[Tensor, "query param"],
    damping: float,
    methods: Sequence[RelativeMethod],
    k: int,
    sign: Sign,
    progress: Progress,
) -> dict[RelativeMethod, TopK]:
    index = scorer.index
    best = {method: scores.Running(k, sign) for method in methods}
    for part, influence in scorer.influence(gradients, [damping], progress):
        for method, running in best.items():
            running.add(part.start, index.relative(method, influence[:, 0], damping, part))
    return {
        method: TopK(*running.best, torch.full((len(gradients),), not index.rounded, device=gradients.device))
        for method, running in best.items()
    }


def _screens(index: Index, damping: float, k: int, queries: int) -> bool:
    """Whether rows that tell everything are rounded for a shortlist, and what is on it is scored by them."""
    if index.rows is None or index.partial or index.basis.solver is not None:
        return False
    quick = index.quickest(queries) != index.dtype and 2 * (k + ROUNDED) <= index.count
    return quick and index.basis.is_definite(damping)


def _length(index: Index, damping: float, k: int, queries: int, methods: int) -> int | None:
    """How long the shortlists have to be; None where everybody is scored instead."""
    if not index.ranks or not index.basis.is_definite(damping):
        return None  # no Cauchy-Schwarz, and normalizers that are not real
    if index.complete:
        return min(k + ROUNDED, index.count)
    keep = min(max(4 * k, SHORTLIST), index.count)
    if 4 * keep * methods * queries <= index.count:  # few gradients
        return 2 * keep
    return keep if PAIRS * keep * methods <= index.count or index.rounded else None


def _shortlisted(
    scorer: Scorer,
    gradients: Float[Tensor, "query param"],
    damping: float,
    bounding: float,
    methods: Sequence[RelativeMethod],
    k: int,
    sign: Sign,
    keep: int,
    progress: Progress,
) -> dict[RelativeMethod, TopK]:
    index = ranked = scorer.index
    if index.plain is not None:
        ranked, queries = index.plain, Rows((index.basis.solve(gradients, damping),))
    else:
        queries = index.basis.rotation.rotate(gradients)
    candidates = _candidates(index, ranked, queries, damping, bounding, methods, sign, keep)
    lists = {method: one.rows.sort(1).values for method, one in candidates.items()}
    exact = _on_lists(scorer, ranked, gradients, queries, damping, lists, progress)
    stored = index.stored_dtype
    found = {}
    for method, rows in lists.items():
        influence, norms = exact[method]
        score = index.relative(method, influence, damping, rows, norms)
        places, value = scores.top_k(score, k, sign)
        rival = candidates[method].outside
        assert rival is not None
        # Normalizers of those outside come from rounded rows: off by half an epsilon, and some more.
        shy = 0.0 if method == "influence" or not index.rounded else torch.finfo(stored).eps
        sure = (rival == -torch.inf) | (rival + shy * rival.abs() < scores.signed(value[:, -1], sign))
        if stored == torch.float16:  # small numbers lose all their digits
            sure = torch.zeros_like(sure)
        found[method] = TopK(rows.gather(1, places), value, sure)
    return found


def _candidates(
    index: Index,
    ranked: Index,
    queries: Rows,
    damping: float,
    bounding: float,
    methods: Sequence[RelativeMethod],
    sign: Sign,
    keep: int,
) -> dict[RelativeMethod, Candidates]:
    """For every query and method those with the best scores by the rows, in one pass over these.

    By Cauchy-Schwarz nobody is further off than the roots of what the rows leave out
    of both self-influences, and of their rounding. The training examples' are those at
    `bounding`, which is no larger than the damping.

    Args:
        index: What the normalizers are of.
        ranked: What makes the scores: the same, or the gradients beside it.
        queries: As `ranked` takes them.
        damping, bounding, methods, sign, keep: As above.
    """
    (own,) = ranked.self_influence([bounding])
    _, asked = ranked.norms(queries, [damping])
    missing = ranked.query_left_out(queries, asked, [damping])[0]
    dtype = ranked.quickest(len(queries))
    reach = torch.stack([missing.sqrt(), ranked.rounding(dtype) * asked[0].sqrt()], dim=1).to(index.dtype)
    others = torch.stack([ranked.left_out([bounding])[0].sqrt(), own.sqrt()]).to(index.dtype)
    one = torch.ones(index.count, dtype=index.dtype, device=own.device)
    # 1 / normalizer; scores are its product with the numerator.
    scales = {
        method: index.relative(method, one, damping, slice(0, index.count))
        for method in methods
        if method != "influence"
    }
    candidates = {method: Candidates(keep) for method in methods}
    for part, core in ranked.influence(queries, [damping], dtype=dtype):
        estimate = scores.signed(core[:, 0], sign)
        bound = torch.addmm(estimate, reach, others[:, part])
        for method, lists in candidates.items():
            if method == "influence":
                lists.add(part.start, estimate, bound.clone())
            else:
                scale = scales[method][part]
                lists.add(part.start, estimate * scale, bound * scale)
    return candidates


def _on_lists(
    scorer: Scorer,
    ranked: Index,
    gradients: Float[Tensor, "query param"],
    queries: Rows,
    damping: float,
    lists: dict[RelativeMethod, Int[Tensor, "query keep"]],
    progress: Progress,
) -> dict[RelativeMethod, tuple[Float[Tensor, "query keep"], tuple[Tensor, Tensor] | None]]:
    """Exact influence and normalizers of those on the lists; a pair on several of them is computed once.

    No normalizers where those of the index are exact.
    """
    index, count = scorer.index, len(gradients)
    query = torch.arange(count, device=gradients.device)[:, None]
    codes = {method: rows * count + query for method, rows in lists.items()}
    every = torch.unique(torch.cat([code.flatten() for code in codes.values()]))
    if index.partial:
        products, norms = scorer.pairs(every // count, every % count, gradients, queries, damping, progress)
    else:
        products, norms = ranked.pairs(every // count, every % count, queries, damping), None
    some = torch.unique(every // count)
    found = {}
    for method, code in codes.items():
        own = None
        if norms is not None:
            place = torch.searchsorted(some, lists[method])
            own = norms[0][0, place], norms[1][0, place]
        found[method] = products[torch.searchsorted(every, code)], own
    return found
