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

from ..errors import ModelError
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
        """The diagonal of (H+λI)⁻¹ in this basis: 1/(Λ+λ), or ones for the identity.

        Raises:
            ModelError: H+λI is singular at one of these dampings.
        """
        if self.eigenvalues is None:
            return torch.ones(len(dampings), size, dtype=torch.float64, device=dampings.device)
        damped = self.eigenvalues + dampings[:, None]
        singular = (damped.abs() <= 1e-14 * self.eigenvalues.abs().max()).any(dim=1)
        if bool(singular.any()):
            raise ModelError(
                f"The {self.detail} is singular at damping {float(dampings[singular][0]):g}: an eigenvalue is its "
                f"negative. {self.remedy}"
            )
        return 1 / damped

    def is_definite(self, damping: float) -> bool:
        """Whether H+λI is positive definite."""
        return self.eigenvalues is None or float(self.eigenvalues.min()) + damping > 0

    @property
    def remedy(self) -> str:
        """What to do about a damping that is too small for an indefinite curvature."""
        assert self.eigenvalues is not None
        smallest = float(self.eigenvalues.min())
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
