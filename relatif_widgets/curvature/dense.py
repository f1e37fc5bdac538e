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
from ..layers import Layer
from ..objective import Objective
from .base import Columns, Eigenbasis, OnePass, Setting, eigh


class Dense(OnePass):
    """An average of P×P matrices over the training set; subclasses say of which."""

    detail: str
    semidefinite = True

    def begin(self, setting: Setting) -> None:
        objective = setting.objective
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
        return Eigenbasis(
            self.detail, Columns(vectors.to(self._objective.dtype)), eigenvalues, size=len(eigenvalues)
        )

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

    def begin(self, setting: Setting) -> None:
        super().begin(setting)
        self._outer: _OuterSum | None = None
        self._balanced: tuple[Tensor, Tensor] | None = None

    def update(self, batch: GradientBatch) -> None:
        layer = _only_layer(batch)
        if layer is None:
            super().update(batch)
            return
        if self._outer is None:
            self._outer = _OuterSum(layer, self._total)
        self._outer.add(batch)
        self._count += len(batch.targets)

    def finish(self) -> Eigenbasis:
        if self._outer is not None:
            self._total, self._balanced = self._outer.finish()
            self._outer = None
        return super().finish()

    def decompose(
        self, matrix: Float[Tensor, "param param"]
    ) -> tuple[Float[Tensor, "dim"], Float[Tensor, "param dim"]]:
        if self._balanced is None:
            return super().decompose(matrix)
        # H is zero along moving all outputs together: one turn of the outputs, and eigh leaves those rows out.
        places, turn = self._balanced
        out = len(turn)
        blocks = matrix[places[:, None], places].view(out, -1, out, len(places) // out)
        turned = torch.einsum("op,oiqj,qr->pirj", turn, blocks, turn)
        turned[0], turned[:, :, 0] = 0, 0
        matrix.copy_(turned.reshape(matrix.shape))
        del blocks, turned
        eigenvalues, vectors = super().decompose(matrix)
        back = torch.einsum("op,pid->oid", turn, vectors.view(out, -1, len(matrix))).reshape(matrix.shape)
        vectors[places] = back
        return eigenvalues, vectors

    def batch_sum(self, batch: GradientBatch) -> Float[Tensor, "param param"]:
        factor = batch.objective.loss.curvature_factor(batch.outputs)
        rows = torch.einsum("bfo,bop->bfp", factor, batch.jacobian).flatten(0, 1)  # [batch·factor, P]
        return rows.T @ rows


class _OuterSum:
    """Σ_i Σ_k g_ik g_ikᵀ for rows g_ik = δ_ik ⊗ a_i of one layer that is applied once an example.

    Then the sum is Σ_i S_i ⊗ a_i a_iᵀ with S_i = Σ_k δ_ik δ_ikᵀ, a matrix of out × out: one product
    for each pair of outputs, where the rows written out would need one for each k.
    """

    WAITING = 2048
    """Examples that are added at once, so that the sum of P×P is not walked through for each batch."""

    def __init__(self, layer: Layer, total: Float[Tensor, "param param"]) -> None:
        self._layer = layer
        self._total = total
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._leaning = self._length = 0.0  # Σ ‖Σ_o δ_ik‖² and Σ ‖δ_ik‖²

    def add(self, batch: GradientBatch) -> None:
        factor = batch.objective.loss.curvature_factor(batch.outputs)
        slopes = []
        for row in factor.unbind(1):
            pairs = batch.pairs(self._layer, row.contiguous())
            if not pairs:
                return  # no prediction of this batch depends on the layer
            inputs, slope = pairs[0].vectors()
            slopes.append(slope)
        together = torch.stack(slopes, 1)
        self._dtype = together.dtype
        self._leaning += float(together.sum(2).double().square().sum())
        self._length += float(together.double().square().sum())
        self._waiting.append((inputs, together))
        if sum(len(inputs) for inputs, _ in self._waiting) >= self.WAITING:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        inputs = torch.cat([one for one, _ in self._waiting])  # [row, into]
        slopes = torch.cat([one for _, one in self._waiting])  # [row, factor, out]
        self._waiting.clear()
        out, into = self._layer.out, self._layer.into
        blocks = self._total.view(out, into, out, into)
        for first in range(out):
            # S_i from the diagonal on; the rest is its mirror image.
            pairs = torch.einsum("rk,rko->ro", slopes[:, :, first], slopes[:, :, first:])
            weighted = (pairs[:, :, None] * inputs[:, None, :]).flatten(1)
            blocks[first, :, first:] += (inputs.T @ weighted).view(into, out - first, into)

    def finish(self) -> tuple[Float[Tensor, "param param"], tuple[Tensor, Tensor] | None]:
        """The sum; and where every δ_ik sums to zero, as those of a softmax do, what turns that into zero rows.

        Returns:
            The sum. Or None, or the places of the layer's matrix [out · into] in a row of P, and an
            orthogonal matrix [out, out] whose first column moves all outputs together.
        """
        self._flush()
        layer = self._layer
        blocks = self._total.view(layer.out, layer.into, layer.out, layer.into)
        for first in range(layer.out):
            for second in range(first + 1, layer.out):
                blocks[second, :, first] = blocks[first, :, second].T
        # The layer's matrix has each output's bias beside its weights; a row of P has them apart.
        place = torch.arange(len(self._total), dtype=torch.float64, device=self._total.device)
        found = torch.empty_like(place)
        layer.scatter(place.view(1, layer.out, layer.into), found)
        row = found.long()
        total = self._total if torch.equal(found, place) else self._total[row][:, row]
        # `row` says which entry of the matrix each place of a row of P is; its inverse where each entry is.
        return total, (row.argsort(), self._turn()) if self._balances() else None

    def _balances(self) -> bool:
        eps = torch.finfo(self._dtype).eps
        return self._layer.out > 1 and self._leaning <= self._layer.out * (4 * eps) ** 2 * self._length

    def _turn(self) -> Float[Tensor, "out out"]:
        columns = torch.eye(self._layer.out, dtype=torch.float64, device=self._total.device)
        columns[:, 0] = 1
        turn: Tensor = torch.linalg.qr(columns).Q
        return turn


def _only_layer(batch: GradientBatch) -> Layer | None:
    """The layer that owns every chosen parameter and is applied once an example, if there is one."""
    plan = batch.plan
    if plan.way != "hooks" or len(plan.layers) != 1:
        return None
    (layer,) = plan.layers
    return layer if layer.once and layer.groups == 1 and layer.size == batch.objective.size else None


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
        # A parametrised weight lies below its layer: conv.parametrizations.weight.original0
        layer = (
            name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
        )
        positions.setdefault(layer, []).append(torch.arange(start, start + value.numel()))
        start += value.numel()
    return {layer: torch.cat(parts).to(objective.device) for layer, parts in positions.items()}
