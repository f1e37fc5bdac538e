"""Linear and convolution layers seen from outside, by hooks: what goes in, and the slope at what comes out.

A layer that maps a (its input at one position, with 1 appended where it has a
bias) to W a has the per-example gradient Σ_t δ_t a_tᵀ over its positions t: one
batched backward pass gives every δ, where `torch.func` differentiates example
by example. The same pairs are all that K-FAC needs, and where an example has a
single position, δ and a stand for the whole gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from . import patches
from .errors import ModelError
from .objective import Objective
from .products import exact_convolutions

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_MANY = 64
"""Positions from which a matrix product of one example alone is worth its while."""


class NotCoveredError(Exception):
    """This layer's gradient cannot be read off its hooks; another way has to be taken."""


@dataclass(frozen=True)
class Layer:
    """A Linear or convolution whose weight is among the chosen parameters.

    Its parameters form `groups` matrices [out, into]; with a bias, `into` counts
    one column more, the homogeneous coordinate.

    Attributes:
        name: The module's name in the model.
        groups: Of a grouped convolution, else 1.
        out: Output channels of one group.
        into: Inputs of one group at one position, and the bias.
        weight_at: Where its weight begins in a row of P numbers.
        bias_at: Where its bias begins, or None.
        convolution: Whether channels come before positions, not after.
        once: One position an example, so that the gradient is an outer product.
    """

    name: str
    groups: int
    out: int
    into: int
    weight_at: int
    bias_at: int | None
    convolution: bool
    once: bool = False

    @property
    def size(self) -> int:
        """How many of the P parameters are its own."""
        return self.groups * self.out * self.into

    @property
    def columns(self) -> int:
        """Inputs of one group at one position, without the bias."""
        return self.into - (self.bias_at is not None)

    @property
    def weights(self) -> slice:
        """Where its weight is in a row."""
        return slice(self.weight_at, self.weight_at + self.groups * self.out * self.columns)

    @property
    def biases(self) -> slice:
        """Where its bias is in a row; empty without one."""
        start = self.bias_at or 0
        return slice(start, start + (0 if self.bias_at is None else self.groups * self.out))

    def gather(self, rows: Float[Tensor, "*batch param"]) -> Float[Tensor, "*batch group out into"]:
        """Its part of some rows, as matrices."""
        lead = rows.shape[:-1]
        weight = rows[..., self.weights].reshape(*lead, self.groups, self.out, self.columns)
        if self.bias_at is None:
            return weight
        bias = rows[..., self.biases].reshape(*lead, self.groups, self.out, 1)
        return torch.cat([weight, bias], dim=-1)

    def by_output(self, rows: Float[Tensor, "batch param"]) -> list[Float[Tensor, "batch out _"]]:
        """Its weight and its bias in some rows, where they lie, output by output of every group."""
        found = [rows[:, self.weights].view(len(rows), self.groups * self.out, self.columns)]
        if self.bias_at is not None:
            found.append(rows[:, self.biases].view(len(rows), self.groups * self.out, 1))
        return found

    def scatter(
        self, matrices: Float[Tensor, "*batch group out into"], rows: Float[Tensor, "*batch param"]
    ) -> None:
        """Write matrices to their places in some rows."""
        rows[..., self.weights] = matrices[..., : self.columns].flatten(-3)
        if self.bias_at is not None:
            rows[..., self.biases] = matrices[..., -1].flatten(-2)


class Seen:
    """What one use of a layer saw, at every position of every example.

    Args:
        layer: Which.
        module: The same, in the model.
        value: Its input as it came.
        batch: Examples that it belongs to.

    Raises:
        NotCoveredError: Its rows are not those of the batch.
    """

    def __init__(self, layer: Layer, module: nn.Module, value: Tensor, batch: int) -> None:
        least = 2 + len(module.kernel_size) if isinstance(module, CONVOLUTIONS) else 2
        if value.dim() < least:
            raise NotCoveredError(f"the input of {layer.name} has no batch dimension")
        _check_rows(value, batch, layer)
        self._layer, self._module, self._value, self._batch = layer, module, value, batch

    @cached_property
    def inputs(self) -> Float[Tensor, "batch group into position"]:
        """a, with a 1 at the end where there is a bias."""
        value, ones = self._value, self._layer.bias_at is not None
        if isinstance(self._module, CONVOLUTIONS):
            return _by_example(patches.unfold(self._module, value, ones=ones), self._batch)
        found = value.reshape(len(value), 1, -1, self._layer.columns)
        if ones:
            found = torch.cat([found, found.new_ones(*found.shape[:3], 1)], 3)
        return _by_example(found.mT, self._batch)

    def applied(
        self, matrices: Float[Tensor, "vector group out into"]
    ) -> Float[Tensor, "batch group vector out position"]:
        """M a for some matrices M, at every position of every example."""
        value, ones = self._value, self._layer.bias_at is not None
        if isinstance(self._module, CONVOLUTIONS) and exact_convolutions(value.device):
            found = patches.applied(self._module, value, matrices, ones=ones)
            joined = _by_example(found.flatten(2, 3), self._batch)
            return joined.reshape(*joined.shape[:2], *found.shape[2:4], -1)
        return torch.einsum("vgoi,bgit->bgvot", matrices, self.inputs)

    def moment(self) -> Float[Tensor, "group into into"]:
        """Σ a aᵀ over examples and positions."""
        module = self._module
        if isinstance(module, nn.Conv2d) and patches.by_correlation(module, self._value):
            return patches.second_moment(module, self._value, ones=self._layer.bias_at is not None)[None]
        return _second_moment(self.inputs)


