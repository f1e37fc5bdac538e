"""Per-example gradients and Jacobians, flattened to rows of P numbers.

Layout: parameters in the order of `Objective.parameters`, each flattened
row-major, concatenated. Every row in this package follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, jacrev, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from .data import batch_length, map_tensors
from .errors import ModelError
from .layers import Layer, NotCoveredError, Pair, Recording, find, recording
from .objective import Objective
from .rows import Outer, Part, part_products

HESSIAN_BLOCK = 64
"""Hessian-vector products at once: each holds the batch's activations again."""

Way = Literal["hooks", "vmap", "loop"]


@dataclass(frozen=True)
class Plan:
    """How the gradients of a model are taken.

    Attributes:
        layers: What hooks cover, each checked against one backward pass per example.
        way: "hooks" where they cover every chosen parameter; else `vmap`, or one by one.
        activations: Bytes that the hooks hold for one example.
        apart: Python branches on values, so that an example has to be run without the rest of its batch.
    """

    layers: tuple[Layer, ...] = ()
    way: Way = "vmap"
    activations: int = 0
    apart: bool = False

    def sole(self, objective: Objective) -> Layer | None:
        """The layer that owns every chosen parameter and is applied once an example, if there is one."""
        if self.way != "hooks" or len(self.layers) != 1:
            return None
        (layer,) = self.layers
        return layer if layer.once and layer.groups == 1 and layer.size == objective.size else None

    def rest(self, objective: Objective) -> dict[str, Tensor]:
        """The chosen parameters that no layer covers."""
        starts = {at for layer in self.layers for at in (layer.weight_at, layer.bias_at)}
        return {name: value for name, (at, value) in _places(objective).items() if at not in starts}

    def split(self, objective: Objective, rows: Float[Tensor, "row param"]) -> list[Float[Tensor, "row _"]]:
        """Rows of P numbers in the parts of `GradientBatch.parts`: a layer each, then what none covers."""
        places, rest = _places(objective), self.rest(objective)
        others = [rows[:, places[name][0] :][:, : value.numel()] for name, value in rest.items()]
        return [
            *(layer.gather(rows).flatten(1) for layer in self.layers),
            *([torch.cat(others, 1)] if others else []),
        ]


