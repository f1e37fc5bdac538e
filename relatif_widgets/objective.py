"""The function that is differentiated: model, per-example loss, chosen parameters.

An `Objective` is a frozen snapshot: it holds detached copies of the parameters,
so scoring never touches the user's tensors, and later training of the model
does not change explanations that were already fitted.
"""

from __future__ import annotations

import copy
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from .errors import ChoiceError, DataError, ModelError, unknown_name

LossLike = str | nn.Module | Callable[[Tensor, Tensor], Tensor]
ParameterChoice = str | nn.Module | Sequence[str] | Callable[[str, nn.Parameter], bool] | None


class Loss(ABC):
    """A per-example loss ℓ(f, y) of the model's outputs f [batch, outputs].

    Attributes:
        name: What to call it.
    """

    name: str

    @abstractmethod
    def per_example(self, outputs: Float[Tensor, "batch output"], targets: Tensor) -> Float[Tensor, "batch"]:
        """ℓ for every example of a batch."""

    def slopes(
        self, outputs: Float[Tensor, "batch output"], targets: Tensor
    ) -> Float[Tensor, "batch output"]:
        """δ = ∇_f ℓ(f, y).

        Raises:
            ModelError: The loss can't be differentiated.
        """
        outputs = outputs.detach().requires_grad_()
        with torch.enable_grad():
            total = self.per_example(outputs, targets).sum()
            if not total.requires_grad:
                raise ModelError(
                    f"loss {self.name!r} does not depend on the outputs in a way that can be "
                    "differentiated. Is there a .detach(), a round trip through numpy, or torch.no_grad()?"
                )
            (slopes,) = torch.autograd.grad(total, outputs)
        return slopes

    def curvature_factor(
        self, outputs: Float[Tensor, "batch output"]
    ) -> Float[Tensor, "batch factor output"]:
        """B with BᵀB = E_{y∼p_θ(·|x)} ∇²_f ℓ(f, y).

        Where ℓ = −log p_θ this is the Fisher of the outputs, and JᵀBᵀBJ is the
        example's term in Eq. (7), page 3, exact over the model's own labels.
        With class weights, label smoothing or a mean over outputs it is the same
        expectation of the loss that is really minimised.

        Raises:
            ModelError: The loss has no known likelihood.
        """
        raise self.no_likelihood()

    def label_gradient(
        self, outputs: Float[Tensor, "batch output"], uniform: Float[Tensor, "batch output"]
    ) -> Float[Tensor, "batch output"]:
        """δ = ∇_f ℓ(f, ŷ) at one label ŷ ∼ p_θ(·|x) an example, scaled so that E δδᵀ = BᵀB.

        Args:
            outputs: f.
            uniform: Independent uniform numbers in (0, 1), from which the labels are drawn.

        Raises:
            ModelError: The loss has no known likelihood.
        """
        raise self.no_likelihood()

    def no_likelihood(self) -> ModelError:
        return ModelError(
            f"loss {self.name!r} has no known likelihood, so its Fisher is undefined. Use "
            'curvature="hessian" or "empirical_fisher", or for a large model curvature="ekfac" with '
            'fisher_labels="empirical" (or loss="cross_entropy", "bce_with_logits" or "mse", if that is what it is).'
        )

    def probabilities(self, outputs: Float[Tensor, "batch output"]) -> Float[Tensor, "batch cls"] | None:
        """The model's probability of every class, or None for a regression."""
        return None

    def predicted(self, outputs: Float[Tensor, "batch output"]) -> Tensor:
        """The class the model predicts, as a target; a regression has none.

        Raises:
            DataError: This loss has no classes.
        """
        raise DataError(
            f"With loss {self.name!r} a query needs its target: there is no predicted class, and at the "
            'prediction itself a regression\'s gradient is zero. Pass labels=[target, ...], or labels="true" with '
            "target=... in explain."
        )

    def as_targets(self, targets: Tensor, outputs: int) -> Tensor:
        """Targets in the dtype and shape that the loss wants, checked against the outputs.

        Raises:
            DataError: A target is not one the outputs can express (with its position).
        """
        return targets

    def class_count(self, outputs: int) -> int | None:
        """Number of classes of a model with this many outputs, None for a regression."""
        return None


class Confident(Loss):
    """A loss with slopes p − y: in float32 they lose their digits where the model is sure and right.

    There they are small, but RelatIF divides by them. They are computed in float64.
    """

    def slopes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.device.type == "mps":  # has no float64
            return super().slopes(outputs, targets)
        wide = targets.double() if targets.is_floating_point() else targets
        return super().slopes(outputs.double(), wide).to(outputs.dtype)


