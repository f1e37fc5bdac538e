"""Per-example gradients and Jacobians, flattened to rows of P numbers.

Layout: parameters in the order of `Objective.parameters`, each flattened
row-major, concatenated. Every row in this package follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jacrev, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from .data import batch_length, map_tensors
from .errors import ModelError
from .objective import Objective

HESSIAN_BLOCK = 64
"""Hessian-vector products at once: each holds the batch's activations again."""


@dataclass(frozen=True)
class GradientBatch:
    """What one batch of examples contributes; each quantity is computed when first asked for.

    Attributes:
        objective: The function that is differentiated.
        inputs: A batch of inputs: a tensor, or a tuple or dict of them.
        targets: Their targets, as `Loss.as_targets` returns them.
        first: Position of the batch's first example, for error messages.
    """

    objective: Objective
    inputs: Any
    targets: Tensor
    first: int = 0

    @cached_property
    def outputs(self) -> Float[Tensor, "batch output"]:
        """f(x, θ*)."""
        return self.outputs_and_jacobian[0] if "outputs_and_jacobian" in self.__dict__ else self._forward()

    @cached_property
    def losses(self) -> Float[Tensor, "batch"]:
        """ℓ(z_i, θ*).

        Raises:
            ModelError: A loss is NaN or infinite (with the example's index).
        """
        losses = self.objective.loss.per_example(self.outputs, self.targets)
        self._check(losses[:, None], "The loss")
        return losses

    @property
    def jacobian(self) -> Float[Tensor, "batch output param"]:
        """∂f(x_i)/∂θ."""
        return self.outputs_and_jacobian[1]

    @cached_property
    def outputs_and_jacobian(
        self,
    ) -> tuple[Float[Tensor, "batch output"], Float[Tensor, "batch output param"]]:
        outputs, jacobian = output_jacobian(self.objective, self.inputs)
        self._check(outputs, "The model's output")
        return outputs, jacobian

    @cached_property
    def gradients(self) -> Float[Tensor, "batch param"]:
        """g_i = ∇_θ ℓ(z_i, θ*).

        Raises:
            ModelError: A gradient is NaN or infinite (with the example's index).
        """
        if "outputs_and_jacobian" in self.__dict__:
            # Chain rule through the outputs: no second backward pass.
            outputs = self.outputs.detach().requires_grad_()
            with torch.enable_grad():
                total = self.objective.loss.per_example(outputs, self.targets).sum()
                (delta,) = torch.autograd.grad(total, outputs)
            gradients = torch.einsum("bo,bop->bp", delta, self.jacobian)
        else:
            gradients = per_example_gradients(self.objective, self.inputs, self.targets)
        self._check(gradients, "The gradient")
        return gradients

    def _forward(self) -> Tensor:
        with torch.no_grad():
            outputs = self.objective.outputs(self.objective.parameters, self.inputs)
        self._check(outputs, "The model's output")
        return outputs

    def _check(self, values: Tensor, what: str) -> None:
        bad = torch.nonzero(~values.flatten(1).isfinite().all(dim=1))
        if len(bad):
            raise ModelError(
                f"{what} for example {self.first + int(bad[0, 0])} is NaN or infinite, although its input is "
                "finite. Look for an overflow in the model or a loss that is infinite there."
            )


def per_example_gradients(objective: Objective, inputs: Any, targets: Tensor) -> Float[Tensor, "batch param"]:
    """g_i for every example of a batch, by `vmap` or, where that cannot, one by one."""

    def loss(parameters: Mapping[str, Tensor], example: Any, target: Tensor) -> Tensor:
        outputs = objective.outputs(parameters, map_tensors(lambda x: x[None], example))
        return objective.loss.per_example(outputs, target[None])[0]

    (gradients,) = _over_batch(grad(loss), objective, inputs, targets, lambda tree: (_flatten(tree),))
    return gradients


def output_jacobian(
    objective: Objective, inputs: Any
) -> tuple[Float[Tensor, "batch output"], Float[Tensor, "batch output param"]]:
    """f(x_i) and ∂f(x_i)/∂θ for every example of a batch."""

    def outputs(parameters: Mapping[str, Tensor], example: Any, _: Tensor) -> tuple[Tensor, Tensor]:
        values = objective.outputs(parameters, map_tensors(lambda x: x[None], example))[0]
        return values, values

    def flatten(result: tuple[Mapping[str, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        jacobians, values = result
        return values, _flatten(jacobians, keep=1)

    unused = torch.zeros(batch_length(inputs), device=objective.device)
    values, jacobian = _over_batch(jacrev(outputs, has_aux=True), objective, inputs, unused, flatten)
    return values, jacobian


def loss_hessian(objective: Objective, inputs: Any, targets: Tensor) -> Float[Tensor, "param param"]:
    """∇²_θ Σ_i ℓ(z_i, θ*) of a batch, column blocks of Hessian-vector products.

    Forward over reverse where every layer allows it, else reverse over reverse
    (LSTM, fused attention), else one product at a time.
    """
    flat = torch.cat([value.reshape(-1) for value in objective.parameters.values()])
    pieces = [(name, value.shape, value.numel()) for name, value in objective.parameters.items()]

    def total(theta: Tensor) -> Tensor:
        parts = torch.split(theta, [size for _, _, size in pieces])
        parameters = {name: part.view(shape) for (name, shape, _), part in zip(pieces, parts, strict=True)}
        return objective.loss.per_example(objective.outputs(parameters, inputs), targets).sum()

    slope = grad(total)

    def forward_over_reverse(vector: Tensor) -> Tensor:
        product: Tensor = jvp(slope, (flat,), (vector,))[1]
        return product

    def reverse_over_reverse(vector: Tensor) -> Tensor:
        product: Tensor = vjp(slope, flat)[1](vector)[0]
        return product

    def one_at_a_time(vectors: Tensor) -> Tensor:
        theta = flat.clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(total(theta), theta, create_graph=True)
        return torch.stack(
            [torch.autograd.grad(gradient, theta, vector, retain_graph=True)[0] for vector in vectors]
        )

    unit = torch.split(torch.eye(len(flat), dtype=flat.dtype, device=flat.device), HESSIAN_BLOCK)
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no second derivative
        for way in (vmap(forward_over_reverse), vmap(reverse_over_reverse)):
            try:
                return torch.cat([way(block) for block in unit])
            except RuntimeError:
                pass  # a fault of the model itself shows up again below, unwrapped
        return torch.cat([one_at_a_time(block) for block in unit])


def _over_batch(
    function: Callable[..., Any],
    objective: Objective,
    inputs: Any,
    targets: Tensor,
    finish: Callable[[Any], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:
    parameters = objective.parameters
    try:
        return finish(vmap(function, in_dims=(None, 0, 0))(parameters, inputs, targets))
    except RuntimeError:
        # GRU, RNN and data-dependent Python control flow have no batching rule.
        # A fault of the model itself shows up again in the loop, unwrapped.
        pass
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