@dataclass(frozen=True)
class GradientBatch:
    """What one batch of examples contributes; each quantity is computed when first asked for.

    Attributes:
        objective: The function that is differentiated.
        inputs: A batch of inputs: a tensor, or a tuple or dict of them.
        targets: Their targets, as `Loss.as_targets` returns them.
        first: Position of the batch's first example, for error messages.
        plan: How gradients are taken.
    """

    objective: Objective
    inputs: Any
    targets: Tensor
    first: int = 0
    plan: Plan = Plan()

    @cached_property
    def outputs(self) -> Float[Tensor, "batch output"]:
        """f(x, θ*)."""
        if self.plan.way == "hooks" or "_recording" in self.__dict__:
            assert self._recording.outputs is not None
            outputs = self._recording.outputs.detach()
        elif "_outputs_and_jacobian" in self.__dict__:
            outputs = self._outputs_and_jacobian[0]
        else:
            outputs = forward(self.objective, self.inputs, self.plan)
        self.check(outputs, "The model's output")
        return outputs

    @cached_property
    def losses(self) -> Float[Tensor, "batch"]:
        """ℓ(z_i, θ*).

        Raises:
            ModelError: A loss is NaN or infinite (with the example's index).
        """
        losses = self.objective.loss.per_example(self.outputs, self.targets)
        self.check(losses[:, None], "The loss")
        return losses

    @cached_property
    def loss_slopes(self) -> Float[Tensor, "batch output"]:
        """δ = ∇_f ℓ(f, y) at the targets."""
        return self.objective.loss.slopes(self.outputs, self.targets)

    @property
    def jacobian(self) -> Float[Tensor, "batch output param"]:
        """∂f(x_i)/∂θ."""
        return self._outputs_and_jacobian[1]

    @cached_property
    def gradients(self) -> Float[Tensor, "batch param"]:
        """g_i = ∇_θ ℓ(z_i, θ*).

        Raises:
            ModelError: A gradient is NaN or infinite (with the example's index).
        """
        gradients = self.pull_back(self.loss_slopes[:, None])[:, 0]
        self.check(gradients, "The gradient")
        return gradients

    def pull_back(self, deltas: Float[Tensor, "batch row output"]) -> Float[Tensor, "batch row param"]:
        """δᵀ ∂f(x_i)/∂θ for several slopes δ of each example's outputs."""
        if self.plan.way == "hooks":
            rows = deltas.new_empty(*deltas.shape[:2], self.objective.size)
            for position in range(deltas.shape[1]):
                delta = deltas[:, position].contiguous()
                for layer in self.plan.layers:
                    layer.scatter(self.layer_gradients(layer, delta), rows[:, position])
            return rows
        if deltas.shape[1] >= deltas.shape[2] or "_outputs_and_jacobian" in self.__dict__:
            return torch.einsum("bro,bop->brp", deltas, self.jacobian)
        parameters = self.objective.parameters
        return torch.stack([self._pull_back(parameters, delta) for delta in deltas.unbind(1)], 1)

    def pull_back_rest(self, deltas: Float[Tensor, "batch row output"]) -> Float[Tensor, "batch row rest"]:
        """The columns of `pull_back` that belong to no layer of the plan, in their order."""
        rest = self.plan.rest(self.objective)
        if not rest:
            return deltas.new_zeros(*deltas.shape[:2], 0)
        return torch.stack([self._pull_back(rest, delta) for delta in deltas.unbind(1)], 1)

    def some(self, rows: Int[Tensor, "some"]) -> GradientBatch:
        """Some of the examples as a batch of their own."""
        inputs = map_tensors(itemgetter(rows), self.inputs)
        return GradientBatch(self.objective, inputs, self.targets[rows], self.first, self.plan)

    def pairs(self, layer: Layer, delta: Float[Tensor, "batch output"]) -> list[Pair]:
        """Each use of a layer of the plan."""
        return self._recording.pairs(self.objective, layer, delta)

    def layer_gradients(
        self, layer: Layer, delta: Float[Tensor, "batch output"]
    ) -> Float[Tensor, "batch group out into"]:
        """Σ_t δ_t a_tᵀ, the part of δᵀ ∂f/∂θ that belongs to a layer of the plan."""
        total: Tensor | None = None
        for pair in self.pairs(layer, delta):
            gradient = pair.gradient()
            total = gradient if total is None else total.add_(gradient)
        if total is not None:
            return total
        return delta.new_zeros(len(delta), layer.groups, layer.out, layer.into)

    def part(self, layer: Layer, delta: Float[Tensor, "batch output"]) -> Part:
        """The same of all examples, flat: as an outer product where the layer is applied once to each."""
        if not layer.once:
            return self.layer_gradients(layer, delta).flatten(1)
        pairs = self.pairs(layer, delta)
        if not pairs:
            return Outer(delta.new_zeros(len(delta), layer.out), delta.new_zeros(len(delta), layer.into))
        inputs, slopes = pairs[0].vectors()
        return Outer(slopes, inputs)

    def parts(self) -> Iterator[Part]:
        """g_i layer by layer, so that each part can be let go before the next is made; see `Plan.split`.

        Raises:
            ModelError: A gradient is NaN or infinite (with the example's index).
        """
        delta = self.loss_slopes
        for layer in self.plan.layers:
            part = self.part(layer, delta)
            self.check_gradient(part)
            yield part
            del part
        if self.plan.rest(self.objective):
            rest = self.pull_back_rest(delta[:, None])[:, 0]
            self.check_gradient(rest)
            yield rest

    def dots(self, vectors: Sequence[Float[Tensor, "vector _"]]) -> Float[Tensor, "vector batch"]:
        """v · g_i for vectors in the parts of `Plan.split`; of a few, without forming the layers' gradients.

        Raises:
            ModelError: A gradient is NaN or infinite (with the example's index).
        """
        if len(vectors[0]) > DOTS_LIMIT:
            return part_products(vectors, self.parts())
        delta = self.loss_slopes
        total = delta.new_zeros(len(vectors[0]), len(delta))
        for layer, own in zip(self.plan.layers, vectors, strict=False):
            matrices = own.reshape(len(own), layer.groups, layer.out, layer.into)
            for pair in self.pairs(layer, delta):
                total += pair.dots(matrices)
        if self.plan.rest(self.objective):
            total += vectors[-1] @ self.pull_back_rest(delta[:, None])[:, 0].T
        self.check(total.T, "The gradient")
        return total

    def products(
        self, vectors: Float[Tensor, "vector param"], *, forward: bool | None = None
    ) -> Float[Tensor, "batch vector"]:
        """g_i · v for each vector: forward-mode derivatives of the losses, or from the gradients if those cost less."""
        if forward is None:
            forward = len(vectors) <= FORWARD_LIMIT
        if forward and self.plan.way != "loop":
            try:
                columns = [self._directional(vector) for vector in vectors]
            except (RuntimeError, NotImplementedError):
                pass  # an LSTM or fused attention has no forward mode
            else:
                values = torch.stack(columns, 1)
                self.check(values, "The gradient")
                return values
        return self.dots(self.plan.split(self.objective, vectors)).T

    @cached_property
    def _outputs_and_jacobian(
        self,
    ) -> tuple[Float[Tensor, "batch output"], Float[Tensor, "batch output param"]]:
        if self.plan.way == "hooks":
            outputs = self.outputs
            eye = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
            return outputs, self.pull_back(eye.expand(len(outputs), *eye.shape))
        outputs, jacobian = output_jacobian(self.objective, self.inputs, self.plan.way)
        self.check(outputs, "The model's output")
        return outputs, jacobian

    @cached_property
    def _recording(self) -> Recording:
        objective = self.objective
        covered = objective.parameters.keys() - self.plan.rest(objective).keys()
        parameters = {
            name: value.detach().requires_grad_(name in covered)
            for name, value in objective.parameters.items()
        }
        with torch.enable_grad(), recording(objective, self.plan.layers) as record:
            record.outputs = objective.outputs(parameters, self.inputs)
        return record

    def _pull_back(
        self, parameters: dict[str, Tensor], delta: Float[Tensor, "batch output"]
    ) -> Float[Tensor, "batch some"]:
        return pull_back(self.objective, parameters, self.inputs, delta, self.plan.way)

    def _directional(self, vector: Float[Tensor, "param"]) -> Float[Tensor, "batch"]:
        objective = self.objective

        def outputs(parameters: Mapping[str, Tensor]) -> Tensor:
            return objective.outputs(parameters, self.inputs)

        with sdpa_kernel(SDPBackend.MATH):
            found: tuple[Tensor, ...] = jvp(outputs, (objective.parameters,), (_tangents(objective, vector),))
        values, moved = found[:2]
        return (objective.loss.slopes(values, self.targets) * moved).sum(1)

    def check_gradient(self, part: Part) -> None:
        """Refuse gradients that are not finite, as `check` does."""
        for values in (part.left, part.right) if isinstance(part, Outer) else (part,):
            self.check(values, "The gradient")

    def check(self, values: Tensor, what: str) -> None:
        """Refuse numbers that are not finite.

        Raises:
            ModelError: With the first such example's index.
        """
        if bool(values.sum().isfinite()):  # one pass, where nearly always nothing is wrong
            return
        bad = torch.nonzero(~values.flatten(1).isfinite().all(dim=1))
        if len(bad):
            raise ModelError(
                f"{what} for example {self.first + int(bad[0, 0])} is NaN or infinite, although its input is "
                "finite. Look for an overflow in the model or a loss that is infinite there."
            )


