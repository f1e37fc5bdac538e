"""Dense curvatures: the whole P×P matrix and its exact eigendecomposition."""

from __future__ import annotations

import torch
from torch import Tensor

from ..gradients import GradientBatch
from ..objective import Objective
from .base import Eigenbasis


class Fisher:
    """The Fisher of all chosen parameters, exact over the model's own labels.

    F = (1/n) Σ_i J_iᵀ (E_{y∼p_θ(·|x_i)} ∇²_f ℓ) J_i, which for a negative
    log-likelihood is Eq. (7), page 3 of the paper (and the generalised
    Gauss-Newton matrix). Time: n·C·P² for the products and P³ for the
    eigendecomposition; memory: P² in float64, a few times over.
    """

    name = "fisher"
    uses_jacobian = True

    def begin(self, objective: Objective) -> None:
        self._total = torch.zeros(
            objective.size, objective.size, dtype=torch.float64, device=objective.device
        )
        self._count = 0
        self._dtype = objective.dtype

    def update(self, batch: GradientBatch) -> None:
        factor = batch.objective.loss.curvature_factor(batch.outputs)
        rows = torch.einsum("bfo,bop->bfp", factor, batch.jacobian).flatten(0, 1)  # [batch·factor, P]
        # Products in the rows' own precision, sums over batches in float64.
        self._total += rows.T @ rows
        self._count += len(factor)

    def finish(self) -> Eigenbasis:
        eigenvalues, vectors = decompose(self._total.div_(self._count))
        del self._total
        # A Fisher is positive semi-definite; what is below zero is rounding.
        return Eigenbasis("exact Fisher", eigenvalues.clamp_(min=0), vectors.to(self._dtype))

    def working_memory(self, size: int) -> int:
        return 4 * size * size * 8  # the sum, the vectors, and LAPACK's workspace of twice that


def decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and eigenvectors of a symmetric float64 matrix.

    In float64 even for float32 models: a float32 `eigh` is off by about 1e-7 of
    the largest eigenvalue, which is not small beside a damping of 1e-3.
    """
    return torch.linalg.eigh(matrix)  # type: ignore[no-any-return]
