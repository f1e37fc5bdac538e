"""A model with its training set: batches ready to differentiate, checked on the way in."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .curvature import Curvature
from .data import Batch, Fingerprint, Source, ahead, fit_inputs, map_tensors, transferred
from .errors import ChoiceError, DataError, ModelError, RelatifError, one_of
from .gradients import GradientBatch, Plan, forward, make_plan
from .neighbors import Features, find_features
from .objective import Objective

Label = str | int | float

BATCH = 256
FORWARD_BYTES = 512 << 20
WHOLE = Plan()


@dataclass(frozen=True)
class Task:
    """What the user attached.

    Attributes:
        objective: Model, loss and chosen parameters.
        source: The training set.
        outputs: Number of model outputs.
        class_names: One per class; empty in a regression.
        example: Shapes of one input, without the batch dimension.
        target: The first training target, as the data set gives it.
        plan: How gradients are taken.
    """

    objective: Objective
    source: Source
    outputs: int
    class_names: tuple[str, ...]
    example: Any
    target: Tensor
    plan: Plan
    # functional_call swaps tensors on the user's module while it runs.
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    # What was made of this task and will be wanted again. A `replace`d task starts with nothing.
    derived: dict[str, Task] = field(init=False, default_factory=dict, repr=False, compare=False)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Hold the model alone, in evaluation mode."""
        with self._lock, self.objective.evaluating():
            yield

    def batches(
        self, source: Source, size: int, digest: Fingerprint | None = None
    ) -> Iterator[GradientBatch]:
        """A data set as batches on the model's device, inputs and targets checked.

        What has to be read item by item, or moved to a GPU, is so while the batch before is worked on.

        Args:
            source: The data set.
            size: Examples a batch.
            digest: Takes in what was read, in the model's precision.

        Raises:
            DataError: NaN or infinite inputs, labels outside the outputs (with the index).
        """
        device = self.objective.device
        raw = source.batches(size)
        found = self._found(source, raw if source.in_memory() is not None else ahead(raw), digest)
        if device.type == "cuda":
            found = transferred(found, device)
        return self._there(found)

    def _there(self, found: Iterator[Batch]) -> Iterator[GradientBatch]:
        """What was found, on the model's device."""
        device = self.objective.device
        for first, inputs, targets in found:
            yield self.query(map_tensors(lambda value: value.to(device), inputs), targets.to(device), first)

    def _found(
        self, source: Source, raw: Iterator[tuple[int, Any, Tensor | None]], digest: Fingerprint | None
    ) -> Iterator[Batch]:
        """What was read, checked, where it lies."""
        for first, raw_inputs, raw_targets in raw:
            inputs = fit_inputs(raw_inputs, self.objective.dtype, None, source.name, first)
            if raw_targets is None:
                raise DataError(f"{source.name} has no targets; expected pairs (input, target).")
            targets = _targets(self.objective, self.outputs, raw_targets, source.name, first)
            if digest is not None:
                digest.add(inputs, targets)
            yield first, inputs, targets

    def some(self, rows: Sequence[int], size: int) -> Iterator[GradientBatch]:
        """Some examples of the training set, in the given order."""
        parts = (rows[start : start + size] for start in range(0, len(rows), size))
        raw = ((part[0], *self.source.batch(part)) for part in parts)
        return self._there(self._found(self.source, raw, None))

    def forward_chunk(self) -> int:
        """Examples a batch where no per-example gradient is formed."""
        return max(1, min(BATCH, FORWARD_BYTES // max(1, self.plan.activations)))

    def features(self) -> Features:
        """What the last layer sees, as a space for k-NN.

        Raises:
            ModelError: There is no such layer.
        """
        raw, _ = self.source.batch(range(min(2, self.source.length)))
        with self.evaluating():
            return find_features(self.objective, self.inputs(raw, self.source.name))

    def query(self, inputs: Any, targets: Tensor, first: int = 0) -> GradientBatch:
        """Queries as a batch."""
        return GradientBatch(self.objective, inputs, targets, first, self.plan)

    def inputs(self, inputs: Any, name: str, first: int = 0) -> Any:
        """A batch of inputs on the model's device, finite and in its dtype."""
        return fit_inputs(inputs, self.objective.dtype, self.objective.device, name, first)

    def targets(self, targets: Tensor, name: str, first: int = 0) -> Tensor:
        """Targets as the loss wants them, on the model's device."""
        return _targets(self.objective, self.outputs, targets, name, first).to(self.objective.device)

    def forward(self, inputs: Any) -> Float[Tensor, "batch output"]:
        """The model's outputs.

        Raises:
            DataError: The model does not take these inputs.
        """
        return _forward(self.objective, inputs, self.plan)

    def classes(self, targets: Tensor) -> Int[Tensor, "batch"]:
        """The class that each target stands for."""
        return targets.reshape(len(targets), -1)[:, 0].round().long()

    def class_index(self, label: Label) -> int:
        """The class of a name or an index.

        Raises:
            ChoiceError: There is no such class (with the nearest name).
        """
        names = self.class_names
        if isinstance(label, str):
            try:
                return names.index(one_of("label", label, names))
            except ChoiceError as error:
                if names != tuple(map(str, range(len(names)))):
                    raise
                raise ChoiceError(
                    f"{error} The classes have no names yet: Explainer(..., class_names=[...]) gives them some."
                ) from None
        if isinstance(label, bool) or int(label) != label or not 0 <= label < len(names):
            raise ChoiceError(
                f"label={label} is outside the model's {len(names)} classes; expected 0 to {len(names) - 1}."
            )
        return int(label)

    def query_targets(self, labels: Any, count: int, name: str = "labels") -> Tensor:
        """One target per query, from class names, indices or values."""
        plain = [self.class_index(label) if isinstance(label, str) else label for label in as_labels(labels)]
        if len(plain) != count:
            raise DataError(f"{len(plain)} {name} for {count} queries; expected one target per query.")
        try:
            values = torch.as_tensor(np.asarray(plain))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{name}={labels!r} are no targets ({error}); expected class names or indices, or numbers."
            ) from None
        return self.targets(values, name)

    def target_of(self, label: Any) -> Tensor:
        """A value as a batch of one target, shaped like the training targets.

        Raises:
            DataError: It is not shaped like them.
        """
        like = self.target
        try:
            value = torch.as_tensor(np.asarray(label)).to(like.dtype).reshape(like.shape)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"target={label!r} is not like the training targets of shape {list(like.shape)} ({error})."
            ) from None
        return self.targets(value[None], "target")

    def check_query(self, inputs: Any, *, single: bool) -> None:
        """Catch a missing or an extra batch dimension before the model does.

        Raises:
            DataError: `inputs` [batch, ...] is not like the training inputs.
        """
        if not (isinstance(inputs, Tensor) and isinstance(self.example, list)):
            return
        if inputs.dim() == len(self.example) + 1:
            return  # another size, which the model may take; k-NN will say what it cannot
        if single:
            raise DataError(
                f"query has shape {list(inputs.shape[1:])}; expected one example like the training inputs, "
                f"{self.example}, as in test_set[7][0]."
            )
        raise DataError(
            f"queries has shape {list(inputs.shape)}; expected a batch {['query', *self.example]}. "
            "For one example pass x[None]."
        )