@dataclass(frozen=True)
class Pair:
    """One use of a layer: what it saw and the slope at what it gave, at every position of every example.

    Attributes:
        layer: Which.
        seen: Where a comes from, when it is asked for.
        slopes: δ.
    """

    layer: Layer
    seen: Seen
    slopes: Float[Tensor, "batch group out position"]

    @property
    def inputs(self) -> Float[Tensor, "batch group into position"]:
        """a, with a 1 at the end where there is a bias."""
        return self.seen.inputs

    def vectors(self) -> tuple[Float[Tensor, "batch into"], Float[Tensor, "batch out"]]:
        """(a, δ) where each example has one position.

        Raises:
            ModelError: This one has several, and the examples that the layer was tried on had not.
        """
        if self.slopes.shape[3] != 1:
            raise ModelError(
                f"{self.layer.name or 'The model'} is applied at {self.slopes.shape[3]} positions of an example, and "
                "at one of the first. Pass examples of one size."
            )
        return self.inputs[:, 0, :, 0], self.slopes[:, 0, :, 0]

    def input_moment(self) -> Float[Tensor, "group into into"]:
        """Σ a aᵀ over examples and positions."""
        return self.seen.moment()

    def slope_moment(self) -> Float[Tensor, "group out out"]:
        """Σ δ δᵀ over examples and positions."""
        return _second_moment(self.slopes)

    def dots(self, matrices: Float[Tensor, "vector group out into"]) -> Float[Tensor, "vector batch"]:
        """The products of the gradient with some matrices, without forming it."""
        return (self.seen.applied(matrices) * self.slopes[:, :, None]).sum((1, 3, 4)).T

    def gradient(self) -> Float[Tensor, "batch group out into"]:
        """Σ_t δ_t a_tᵀ."""
        return self.slopes @ self.inputs.mT


def _second_moment(
    values: Float[Tensor, "batch group dim position"],
) -> Float[Tensor, "group dim dim"]:
    """Σ over examples and positions of the outer products.

    Example by example where there are many positions, for then nothing is laid out anew.
    """
    batch, groups, size, positions = values.shape
    if positions >= size and size <= _MANY:
        return (values @ values.mT).sum(0)
    if positions >= min(_MANY, size):
        return torch.stack(
            [torch.addbmm(values.new_zeros(size, size), one, one.mT, beta=0) for one in values.unbind(1)]
        )
    flat = values.permute(1, 2, 0, 3).reshape(groups, size, batch * positions)
    return flat @ flat.mT


@dataclass(frozen=True)
class Use:
    """One application of a layer to a batch.

    Attributes:
        input: What went in.
        version: Of that tensor, to notice a change in place.
        edge: Where the slope at the output arrives.
    """

    input: Tensor
    version: int
    edge: GradientEdge