DOTS_LIMIT = 2
"""Vectors up to which their products with inputs at every position cost less than gradients."""

FORWARD_LIMIT = 2
"""Vectors up to which a forward-mode pass each is cheaper than per-example gradients for all."""


def make_plan(objective: Objective, inputs: Any, outputs: Float[Tensor, "batch output"]) -> Plan:
    """Try the ways on a few examples, and keep the fastest that is right there.

    Args:
        objective: In evaluation mode.
        inputs: A few examples, the more different the better.
        outputs: What the model makes of them.
    """
    generator = torch.Generator().manual_seed(0)
    # Random slopes: a confident example's own would hide a mistake.
    delta = torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs)
    right = pull_back(objective, objective.parameters, inputs, delta, "loop")
    with _WatchForBranches() as watch:  # type: ignore[no-untyped-call]
        forward(objective, inputs, Plan())
    if watch.branched:
        return Plan(way="loop", apart=True)
    layers, activations = _covered(objective, inputs, delta, right)
    plan = Plan(layers, "hooks", activations)
    if not plan.rest(objective):
        return plan
    try:
        found = pull_back(objective, objective.parameters, inputs, delta, "vmap", strict=True)
    except RuntimeError:
        return replace(plan, way="loop")
    return replace(plan, way="vmap" if _close(found, right) else "loop")


