"""K-FAC and EK-FAC: a Kronecker product of two small matrices for every layer.

Martens & Grosse (2015), George et al. (2018). For a layer with inputs a and
slopes δ, both at positions t,

    A = (1/n) Σ_i Σ_t a aᵀ        S = (1/nT) Σ_i E_y Σ_t δ δᵀ

and the layer's block of the Fisher is taken to be S ⊗ A: weight sharing by
"expand", every position an example of its own (Eschenhagen et al., 2023). The
bias is a last input of constant 1. Damping is added to the products of the
eigenvalues, so that (F + λI)⁻¹ is exact in the basis; it is never split between
the factors. EK-FAC keeps K-FAC's eigenvectors and measures the eigenvalues:
E (V_Sᵀ G V_A)², G an example's gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..gradients import GradientBatch, Plan
from ..layers import Layer
from ..objective import Objective
from ..products import product
from ..rows import Outer, Part, Rows, Waiting
from .base import Eigenbasis, Held, Parts, Rotation, Setting, Split, eigh, formed
from .dense import layer_positions
from .labels import FisherLabels, Labels

BLOCK_LIMIT = 1024
"""Parameters up to which what is no Linear or convolution gets an exact block, module by module."""


@dataclass(frozen=True)
class Block:
    """Parameters of one module that no layer covers.

    Attributes:
        name: The module's name.
        columns: Where they are among all such parameters.
        exact: Whether they get an exact block; else its diagonal.
    """

    name: str
    columns: Int[Tensor, "own"]
    exact: bool


class KroneckerRotation(Rotation):
    """A Kronecker product for every layer, a matrix for every exact block, nothing for the rest.

    Args:
        layers: Those of the plan.
        factors: V_S [group, out, out] and V_A [group, into, into] of each.
        rest: Positions in a row of what no layer covers.
        blocks: How that falls into modules.
        vectors: Eigenvectors of each exact block, None for a diagonal one.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        factors: Sequence[tuple[Tensor, Tensor]],
        rest: Int[Tensor, "rest"],
        blocks: Sequence[Block],
        vectors: Sequence[Tensor | None],
    ) -> None:
        self.layers, self.factors = tuple(layers), tuple(factors)
        self.rest, self.blocks, self.vectors = rest, tuple(blocks), tuple(vectors)
        self._known: tuple[GradientBatch, Tensor, Sequence[Part]] | None = None

    def note(
        self, batch: GradientBatch, delta: Float[Tensor, "batch output"], rotated: Sequence[Part]
    ) -> None:
        """Keep what other slopes gave for each layer: where they are the loss's own, `parts` takes it as it is.

        Of a confident model most drawn labels are the training labels.
        """
        if batch.loss_slopes.shape == delta.shape:
            distance = (delta - batch.loss_slopes).abs().amax(1)
            others = torch.nonzero(~(distance <= 8 * torch.finfo(delta.dtype).eps))[:, 0]
            if 2 * len(others) <= len(delta):
                self._known = batch, others, rotated

    @property
    def names(self) -> tuple[str, ...]:
        return (*(layer.name for layer in self.layers), *(block.name for block in self.blocks))

    def rotate(self, gradients: Float[Tensor, "batch param"]) -> Rows:
        parts: list[Part] = [
            self.rotate_layer(position, layer.gather(gradients)) for position, layer in enumerate(self.layers)
        ]
        return Rows((*parts, *self._rotate_rest(gradients[:, self.rest])))

    def rotate_layer(
        self, position: int, matrices: Float[Tensor, "batch group out into"]
    ) -> Float[Tensor, "batch dim"]:
        """V_Sᵀ G V_A."""
        slopes, inputs = self.factors[position]
        if len(inputs) == 1:
            turned = product(matrices.reshape(-1, matrices.shape[-1]), inputs[0].T).reshape(matrices.shape)
        else:
            turned = matrices @ inputs
        return (slopes.mT @ turned).flatten(1)

    def rotate_slopes(
        self, position: int, batch: GradientBatch, delta: Float[Tensor, "batch output"]
    ) -> Part:
        """V_Sᵀ (Σ_t δ_t a_tᵀ) V_A of a layer; an outer product where it is applied once to an example.

        Where there are few positions, slopes or inputs are rotated before they are multiplied.
        """
        layer = self.layers[position]
        if layer.once:
            return self._turned(position, batch.part(layer, delta))
        pairs = batch.pairs(layer, delta)
        if not pairs or layer.groups > 1:
            return self.rotate_layer(position, batch.layer_gradients(layer, delta))
        positions = sum(pair.slopes.shape[3] for pair in pairs)
        slopes_first, inputs_first = positions < layer.into, 2 * positions <= layer.out
        slopes, inputs = (factor[0] for factor in self.factors[position])
        total: Tensor | None = None
        for pair in pairs:
            left, right = pair.slopes[:, 0], pair.inputs[:, 0].mT
            if slopes_first:
                left = slopes.T @ left
            if inputs_first:
                right = product(right.reshape(-1, layer.into), inputs.T).view(right.shape)
            found = left @ right
            total = found if total is None else total.add_(found)
        assert total is not None
        if not slopes_first:
            total = slopes.T @ total
        if not inputs_first:
            total = product(total.view(-1, layer.into), inputs.T)
        return total.reshape(len(delta), layer.size)

    def rotate_batch(self, batch: GradientBatch) -> Rows:
        return Rows(tuple(self.parts(batch)))

    def parts(self, batch: GradientBatch) -> Iterator[Part]:
        known, self._known = self._known, None
        for part in self._completed(*known) if known and known[0] is batch else self._layers_of(batch):
            batch.check_gradient(part)
            yield part
            del part
        rest = batch.pull_back_rest(batch.loss_slopes[:, None])[:, 0]
        batch.check(rest, "The gradient")
        yield from self._rotate_rest(rest)

    def _layers_of(self, batch: GradientBatch) -> Iterator[Part]:
        return (self.rotate_slopes(at, batch, batch.loss_slopes) for at in range(len(self.layers)))

    def _completed(
        self, batch: GradientBatch, others: Int[Tensor, "others"], parts: Sequence[Part]
    ) -> Iterator[Part]:
        """What was noted, with some examples' own in their places."""
        if not len(others):
            yield from parts
            return
        for part, own in zip(parts, self._layers_of(batch.some(others)), strict=True):
            for values, new in zip(Rows((part,)).tensors, Rows((own,)).tensors, strict=True):
                values[others] = new
            yield part

    def back(self, rows: Rows) -> Float[Tensor, "batch param"]:
        dense = [part.dense() if isinstance(part, Outer) else part for part in rows.parts]
        found = dense[0].new_zeros(len(rows), sum(rows.sizes))
        for position, (layer, part) in enumerate(zip(self.layers, dense, strict=False)):
            layer.scatter(self._layer_back(position, part), found)
        found[:, self.rest] = self._rest_back(dense[len(self.layers) :], found)
        return found

    def meet(self, vectors: Rows, examples: int, split: Split) -> tuple[list[Tensor], Parts]:
        """Layer by layer: the vectors are turned back or, where that is less work, the examples' a and δ are turned."""
        dense = [part.dense() if isinstance(part, Outer) else part for part in vectors.parts]
        turned, met = set(), []
        for position, (layer, part) in enumerate(zip(self.layers, dense, strict=False)):
            there = examples * (layer.out**2 + layer.into**2)
            if layer.once and there < len(vectors) * layer.size * (layer.out + layer.into):
                turned.add(position)
                met.append(part)
            else:
                met.append(self._layer_back(position, part).flatten(1))
        if len(self.rest):
            met.append(self._rest_back(dense[len(self.layers) :], dense[0]))

        def parts(batch: GradientBatch) -> Iterator[Part]:
            for position, part in enumerate(batch.parts()):
                yield self._turned(position, part) if position in turned else part

        return met, parts

    def _layer_back(
        self, position: int, part: Float[Tensor, "row dim"]
    ) -> Float[Tensor, "row group out into"]:
        """V_S C V_Aᵀ."""
        layer, (slopes, inputs) = self.layers[position], self.factors[position]
        return slopes @ part.reshape(len(part), layer.groups, layer.out, layer.into) @ inputs.mT

    def _rest_back(self, parts: Sequence[Tensor], like: Tensor) -> Float[Tensor, "row rest"]:
        rest = like.new_zeros(len(like), len(self.rest))
        for block, vectors, part in zip(self.blocks, self.vectors, parts, strict=True):
            rest[:, block.columns] = part if vectors is None else part @ vectors.T
        return rest

    def _turned(self, position: int, part: Part) -> Outer:
        """δ ⊗ a of a layer that is applied once, rotated."""
        assert isinstance(part, Outer)
        slopes, inputs = self.factors[position]
        return Outer(part.left @ slopes[0], part.right @ inputs[0])

    def row_bytes(self, plan: Plan, size: int, itemsize: int) -> int:
        layers = [layer.out + layer.into if layer.once else layer.size for layer in self.layers]
        return (sum(layers) + len(self.rest)) * itemsize

    def _rotate_rest(self, rest: Float[Tensor, "batch rest"]) -> list[Part]:
        return [
            rest[:, block.columns] if vectors is None else rest[:, block.columns] @ vectors
            for block, vectors in zip(self.blocks, self.vectors, strict=True)
        ]


