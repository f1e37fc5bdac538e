"""What every curvature is: something that sees the training gradients once and gives an eigenbasis.

Adding a curvature means adding one module with a class of this protocol and
its name in `CURVATURES`; both relative criteria, the index, the widget and the
tests come with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ..gradients import GradientBatch
from ..objective import Objective


@dataclass(frozen=True)
class Eigenbasis:
    """H = Q Λ Qᵀ, ready for every damping.

    Attributes:
        detail: The curvature in words, for people.
        eigenvalues: Λ in float64, or None where H + λI := I.
        vectors: Q, columns are eigenvectors, or None for the identity.
    """

    detail: str
    eigenvalues: Float[Tensor, "dim"] | None
    vectors: Float[Tensor, "param dim"] | None

    def rotate(self, gradients: Float[Tensor, "batch param"]) -> Float[Tensor, "batch dim"]:
        """c = Qᵀ g, row by row."""
        return gradients if self.vectors is None else gradients @ self.vectors

    def weights(self, dampings: Float[Tensor, "stop"], size: int) -> Float[Tensor, "stop dim"]:
        """The diagonal of (H+λI)⁻¹ in this basis: 1/(Λ+λ), or ones for the identity."""
        if self.eigenvalues is None:
            return torch.ones(len(dampings), size, dtype=torch.float64, device=dampings.device)
        return 1 / (self.eigenvalues + dampings[:, None])

    @property
    def damped(self) -> bool:
        """Whether damping changes anything."""
        return self.eigenvalues is not None

    @property
    def mean_eigenvalue(self) -> float | None:
        """trace(H) / P, the natural unit of damping; None for the identity."""
        return None if self.eigenvalues is None else float(self.eigenvalues.mean())


@runtime_checkable
class Curvature(Protocol):
    """The protocol. `fit` calls `begin` once, `update` with every batch, `finish` once."""

    name: str
    uses_jacobian: bool
    """Whether `update` reads `GradientBatch.jacobian` (outputs × P numbers an example)."""

    def begin(self, objective: Objective) -> None:
        """Forget everything seen and make room for this objective's P parameters."""

    def update(self, batch: GradientBatch) -> None:
        """Take in one batch of the training set."""

    def finish(self) -> Eigenbasis:
        """The eigenbasis of the average over all examples seen."""

    def working_memory(self, size: int) -> int:
        """Bytes that a fit with P = `size` parameters needs at its peak, beside the rows."""
