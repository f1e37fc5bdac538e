"""Dense curvatures: the whole P×P matrix and its exact eigendecomposition.

Time: P³ for the eigendecomposition, and what each class adds; memory: P² in
float64, a few times over.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from ..gradients import GradientBatch, Plan, loss_hessian
from ..objective import Objective, module_of
from .base import Columns, Eigenbasis, OnePass, Setting, eigh
from .sole_layer import FisherSum, LayerColumns


class Dense(OnePass):
    """An average of P×P matrices over the training set; subclasses say of which.

    Attributes:
        semidefinite: Whether no eigenvalue is below zero.
        reflects: Whether the sum is of reflected outputs where one layer is all that is scored; see `FisherSum`.
    """

    detail: str
    semidefinite = True
    reflects = False

    def begin(self, setting: Setting) -> None:
        objective = setting.objective
        self._layer = setting.plan.sole(objective)
        self._total = torch.zeros(
            objective.size, objective.size, dtype=torch.float64, device=objective.device
        )
        self._count = 0
        self._objective = objective

    def update(self, batch: GradientBatch) -> None:
        # Products in the rows' own precision, sums over batches in float64.
        self._total += self.batch_sum(batch)
        self._count += len(batch.targets)

    @abstractmethod
    def batch_sum(self, batch: GradientBatch) -> Float[Tensor, "param param"]:
        """What one batch adds."""

    def finish(self) -> Eigenbasis:
        eigenvalues, vectors = self.decompose(self._total.div_(self._count))
        del self._total
        if self.semidefinite:
            eigenvalues = eigenvalues.clamp(min=0)  # what is below zero is rounding
        vectors = vectors.to(self._objective.dtype)
        rotation = Columns(vectors)
        if self._layer is not None:
            rotation = LayerColumns(vectors, self._layer, reflected=self.reflects)
        return Eigenbasis(self.detail, rotation, eigenvalues, size=len(eigenvalues))

    def decompose(
        self, matrix: Float[Tensor, "param param"]
    ) -> tuple[Float[Tensor, "dim"], Float[Tensor, "param dim"]]:
        """Eigenvalues (ascending) and eigenvectors of the symmetric average.

        In float64 even for float32 models: a float32 `eigh` is off by about 1e-7 of
        the largest eigenvalue, which is not small beside a damping of 1e-3.
        """
        eigenvalues, vectors = eigh(matrix)
        return eigenvalues, vectors

    def working_memory(self, size: int, plan: Plan, *, last: bool = False) -> int:
        return 4 * size * size * 8  # the sum, the vectors, and LAPACK's workspace of twice that


class Fisher(Dense):
    """The Fisher of all chosen parameters, exact over the model's own labels.

    F = (1/n) Σ_i J_iᵀ (E_{y∼p_θ(·|x_i)} ∇²_f ℓ) J_i, which for a negative
    log-likelihood is Eq. (7), page 3 of the paper (and the generalised
    Gauss-Newton matrix). Adds n·C·P² for the products; where a single Linear
    layer is scored, as in a linear model or a last layer, n·P²/2.
    """

    name = "fisher"
    detail = "exact Fisher"
    uses_jacobian = True
    reflects = True

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._outer = None if self._layer is None else FisherSum(self._layer, self._total, setting.memory)

    def update(self, batch: GradientBatch) -> None:
        if self._outer is None:
            super().update(batch)
            return
        self._outer.add(batch)
        self._count += len(batch.targets)

    def finish(self) -> Eigenbasis:
        if self._outer is not None:
            self._outer.finish()
            self._outer = None
        return super().finish()

    def batch_sum(self, batch: GradientBatch) -> Float[Tensor, "param param"]:
        factor = batch.objective.loss.curvature_factor(batch.outputs)
        rows = torch.einsum("bfo,bop->bfp", factor, batch.jacobian).flatten(0, 1)  # [batch·factor, P]
        return rows.T @ rows


class BlockFisher(Fisher):
    """The exact Fisher of each layer, with what ties the layers to each other set to zero.

    A layer is a module that owns parameters; its weight and bias share a block.
    """

    name = "block_fisher"
    detail = "exact Fisher of each layer"

    def decompose(
        self, matrix: Float[Tensor, "param param"]
    ) -> tuple[Float[Tensor, "dim"], Float[Tensor, "param dim"]]:
        eigenvalues = torch.zeros(len(matrix), dtype=matrix.dtype, device=matrix.device)
        vectors = torch.zeros_like(matrix)
        for rows in layer_positions(self._objective).values():
            block = matrix[rows[:, None], rows]
            eigenvalues[rows], vectors[rows[:, None], rows] = super().decompose(block)
        return eigenvalues, vectors


class EmpiricalFisher(Dense):
    """(1/n) Σ_i g_i g_iᵀ, the outer products at the training labels.

    Cheaper than the Fisher by the number of outputs, and no approximation of the
    Hessian where the model fits its labels well: its gradients vanish there.
    """

    name = "empirical_fisher"
    detail = "empirical Fisher"

    def batch_sum(self, batch: GradientBatch) -> Float[Tensor, "param param"]:
        return batch.gradients.T @ batch.gradients


class Hessian(Dense):
    """The exact Hessian of the mean training loss, Eq. (2), page 2 of the paper.

    Adds P Hessian-vector products over the training set. Away from a minimum it
    has negative eigenvalues; `Eigenbasis` says which dampings make up for them.
    """

    name = "hessian"
    detail = "exact Hessian"
    semidefinite = False

    def batch_sum(self, batch: GradientBatch) -> Float[Tensor, "param param"]:
        matrix = loss_hessian(batch.objective, batch.inputs, batch.targets)
        return (matrix + matrix.T) / 2


def layer_positions(objective: Objective) -> dict[str, Tensor]:
    """For each layer, a module that owns parameters, the positions of its parameters in a row."""
    positions: dict[str, list[Tensor]] = {}
    start = 0
    for name, value in objective.parameters.items():
        positions.setdefault(module_of(name), []).append(torch.arange(start, start + value.numel()))
        start += value.numel()
    return {layer: torch.cat(parts).to(objective.device) for layer, parts in positions.items()}
