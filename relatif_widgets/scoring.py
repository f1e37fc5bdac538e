"""Influence on some queries, by the cheapest road that is exact.

- Rows that tell everything: one pass over the index. Of a low-rank basis the gradients have to be
  there too, for w_tail (g_test·g_i − c_test·c_i).
- Rows that leave something out (a low-rank basis without the gradients; a truncated index) or
  are rounded: they give a shortlist. What is missing comes from its gradients,
  computed afresh, or for every training example from a pass over the training set.
- No rows, or a solver in place of an eigenbasis: the derivatives of the training
  losses along s_test = (H+λI)⁻¹ g_test, one forward-mode pass, n numbers of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import rows as rotated
from .curvature import Parts
from .gradients import FORWARD_LIMIT, GradientBatch
from .index import Index, RelativeMethod
from .normalizers import DampedSquares
from .rows import Outer, Part, Rows
from .shortlists import Lists, Norms, Shortlist
from .task import Task

SHORTLIST = 200
"""Examples of a ranking that are scored exactly at the most.

Of 1,024 eigenpairs enough for the top 5 of 99 queries in 100 at a damping near the smallest of them; not for the
tables of 50 at far smaller ones (`python benchmarks/shortlists.py`).
"""

FEW = 8
"""Gradients at once below which forming them costs more than forward mode."""

TOGETHER = 512
"""Examples whose outer products are weighted at once."""

Progress = Callable[[float], None]

See = Callable[[slice, Iterator[Part]], Iterator[Part]]
"""Passes the parts of a batch's rows on; handed their place in the training set."""