class Kronecker(ABC):
    """What K-FAC and EK-FAC share: the factors in a first pass, rows in a second.

    Args:
        labels: Over which labels the expectation goes; by default all of them where that is
            cheap, else one drawn for each example.
        seed: Of drawn labels.
    """

    name: str
    title: str
    passes = 2

    def __init__(self, labels: FisherLabels | None = None, *, seed: int = 0) -> None:
        self.labels = Labels(labels, "sample", seed)

    @property
    def uses_jacobian(self) -> bool:
        return self.labels.exact

    def check(self, batch: GradientBatch, count: int) -> None:
        self.labels.check(batch, count)

    def numbers(self, plan: Plan, size: int, *, held: Held) -> int:
        return formed(plan, size, held)

    def begin(self, setting: Setting) -> None:
        objective, self._layers = setting.objective, setting.plan.layers

        def room(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=objective.device)

        self._factors = [
            (room(layer.groups, layer.out, layer.out), room(layer.groups, layer.into, layer.into))
            for layer in self._layers
        ]
        self._rest, self._blocks = _blocks(objective, setting.plan)
        self._block_sums = [room(*[len(b.columns)] * (2 if b.exact else 1)) for b in self._blocks]
        self._dtype = objective.dtype
        self._count = 0
        self._size = objective.size
        row = formed(setting.plan, objective.size, "row")
        self._notes_rows = row * setting.count * objective.dtype.itemsize <= setting.memory
        self._rotation: KroneckerRotation | None = None

    def begin_pass(self, number: int) -> None:
        self.labels.begin_pass()
        if number == 0:
            return
        self._eigenvalues, factors = [], []
        while self._factors:  # let go one by one: of a wide layer they are as large as the layer or larger
            slopes, inputs = (factor.div_(self._count) for factor in self._factors.pop(0))
            s, slope_vectors = eigh(slopes)
            a, input_vectors = eigh(inputs)
            del slopes, inputs
            self._eigenvalues.append((s.clamp(min=0)[:, :, None] * a.clamp(min=0)[:, None, :]).flatten())
            factors.append((slope_vectors.to(self._dtype), input_vectors.to(self._dtype)))
        vectors: list[Tensor | None] = []
        for block, total in zip(self._blocks, self._block_sums, strict=True):
            if block.exact:
                values, columns = eigh(total / self._count)
                vectors.append(columns.to(self._dtype))
            else:
                values = total / self._count
                vectors.append(None)
            self._eigenvalues.append(values.clamp(min=0))
        del self._block_sums
        self._rotation = KroneckerRotation(self._layers, factors, self._rest, self._blocks, vectors)
        self.begin_rows()

    def update(self, batch: GradientBatch) -> None:
        if self._rotation is not None:
            self.update_rows(batch, self._rotation)
            return
        deltas = self.labels.slopes(batch)
        for row in range(deltas.shape[1]):
            delta = deltas[:, row].contiguous()
            for layer, (of_slopes, of_inputs) in zip(self._layers, self._factors, strict=True):
                pairs = batch.pairs(layer, delta)
                positions = sum(pair.slopes.shape[3] for pair in pairs)
                for pair in pairs:
                    of_slopes.add_(pair.slope_moment(), alpha=1 / positions)
                    if row == 0:
                        of_inputs.add_(pair.input_moment())
        rest = batch.pull_back_rest(deltas).flatten(0, 1)
        for block, total in zip(self._blocks, self._block_sums, strict=True):
            own = rest[:, block.columns]
            total.add_(own.T @ own if block.exact else own.square().sum(0))
        self._count += len(batch.targets)

    def rotation(self) -> Rotation | None:
        return self._rotation

    @abstractmethod
    def begin_rows(self) -> None:
        """Before the second pass."""

    @abstractmethod
    def update_rows(self, batch: GradientBatch, rotation: KroneckerRotation) -> None:
        """A batch of the second pass."""

    def finish(self) -> Eigenbasis:
        assert self._rotation is not None
        eigenvalues = torch.cat(self._eigenvalues)
        del self._eigenvalues
        return Eigenbasis(
            f"{self.title}, {self.labels.detail}",
            self._rotation,
            eigenvalues,
            size=self._size,
            notes=self._notes(),
        )

    def working_memory(self, size: int, plan: Plan, *, last: bool = False) -> int:
        squares = [layer.groups * width**2 for layer in plan.layers for width in (layer.out, layer.into)]
        values = 2 * size * 8
        if last:
            return values + 4 * sum(squares)  # eigenvalues, what they are summed up in, and the eigenvectors
        # The factors, the eigenvectors that take their place one by one, and LAPACK's copies of one.
        return values + 8 * sum(squares) + 4 * 8 * max(squares, default=0)

    def _notes(self) -> tuple[str, ...]:
        kinds = {
            f"{self.title} in": [layer.name or "the model itself" for layer in self._layers],
            "exact blocks for": [block.name or "the model itself" for block in self._blocks if block.exact],
            "diagonal for": [block.name or "the model itself" for block in self._blocks if not block.exact],
        }
        shared = [layer.name for layer in self._layers if not layer.once]
        notes = [f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names]
        if shared:
            notes.append(
                f"weights shared between positions in {', '.join(shared)}: expanded, each position alone"
            )
        return tuple(notes)