def forward(objective: Objective, inputs: Any, plan: Plan) -> Float[Tensor, "batch output"]:
    """f(x, θ*), without a graph."""
    with torch.no_grad():
        if not plan.apart:
            return objective.outputs(objective.parameters, inputs)
        rows = [map_tensors(itemgetter(slice(i, i + 1)), inputs) for i in range(batch_length(inputs))]
        return torch.cat([objective.outputs(objective.parameters, row) for row in rows])


def pull_back(
    objective: Objective,
    parameters: dict[str, Tensor],
    inputs: Any,
    delta: Float[Tensor, "batch output"],
    way: Way = "vmap",
    *,
    strict: bool = False,
) -> Float[Tensor, "batch some"]:
    """δᵀ ∂f(x_i)/∂θ for some of the chosen parameters, without hooks; `strict`: by this way or not at all."""
    others = {name: value for name, value in objective.parameters.items() if name not in parameters}

    def product(chosen: Mapping[str, Tensor], example: Any, slope: Tensor) -> Tensor:
        outputs = objective.outputs({**others, **chosen}, map_tensors(lambda x: x[None], example))
        return (outputs[0] * slope).sum()

    (rows,) = _over_batch(
        grad(product), parameters, inputs, delta, lambda tree: (_flatten(tree),), way, strict=strict
    )
    return rows