def attach(
    objective: Objective,
    source: Source,
    class_names: Sequence[str] | Mapping[int, str] | None,
    curvature: Curvature,
) -> Task:
    """Send the first examples all the way through, so that faults show before the long work.

    Raises:
        DataError: The data are empty, not finite, unstable between two passes, or
            not what model and loss take.
        ModelError: The outputs are no [batch, outputs], or the loss is not per
            example or has no curvature.
        ChoiceError: The number of class names is wrong.
    """
    source.probe()
    rows = sorted({0, source.length // 2, source.length - 1})
    raw_inputs, raw_targets = source.batch(rows)
    if raw_targets is None:
        raise DataError("train_set has no targets; expected pairs (input, target).")
    all_targets = raw_targets
    everything = source.in_memory()
    if everything is not None:
        fit_inputs(everything[0], objective.dtype, torch.device("cpu"), source.name, 0)
        all_targets = everything[1]
    with objective.evaluating():
        inputs = fit_inputs(raw_inputs, objective.dtype, objective.device, source.name, 0)
        outputs = _forward(objective, inputs)
        if len(outputs) != len(rows):
            raise ModelError(
                f"The model returned {len(outputs)} predictions for {len(rows)} examples; expected one each."
            )
        _check_independence(objective, inputs, outputs)
        _warn_of_probabilities(objective, outputs)
        width = outputs.shape[1]
        _targets(objective, width, all_targets, source.name, 0)
        targets = _targets(objective, width, raw_targets, source.name, 0).to(objective.device)
        objective.loss.per_example(outputs, targets)
        plan = make_plan(objective, inputs, outputs)
        batch = GradientBatch(objective, inputs, targets, 0, plan)
        _ = batch.loss_slopes  # a loss that cannot be differentiated shows here
        curvature.check(batch, source.length)
    return Task(
        objective=objective,
        source=source,
        outputs=width,
        class_names=_names(objective, width, class_names, source.class_names),
        example=map_tensors(lambda x: list(x.shape[1:]), inputs),
        target=raw_targets[0],
        plan=plan,
    )


def value_text(target: Tensor) -> str:
    """A target of a regression in words."""
    return ", ".join(f"{value:.6g}" for value in target.reshape(-1).tolist())


def as_labels(labels: Any) -> list[Any]:
    """One label or several, as a list of plain Python values (or of lists of them)."""
    if isinstance(labels, (str, int, float)):
        return [labels]
    if hasattr(labels, "tolist"):  # tensors, arrays, and their scalars
        labels = labels.tolist()
        return labels if isinstance(labels, list) else [labels]
    if not isinstance(labels, Iterable):
        raise ChoiceError(f"labels={labels!r}; expected class names or indices, or target values.")
    return [label.tolist() if hasattr(label, "tolist") else label for label in labels]


def _forward(objective: Objective, inputs: Any, plan: Plan = WHOLE) -> Tensor:
    try:
        return forward(objective, inputs, plan)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, RelatifError):
            raise
        shapes = map_tensors(lambda x: list(x.shape), inputs)
        kinds = map_tensors(lambda x: str(x.dtype).removeprefix("torch."), inputs)
        raise DataError(
            f"The model does not take inputs of shape {shapes} and type {kinds}: {error}. Pass the data set with "
            "the transform that the model was trained with, or collate_fn=."
        ) from error


def _check_independence(objective: Objective, inputs: Any, outputs: Tensor) -> None:
    """Per-example gradients need outputs that neither chance nor the rest of the batch decides.

    Raises:
        ModelError: A second run, or a run alone, gives other outputs.
    """
    tolerance = 1e-3 * float(outputs.abs().max()) + 1e-5
    if float((_forward(objective, inputs) - outputs).abs().max()) > tolerance:
        raise ModelError(
            "The model's outputs differ between two runs on the same inputs, in evaluation mode too. "
            "Switch off what is random: F.dropout(x, training=self.training), not F.dropout(x)."
        )
    alone = _forward(objective, map_tensors(lambda x: x[:1], inputs))
    if alone.shape[1:] != outputs.shape[1:] or float((alone - outputs[:1]).abs().max()) > tolerance:
        raise ModelError(
            "The model's output for an example depends on the rest of its batch, so there is no per-example loss. "
            "Look for statistics over dimension 0, such as x - x.mean(0)."
        )


def _warn_of_probabilities(objective: Objective, outputs: Tensor) -> None:
    """A softmax before a loss that takes logits is nearly always a slip, of the model's training too."""
    sums = outputs.sum(1)
    if (
        objective.loss.name == "cross_entropy"
        and len(outputs) > 1
        and bool((outputs >= 0).all())
        and float((sums - 1).abs().max()) < 1e-4
    ):
        warnings.warn(
            "The model's outputs sum to 1 for every example, as after a softmax, and cross_entropy takes logits. "
            "If the model was trained with another loss, return its logits, or pass that loss: "
            "loss=lambda p, y: -p.gather(1, y[:, None])[:, 0].log().",
            stacklevel=4,
        )


def _targets(objective: Objective, outputs: int, targets: Tensor, name: str, first: int) -> Tensor:
    try:
        targets = objective.loss.as_targets(targets, outputs)
    except DataError as error:
        message = re.sub(
            r"at position (\d+)", lambda found: f"of example {first + int(found[1])}", str(error)
        )
        raise DataError(f"{name}: {message}") from None
    return targets.to(objective.dtype) if targets.is_floating_point() else targets


def _names(
    objective: Objective,
    outputs: int,
    given: Sequence[str] | Mapping[int, str] | None,
    found: Sequence[str] | None,
) -> tuple[str, ...]:
    count = objective.loss.class_count(outputs)
    if count is None:
        return ()
    if isinstance(given, Mapping):
        if sorted(given) != list(range(count)):
            raise ChoiceError(
                f"class_names has the keys {list(given)}; expected the class indices 0 to {count - 1}."
            )
        given = [given[label] for label in range(count)]
    if isinstance(given, str) or (given is not None and not hasattr(given, "__len__")):
        raise ChoiceError(f"class_names={given!r}; expected a list of {count} names.")
    if given is not None and len(given) != count:
        raise ChoiceError(
            f"class_names has {len(given)} names; the model has {count} classes. Give one name each."
        )
    # A folder's name may hold what no JSON text can: half a surrogate pair.
    names = tuple(
        str(name).encode("utf-8", "replace").decode() for name in (found or () if given is None else given)
    )
    if len(names) != count:
        return tuple(str(label) for label in range(count))
    if len(set(names)) != count:  # labels are asked for by name, so names must differ
        return tuple(
            f"{name} ({label})" if names.count(name) > 1 else name for label, name in enumerate(names)
        )
    return names
