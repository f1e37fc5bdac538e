"""The index: the training set's rotated gradients, where they fit, and its normalizers.

Fit once, then every damping is a reweighting of what is stored here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import rows as rotated
from . import scores
from .curvature import Eigenbasis, NoRotation
from .errors import ModelError
from .normalizers import DampedSquares
from .rows import Kept, Rows

RelativeMethod = Literal["influence", "theta_relative", "loss_relative"]

SLACK = 1e-6
"""Share of a self-influence that the rounding of rows in float32 may hide."""

MANY = 64
"""Columns from which rows of float32 are rounded to multiply them faster."""

_STEP = 1 << 24
"""Numbers that are made at once: rows in another precision, or scores."""

_FEW = 1 << 23
"""The same for few columns, whose product is through with rows while these are in the processor's cache."""

_READ = 1 << 27
"""Numbers of the rows that are read at once."""


@dataclass(frozen=True)
class Index:
    """Rotated rows of the training set.

    Attributes:
        basis: The eigenbasis that the rows are in.
        count: n, the number of training examples.
        rows: c_i = Qᵀ g_i in the precision of storage, or None where they do not fit into memory.
        dtype: In which to compute, the model's.
        kept: Which coordinates the rows have; None for all.
    """

    basis: Eigenbasis
    count: int
    rows: Rows | None
    dtype: torch.dtype
    kept: Kept | None = None
    _norms: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    _left: dict[float, Tensor] = field(default_factory=dict, repr=False)
    _places: dict[float, Tensor] = field(default_factory=dict, repr=False)

    @property
    def rounded(self) -> bool:
        """Whether the rows are stored in less than the model's precision."""
        return self.rows is not None and self.stored_dtype != self.dtype

    @property
    def partial(self) -> bool:
        """Whether the rows do not tell scores to the last digit: rounded, or with something left out."""
        return self.rounded or not self.complete

    @property
    def ranks(self) -> bool:
        """Whether the rows are good for a shortlist and no more."""
        return self.rows is not None and self.partial and self.basis.solver is None

    @property
    def complete(self) -> bool:
        """Whether nothing is left out: every coordinate is there, if rounded, or the gradients are."""
        return self.kept is None and (self.basis.tail is None or self.plain is not None)

    @property
    def stored_dtype(self) -> torch.dtype:
        """In which the rows are stored."""
        assert self.rows is not None
        return self.rows.tensors[0].dtype

    def rounding(self, dtype: torch.dtype) -> float:
        """Most that rounding may move a score by rows multiplied in `dtype`, in units of √(both self-influences).

        Half an epsilon each of the row, of the query beside it and of the result, and some more.
        """
        coarsest = max(torch.finfo(dtype).eps, torch.finfo(self.stored_dtype).eps)
        plain = torch.finfo(self.dtype).eps
        return 2 * coarsest if coarsest > plain else 32 * plain

    def quickest(self, columns: int) -> torch.dtype:
        """In which to multiply the rows for a shortlist.

        Products of bfloat16 are several times as fast as those of float32. For a few columns
        float32 rows would only take longer to round.
        """
        assert self.rows is not None
        fast = _multiplies_bfloat16(self.rows.tensors[0].device)
        if self.stored_dtype == torch.bfloat16:
            return torch.bfloat16 if fast else self.dtype
        many = columns >= MANY and self.stored_dtype == self.dtype == torch.float32
        return torch.bfloat16 if many and fast else self.dtype

    @property
    def summary(self) -> str:
        """The curvature in words, and what of it the index leaves out."""
        if self.rows is None or self.complete:
            return self.basis.summary
        stored = sum(self.rows.sizes) if self.kept is None else self.kept.count
        share = f"{stored:,} of {self.basis.size:,}"
        return f"{self.basis.summary}; ranked by {share} coordinates, the best scored exactly"

    @cached_property
    def plain(self) -> Index | None:
        """The gradients beside the rows as an index of their own, whose scores are v·g_i; None where there are none."""
        if self.rows is None or self.rows.gradients is None:
            return None
        basis = Eigenbasis("gradients as they are", NoRotation(), None, size=self.basis.size)
        plain = Index(basis, self.count, Rows((self.rows.gradients,)), self.dtype)
        squares = self.rows.squares
        assert squares is not None
        plain.keep([plain._key(0.0)], squares.sqrt()[None], squares[None])
        return plain

    @cached_property
    def _stored_basis(self) -> Eigenbasis:
        """The eigenvalues that belong to the rows."""
        if self.kept is None:
            return self.basis
        assert self.basis.eigenvalues is not None
        return replace(self.basis, eigenvalues=self.kept.of(self.basis.eigenvalues))

    def some(self, part: slice | Tensor) -> Rows:
        """Some rows, ready to compute with."""
        assert self.rows is not None
        return self.rows[part].to(self.dtype)

    def prepare(self, dampings: Sequence[float]) -> None:
        """Compute both normalizers for these dampings in one pass over the rows."""
        missing = self.missing(dampings)
        if missing:
            assert self.rows is not None
            assert self.kept is None
            self.keep(missing, *self.norms(self.rows, missing))

    def missing(self, dampings: Sequence[float]) -> list[float]:
        """The dampings with no normalizers yet."""
        return sorted({self._key(damping) for damping in dampings} - self._norms.keys())

    def keep(
        self, dampings: Sequence[float], theta: Float[Tensor, "stop train"], own: Float[Tensor, "stop train"]
    ) -> None:
        """Store normalizers of the whole training set."""
        for position, damping in enumerate(dampings):
            self._norms[damping] = (theta[position], own[position])

    def norms(
        self, rows: Rows, dampings: Sequence[float]
    ) -> tuple[Float[Tensor, "stop row"], Float[Tensor, "stop row"]]:
        """‖(H+λI)⁻¹ g‖ and gᵀ (H+λI)⁻¹ g of some rows, float64."""
        if self.basis.eigenvalues is None:  # H + λI := I, and weights that are all one
            squares = rotated.squares(rows).expand(len(dampings), -1)
            return squares.sqrt(), squares.clone()
        squares, products = self.damped_squares(dampings, rows.sizes).total(rows.parts)
        tail = self.basis.tail_weights(self._stops(dampings))
        if tail is not None:
            left = self.residual(rows)
            squares += tail.square()[:, None] * left
            products += tail[:, None] * left
        return squares.sqrt(), products

    def damped_squares(self, dampings: Sequence[float], sizes: Sequence[int]) -> DampedSquares:
        """What adds up the squares of both normalizers at these dampings, for complete rows of these parts."""
        return DampedSquares(self.basis, self._stops(dampings), sizes, self.dtype)

    def residual(self, rows: Rows) -> Float[Tensor, "row"]:
        """‖g‖² − ‖c‖², what the eigenbasis leaves out of each gradient; zero if it is complete."""
        if rows.squares is None:
            return torch.zeros(len(rows), dtype=torch.float64, device=rows.tensors[0].device)
        return (rows.squares - rotated.squares(rows)).clamp(min=0)

    def weighted(self, queries: Rows, dampings: Sequence[float]) -> Iterator[Float[Tensor, "query stop _"]]:
        """w c of complete rows, one part after the other."""
        weights = self.basis.part_weights(self._stops(dampings), queries.sizes, self.dtype)
        return rotated.preconditioned(queries, weights, self.dtype)

    def weights(self, dampings: Sequence[float], size: int) -> Float[Tensor, "stop dim"]:
        """1/(Λ+λ) in float64, a row per damping."""
        return self.basis.weights(self._stops(dampings), size)

    def left_out(self, dampings: Sequence[float]) -> Float[Tensor, "stop train"]:
        """What the rows leave out of each self-influence, float64; one pass over the rows for what is asked first."""
        assert self.rows is not None
        missing = sorted(set(dampings) - self._left.keys())
        if missing:
            if self.kept is None:
                found = self._tail_part(self.rows, missing)
            else:
                stops = self._stops(missing)
                sums = DampedSquares(self._stored_basis, stops, self.rows.sizes, self.dtype, powers=(1,))
                found = _beyond(self.self_influence(missing), sums.total(self.rows.parts)[0])
            self._left.update(zip(missing, found, strict=True))
        return torch.stack([self._left[damping] for damping in dampings])

    def query_left_out(
        self, queries: Rows, own: Float[Tensor, "stop query"], dampings: Sequence[float]
    ) -> Float[Tensor, "stop query"]:
        """The same of queries, at every damping.

        Args:
            queries: Their complete rows.
            own: Their self-influence.
            dampings: The stops.
        """
        if self.kept is None:
            return self._tail_part(queries, dampings)
        inside = self.kept.select(queries)
        weights = self._stored_basis.part_weights(self._stops(dampings), inside.sizes, self.dtype)
        return _beyond(own, rotated.dots(rotated.preconditioned(inside, weights, self.dtype), inside))

    def _tail_part(self, rows: Rows, dampings: Sequence[float]) -> Float[Tensor, "stop row"]:
        """w_tail (‖g‖² − ‖c‖²); nothing where the eigenbasis is complete."""
        tail = self.basis.tail_weights(self._stops(dampings))
        left = self.residual(rows).expand(len(dampings), -1)
        return left if tail is None else tail[:, None] * left

    def self_influence(self, dampings: Sequence[float]) -> Float[Tensor, "stop train"]:
        """I_i,i, the squared denominators of Definition 3.4, float64."""
        self.prepare(dampings)
        return torch.stack([self._norms[self._key(damping)][1] for damping in dampings])

    def stop_below(self, damping: float) -> float | None:
        """The nearest damping, this one or a smaller one, whose normalizers are there; they are no smaller."""
        known = [stop for stop in self._norms if stop <= self._key(damping) and self.basis.is_definite(stop)]
        return max(known, default=None)

    def places(self, dampings: Sequence[float]) -> Int[Tensor, "stop train"]:
        """Where each training example comes in the order of self-influence, 0 the largest; sorted once."""
        for damping, own in zip(dampings, self.self_influence(dampings), strict=True):
            if self._key(damping) not in self._places:
                order = own.argsort(descending=True, stable=True)
                place = torch.empty_like(order, dtype=torch.int32)
                place[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
                self._places[self._key(damping)] = place
        return torch.stack([self._places[self._key(damping)] for damping in dampings])

    def influence(
        self,
        queries: Rows,
        dampings: Sequence[float],
        step: int | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> Iterator[tuple[slice, Float[Tensor, "query stop part"]]]:
        """Influence on rotated query gradients at all dampings, in one pass over the rows.

        What the rows leave out is missing, such as a tail's part w_tail (g_test·g_i − c_test·c_i).

        Args:
            queries: Rotated query gradients, complete.
            dampings: The stops.
            step: Training rows per part; by default what is made of one takes 32 or 64 MB.
            dtype: In which to multiply: None for the model's precision, or what `quickest` says
                where scores are only for a shortlist. It rounds rows, queries and scores.

        Yields:
            The slice of the training set, and the scores of that part.
        """
        assert self.rows is not None
        if self.kept is not None:
            queries = self.kept.select(queries)
        weights = self._stored_basis.part_weights(self._stops(dampings), queries.sizes, self.dtype)
        if step is None:
            columns = len(queries) * len(dampings)
            made = max(columns, rotated.numbers(self.rows, columns, dtype or self.dtype))
            step = max(1, min((_STEP if columns >= MANY else _FEW) // made, _READ // sum(queries.sizes)))
        ready = list(rotated.preconditioned(queries, weights, dtype or self.dtype))
        room = rotated.Room()
        for start in range(0, self.count, step):
            part = slice(start, min(start + step, self.count))
            yield part, rotated.products(ready, self.rows[part], self.dtype, room)

    def pairs(
        self, rows: Int[Tensor, "pair"], at: Int[Tensor, "pair"], queries: Rows, damping: float
    ) -> Float[Tensor, "pair"]:
        """Influence of some training examples on some queries only, by rows that tell everything.

        Args:
            rows: Training examples, ascending.
            at: The query of each; no pair comes twice, and those of one example ascend.
            queries: Rotated query gradients.
            damping: λ.
        """
        solved = [part[:, 0] for part in self.weighted(queries, [damping])]
        some, counts = torch.unique_consecutive(rows, return_counts=True)
        found, first = [], 0
        step = max(1, _STEP // sum(queries.sizes))
        for part, own in zip(some.split(step), counts.split(step), strict=True):
            last = first + int(own.sum())
            found.append(rotated.sampled(self.some(part), own, at[first:last], solved))
            first = last
        return torch.cat(found)

    def relative(
        self,
        method: RelativeMethod,
        influence: Float[Tensor, "... part"],
        damping: float,
        part: slice | Tensor,
        norms: tuple[Float[Tensor, "... part"], Float[Tensor, "... part"]] | None = None,
    ) -> Float[Tensor, "... part"]:
        """Turn influence at one damping into the score of `method`, for some of the training set.

        Args:
            method: Which.
            influence: Of the part.
            damping: λ.
            part: Which rows.
            norms: Their normalizers, where better ones are at hand than the index has.
        """
        if method == "influence":
            return influence
        if norms is not None:
            theta, own = norms
            if method == "theta_relative":
                return scores.theta_relative(influence, theta).to(influence.dtype)
            return scores.loss_relative(influence, own).to(influence.dtype)
        self.prepare([damping])
        theta, own = self._norms[self._key(damping)]
        if method == "theta_relative":
            return scores.theta_relative(influence, theta[part]).to(influence.dtype)
        worst = int(own.argmin())
        if float(own[worst]) < 0:
            raise ModelError(
                f"Self-influence of training example {worst} is {float(own[worst]):.3g} at damping {damping:g}, and "
                f"loss_relative needs its root: the {self.basis.detail} is indefinite there. {self.basis.remedy}"
            )
        return scores.loss_relative(influence, own[part]).to(influence.dtype)

    def _stops(self, dampings: Sequence[float]) -> Float[Tensor, "stop"]:
        values = self.basis.eigenvalues
        device = self.rows.tensors[0].device if self.rows else None if values is None else values.device
        return torch.tensor(dampings, dtype=torch.float64, device=device)

    def _key(self, damping: float) -> float:
        return damping if self.basis.damped else 1.0  # the identity has one normalizer for all


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products of bfloat16 are no slower there than those of float32."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _beyond(own: Tensor, inside: Tensor) -> Tensor:
    """own − inside, and not below the rounding of either."""
    return (own - inside).clamp(min=0) + SLACK * own