@dataclass
class Recording:
    """The uses of each layer in one forward pass, and the outputs with their graph."""

    layers: tuple[Layer, ...]
    uses: dict[str, list[Use]] = field(default_factory=dict)
    outputs: Tensor | None = None
    _last: tuple[Tensor, dict[str, list[Tensor | None]]] | None = None
    _seen: dict[tuple[str, int], Seen] = field(default_factory=dict)

    def pairs(self, objective: Objective, layer: Layer, deltas: Float[Tensor, "batch output"]) -> list[Pair]:
        """Each use of a layer, with the slope of Σ_i δ_i·f_i.

        Raises:
            NotCoveredError: The input was changed in place, or its rows are not those of the batch.
        """
        slopes = self._slopes(deltas)[layer.name]
        return [
            Pair(layer, self._saw(objective, layer, at, len(deltas)), slopes_of(layer, slope, len(deltas)))
            for at, slope in enumerate(slopes)
            if slope is not None  # what the prediction does not depend on
        ]

    def _saw(self, objective: Objective, layer: Layer, at: int, batch: int) -> Seen:
        """What one use of a layer saw; kept, since it is the same whatever the slopes."""
        key = (layer.name, at)
        if key not in self._seen:
            use = self.uses[layer.name][at]
            if use.input._version != use.version:
                raise NotCoveredError(f"the input of {layer.name} is changed in place after it was used")
            self._seen[key] = Seen(layer, objective.model.get_submodule(layer.name), use.input, batch)
        return self._seen[key]

    def _slopes(self, deltas: Float[Tensor, "batch output"]) -> dict[str, list[Tensor | None]]:
        """The slope at every recorded output; kept, since layers are asked one after the other."""
        if self._last is None or self._last[0] is not deltas:
            assert self.outputs is not None
            edges = [use.edge for uses in self.uses.values() for use in uses]
            found: tuple[Tensor | None, ...] = (None,) * len(edges)
            if edges and self.outputs.requires_grad:
                found = torch.autograd.grad(
                    self.outputs, edges, grad_outputs=deltas, retain_graph=True, allow_unused=True
                )
            taken = iter(found)
            slopes: dict[str, list[Tensor | None]] = {layer.name: [] for layer in self.layers}
            slopes |= {name: [next(taken) for _ in uses] for name, uses in self.uses.items()}
            self._last = (deltas, slopes)
        return self._last[1]


def find(objective: Objective) -> tuple[Layer, ...]:
    """The layers that hooks may cover, in the order of the model's modules; not yet checked."""
    model = objective.model
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    starts, start = {}, 0
    for name, value in objective.parameters.items():
        starts[name] = start
        start += value.numel()
    found = []
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        weight, bias = f"{prefix}weight", f"{prefix}bias"
        if weight not in starts or not _is_plain(module):
            continue
        assert isinstance(module.weight, Tensor)
        own = [value for value in (module.weight, module.bias) if value is not None]
        if any(owners.get(id(value), 0) != 1 for value in own):
            continue  # tied weights collect gradients from elsewhere too
        groups = int(getattr(module, "groups", 1))
        into = module.weight[0].numel() + (bias in starts)
        found.append(
            Layer(
                name=name,
                groups=groups,
                out=len(module.weight) // groups,
                into=into,
                weight_at=starts[weight],
                bias_at=starts.get(bias),
                convolution=not isinstance(module, nn.Linear),
            )
        )
    return tuple(found)


@contextmanager
def recording(objective: Objective, layers: tuple[Layer, ...]) -> Iterator[Recording]:
    """Note every use of these layers while the model runs; the hooks are gone afterwards, whatever happens."""
    record = Recording(layers)
    handles = []

    def hook(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            value = args[0] if args else kwargs["input"]
            if not output.requires_grad:
                return  # under torch.no_grad() the layer has no gradient either
            # An edge, not the tensor: a ReLU in place would put its own slope there.
            record.uses.setdefault(name, []).append(
                Use(value.detach(), value._version, get_gradient_edge(output))
            )

        return note

    try:
        for layer in layers:
            module = objective.model.get_submodule(layer.name)
            handles.append(module.register_forward_hook(hook(layer.name), with_kwargs=True))
        yield record
    finally:
        for handle in handles:
            handle.remove()


def slopes_of(layer: Layer, slope: Tensor, batch: int) -> Float[Tensor, "batch group out position"]:
    """δ, at every position of every example."""
    if layer.convolution:
        found = slope.reshape(len(slope), layer.groups, layer.out, -1)
    else:
        found = slope.reshape(len(slope), 1, -1, layer.out).mT
    _check_rows(found, batch, layer)
    return _by_example(found, batch)


def _check_rows(values: Tensor, batch: int, layer: Layer) -> None:
    if len(values) % batch:
        raise NotCoveredError(f"{layer.name} sees {len(values)} rows for a batch of {batch}")


def _by_example(
    values: Float[Tensor, "row group dim position"], batch: int
) -> Float[Tensor, "batch group dim position2"]:
    """Rows that hold several positions of one example next to each other, as [batch·positions, ...] has them."""
    if len(values) == batch:
        return values
    split = values.reshape(batch, -1, *values.shape[1:])  # [batch, row, group, dim, position]
    return split.permute(0, 2, 3, 1, 4).flatten(3)


def _is_plain(module: nn.Module) -> bool:
    """Whether this module computes what torch's Linear or convolution does, and nothing else."""
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward
    for kind in CONVOLUTIONS:
        if isinstance(module, kind):
            same = type(module).forward is kind.forward
            return same and type(module)._conv_forward is kind._conv_forward
    return False
