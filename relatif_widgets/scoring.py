"""Influence on some queries, by the cheapest road that is exact.

- Rows that tell everything: one pass over the index.
- Rows that leave something out (a low-rank basis: w_tail (g_test·g_i − c_test·c_i); a truncated
  index) or are rounded: they give a shortlist. What is missing comes from its gradients,
  computed afresh, or for every training example from a pass over the training set.
- No rows, or a solver in place of an eigenbasis: the derivatives of the training
  losses along s_test = (H+λI)⁻¹ g_test, one forward-mode pass, n numbers of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import rows as rotated
from .gradients import FORWARD_LIMIT
from .index import Index, RelativeMethod
from .rows import Rows
from .task import Task

SHORTLIST = 200
"""Examples of a ranking that are scored exactly; of 1,024 eigenpairs, enough for the top 5 of 99 queries in 100."""

FEW = 8
"""Whole gradients at once below which forming them costs more than forward mode."""

Progress = Callable[[float], None]

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


@dataclass(frozen=True)
class Scorer:
    """Scores of a fitted index.

    Attributes:
        task: Model and training set.
        index: Fitted to them.
        chunk: Examples a batch where rows are formed.
        at_once: Examples a batch where whole gradients are formed.
    """

    task: Task
    index: Index
    chunk: int
    at_once: int

    def prepare(self, dampings: Sequence[float], progress: Progress) -> None:
        """Normalizers for these dampings, from the rows or, where there are none, by a pass over the training set."""
        missing = self.index.missing(dampings)
        if not missing:
            return
        if self.index.rows is not None and self.index.kept is None:
            self.index.prepare(dampings)
            return
        norms = []
        with self.task.evaluating():
            for batch in self.task.batches(self.task.source, self.chunk):
                norms.append(self.index.norms(self.index.basis.rotation.rotate_batch(batch), missing))
                progress((batch.first + len(batch.targets)) / self.index.count)
        self.index.keep(missing, *(torch.cat(part, dim=1) for part in zip(*norms, strict=True)))

    def influence(
        self, gradients: Float[Tensor, "query param"], dampings: Sequence[float], progress: Progress
    ) -> Iterator[tuple[slice, Float[Tensor, "query stop part"]]]:
        """Exact influence of every training example, one part of the training set after the other."""
        index, count = self.index, self.index.count
        if index.rows is None or index.kept is not None or index.basis.solver is not None:
            with self.task.evaluating():
                solved = [
                    index.basis.solve(gradients, damping, _share(progress, at, len(dampings)))
                    for at, damping in enumerate(dampings)
                ]
            vectors = torch.stack(solved, dim=1)
            for part, values in self._products(vectors.flatten(0, 1)):
                progress(0.5 + 0.5 * part.stop / count)
                yield part, values.T.reshape(len(gradients), len(dampings), -1)
            return
        queries = index.basis.rotation.rotate(gradients)
        if index.basis.tail is None:
            for part, influence in index.influence(queries, dampings):
                progress(part.stop / count)
                yield part, influence
            return
        tail = self._tail(dampings, gradients)
        left = gradients - index.basis.rotation.back(queries)
        for part, values in self._products(left):
            progress(part.stop / count)
            core = rotated.influence(
                queries, index.some(part), index.weights(dampings, sum(queries.sizes)).to(index.dtype)
            )
            yield part, core + tail[:, None] * values.T[:, None]

    def shortlist(
        self,
        gradients: Float[Tensor, "query param"],
        dampings: Sequence[float],
        methods: Sequence[RelativeMethod],
        keep: int,
        progress: Progress,
    ) -> Shortlist | None:
        """Exact influence of those who can be among the best, by any of the methods, either sign, at any stop.

        None where that is no less work than scoring everybody.
        """
        index, basis = self.index, self.index.basis
        if not index.ranks:
            return None
        if not all(basis.is_definite(damping) for damping in dampings):
            return None  # no Cauchy-Schwarz, and normalizers that are not real
        keep = min(max(keep, SHORTLIST), index.count)
        if keep * len(gradients) * len(dampings) > 8 * index.count or 4 * keep > index.count:
            return None
        queries = index.basis.rotation.rotate(gradients)
        dtype = index.quickest(len(gradients) * len(dampings)) if index.rounded else None
        core = torch.cat([part for _, part in index.influence(queries, dampings, dtype=dtype)], dim=2)
        progress(0.2)
        everybody = slice(0, index.count)
        chosen = torch.zeros(index.count, dtype=torch.bool, device=core.device)
        for position, damping in enumerate(dampings):
            for method in methods:
                score = index.relative(method, core[:, position], damping, everybody)
                chosen[score.topk(keep, dim=1).indices] = True
                chosen[score.topk(keep, dim=1, largest=False).indices] = True
        rows = torch.nonzero(chosen)[:, 0]
        progress(0.4)
        if basis.tail is not None and not index.rounded:  # what is missing is the same at all dampings
            parts, norms = self._listed(rows, gradients, (), lambda done: progress(0.4 + 0.6 * done))
            left = parts - rotated.plain_products(queries, index.some(rows))
            tail = self._tail(dampings, gradients)
            influence = core[:, :, rows] + tail[:, None] * left[:, None]
        else:
            solved = torch.stack([basis.solve(gradients, damping) for damping in dampings], dim=1)
            parts, norms = self._listed(
                rows, solved.flatten(0, 1), dampings, lambda done: progress(0.4 + 0.6 * done)
            )
            influence = parts.reshape(len(gradients), len(dampings), -1)
        return Shortlist(rows, influence, norms)

    def _listed(
        self,
        rows: Int[Tensor, "some"],
        vectors: Float[Tensor, "vector param"],
        dampings: Sequence[float],
        progress: Progress,
    ) -> tuple[Float[Tensor, "vector some"], Norms | None]:
        """g_i·v of some training examples, their gradients computed afresh, and their own normalizers."""
        products: list[Tensor] = []
        norms: list[Norms] = []
        done = 0
        with self.task.evaluating():
            for batch in self.task.some(rows.tolist(), self.at_once):
                products.append(vectors @ batch.gradients.T)
                norms += self._own_norms(batch.gradients, dampings)
                done += len(batch.targets)
                progress(done / len(rows))
        return torch.cat(products, dim=1), _joined(norms)

    def pairs(
        self,
        rows: Int[Tensor, "pair"],
        at: Int[Tensor, "pair"],
        vectors: Float[Tensor, "vector param"],
        damping: float,
    ) -> tuple[Float[Tensor, "pair"], Norms | None]:
        """g_i·v of some pairs only, the gradients computed afresh, and the examples' own normalizers.

        Args:
            rows: Training examples, ascending.
            at: The vector of each; no pair comes twice, and those of one example ascend.
            vectors: v.
            damping: λ of the normalizers.

        Returns:
            The products; and normalizers of each example in `rows`, once, at one stop, or None
            where those of the index come from rows that are not rounded.
        """
        some, counts = torch.unique_consecutive(rows, return_counts=True)
        products: list[Tensor] = []
        norms: list[Norms] = []
        done = first = 0
        with self.task.evaluating():
            for batch in self.task.some(some.tolist(), self.at_once):
                own = counts[done : done + len(batch.targets)]
                last = first + int(own.sum())
                products.append(rotated.sampled(Rows((batch.gradients,)), own, at[first:last], [vectors]))
                norms += self._own_norms(batch.gradients, [damping])
                done, first = done + len(batch.targets), last
        return torch.cat(products), _joined(norms)

    def _own_norms(self, gradients: Float[Tensor, "row param"], dampings: Sequence[float]) -> list[Norms]:
        """Normalizers of gradients computed afresh; nothing where the index has them from rows that are not rounded."""
        if not (self.index.rounded and dampings):
            return []
        return [self.index.norms(self.index.basis.rotation.rotate(gradients), dampings)]

    def _tail(self, dampings: Sequence[float], like: Tensor) -> Float[Tensor, "stop"]:
        weights = self.index.basis.tail_weights(
            torch.tensor(dampings, dtype=torch.float64, device=like.device)
        )
        assert weights is not None
        return weights.to(like.dtype)

    def _products(
        self, vectors: Float[Tensor, "vector param"]
    ) -> Iterator[tuple[slice, Float[Tensor, "part vector"]]]:
        """g_i·v for every training example and vector, in one pass over the training set."""
        # A very large model's gradients would come a few at a time: forward mode for each vector instead.
        forward = len(vectors) <= FORWARD_LIMIT or self.at_once < FEW
        size = self.task.forward_chunk() if forward else self.at_once
        with self.task.evaluating():
            for batch in self.task.batches(self.task.source, size):
                yield (
                    slice(batch.first, batch.first + len(batch.targets)),
                    batch.products(vectors, forward=forward),
                )


def _joined(norms: Sequence[tuple[Tensor, Tensor]]) -> Norms | None:
    if not norms:
        return None
    theta, own = zip(*norms, strict=True)
    return torch.cat(theta, dim=1), torch.cat(own, dim=1)


def _share(progress: Progress, at: int, of: int) -> Progress:
    """Progress of one of several equal parts of the first half of the work."""
    return lambda done: progress(0.5 * (at + done) / of)
