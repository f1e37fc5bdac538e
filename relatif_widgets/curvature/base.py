"""What every curvature is: something that sees the training set a few times and gives an eigenbasis.

Adding a curvature means adding one module with a class of this protocol and
its name in `CURVATURES`; both relative criteria, the index, the widget and the
tests come with it.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .. import scores
from ..errors import ModelError
from ..gradients import GradientBatch, Plan
from ..objective import Objective
from ..products import padded, product
from ..rows import Outer, Part, Rows

Held = Literal["none", "part", "row"]
"""What a pass holds of the rows that it makes: nothing, as the passes before the last; a part at a time; or all."""


_LARGE = 2048
"""Rows of a matrix whose eigenvectors take seconds."""

TURNED = 4096
"""Gradients that are rotated at once where they lie."""

Split = Callable[[Tensor], list[Tensor]]

Parts = Callable[[GradientBatch], Iterator[Part]]


def eigh(
    matrix: Float[Tensor, "*batch dim dim"],
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch dim dim"]]:
    """Eigenvalues and eigenvectors of symmetric matrices, those of zero rows first, the others ascending.

    Rows that are all zero (pixels that are always black, words that never occur) are left out of the
    work. LAPACK's divide and conquer now and then does not converge on matrices of low rank;
    on a multiple of the same matrix, rounded otherwise, it does.

    Raises:
        ModelError: It never converged.
    """
    if matrix.dim() == 3 and len(matrix) == 1:
        values, vectors = eigh(matrix[0])
        return values[None], vectors[None]
    if matrix.dim() == 2:
        used = matrix.any(dim=1)
        idle = int((~used).sum())
        if idle:
            values = torch.zeros(len(matrix), dtype=matrix.dtype, device=matrix.device)
            vectors = torch.zeros_like(matrix)
            rows = torch.nonzero(used)[:, 0]
            vectors[~used, torch.arange(idle, device=matrix.device)] = 1
            if len(rows):
                columns = torch.arange(idle, len(matrix), device=matrix.device)
                values[idle:], vectors[rows[:, None], columns] = eigh(matrix[rows[:, None], rows])
            return values, vectors
        if matrix.device.type == "cpu" and len(matrix) >= _LARGE:
            # NumPy's LAPACK took two thirds of the time of torch's.
            with contextlib.suppress(np.linalg.LinAlgError):
                found = np.linalg.eigh(matrix.numpy())
                return torch.from_numpy(found.eigenvalues), torch.from_numpy(found.eigenvectors)
    for scale in (1.0, 1e3, 0.1, 7.0):
        try:
            values, vectors = torch.linalg.eigh(matrix * scale if scale != 1 else matrix)
        except RuntimeError:  # LinAlgError
            continue
        return values / scale, vectors
    raise ModelError(
        f"The eigendecomposition of a {matrix.shape[-1]:,}×{matrix.shape[-1]:,} curvature did not converge. "
        "Scale the inputs to about 1, or choose another curvature."
    )


def span(places: Int[Tensor, "some"]) -> slice | Tensor:
    """Ascending places as a slice, which is quicker to write to, where none between them is missing."""
    first, last = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)
    return slice(first, last) if last - first == len(places) else places


def formed(plan: Plan, size: int, held: Held) -> int:
    """Numbers that one example takes where layers are taken by their inputs and slopes; see `Curvature.numbers`."""
    layers = [layer.out + layer.into if layer.once else layer.size for layer in plan.layers]
    rest = size - sum(layer.size for layer in plan.layers)
    if held == "none":
        return rest
    return max([rest, *layers]) if held == "part" else sum(layers) + rest


@dataclass(frozen=True)
class Setting:
    """What a curvature is fitted to.

    Attributes:
        objective: The function that is differentiated.
        plan: How its gradients are taken.
        count: n, the number of training examples.
        damping: The default λ.
        memory: Bytes that the curvature and the rows it makes may take.
        batch: Some rows of the training set as one batch; to be asked while the model is in evaluation mode.
    """

    objective: Objective
    plan: Plan
    count: int
    damping: float
    memory: int
    batch: Callable[[Sequence[int]], GradientBatch]


class Rotation(ABC):
    """Qᵀ, from gradients to rows.

    Attributes:
        complete: Whether Q has as many columns as a gradient has numbers.
        together: Numbers of gradients that are worth waiting for, to be rotated by `rotate` at once.
    """

    complete = True
    together = 0

    @property
    def names(self) -> tuple[str, ...]:
        """What the parts of a row belong to, where there is more than one."""
        return ()

    @abstractmethod
    def rotate(self, gradients: Float[Tensor, "batch param"]) -> Rows:
        """c = Qᵀ g, row by row."""

    @abstractmethod
    def back(self, rows: Rows) -> Float[Tensor, "batch param"]:
        """Q c, row by row."""

    def rotate_batch(self, batch: GradientBatch) -> Rows:
        """The rows of a batch's own gradients, from their factors where that is cheaper."""
        return self.rotate(batch.gradients)

    def parts(self, batch: GradientBatch) -> Iterator[Part]:
        """The same part by part, so that each can be let go before the next is made."""
        yield from self.rotate_batch(batch).parts

    def meet(self, vectors: Rows, examples: int, split: Split) -> tuple[list[Tensor], Parts]:
        """Where vectors and the gradients of so many examples meet with the least work: here, as they are.

        Args:
            vectors: Rotated.
            examples: How many gradients there will be.
            split: Takes rows of P numbers apart as `GradientBatch.parts` comes.

        Returns:
            The vectors part by part, and what makes the parts of a batch that go with them.
        """
        return split(self.back(vectors)), GradientBatch.parts

    def row_bytes(self, plan: Plan, size: int, itemsize: int) -> int:
        """Bytes of one stored row of P = `size` numbers."""
        return size * itemsize