def output_jacobian(
    objective: Objective, inputs: Any, way: Way = "vmap"
) -> tuple[Float[Tensor, "batch output"], Float[Tensor, "batch output param"]]:
    """f(x_i) and ∂f(x_i)/∂θ for every example of a batch, without hooks."""

    def outputs(parameters: Mapping[str, Tensor], example: Any, _: Tensor) -> tuple[Tensor, Tensor]:
        values = objective.outputs(parameters, map_tensors(lambda x: x[None], example))[0]
        return values, values

    def flatten(result: tuple[Mapping[str, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        jacobians, values = result
        return values, _flatten(jacobians, keep=1)

    unused = torch.zeros(batch_length(inputs), device=objective.device)
    values, jacobian = _over_batch(
        jacrev(outputs, has_aux=True), objective.parameters, inputs, unused, flatten, way
    )
    return values, jacobian


def loss_hessian(objective: Objective, inputs: Any, targets: Tensor) -> Float[Tensor, "param param"]:
    """∇²_θ Σ_i ℓ(z_i, θ*) of a batch, column blocks of Hessian-vector products."""
    unit = torch.eye(objective.size, dtype=objective.dtype, device=objective.device)
    return torch.cat(
        [hessian_products(objective, inputs, targets, block) for block in torch.split(unit, HESSIAN_BLOCK)]
    )


def hessian_products(
    objective: Objective, inputs: Any, targets: Tensor, vectors: Float[Tensor, "vector param"]
) -> Float[Tensor, "vector param"]:
    """∇²_θ Σ_i ℓ(z_i, θ*) v of a batch.

    Forward over reverse where every layer allows it, else reverse over reverse
    (LSTM, fused attention), else one product at a time.
    """

    def total(parameters: dict[str, Tensor]) -> Tensor:
        return objective.loss.per_example(objective.outputs(parameters, inputs), targets).sum()

    slope = grad(total)
    parameters = objective.parameters

    def forward_over_reverse(vector: Tensor) -> Tensor:
        tangents: tuple[Any, ...] = jvp(slope, (parameters,), (_tangents(objective, vector),))
        return _joined(tangents[1])

    def reverse_over_reverse(vector: Tensor) -> Tensor:
        return _joined(vjp(slope, parameters)[1](_tangents(objective, vector))[0])

    def one_at_a_time() -> Tensor:
        leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
        with torch.enable_grad():
            gradient = torch.autograd.grad(
                total(leaves), list(leaves.values()), create_graph=True, materialize_grads=True
            )
            flat = torch.cat([part.reshape(-1) for part in gradient])
        products = [
            torch.autograd.grad(
                flat, list(leaves.values()), vector, retain_graph=True, materialize_grads=True
            )
            for vector in vectors
        ]
        return torch.stack([torch.cat([part.reshape(-1) for part in product]) for product in products])

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        for way in (forward_over_reverse, reverse_over_reverse):
            try:
                return way(vectors[0])[None] if len(vectors) == 1 else vmap(way)(vectors)
            except RuntimeError:
                pass  # a fault of the model itself shows up again below, unwrapped
        return one_at_a_time()


def fisher_products(
    objective: Objective, inputs: Any, targets: Tensor, vectors: Float[Tensor, "vector param"]
) -> Float[Tensor, "vector param"]:
    """Σ_i J_iᵀ (E_y ∇²_f ℓ) J_i v of a batch; `targets` are not looked at."""
    parameters = objective.parameters

    def outputs(values: dict[str, Tensor]) -> Tensor:
        return objective.outputs(values, inputs)

    with sdpa_kernel(SDPBackend.MATH):
        values, pull_back, *_ = vjp(outputs, parameters)
        factor = objective.loss.curvature_factor(values.detach())
        products = []
        for vector in vectors:
            try:
                slope = jvp(outputs, (parameters,), (_tangents(objective, vector),))[1]
            except (RuntimeError, NotImplementedError):  # no forward mode: J v is the derivative of Jᵀu in u
                transposed = vjp(lambda u: pull_back(u)[0], torch.zeros_like(values))[1]
                slope = transposed(_tangents(objective, vector))[0]
            inner = torch.einsum("bfo,bo->bf", factor, slope)
            products.append(_joined(pull_back(torch.einsum("bfo,bf->bo", factor, inner))[0]))
    return torch.stack(products)


def _tangents(objective: Objective, vector: Float[Tensor, "param"]) -> dict[str, Tensor]:
    """A row of P numbers, parameter by parameter."""
    return {
        name: vector[at : at + value.numel()].view_as(value)
        for name, (at, value) in _places(objective).items()
    }


def _joined(tree: dict[str, Tensor]) -> Float[Tensor, "param"]:
    return torch.cat([value.reshape(-1) for value in tree.values()])


def _covered(
    objective: Objective,
    inputs: Any,
    delta: Float[Tensor, "batch output"],
    right: Float[Tensor, "batch param"],
) -> tuple[tuple[Layer, ...], int]:
    """The layers whose hooks give the right gradients, and the bytes that they hold for an example."""
    candidates = find(objective)
    if not candidates:
        return (), 0
    batch = GradientBatch(objective, inputs, delta, plan=Plan(candidates))
    record = batch._recording
    layers, held = [], 0
    for layer in candidates:
        try:
            pairs = batch.pairs(layer, delta)
        except NotCoveredError:
            continue
        if _close(batch.layer_gradients(layer, delta), layer.gather(right)):
            once = len(pairs) == 1 and layer.groups == 1 and pairs[0].slopes.shape[3] == 1
            layers.append(replace(layer, once=once))
            held += sum(pair.inputs.nbytes + pair.slopes.nbytes for pair in pairs) // len(delta)
    stored = sum(use.input.nbytes for uses in record.uses.values() for use in uses) // len(delta)
    return tuple(layers), 2 * stored + held


def _close(found: Tensor, right: Tensor) -> bool:
    """Equal example by example, but for rounding."""
    distance = (found - right).flatten(1).norm(dim=1)
    return bool((distance <= 30 * torch.finfo(right.dtype).eps ** 0.5 * right.flatten(1).norm(dim=1)).all())


class _WatchForBranches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notices that Python looked at a value, as `if x.sum() > 0` does."""

    branched = False

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.branched |= function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def _places(objective: Objective) -> dict[str, tuple[int, Tensor]]:
    """Where each parameter begins in a row, and its values."""
    places, start = {}, 0
    for name, value in objective.parameters.items():
        places[name] = (start, value)
        start += value.numel()
    return places


def _over_batch(
    function: Callable[..., Any],
    parameters: Mapping[str, Tensor],
    inputs: Any,
    targets: Tensor,
    finish: Callable[[Any], tuple[Tensor, ...]],
    way: Way,
    *,
    strict: bool = False,
) -> tuple[Tensor, ...]:
    if way != "loop":
        try:
            return finish(vmap(function, in_dims=(None, 0, 0))(parameters, inputs, targets))
        except RuntimeError:
            # GRU, RNN and data-dependent Python control flow have no batching rule.
            # A fault of the model itself shows up again in the loop, unwrapped.
            if strict:
                raise
    rows = [
        finish(_row(function(parameters, map_tensors(itemgetter(i), inputs), targets[i])))
        for i in range(len(targets))
    ]
    return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))


def _row(result: Any) -> Any:
    return map_tensors(lambda x: x[None], result)


def _flatten(tree: Mapping[str, Tensor], keep: int = 0) -> Tensor:
    # keep: how many dimensions after the batch come before the parameter's own
    return torch.cat(
        [value.flatten(1 + keep) if value.dim() > 1 + keep else value[..., None] for value in tree.values()],
        dim=1 + keep,
    )
