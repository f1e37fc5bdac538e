"""The leading eigenpairs of the whole Fisher, cross-layer terms included, and an isotropic tail.

F ≈ U Λ Uᵀ + μ (I − U Uᵀ). One pass over the training set gives F Ω for a random
block Ω of vectors, batch by batch, Gᵀ(G Ω), so that neither F nor all the
gradients G are ever held; the Nyström approximation F Ω (Ωᵀ F Ω)⁻¹ (F Ω)ᵀ then has
the eigenpairs (Tropp, Yurtsever, Udell & Cevher, 2017). Each further pass is one
more block iteration. μ spreads what is left of the trace.

Ω has few entries ±1 in each of its many rows (Cohen, 2016), which makes GΩ cheap and is as
good as normal numbers there (Martinsson & Tropp, 2020, section 9.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .. import scores
from ..errors import ChoiceError
from ..gradients import GradientBatch, Plan
from ..rows import Waiting
from .base import Columns, Eigenbasis, Held, Rotation, Setting, eigh
from .labels import FisherLabels, Labels

RANK = 1024
"""Eigenpairs to begin with."""

MOST = 4096
"""Eigenpairs to end with, however small the damping: each pass costs as much as this number."""

TOGETHER = 1 << 24
"""Numbers of the rows multiplied at once, so that the large sum is not walked through for each small batch."""

SIGNS = 8
"""Entries in a row of the random block."""

UNDER = 4
"""What is left out has to lie this many times under the damping."""


class LowRank:
    """The low-rank Fisher of all chosen parameters.

    Args:
        rank: Eigenpairs to keep; by default 1,024, doubled (a pass each) until what is left
            lies well under the damping, as far as memory and 4,096 allow.
        labels: Over which labels the expectation goes; by default all of them where that is
            cheap, else one random mixture of them for each example.
        iterations: Passes over the training set that sharpen the eigenpairs.
        coverage: Share of the label covariance to keep with labels="exact": below 1 the smallest
            directions of each batch are left out, which saves most of the work where the model
            is confident.
        seed: Of the random block and of drawn labels.
    """

    name = "low_rank"

    def __init__(
        self,
        rank: int | None = None,
        labels: FisherLabels | None = None,
        *,
        iterations: int = 1,
        coverage: float = 1.0,
        seed: int = 0,
    ) -> None:
        checked: list[tuple[str, Any]] = [("rank", 1 if rank is None else rank), ("iterations", iterations)]
        for option, value in checked:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ChoiceError(f"{option}={value!r}; expected a whole number, at least 1.")
        if not 0 < coverage <= 1:
            raise ChoiceError(f"coverage={coverage!r}; expected a share above 0, at most 1.")
        self.rank, self.iterations, self.coverage, self.seed = rank, iterations, coverage, seed
        self.labels = Labels(labels, "rademacher", seed, whole=True)
        self._grown = 0
        self._rotation: Columns | None = None

    @property
    def passes(self) -> int:
        return self.iterations + 1 + self._grown

    @property
    def uses_jacobian(self) -> bool:
        return self.labels.exact

    def check(self, batch: GradientBatch, count: int) -> None:
        self.labels.check(batch, count)

    def numbers(self, plan: Plan, size: int, *, held: Held) -> int:
        return size

    def begin(self, setting: Setting) -> None:
        self._setting, self._grown = setting, 0
        self._generator = torch.Generator().manual_seed(self.seed)
        self._kept = self._allowed(RANK) if self.rank is None else min(self.rank, setting.objective.size)
        self._rotation = None
        self._trace, self._count = 0.0, 0
        self._product = torch.empty(0)
        self._waiting = Waiting(TOGETHER)
        self._block = self._random()

    def begin_pass(self, number: int) -> None:
        self.labels.begin_pass()
        self._multiply(self._waiting.take())
        if number and not self._trace:
            raise self._setting.objective.nothing_moves()
        if number == self.passes - 1:
            found = self._decompose()
            wanted = self._wanted()
            if wanted == self._kept:
                self._rotation = found
                return
            self._grown += 1
            self._kept = wanted
            self._widen(found.vectors)
        elif number:
            self._block = _orthonormal(self._product)
        self._product = torch.zeros(self._block.shape, dtype=self._block.dtype, device=self._block.device)
        self._trace, self._count = 0.0, 0

    def update(self, batch: GradientBatch) -> None:
        if self._rotation is not None:
            return
        slopes = self.labels.slopes(batch)
        if self.coverage < 1 and slopes.shape[1] > 1:
            for part in _leading(batch, slopes, self.coverage):
                self._add(part.batch, part.slopes)
        else:
            self._add(batch, slopes)
        self._count += len(batch.targets)

    def _add(self, batch: GradientBatch, slopes: Float[Tensor, "batch row output"]) -> None:
        rows = batch.pull_back(slopes).flatten(0, 1)
        batch.check(rows, "The gradient")
        self._trace += float(scores.squared_lengths(rows).sum())
        self._multiply(self._waiting.add(rows.numel(), rows))

    def _multiply(self, together: tuple[Tensor, ...] | None) -> None:
        if together is not None:
            (rows,) = together
            self._product.addmm_(rows.T, _times(rows, self._block))

    def rotation(self) -> Rotation | None:
        return self._rotation

    def finish(self) -> Eigenbasis:
        assert self._rotation is not None
        size, kept, trace = self._setting.objective.size, len(self._eigenvalues), self._trace / self._count
        left = max(0.0, trace - float(self._eigenvalues.sum()))
        complete = self._rotation.complete
        tail = None if complete else left / (size - kept)
        notes = []
        if not complete and kept:
            smallest, damping = float(self._eigenvalues.min()), self._setting.damping
            notes.append(
                f"{kept:,} leading eigenpairs of {size:,}, down to an eigenvalue of {smallest:.3g} "
                f"({smallest / damping:.2g} × damping), hold {1 - left / trace if trace else 1:.1%} of the trace"
            )
            if kept == self._kept and smallest > damping / UNDER:  # else there are no more
                notes.append(
                    f"what is left out does not lie well under the damping of {damping:g}: take more pairs "
                    f"(memory_limit=, LowRank(rank={2 * kept})) or a larger damping"
                )
        return Eigenbasis(
            f"low-rank whole Fisher, {kept:,} eigenpairs, {self.labels.detail}",
            self._rotation,
            self._eigenvalues,
            tail=tail,
            size=size,
            notes=tuple(notes),
        )

    def working_memory(self, size: int, plan: Plan, *, last: bool = False) -> int:
        if last and self._rotation is not None:
            return self._rotation.vectors.nbytes
        return 0 if self.rank is None else 4 * size * self.rank * 9 // 8 * 8

    def _allowed(self, most: int) -> int:
        objective = self._setting.objective
        room = affordable_rank(
            objective.size, self._setting.count, objective.dtype.itemsize, self._setting.memory, most
        )
        return min(room, objective.size)

    def _wanted(self) -> int:
        """Eigenpairs that the next pass should look for; as many as there are if these will do."""
        found = len(self._eigenvalues)
        if self.rank is not None or found < self._kept:  # asked for, or all that there are
            return self._kept
        if float(self._eigenvalues.min()) <= self._setting.damping / UNDER:
            return self._kept
        return max(self._kept, min(2 * self._kept, self._allowed(MOST)))

    @property
    def _width(self) -> int:
        """Vectors to multiply with: the last pairs converge last."""
        return min(self._setting.objective.size, self._kept + max(8, self._kept // 8))

    def _random(self) -> Float[Tensor, "param width"]:
        """Ω, with columns of length 1 and nearly at right angles: sparse where there are few of them."""
        size, width = self._setting.objective.size, self._width
        if width < SIGNS or 4 * width > size:
            return _orthonormal(self._normal(size, width))
        strata = torch.arange(SIGNS + 1) * width // SIGNS  # each has one entry in a row
        places = torch.rand((SIGNS, size), generator=self._generator) * strata.diff()[:, None]
        columns = (strata[:-1, None] + places.long()).minimum(strata[1:, None] - 1)
        positive = torch.rand((SIGNS, size), generator=self._generator) < 0.5
        entry = math.sqrt(width / (SIGNS * size))
        indices = torch.stack([torch.arange(size).repeat(SIGNS), columns.flatten()])
        values = torch.where(positive.flatten(), entry, -entry)
        objective = self._setting.objective
        block = torch.sparse_coo_tensor(indices, values, (size, width), check_invariants=True)
        return block.to(objective.device, objective.dtype).coalesce()

    def _widen(self, known: Float[Tensor, "param some"]) -> None:
        """What is known already, and random directions."""
        fresh = self._normal(len(known), self._width - known.shape[1])
        self._block = _orthonormal(torch.cat([known, fresh], dim=1))

    def _normal(self, size: int, width: int) -> Float[Tensor, "param width"]:
        objective = self._setting.objective
        found = torch.randn((size, width), generator=self._generator, dtype=torch.float32)
        return found.to(objective.device, objective.dtype)

    def _decompose(self) -> Columns:
        """Eigenpairs of the Nyström approximation, in float64."""
        dtype = self._block.dtype
        block, product = self._block.double(), self._product.double().div_(self._count)
        del self._block, self._product
        core = _times(product.T, block).T
        values, vectors = eigh((core + core.T) / 2)
        # The sums are right to about eps of the largest eigenvalue; what is below is noise.
        noise = 10 * torch.finfo(dtype).eps * float(values.abs().max())
        good = values > noise
        half = product @ (vectors[:, good] / values[good].sqrt())  # F ≈ half halfᵀ
        # By QR and SVD, not by halfᵀ half, whose small eigenvectors are not orthogonal.
        basis, triangle = torch.linalg.qr(half)
        left, singular, _ = torch.linalg.svd(triangle)
        keep = slice(0, min(self._kept, int((singular.square() > noise).sum())))
        self._eigenvalues = singular[keep].square()
        return Columns((basis @ left[:, keep]).to(dtype))


@dataclass(frozen=True)
class _Part:
    batch: GradientBatch
    slopes: Float[Tensor, "batch row output"]


def _leading(
    batch: GradientBatch, slopes: Float[Tensor, "batch row output"], coverage: float
) -> Iterator[_Part]:
    """The same label covariances in their principal axes, without the smallest of the whole batch."""
    _, lengths, axes = torch.linalg.svd(slopes, full_matrices=False)
    share = lengths.double().square().flatten()
    order = share.argsort(descending=True, stable=True)
    kept = int((share[order].cumsum(0) < coverage * share.sum()).sum()) + 1
    chosen = order[:kept].sort().values
    example, axis = chosen // lengths.shape[1], chosen % lengths.shape[1]
    rows = (lengths[:, :, None] * axes)[example, axis][:, None]
    for place, part in zip(example.split(len(slopes)), rows.split(len(slopes)), strict=True):
        yield _Part(batch.some(place), part)


def affordable_rank(size: int, count: int, itemsize: int, memory: int, most: int = RANK) -> int:
    """Eigenpairs that fit into `memory` bytes: blocks of vectors while fitting, coordinates of the rows after."""
    # Four blocks [size, rank·9/8], two of them in float64, and the coordinates.
    each = size * (2 * itemsize + 16) * 9 // 8 + count * itemsize
    return max(1, min(most, memory // each))


def _times(
    rows: Float[Tensor, "row param"], block: Float[Tensor, "param width"]
) -> Float[Tensor, "row width"]:
    if not block.is_sparse:
        return rows @ block
    found: Tensor = torch.sparse.mm(block.T, rows.T.contiguous()).T
    return found


def _orthonormal(block: Float[Tensor, "param width"]) -> Float[Tensor, "param width"]:
    basis: Tensor = torch.linalg.qr(block).Q
    return basis