class Columns(Rotation):
    """A rotation by a matrix of eigenvectors, all of them or the leading ones.

    Args:
        vectors: Q, eigenvectors in columns.
    """

    together = 1 << 23  # which walks through Q once instead of for each small batch

    def __init__(self, vectors: Float[Tensor, "param dim"]) -> None:
        self.vectors = vectors
        self.complete = vectors.shape[0] == vectors.shape[1]

    def enter(self, gradients: Float[Tensor, "batch param"]) -> Float[Tensor, "batch param"]:
        """Gradients in the coordinates that Q's rows have; here a gradient's own."""
        return gradients

    def leave(self, found: Float[Tensor, "batch param"]) -> Float[Tensor, "batch param"]:
        """The inverse of `enter`, where nothing was left out."""
        return found

    def rotate(self, gradients: Float[Tensor, "batch param"]) -> Rows:
        squares = None
        if not self.complete:
            squares = scores.squared_lengths(gradients)
        return Rows((product(self.enter(gradients), self.vectors.T),), squares)

    def back(self, rows: Rows) -> Float[Tensor, "batch param"]:
        return self.leave(product(rows.dense(), self.vectors))

    def turned(self, whole: Part) -> Iterator[tuple[slice | Tensor, Float[Tensor, "some dim"]]]:
        """`rotate` of all gradients, some of them at a time; what all of them lack, as numbers of pixels that are
        always black, costs nothing.

        Yields:
            Which, and their rows; the next take these rows' place.
        """
        assert isinstance(whole, Tensor)
        used = torch.nonzero(whole.any(dim=0))[:, 0]
        columns = torch.nonzero(self.vectors[used].any(dim=0))[:, 0]
        vectors = padded(self.vectors[used[:, None], columns].T)
        room = whole.new_zeros(min(TURNED, len(whole)), self.vectors.shape[1])
        for first in range(0, len(whole), TURNED):
            part = slice(first, first + TURNED)
            found = product(whole[part][:, used], vectors)
            room[: len(found), span(columns)] = found[:, : len(columns)]
            yield part, room[: len(found)]

    def row_bytes(self, plan: Plan, size: int, itemsize: int) -> int:
        return self.vectors.shape[1] * itemsize + (0 if self.complete else 8)


class NoRotation(Rotation):
    """Q = I."""

    def rotate(self, gradients: Float[Tensor, "batch param"]) -> Rows:
        return Rows((gradients,))

    def parts(self, batch: GradientBatch) -> Iterator[Part]:
        """The numbers of a gradient, but layer by layer."""
        return batch.parts()

    def back(self, rows: Rows) -> Float[Tensor, "batch param"]:
        return rows.dense()