class KFAC(Kronecker):
    """K-FAC: eigenvalues are the products of the factors' own."""

    name = "kfac"
    title = "K-FAC"

    def begin_rows(self) -> None:
        pass

    def update_rows(self, batch: GradientBatch, rotation: KroneckerRotation) -> None:
        pass


class EKFAC(Kronecker):
    """EK-FAC: eigenvalues are the second moments of the rotated gradients."""

    name = "ekfac"
    title = "EK-FAC"

    TOGETHER = 512
    """Outer products that are added at once, so that a large sum is not walked through for each batch."""

    def begin_rows(self) -> None:
        self._moments = self._eigenvalues[: len(self._layers)]
        for values in self._moments:
            values.zero_()  # of K-FAC, and not wanted
        self._waiting = [Waiting(self.TOGETHER) for _ in self._moments]

    def update_rows(self, batch: GradientBatch, rotation: KroneckerRotation) -> None:
        deltas = self.labels.slopes(batch)
        for row in range(deltas.shape[1]):
            delta = deltas[:, row].contiguous()
            rotated: list[Part] = []
            for position, total in enumerate(self._moments):
                part = rotation.rotate_slopes(position, batch, delta)
                if isinstance(part, Outer):
                    squares = part.left.square(), part.right.square()
                    _add_product(total, self._waiting[position].add(len(part), *squares))
                elif self._notes_rows:
                    total.add_(part.square().sum(0))
                else:
                    total.add_(part.square_().sum(0))
                if self._notes_rows:
                    rotated.append(part)
                del part
            if deltas.shape[1] == 1 and self._notes_rows:
                rotation.note(batch, delta, rotated)

    def finish(self) -> Eigenbasis:
        for total, waiting in zip(self._moments, self._waiting, strict=True):
            _add_product(total, waiting.take())
        self._eigenvalues[: len(self._layers)] = [total.div_(self._count) for total in self._moments]
        del self._moments
        return super().finish()


def _add_product(total: Float[Tensor, "size"], together: tuple[Tensor, ...] | None) -> None:
    if together is not None:
        left, right = together
        total.view(left.shape[1], -1).add_(left.T @ right)


def _blocks(objective: Objective, plan: Plan) -> tuple[Int[Tensor, "rest"], list[Block]]:
    """Positions of what no layer covers, and its modules."""
    device = objective.device
    covered = torch.zeros(objective.size, dtype=torch.bool, device=device)
    for layer in plan.layers:
        marks = torch.ones(layer.groups, layer.out, layer.into, device=device)
        row = torch.zeros(objective.size, device=device)
        layer.scatter(marks, row)
        covered |= row > 0
    rest = torch.nonzero(~covered)[:, 0]
    where = torch.full((objective.size,), -1, dtype=torch.int64, device=device)
    where[rest] = torch.arange(len(rest), device=device)
    blocks = []
    for name, positions in layer_positions(objective).items():
        columns = where[positions]
        columns = columns[columns >= 0]
        if len(columns):
            blocks.append(Block(name, columns, exact=len(columns) <= BLOCK_LIMIT))
    return rest, blocks