@dataclass(frozen=True)
class Scorer:
    """Scores of a fitted index.

    Attributes:
        task: Model and training set.
        index: Fitted to them.
        chunk: Examples a batch where rows are formed part by part.
    """

    task: Task
    index: Index
    chunk: int

    def prepare(self, dampings: Sequence[float], progress: Progress) -> None:
        """Normalizers for these dampings, from the rows or, where there are none, by a pass over the training set."""
        missing = self.index.missing(dampings)
        if not missing:
            return
        if self.index.rows is not None and self.index.kept is None:
            self.index.prepare(dampings)
        else:
            normalize(self.task, self.index, missing, self.chunk, progress)

    def influence(
        self, gradients: Float[Tensor, "query param"], dampings: Sequence[float], progress: Progress
    ) -> Iterator[tuple[slice, Float[Tensor, "query stop part"]]]:
        """Exact influence of every training example, one part of the training set after the other."""
        index, count = self.index, self.index.count
        if index.rows is None or index.kept is not None or index.basis.solver is not None:
            solving = 0.0 if index.basis.solver is None else 0.5
            for part, values in self._by_a_pass(gradients, dampings, stretch(progress, 0.0, solving)):
                progress(solving + (1 - solving) * part.stop / count)
                yield part, values.reshape(len(gradients), len(dampings), -1)
            return
        queries = index.basis.rotation.rotate(gradients)
        if index.basis.tail is None:
            for part, influence in index.influence(queries, dampings):
                progress(part.stop / count)
                yield part, influence
            return
        tail = self._tail(dampings, gradients)
        left = gradients - index.basis.rotation.back(queries)
        weights = index.weights(dampings, sum(queries.sizes)).to(index.dtype)
        for part, values in self._products(left):
            progress(part.stop / count)
            core = rotated.influence(queries, index.some(part), weights)
            yield part, core + tail[:, None] * values[:, None]

    def _by_a_pass(
        self, gradients: Float[Tensor, "query param"], dampings: Sequence[float], progress: Progress
    ) -> Iterator[tuple[slice, Float[Tensor, "vector part"]]]:
        """Influence by the gradients of the whole training set, taken afresh; the vectors are queries · stops."""
        index, basis = self.index, self.index.basis
        if basis.solver is None and self._parts_pay(len(gradients) * len(dampings)):
            asked = index.weighted(basis.rotation.rotate(gradients), dampings)
            yield from self._part_products(*self._met(gradients, asked, dampings, index.count))
            return
        with self.task.evaluating():
            solved = [
                basis.solve(
                    gradients, damping, stretch(progress, at / len(dampings), (at + 1) / len(dampings))
                )
                for at, damping in enumerate(dampings)
            ]
        yield from self._products(torch.stack(solved, dim=1).flatten(0, 1))

    def shortlist(
        self,
        gradients: Float[Tensor, "query param"],
        dampings: Sequence[float],
        methods: Sequence[RelativeMethod],
        top: int,
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
        keep = min(max(top, SHORTLIST), index.count)
        if keep * len(gradients) * len(dampings) > 8 * index.count or 4 * keep > index.count:
            return None
        queries = basis.rotation.rotate(gradients)
        dtype = index.quickest(len(gradients) * len(dampings)) if index.rounded else None
        core = torch.cat([part for _, part in index.influence(queries, dampings, dtype=dtype)], dim=2)
        progress(0.2)
        own = rotated.dots(index.weighted(queries, dampings), queries)
        lists = Lists(index, core, queries, own, dampings, methods, top, keep)
        progress(0.3)
        score = self._afresh(core, gradients, queries, dampings, len(lists.first))
        first = score(lists.first, stretch(progress, 0.3, 0.7))
        rest = lists.rest(first)
        return first.joined(score(rest, stretch(progress, 0.7, 1.0))) if len(rest) else first

    def _afresh(
        self,
        core: Float[Tensor, "query stop train"],
        gradients: Float[Tensor, "query param"],
        queries: Rows,
        dampings: Sequence[float],
        examples: int,
    ) -> Callable[[Int[Tensor, "some"], Progress], Shortlist]:
        """What scores training examples exactly, by their gradients: some `examples` of them at once."""
        index = self.index
        if index.basis.tail is not None and not index.rounded:  # what is missing is the same at all dampings
            split = self.task.plan.split(self.task.objective, gradients)
            tail = self._tail(dampings, gradients)

            def by_what_is_missing(rows: Tensor, progress: Progress) -> Shortlist:
                parts, norms = self._listed(rows, split, GradientBatch.parts, (), progress)
                left = parts - rotated.plain_products(queries, index.some(rows))
                return Shortlist(rows, core[:, :, rows] + tail[:, None] * left[:, None], norms)

            return by_what_is_missing
        vectors, made = self._met(gradients, index.weighted(queries, dampings), dampings, examples)

        def by_everything(rows: Tensor, progress: Progress) -> Shortlist:
            parts, norms = self._listed(rows, vectors, made, dampings, progress)
            return Shortlist(rows, parts.reshape(len(gradients), len(dampings), -1), norms)

        return by_everything

    def _met(
        self,
        gradients: Float[Tensor, "query param"],
        weighted: Iterable[Float[Tensor, "query stop _"]],
        dampings: Sequence[float],
        examples: int,
    ) -> tuple[list[Tensor], Parts]:
        """(H+λI)⁻¹ g_test of all queries and stops, to be multiplied with so many examples' gradients."""
        task, basis = self.task, self.index.basis

        def split(rows: Tensor) -> list[Tensor]:
            return task.plan.split(task.objective, rows)

        if basis.tail is None:
            return basis.rotation.meet(Rows(tuple(part.flatten(0, 1) for part in weighted)), examples, split)
        solved = torch.stack([basis.solve(gradients, damping) for damping in dampings], dim=1)
        return split(solved.flatten(0, 1)), GradientBatch.parts

    def _listed(
        self,
        rows: Int[Tensor, "some"],
        vectors: list[Float[Tensor, "vector _"]],
        made: Parts,
        dampings: Sequence[float],
        progress: Progress,
    ) -> tuple[Float[Tensor, "vector some"], Norms | None]:
        """v·g_i of some training examples, their gradients computed afresh, and their own normalizers."""
        products: list[Tensor] = []
        with self.task.evaluating():
            norms = self._own_norms(rows, dampings)
            done = 0
            for batch in self.task.some(rows.tolist(), self.chunk):
                products.append(_dots(vectors, made, batch))
                place = slice(done, done + len(batch.targets))
                if norms is not None:
                    norms.add(place, batch)
                done = place.stop
                progress(done / len(rows))
            return torch.cat(products, dim=1), None if norms is None else norms.finish()

    def pairs(
        self,
        rows: Int[Tensor, "pair"],
        at: Int[Tensor, "pair"],
        gradients: Float[Tensor, "query param"],
        queries: Rows,
        damping: float,
        progress: Progress,
    ) -> tuple[Float[Tensor, "pair"], Norms | None]:
        """Influence of some pairs only, the gradients computed afresh, and the examples' own normalizers.

        Args:
            rows: Training examples, ascending.
            at: The query of each; no pair comes twice, and those of one example ascend.
            gradients: Of the queries' losses.
            queries: The same, rotated.
            damping: λ.
            progress: Called with the share that is done.

        Returns:
            The influence; and normalizers of each example in `rows`, once, at one stop, or None
            where those of the index come from rows that are not rounded.
        """
        some, counts = torch.unique_consecutive(rows, return_counts=True)
        asked = self.index.weighted(queries, [damping])
        vectors, made = self._met(gradients, asked, [damping], len(some))
        products: list[Tensor] = []
        done = first = 0
        with self.task.evaluating():
            norms = self._own_norms(some, [damping])
            for batch in self.task.some(some.tolist(), self.chunk):
                place = slice(done, done + len(batch.targets))
                own = counts[place]
                last = first + int(own.sum())
                products.append(rotated.pair_products(vectors, made(batch), own, at[first:last]))
                if norms is not None:
                    norms.add(place, batch)
                done, first = place.stop, last
                progress(done / len(some))
            return torch.cat(products), None if norms is None else norms.finish()

    def _own_norms(self, rows: Int[Tensor, "some"], dampings: Sequence[float]) -> _Normalizers | None:
        """Room for normalizers from gradients computed afresh; none where the index has them from exact rows."""
        if not (self.index.rounded and dampings):
            return None
        return _Normalizers(self.task, self.index, dampings, len(rows))

    def _tail(self, dampings: Sequence[float], like: Tensor) -> Float[Tensor, "stop"]:
        weights = self.index.basis.tail_weights(
            torch.tensor(dampings, dtype=torch.float64, device=like.device)
        )
        assert weights is not None
        return weights.to(like.dtype)

    def _products(
        self, vectors: Float[Tensor, "vector param"]
    ) -> Iterator[tuple[slice, Float[Tensor, "vector part"]]]:
        """v·g_i for every vector and training example, by stored gradients or in one pass over the training set."""
        if self.index.plain is not None:
            for place, values in self.index.plain.influence(Rows((vectors,)), [0.0]):
                yield place, values[:, 0]
            return
        if self._parts_pay(len(vectors)):
            split = self.task.plan.split(self.task.objective, vectors)
            yield from self._part_products(split, GradientBatch.parts)
            return
        with self.task.evaluating():
            for batch in self.task.batches(self.task.source, self.task.forward_chunk()):
                place = slice(batch.first, batch.first + len(batch.targets))
                yield place, batch.products(vectors, forward=True).T

    def _part_products(
        self, vectors: list[Float[Tensor, "vector _"]], made: Parts
    ) -> Iterator[tuple[slice, Float[Tensor, "vector part"]]]:
        with self.task.evaluating():
            for batch in self.task.batches(self.task.source, self.chunk):
                place = slice(batch.first, batch.first + len(batch.targets))
                yield place, _dots(vectors, made, batch)

    def _parts_pay(self, vectors: int) -> bool:
        """Whether gradients, which of some models come a few at a time, cost less than forward mode for each vector."""
        return vectors > FORWARD_LIMIT and self.chunk >= FEW


def _dots(
    vectors: list[Float[Tensor, "vector _"]], made: Parts, batch: GradientBatch
) -> Float[Tensor, "vector batch"]:
    """v·g_i, where `made` makes the parts of g_i that go with the vectors'."""
    if made is GradientBatch.parts:
        return batch.dots(vectors)
    return rotated.part_products(vectors, made(batch))


def normalize(
    task: Task,
    index: Index,
    dampings: Sequence[float],
    chunk: int,
    progress: Progress,
    see: See = lambda place, parts: parts,
) -> None:
    """Both normalizers of every training example at these dampings, by a pass over the training set.

    A row is never there as a whole, unless something is left out of it: its parts come one after the other.

    Args:
        task: Model and training set.
        index: What keeps them.
        dampings: Stops that it has not.
        chunk: Examples a batch.
        progress: Called with the share that is done.
        see: Handed the parts of each batch, and its place; passes them on.
    """
    with task.evaluating():
        norms = _Normalizers(task, index, dampings, index.count)
        for batch in task.batches(task.source, chunk):
            place = slice(batch.first, batch.first + len(batch.targets))
            norms.add(place, batch, see)
            progress(place.stop / index.count)
        index.keep(dampings, *norms.finish())


class _PlainSquares:
    """‖c‖² for both sums: H + λI := I."""

    def __init__(self, stops: int) -> None:
        self._stops = stops

    def of(self, position: int, part: Part) -> Float[Tensor, "2 stop row"]:
        return rotated.squares(Rows((part,))).expand(2, self._stops, -1)


class _Normalizers:
    """Both normalizers of examples that come batch by batch, while the model is in evaluation mode.

    Outer products wait for those of the next batches: they are small, and the weights beside them large.
    """

    def __init__(self, task: Task, index: Index, dampings: Sequence[float], count: int) -> None:
        self._index, self._dampings = index, dampings
        self._rotation = index.basis.rotation
        self._found = torch.zeros(2, len(dampings), count, dtype=torch.float64, device=task.objective.device)
        self._whole = index.basis.tail is not None
        self._sums: _PlainSquares | DampedSquares = _PlainSquares(len(dampings))
        if index.basis.damped and not self._whole:
            sizes = self._rotation.rotate_batch(next(task.some([0], 1))).sizes
            self._sums = index.damped_squares(dampings, sizes)
        self._waiting: dict[int, list[tuple[slice, Outer]]] = {}

    def add(self, place: slice, batch: GradientBatch, see: See = lambda place, parts: parts) -> None:
        """A batch, whose examples go to this place; `see` is handed the parts of its rows."""
        if self._whole:
            norms = self._index.norms(self._rotation.rotate_batch(batch), self._dampings)
            self._found[0, :, place], self._found[1, :, place] = norms[0].square(), norms[1]
            return
        for position, part in enumerate(see(place, self._rotation.parts(batch))):
            if not isinstance(part, Outer):
                self._found[:, :, place] += self._sums.of(position, part)
                continue
            waiting = self._waiting.setdefault(position, [])
            waiting.append((place, part))
            if place.stop - waiting[0][0].start >= TOGETHER:
                self._add(position, self._waiting.pop(position))

    def finish(self) -> Norms:
        """When all have come."""
        for position, waiting in self._waiting.items():
            self._add(position, waiting)
        return self._found[0].sqrt(), self._found[1]

    def _add(self, position: int, waiting: list[tuple[slice, Outer]]) -> None:
        sides = ([part.left for _, part in waiting], [part.right for _, part in waiting])
        joined = Outer(*map(torch.cat, sides))
        place = slice(waiting[0][0].start, waiting[-1][0].stop)
        self._found[:, :, place] += self._sums.of(position, joined)


def stretch(progress: Progress, start: float, stop: float) -> Progress:
    """Progress of a part of the work: its 0 to 1 are `start` to `stop` of the whole."""
    return lambda done: progress(start + (stop - start) * done)