@runtime_checkable
class Solver(Protocol):
    """What solves for s_test where there is no eigenbasis to do it."""

    convergence: Any
    """How the last solve went; its str is for people. None before the first."""

    def solve(
        self,
        gradients: Float[Tensor, "query param"],
        damping: float,
        progress: Callable[[float], Any],
    ) -> Float[Tensor, "query param"]:
        """(H+λI)⁻¹ g."""


@dataclass(frozen=True)
class Eigenbasis:
    """H = Q Λ Qᵀ + μ (I − QQᵀ), ready for every damping.

    Attributes:
        detail: The curvature in words, for people.
        rotation: Qᵀ.
        eigenvalues: Λ in float64, or None where H + λI := I.
        tail: μ, the eigenvalue of every direction that Q leaves out; None if it leaves none out.
        size: P.
        notes: More about it for the report, a line each.
        solver: Solves for s_test where the basis only serves the normalizers (LiSSA), else None.
    """

    detail: str
    rotation: Rotation
    eigenvalues: Float[Tensor, "dim"] | None
    tail: float | None = None
    size: int = 0
    notes: tuple[str, ...] = ()
    solver: Solver | None = None

    def weights(self, dampings: Float[Tensor, "stop"], size: int) -> Float[Tensor, "stop dim"]:
        """The diagonal of (H+λI)⁻¹ in this basis: 1/(Λ+λ), or ones for the identity.

        Raises:
            ModelError: H+λI is singular at one of these dampings.
        """
        if self.eigenvalues is None:
            return torch.ones(len(dampings), size, dtype=torch.float64, device=dampings.device)
        self._refuse_singular(dampings)
        return (self.eigenvalues + dampings[:, None]).reciprocal_()

    def part_weights(
        self, dampings: Float[Tensor, "stop"], sizes: Sequence[int], dtype: torch.dtype
    ) -> Iterator[Float[Tensor, "stop _"]]:
        """The same for one part of the rows after the other, rounded to `dtype`.

        Raises:
            ModelError: H+λI is singular at one of these dampings.
        """
        values = self.eigenvalues
        if values is not None:
            self._refuse_singular(dampings)
        for first, size in zip(accumulate(sizes, initial=0), sizes, strict=False):
            found = torch.ones(len(dampings), size, dtype=dtype, device=dampings.device)
            if values is not None:
                for row, damping in zip(found, dampings, strict=True):
                    row.copy_((values[first : first + size] + damping).reciprocal_())
            yield found

    def _refuse_singular(self, dampings: Float[Tensor, "stop"]) -> None:
        assert self.eigenvalues is not None
        smallest, largest = self._ends
        least = 1e-14 * max(abs(smallest), abs(largest))
        for damping in dampings.tolist():
            if smallest + damping > least:
                continue
            if bool(((self.eigenvalues + damping).abs() <= least).any()):
                raise ModelError(
                    f"The {self.detail} is singular at damping {damping:g}: an eigenvalue is its "
                    f"negative. {self.remedy}"
                )

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue."""
        assert self.eigenvalues is not None
        return float(self.eigenvalues.min()), float(self.eigenvalues.max())

    def tail_weights(self, dampings: Float[Tensor, "stop"]) -> Float[Tensor, "stop"] | None:
        """1/(μ+λ), or None where nothing is left out."""
        return None if self.tail is None else 1 / (self.tail + dampings)

    def solve(
        self,
        gradients: Float[Tensor, "query param"],
        damping: float,
        progress: Callable[[float], Any] = lambda fraction: None,
    ) -> Float[Tensor, "query param"]:
        """s_test = (H+λI)⁻¹ g_test."""
        if self.solver is not None:
            return self.solver.solve(gradients, damping, progress)
        stop = torch.tensor([damping], dtype=torch.float64, device=gradients.device)
        rows = self.rotation.rotate(gradients)
        tail = self.tail_weights(stop)
        # Q (w − w_tail) Qᵀ g + w_tail g, and w_tail = 0 where Q is complete
        inner: list[Part] = []
        for part, weights in zip(rows.parts, self.part_weights(stop, rows.sizes, torch.float64), strict=True):
            dense = part.dense() if isinstance(part, Outer) else part
            inner.append(dense * (weights if tail is None else weights - tail).to(dense.dtype))
        found = self.rotation.back(Rows(tuple(inner)))
        return found if tail is None else found + gradients * tail.to(dense.dtype)

    @property
    def summary(self) -> str:
        """The curvature in words, with how the last solve went."""
        if self.solver is None or self.solver.convergence is None:
            return self.detail
        return f"{self.detail}; {self.solver.convergence}"

    def is_definite(self, damping: float) -> bool:
        """Whether H+λI is positive definite."""
        return self.eigenvalues is None or self._ends[0] + damping > 0

    @property
    def remedy(self) -> str:
        """What to do about a damping that is too small for an indefinite curvature."""
        assert self.eigenvalues is not None
        smallest, _ = self._ends
        return (
            f"Its smallest eigenvalue is {smallest:.4g}: take a damping above {-smallest:.4g}, or "
            'curvature="fisher", which has no negative eigenvalue.'
        )

    @property
    def damped(self) -> bool:
        """Whether damping changes anything."""
        return self.eigenvalues is not None

    @property
    def mean_eigenvalue(self) -> float | None:
        """trace(H) / P, the natural unit of damping; None for the identity."""
        if self.eigenvalues is None:
            return None
        if self.tail is None:
            return float(self.eigenvalues.mean())
        left_out = self.size - len(self.eigenvalues)
        return float(self.eigenvalues.sum() + self.tail * left_out) / self.size


@runtime_checkable
class Curvature(Protocol):
    """The protocol.

    A fit calls `begin`, then in each of `passes` passes over the training set
    `begin_pass` once and `update` with every batch, then `finish`. Rows are made
    in the last pass: by `rotation()` as it stands when that pass begins or, where
    that is still None, by the basis that `finish` gives.
    """

    name: str

    @property
    def uses_jacobian(self) -> bool:
        """Whether `update` forms a row of P numbers for every output of every example."""

    @property
    def passes(self) -> int:
        """Passes over the training set, at least one; `begin_pass` may find that it wants another."""

    def begin(self, setting: Setting) -> None:
        """Forget everything seen and make room for this objective's P parameters."""

    def begin_pass(self, number: int) -> None:
        """Pass `number`, counted from 0, is about to begin."""

    def update(self, batch: GradientBatch) -> None:
        """Take in one batch of the training set."""

    def rotation(self) -> Rotation | None:
        """Q, if it is known already."""

    def finish(self) -> Eigenbasis:
        """The eigenbasis of the average over all examples seen."""

    def working_memory(self, size: int, plan: Plan, *, last: bool = False) -> int:
        """Bytes that it needs for P = `size` parameters, beside the rows: at its peak, or from the last pass on."""

    def check(self, batch: GradientBatch, count: int) -> None:
        """Look at a few of n = `count` examples and refuse, before the long work, what this curvature cannot do."""

    def numbers(self, plan: Plan, size: int, *, held: Held) -> int:
        """Numbers that one row of one example takes in a pass that holds of rows what `held` says.

        P = `size` at the most.
        """


class OnePass(ABC):
    """A curvature that sees the training set once and knows its eigenvectors only afterwards."""

    name: str
    uses_jacobian = False
    passes = 1

    def begin_pass(self, number: int) -> None:
        assert number == 0

    def rotation(self) -> Rotation | None:
        return None

    def check(self, batch: GradientBatch, count: int) -> None:
        if self.uses_jacobian:
            batch.objective.loss.curvature_factor(batch.outputs)

    def numbers(self, plan: Plan, size: int, *, held: Held) -> int:
        return size

    @abstractmethod
    def begin(self, setting: Setting) -> None: ...

    @abstractmethod
    def update(self, batch: GradientBatch) -> None: ...

    @abstractmethod
    def finish(self) -> Eigenbasis: ...

    @abstractmethod
    def working_memory(self, size: int, plan: Plan, *, last: bool = False) -> int: ...