class CrossEntropy(Confident):
    """−log softmax(f)_y, with class weights and label smoothing as torch counts them."""

    name = "cross_entropy"

    def __init__(self, weight: Tensor | None = None, label_smoothing: float = 0.0) -> None:
        self.weight = weight
        self.label_smoothing = label_smoothing

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            outputs,
            targets,
            weight=self._weight(outputs),
            reduction="none",
            label_smoothing=self.label_smoothing,
        )

    def curvature_factor(self, outputs: Tensor) -> Tensor:
        probabilities = outputs.softmax(1)
        # Row y is √p_y (e_y − p): the square root of p_y times the gradient of log p_y.
        eye = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        scale = self._scale(outputs, probabilities)[:, None]
        return (scale * probabilities).sqrt()[:, :, None] * (eye - probabilities[:, None, :])

    def label_gradient(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        probabilities = outputs.softmax(1)
        drawn: Tensor = (probabilities.cumsum(1) < uniform[:, :1]).sum(1).clamp(max=outputs.shape[1] - 1)
        error = probabilities - nn.functional.one_hot(drawn, outputs.shape[1])
        return self._scale(outputs, probabilities).sqrt()[:, None] * error

    def _scale(self, outputs: Tensor, probabilities: Tensor) -> Float[Tensor, "batch"]:
        weight = self._weight(outputs)
        if weight is None:
            return probabilities.new_ones(len(probabilities))
        # ∇²_f ℓ(f, y) = s_y (diag p − ppᵀ) with s_y the total weight of the target
        # distribution; its expectation over y ∼ p:
        smoothed = (1 - self.label_smoothing) * weight + self.label_smoothing * weight.mean()
        return probabilities @ smoothed

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def as_targets(self, targets: Tensor, outputs: int) -> Tensor:
        if targets.numel() != len(targets):
            raise DataError(
                f"cross_entropy needs one class index an example, but targets have shape {list(targets.shape)}. "
                "For one-hot targets pass targets.argmax(1)."
            )
        if targets.is_floating_point() and bool((targets != targets.round()).any()):
            raise DataError(
                f"cross_entropy needs class indices, but a target is {_first_non_integer(targets):g}. "
                'For a regression pass loss="mse".'
            )
        targets = targets.reshape(-1).long()
        outside = torch.nonzero((targets < 0) | (targets >= outputs)).reshape(-1)
        if len(outside):
            where = int(outside[0])
            raise DataError(
                f"Label {int(targets[where])} at position {where} is outside the model's {outputs} outputs; "
                f"expected 0 to {outputs - 1}. "
                + (
                    'For one logit and two classes pass loss="bce_with_logits".'
                    if outputs == 1
                    else "Check the label encoding or the size of the last layer."
                )
            )
        return targets

    def class_count(self, outputs: int) -> int:
        return outputs

    def _weight(self, outputs: Tensor) -> Tensor | None:
        return None if self.weight is None else self.weight.detach().to(outputs)


class BinaryCrossEntropy(Confident):
    """Sigmoid cross entropy, summed or averaged over the outputs of one example."""

    name = "bce_with_logits"

    def __init__(
        self, weight: Tensor | None = None, pos_weight: Tensor | None = None, *, average: bool = False
    ) -> None:
        self.weight = weight
        self.pos_weight = pos_weight
        self.average = average

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        losses = nn.functional.binary_cross_entropy_with_logits(
            outputs,
            targets,
            weight=_like(self.weight, outputs),
            pos_weight=_like(self.pos_weight, outputs),
            reduction="none",
        )
        return losses.mean(1) if self.average else losses.sum(1)

    def curvature_factor(self, outputs: Tensor) -> Tensor:
        positive = outputs.sigmoid()
        return torch.diag_embed((self._scale(outputs, positive) * positive * (1 - positive)).sqrt())

    def label_gradient(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        positive = outputs.sigmoid()
        drawn = (uniform < positive).to(outputs.dtype)
        return self._scale(outputs, positive).sqrt() * (positive - drawn)

    def _scale(self, outputs: Tensor, positive: Tensor) -> Float[Tensor, "batch output"]:
        # ∇² = (pos_weight·y + 1 − y) σ(1−σ), expectation over y ∼ Bernoulli(σ).
        scale = torch.ones_like(positive)
        if self.pos_weight is not None:
            scale = scale * (self.pos_weight.to(outputs) * positive + 1 - positive)
        if self.weight is not None:
            scale = scale * self.weight.to(outputs)
        return scale / outputs.shape[1] if self.average else scale

    def probabilities(self, outputs: Tensor) -> Tensor | None:
        if outputs.shape[1] != 1:
            return None
        positive = outputs.sigmoid()
        return torch.cat([1 - positive, positive], dim=1)

    def predicted(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(outputs.dtype)

    def as_targets(self, targets: Tensor, outputs: int) -> Tensor:
        dtype = targets.dtype if targets.is_floating_point() else torch.get_default_dtype()
        if targets.numel() != len(targets) * outputs:
            raise DataError(
                f"{targets.numel() // max(1, len(targets))} targets an example do not match the model's {outputs} "
                "outputs. bce_with_logits needs a 0 or 1 for every output."
            )
        targets = targets.reshape(-1, outputs).to(dtype)
        outside = torch.nonzero((targets < 0) | (targets > 1) | targets.isnan())
        if len(outside):
            where = int(outside[0, 0])
            raise DataError(
                f"Label {targets[where].tolist()} at position {where} is outside the model's outputs; "
                "bce_with_logits expects targets from 0 to 1."
            )
        return targets

    def class_count(self, outputs: int) -> int | None:
        return 2 if outputs == 1 else None


class SquaredError(Loss):
    """scale · ‖f − y‖²; with ½ the negative log-likelihood of a unit-variance Gaussian."""

    name = "mse"

    def __init__(self, scale: float = 0.5, *, average: bool = False) -> None:
        self.scale = scale
        self.average = average

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        squares = (outputs - targets).square()
        return (squares.mean(1) if self.average else squares.sum(1)).mul(self.scale)

    def curvature_factor(self, outputs: Tensor) -> Tensor:
        width = outputs.shape[1]
        factor = torch.eye(width, dtype=outputs.dtype, device=outputs.device).mul(self._root(width))
        return factor.expand(len(outputs), width, width)

    def label_gradient(self, outputs: Tensor, uniform: Tensor) -> Tensor:
        noise: Tensor = torch.special.ndtri(uniform.double()).to(outputs.dtype)  # f − ŷ of a Gaussian ŷ
        return self._root(outputs.shape[1]) * noise

    def _root(self, width: int) -> float:
        return math.sqrt(2 * self.scale / (width if self.average else 1))

    def as_targets(self, targets: Tensor, outputs: int) -> Tensor:
        dtype = targets.dtype if targets.is_floating_point() else torch.get_default_dtype()
        if targets.numel() != len(targets) * outputs:
            raise DataError(
                f"{targets.numel() // max(1, len(targets))} target values an example do not match the model's "
                f"{outputs} outputs; targets have shape {list(targets.shape)}."
            )
        return targets.reshape(-1, outputs).to(dtype)


class CustomLoss(Loss):
    """Any callable (outputs, targets) → [batch], or a torch loss module."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], name: str, reduction: str) -> None:
        self.function = function
        self.name = name
        self.reduction = reduction

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape[1] == 1 and targets.dim() == 1:
            outputs = outputs[:, 0]  # else [batch, 1] against [batch] would broadcast to [batch, batch]
        losses = self.function(outputs, targets)
        if losses.dim() == 0 or len(losses) != len(outputs) or losses.numel() > outputs.numel():
            raise ModelError(
                f"loss {self.name!r} gave shape {list(losses.shape)} for a batch of {len(outputs)}; "
                'expected one loss per example. Build it with reduction="none", or return a tensor [batch].'
            )
        if losses.dim() > 1:
            losses = losses.flatten(1)
            losses = losses.sum(1) if self.reduction == "sum" else losses.mean(1)
        return losses


_LOSSES: dict[str, Callable[[], Loss]] = {
    "cross_entropy": CrossEntropy,
    "bce_with_logits": BinaryCrossEntropy,
    "mse": SquaredError,
}


def as_loss(loss: LossLike) -> Loss:
    """The `Loss` that a name, a torch loss module or a callable stands for.

    A module's weights and its way of averaging the outputs *of one example* are
    kept; its averaging over the batch is not, since examples are scored one by one.

    Raises:
        ChoiceError: The name is unknown, or this is no loss.
    """
    if isinstance(loss, str):
        if loss not in _LOSSES:
            raise unknown_name("loss", loss, _LOSSES)
        return _LOSSES[loss]()
    if isinstance(loss, type):
        raise ChoiceError(f"loss={loss.__name__} is a class; expected an instance: loss={loss.__name__}().")
    if isinstance(loss, nn.CrossEntropyLoss):
        return CrossEntropy(loss.weight, loss.label_smoothing)
    if isinstance(loss, nn.NLLLoss):  # of log-probabilities, which softmax leaves as they are
        return CrossEntropy(loss.weight)
    average = getattr(loss, "reduction", "mean") != "sum"
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return BinaryCrossEntropy(loss.weight, loss.pos_weight, average=average)
    if isinstance(loss, nn.MSELoss):
        return SquaredError(1.0, average=average)
    if isinstance(loss, nn.Module):
        name = type(loss).__name__
        if hasattr(loss, "reduction"):
            unreduced = copy.copy(loss)
            setattr(unreduced, "reduction", "none")  # noqa: B010 - modules have no such typed attribute
            return CustomLoss(unreduced, name, str(loss.reduction))
        return CustomLoss(loss, name, "mean")
    if callable(loss):
        return CustomLoss(loss, getattr(loss, "__name__", type(loss).__name__), "mean")
    raise ChoiceError(
        f"loss={loss!r} is no loss; expected one of {', '.join(map(repr, _LOSSES))}, a torch loss module "
        "or a callable (outputs, targets) -> [batch]."
    )


@dataclass(frozen=True)
class Objective:
    """ℓ(z, θ) as a function of the chosen parameters θ, everything else held fixed.

    Attributes:
        model: The user's module; run in evaluation mode, never changed.
        loss: The per-example loss.
        parameters: The chosen parameters by name, detached copies.
        frozen: The other parameters and the buffers, detached copies.
    """

    model: nn.Module
    loss: Loss
    parameters: dict[str, Tensor]
    frozen: dict[str, Tensor]

    @property
    def size(self) -> int:
        """P, the number of chosen parameters."""
        return sum(value.numel() for value in self.parameters.values())

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.parameters.values())).dtype

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def outputs(self, parameters: Mapping[str, Tensor], inputs: Any) -> Float[Tensor, "batch output"]:
        """The model's outputs for a batch, flattened to [batch, outputs]."""
        args, kwargs = _call_arguments(inputs)
        raw = functional_call(self.model, {**self.frozen, **parameters}, args, kwargs)
        raw = getattr(raw, "logits", raw)  # Hugging Face models return a named tuple
        if not isinstance(raw, Tensor):
            raise ModelError(
                f"The model returned {type(raw).__name__}; expected a tensor [batch, outputs]. "
                "Wrap it in a module that returns the logits."
            )
        if raw.dim() == 1:
            raw = raw[:, None]
        if raw.dim() != 2:
            raise ModelError(
                f"The model returned shape {list(raw.shape)}; expected [batch, outputs], one prediction an "
                "example. Wrap it in a module that flattens or pools the rest."
            )
        return raw

    def is_affine(self, inputs: Any) -> bool:
        """Whether these outputs are affine in the parameters, as a last layer's are: twice the step, twice the change.

        Tried along one random direction v as long as θ.
        """
        generator = torch.Generator().manual_seed(0)

        def moved(by: float) -> Tensor:
            generator.manual_seed(0)
            return self.outputs(
                {
                    name: value
                    + by
                    * (float(value.detach().norm()) + 1.0)
                    / value.numel() ** 0.5
                    * torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
                    for name, value in self.parameters.items()
                },
                inputs,
            )

        with torch.no_grad():
            start, once, twice = moved(0.0), moved(1.0), moved(2.0)
        size = float((twice - start).abs().max())
        return float((twice - 2 * once + start).abs().max()) <= 1e4 * torch.finfo(self.dtype).eps * size

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the chosen parameters' names, shapes and values."""
        digest = hashlib.sha256()
        for name, value in self.parameters.items():
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def nothing_moves(self) -> ModelError:
        """The error for gradients that are all zero."""
        return ModelError(
            f"Every gradient is zero: the loss of no example moves with {', '.join(self.parameters)}. "
            "Choose parameters that the output depends on (is there a .detach(), or a layer that is not used?)."
        )

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run the model in evaluation mode; give it and the random state back as they were."""
        training = {module: module.training for module in self.model.modules()}
        devices = [self.device] if self.device.type == "cuda" else []
        # Attention's fused inference path takes nested tensors, which cannot be differentiated.
        fused = torch.backends.mha.get_fastpath_enabled()
        with torch.random.fork_rng(devices=devices):
            try:
                self.model.eval()
                torch.backends.mha.set_fastpath_enabled(False)
                yield
            finally:
                torch.backends.mha.set_fastpath_enabled(fused)
                # Not model.train(): modules may stand in different modes.
                for module, mode in training.items():
                    module.training = mode


def make_objective(
    model: nn.Module,
    loss: LossLike = "cross_entropy",
    parameters: ParameterChoice = None,
    device: torch.device | str | None = None,
) -> Objective:
    """Snapshot a model for scoring.

    Raises:
        ModelError: Not a module, no parameter chosen, a weight that is NaN or
            infinite, or normalisation that depends on the rest of the batch.
        ChoiceError: `parameters` or `loss` names nothing.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model is {type(model).__name__}; expected a torch.nn.Module.")
    chosen = _chosen_names(model, parameters)
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ModelError(
                f"{type(module).__name__} {name!r} has no running statistics, so one example's loss depends "
                "on the rest of its batch. Use track_running_stats=True, GroupNorm or LayerNorm."
            )
    values = {
        name: _snapshot(value, device) for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    for name, value in values.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ModelError(f"Weight {name!r} holds NaN or infinity. Did training diverge?")
    if values[chosen[0]].device.type == "mps":
        raise ModelError(
            "The model is on an MPS device, which has no float64; curvatures and normalizers need it. "
            'Pass device="cpu": the model itself stays where it is.'
        )
    return Objective(
        model=model,
        loss=as_loss(loss),
        parameters={name: values[name] for name in chosen},
        frozen={name: value for name, value in values.items() if name not in chosen},
    )


def module_of(parameter: str) -> str:
    """The module that owns a parameter, by their names.

    >>> module_of("net.fc.weight"), module_of("conv.parametrizations.weight.original0")
    ('net.fc', 'conv')
    """
    module, parametrised, _ = parameter.partition(".parametrizations.")
    return module if parametrised else parameter.rpartition(".")[0]


def _chosen_names(model: nn.Module, parameters: ParameterChoice) -> list[str]:
    named = dict(model.named_parameters())
    if parameters is None:
        chosen = [name for name, value in named.items() if value.requires_grad]
        if not chosen:
            raise ModelError(
                f"None of the model's {len(named)} parameters requires a gradient. "
                "Name those to score: parameters=['fc.weight', 'fc.bias'] or parameters='fc'."
            )
        return chosen
    if isinstance(parameters, nn.Module):
        owned = {id(value) for value in parameters.parameters()}
        chosen = [name for name, value in named.items() if id(value) in owned]
        if not chosen:
            raise ChoiceError("parameters= is a module, but none of its parameters belongs to the model.")
        return chosen
    if callable(parameters):
        chosen = [name for name, value in named.items() if parameters(name, value)]
        if not chosen:
            raise ChoiceError(f"parameters= chose none of {', '.join(named) or 'no parameters'}.")
        return chosen
    if not isinstance(parameters, (str, Sequence)):
        raise ChoiceError(
            f"parameters={parameters!r}; expected a module or its name, a list of names, or a predicate "
            "(name, parameter) -> bool."
        )
    wanted = [parameters] if isinstance(parameters, str) else list(parameters)
    if not wanted:
        raise ChoiceError(f"parameters=[] chooses nothing; the model has {', '.join(named)}.")
    chosen = []
    for want in wanted:
        found = [name for name in named if name == want or name.startswith(f"{want}.")]
        if not found:
            modules = [name for name, _ in model.named_modules() if name]
            raise unknown_name("parameters", want, [*modules, *named])
        chosen += [name for name in found if name not in chosen]
    return [name for name in named if name in chosen]


def _snapshot(value: Tensor, device: torch.device | str | None) -> Tensor:
    copied = value.detach().clone()
    if copied.dtype in (torch.float16, torch.bfloat16):
        copied = copied.float()  # sums of squared half-precision gradients overflow
    if device is None:
        return copied
    try:
        return copied.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ChoiceError(f"device={device!r} cannot be used here: {str(error).splitlines()[0]}") from None


def _call_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def _first_non_integer(targets: Tensor) -> float:
    return float(targets[targets != targets.round()].reshape(-1)[0])


def _like(value: Tensor | None, outputs: Tensor) -> Tensor | None:
    return None if value is None else value.detach().to(outputs)
