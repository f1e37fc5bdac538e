"""Dense curvatures: the whole P×P matrix and its exact eigendecomposition.

Time: P³ for the eigendecomposition, and what each class adds; memory: P² in
float64, a few times over.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..gradients import GradientBatch, Plan, loss_hessian
from ..layers import Layer
from ..objective import Objective
from ..rows import Waiting
from .base import Columns, Eigenbasis, OnePass, Rotation, Setting, eigh


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
        rotation = self.rotation_by(vectors.to(self._objective.dtype))
        return Eigenbasis(self.detail, rotation, eigenvalues, size=len(eigenvalues))

    def rotation_by(self, vectors: Float[Tensor, "param dim"]) -> Rotation:
        """Qᵀ, for eigenvectors in the coordinates of the sum."""
        return Columns(vectors)

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
        self._reflected: Layer | None = None

    def update(self, batch: GradientBatch) -> None:
        layer = _only_layer(batch)
        if layer is None:
            super().update(batch)
            return
        if self._outer is None:
            self._outer, self._reflected = _OuterSum(layer, self._total), layer
        self._outer.add(batch)
        self._count += len(batch.targets)

    def finish(self) -> Eigenbasis:
        if self._outer is not None:
            self._outer.finish()
            self._outer = None
        return super().finish()

    def rotation_by(self, vectors: Float[Tensor, "param dim"]) -> Rotation:
        if self._reflected is None:
            return super().rotation_by(vectors)
        return _ReflectedColumns(vectors, self._reflected)

    def batch_sum(self, batch: GradientBatch) -> Float[Tensor, "param param"]:
        factor = batch.objective.loss.curvature_factor(batch.outputs)
        rows = torch.einsum("bfo,bop->bfp", factor, batch.jacobian).flatten(0, 1)  # [batch·factor, P]
        return rows.T @ rows


class _ReflectedColumns(Columns):
    """A rotation by eigenvectors of a matrix whose outputs were reflected; see `_normal`.

    Args:
        vectors: Those, laid out as rows of P.
        layer: The only one, whose outputs they are.
    """

    def __init__(self, vectors: Float[Tensor, "param dim"], layer: Layer) -> None:
        super().__init__(vectors)
        self._layer = layer

    def enter(self, gradients: Float[Tensor, "batch param"]) -> Float[Tensor, "batch param"]:
        found = self._reflected(gradients)
        first = [part[:, 0] for part in self._layer.by_output(found)]
        if _negligible(first, found):
            for part in first:
                part.zero_()
        return found

    def leave(self, found: Float[Tensor, "batch param"]) -> Float[Tensor, "batch param"]:
        return self._reflected(found)

    def _reflected(self, rows: Float[Tensor, "batch param"]) -> Float[Tensor, "batch param"]:
        found = rows.clone()
        normal = _normal(self._layer.out, rows)
        for part in self._layer.by_output(found):
            # n is all ones but for its first number, up to a factor.
            along = part.sum(1).mul_(normal[-1]).add_(part[:, 0], alpha=float(normal[0] - normal[-1]))
            part.addcmul_(normal[:, None], along[:, None], value=-2)
        return found


class _OuterSum:
    """Σ_i Σ_k g_ik g_ikᵀ for rows g_ik = δ_ik ⊗ a_i of one layer that is applied once an example.

    The sum is Σ_i S_i ⊗ a_i a_iᵀ with S_i = Σ_k δ_ik δ_ikᵀ, a matrix of out × out: one product for
    each pair of outputs, where the rows written out would need one for each k; each is symmetric, and
    half of it is made. What would be zero is left out: inputs that no example has (pixels that are always
    black), and, with the outputs reflected so that the first stands for all moving together, that one
    where slopes sum to zero, as those of a softmax do.
    """

    WAITING = 4096
    """Examples that are added at once, so that the sum of P×P is not walked through for each batch."""

    PANEL = 192
    """Inputs whose products with themselves and the inputs after them are made at once."""

    def __init__(self, layer: Layer, total: Float[Tensor, "param param"]) -> None:
        self._layer = layer
        self._whole = total
        normal = _normal(layer.out, total)
        self._reflection = torch.eye(layer.out).to(total) - 2 * normal[:, None] * normal
        self._waiting = Waiting(self.WAITING)
        self._used = torch.empty(
            0, dtype=torch.int64, device=total.device
        )  # inputs in the order of their first use
        self._sum = total.new_zeros(
            layer.out, layer.into, layer.out, layer.into
        )  # of the inputs in that order

    def add(self, batch: GradientBatch) -> None:
        factor = batch.objective.loss.curvature_factor(batch.outputs)
        slopes = []
        for row in factor.unbind(1):
            pairs = batch.pairs(self._layer, row.contiguous())
            if not pairs:
                return  # no prediction of this batch depends on the layer
            inputs, slope = pairs[0].vectors()
            slopes.append(slope)
        self._sum_up(self._waiting.add(len(inputs), inputs, torch.stack(slopes, 1)))

    def _sum_up(self, together: tuple[Tensor, ...] | None) -> None:
        if together is None:
            return
        inputs, slopes = together  # [row, into], [row, factor, out]
        used = inputs.any(dim=0)
        used[self._used] = False
        self._used = torch.cat([self._used, torch.nonzero(used)[:, 0]])
        inputs = inputs[:, self._used]
        turned = slopes @ self._reflection.to(slopes.dtype)
        start = 1 if _negligible([turned[:, :, 0]], slopes) else 0
        for first in range(start, self._layer.out):
            # S_i from the diagonal on; the rest is its mirror image.
            pairs = torch.einsum("rk,rko->ro", turned[:, :, first], turned[:, :, first:])
            for panel in range(0, inputs.shape[1], self.PANEL):
                some = slice(panel, panel + self.PANEL)
                weighted = pairs[:, :, None] * inputs[:, None, some]
                found = inputs[:, panel:].T @ weighted.flatten(1)
                total = self._sum[first, panel : inputs.shape[1], first:, panel : panel + weighted.shape[2]]
                total += found.view(total.shape)

    def finish(self) -> None:
        """Write the sum for reflected outputs to where it was asked for."""
        self._sum_up(self._waiting.take())
        layer = self._layer
        # Where a row of P has the numbers of the layer's matrix [out, into], which has biases beside weights.
        place = torch.arange(len(self._whole), dtype=torch.float64, device=self._whole.device)
        found = torch.empty_like(place)
        layer.scatter(place.view(1, layer.out, layer.into), found)
        places = found.long().argsort().view(layer.out, layer.into)[:, self._used]
        for first in range(layer.out):
            for second in range(first, layer.out):
                half = self._sum[first, : len(self._used), second, : len(self._used)].tril()
                block = half + half.tril(-1).T
                self._whole[places[first][:, None], places[second]] = block
                self._whole[places[second][:, None], places[first]] = block


def _normal(out: int, like: Tensor) -> Float[Tensor, "out"]:
    """n, of length 1, for which I − 2nnᵀ reflects the first output to all outputs moving together."""
    found = torch.full((out,), out**-0.5, dtype=torch.float64)
    found[0] -= 1
    length = found.norm()
    return (found / length if length else found).to(like.device, like.dtype)


def _negligible(parts: Sequence[Tensor], whole: Tensor) -> bool:
    """Whether some coordinates of vectors are nothing but the rounding of the vectors."""
    part, all_of_it = (sum(float(one.norm()) ** 2 for one in some) for some in (parts, [whole]))
    return part <= (4 * torch.finfo(whole.dtype).eps) ** 2 * all_of_it


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
