"""One layer that is applied once an example and owns every chosen parameter: a linear model, or the last layer.

Its gradients are g_i = δ_i ⊗ a_i, and both dense products of a fit, the Fisher and the rotation by its
eigenvectors, are made from the factors. What would be zero is left out:

- Inputs that no example has, such as pixels that are always black.
- With the outputs reflected so that the first stands for all moving together, that one where slopes sum
  to zero, as those of a softmax do.
- Inputs that few examples have, for all others: of those whose slope is largest at the same output, as those of
  a class, most have the same inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..gradients import GradientBatch
from ..layers import Layer
from ..products import padded, product
from ..rows import Outer, Part, Waiting
from .base import Columns, span

ALIKE = 4096
"""Examples that are multiplied at once."""

RARE = 0.01
"""Share of examples with an input below which these are put aside rather than it counted for all."""

WAITING = 1 << 25
"""Numbers of examples that wait to be added to a sum, at the most; the more, the more are alike."""

PANEL = 96
"""Inputs whose products with themselves and the inputs after them are made at once."""


def alike(
    inputs: Float[Tensor, "row into"], slopes: Float[Tensor, "row out"]
) -> Iterator[tuple[Int[Tensor, "some"], Int[Tensor, "common"]]]:
    """All rows, in groups that have nothing but zeros beside some inputs.

    Args:
        inputs: a.
        slopes: Sizes of δ; rows with the largest at the same output are looked at together.

    Yields:
        Rows, and the inputs that they may have, ascending.
    """
    aside = []
    for some in torch.split(slopes.argmax(1).argsort(stable=True), ALIKE):
        present = inputs[some] != 0
        common = present.to(inputs.dtype).mean(0) > RARE
        fit = ~present[:, ~common].any(1)
        aside.append(some[~fit])
        if bool(fit.any()):
            yield some[fit], torch.nonzero(common)[:, 0]
    rest = torch.cat(aside)
    for some in torch.split(rest, ALIKE) if len(rest) else ():
        yield some, torch.nonzero(inputs[some].any(0))[:, 0]


class LayerColumns(Columns):
    """A rotation by eigenvectors where such a layer is all that moves.

    Args:
        vectors: Q, laid out as rows of P.
        layer: Which.
        reflected: Whether it is eigenvectors of a matrix whose outputs were reflected.
    """

    def __init__(self, vectors: Float[Tensor, "param dim"], layer: Layer, *, reflected: bool) -> None:
        super().__init__(vectors)
        self._layer, self._reflect = layer, reflected

    def enter(self, gradients: Float[Tensor, "batch param"]) -> Float[Tensor, "batch param"]:
        if not self._reflect:
            return gradients
        found = self._reflected(gradients)
        first = [part[:, 0] for part in self._layer.by_output(found)]
        if negligible(first, found):
            for part in first:
                part.zero_()
        return found

    def leave(self, found: Float[Tensor, "batch param"]) -> Float[Tensor, "batch param"]:
        return self._reflected(found) if self._reflect else found

    def turned(self, whole: Part) -> Iterator[tuple[slice | Tensor, Float[Tensor, "some dim"]]]:
        assert isinstance(whole, Outer)
        slopes, inputs, first = whole.left, whole.right, 0
        if self._reflect:
            slopes = slopes @ reflection(self._layer.out, slopes)
            first = int(negligible([slopes[:, 0]], slopes))
        used = torch.nonzero(inputs.any(dim=0))[:, 0]
        places = places_of(self._layer, self.vectors)[first:, used]  # [out, into]
        vectors = self.vectors[places.flatten()]
        columns = torch.nonzero(vectors.any(dim=0))[:, 0]
        # As the product wants them: input by input, and as many as fill the processor's lanes.
        table = padded(vectors[:, columns].T).reshape(-1, len(used))  # [dim · out, into]
        inputs, moving = inputs[:, used], slopes[:, first:]
        # Memory that is there already is written in half the time.
        size, out = min(ALIKE, len(slopes)), moving.shape[1]
        room = slopes.new_zeros(size, self.vectors.shape[1])
        numbers, others = slopes.new_empty(size * places.numel()), torch.empty_like(table)
        for some, common in alike(inputs, whole.left.abs()):
            shape = len(some), out, len(common)
            rows = numbers[: math.prod(shape)].view(shape)
            torch.mul(moving[some][:, :, None], inputs[some][:, None, common], out=rows)
            own = others.flatten()[: len(table) * len(common)].view(len(table), len(common))
            torch.index_select(table, 1, common, out=own)
            found = product(rows.flatten(1), own.view(len(table) // out, out * len(common)))
            room[: len(some), span(columns)] = found[:, : len(columns)]
            yield some, room[: len(some)]

    def _reflected(self, rows: Float[Tensor, "batch param"]) -> Float[Tensor, "batch param"]:
        found = rows.clone()
        normal = _normal(self._layer.out, rows)
        for part in self._layer.by_output(found):
            # n is all ones but for its first number, up to a factor.
            along = part.sum(1).mul_(normal[-1]).add_(part[:, 0], alpha=float(normal[0] - normal[-1]))
            part.addcmul_(normal[:, None], along[:, None], value=-2)
        return found


class FisherSum:
    """Σ_i Σ_k g_ik g_ikᵀ for rows g_ik = δ_ik ⊗ a_i of one layer that is applied once an example.

    The sum is Σ_i S_i ⊗ a_i a_iᵀ with S_i = Σ_k δ_ik δ_ikᵀ, a matrix of out × out: one product for
    each pair of outputs, where the rows written out would need one for each k; each is symmetric, and
    half of it is made.

    Args:
        layer: Which.
        total: Where the sum is asked for, zeros.
        memory: Bytes that a fit may take. Examples that wait take an eighth at the most, in float32.
    """

    def __init__(self, layer: Layer, total: Float[Tensor, "param param"], memory: int) -> None:
        self._layer = layer
        self._whole = total
        self._waiting = Waiting(min(WAITING, memory // 64))  # numbers of 4 bytes, twice while they are joined
        # Inputs in the order of their first use.
        self._used = torch.empty(0, dtype=torch.int64, device=total.device)
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
        together = torch.stack(slopes, 1)
        self._sum_up(self._waiting.add(inputs.numel() + together.numel(), inputs, together))

    def _sum_up(self, together: tuple[Tensor, ...] | None) -> None:
        if together is None:
            return
        inputs, slopes = together  # [row, into], [row, factor, out]
        used = inputs.any(dim=0)
        used[self._used] = False
        self._used = torch.cat([self._used, torch.nonzero(used)[:, 0]])
        inputs = inputs[:, self._used]
        turned = slopes @ reflection(self._layer.out, slopes)
        start = 1 if negligible([turned[:, :, 0]], slopes) else 0
        for some, common in alike(inputs, slopes.square().sum(1)):
            self._add_alike(inputs[some][:, common], turned[some], common, start)

    def _add_alike(
        self,
        inputs: Float[Tensor, "row common"],
        turned: Float[Tensor, "row factor out"],
        common: Int[Tensor, "common"],
        start: int,
    ) -> None:
        for first in range(start, self._layer.out):
            # S_i from the diagonal on; the rest is its mirror image.
            pairs = torch.einsum("rk,rko->ro", turned[:, :, first], turned[:, :, first:])
            seconds = torch.arange(first, self._layer.out, device=common.device)
            for panel in range(0, len(common), PANEL):
                own = common[panel : panel + PANEL]
                weighted = pairs[:, :, None] * inputs[:, None, panel : panel + PANEL]
                found = inputs[:, panel:].T @ weighted.flatten(1)
                place = (common[panel:, None, None], seconds[:, None], own)
                self._sum[first][place] += found.view(-1, len(seconds), len(own))

    def finish(self) -> None:
        """Write the sum for reflected outputs to where it was asked for."""
        self._sum_up(self._waiting.take())
        layer = self._layer
        places = places_of(layer, self._whole)[:, self._used]
        for first in range(layer.out):
            for second in range(first, layer.out):
                half = self._sum[first, : len(self._used), second, : len(self._used)].tril()
                block = half + half.tril(-1).T
                self._whole[places[first][:, None], places[second]] = block
                self._whole[places[second][:, None], places[first]] = block


def places_of(layer: Layer, rows: Float[Tensor, "param _"]) -> Int[Tensor, "out into"]:
    """Where the layer's matrix, which has biases beside weights, lies in a row of P."""
    place = torch.arange(len(rows), dtype=torch.float64, device=rows.device)
    return layer.gather(place)[0].long()


def reflection(out: int, like: Tensor) -> Float[Tensor, "out out"]:
    """I − 2nnᵀ, which reflects the first output to all outputs moving together."""
    normal = _normal(out, like)
    return torch.eye(out).to(like) - 2 * normal[:, None] * normal


def _normal(out: int, like: Tensor) -> Float[Tensor, "out"]:
    """n, of length 1."""
    found = torch.full((out,), out**-0.5, dtype=torch.float64)
    found[0] -= 1
    length = found.norm()
    return (found / length if length else found).to(like.device, like.dtype)


def negligible(parts: Sequence[Tensor], whole: Tensor) -> bool:
    """Whether some coordinates of vectors are nothing but the rounding of the vectors."""
    part, all_of_it = (sum(float(one.norm()) ** 2 for one in some) for some in (parts, [whole]))
    return part <= (4 * torch.finfo(whole.dtype).eps) ** 2 * all_of_it
