"""The k-NN baseline: nearness in input space, which knows nothing of the model (Section 4.3), or in its features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from . import scores
from .data import batch_length
from .errors import DataError, ModelError
from .objective import Objective

MARGIN = 60
"""How many more than asked for are compared exactly."""


@dataclass(frozen=True)
class Features:
    """What the model makes of an input: that which its last layer sees.

    Attributes:
        objective: The model.
        layer: Name of its last layer.
    """

    objective: Objective
    layer: str

    def of(self, inputs: Any) -> Float[Tensor, "batch feature"]:
        """The features of a batch of inputs; the model is in evaluation mode."""
        return run_last(self.objective, inputs).inputs


@dataclass(frozen=True)
class Unkept:
    """Training inputs that there was no room to keep: each question reads them anew.

    Attributes:
        read: Gives them from the first on, flattened, some at a time.
        shape: Of all of them together, [train, feature].
    """

    read: Callable[[], Iterator[Float[Tensor, "part feature"]]]
    shape: tuple[int, int]


@dataclass(frozen=True)
class Neighbors:
    """Where the training examples lie.

    Attributes:
        inputs: Training inputs, flattened, or their features, [train, feature].
        features: How the features of a query are found; None in input space.
    """

    inputs: Float[Tensor, "train feature"] | Unkept
    features: Features | None = None

    def reach(self, queries: Any) -> bool:
        """Whether these queries lie in the same space, so that there is a distance."""
        if self.features is not None:
            return True
        return isinstance(queries, Tensor) and queries[0].numel() == self.inputs.shape[1]

    def score(
        self, queries: Any, progress: Callable[[float], None] = lambda done: None
    ) -> Float[Tensor, "query train"]:
        """Minus the squared Euclidean distance, so that larger is nearer; float64.

        Args:
            queries: A batch of inputs like the training inputs.
            progress: Called with the fraction done; what it raises stops the work.
        """
        return torch.cat([part for _, part in self._scored(self._flat(queries), progress)], dim=1)

    def top(
        self, queries: Any, k: int, progress: Callable[[float], None] = lambda done: None
    ) -> tuple[Int[Tensor, "query k"], Float[Tensor, "query k"]]:
        """The k nearest of every query and their `score`, as `scores.top_k` lists them.

        Distances in the inputs' own precision make a shortlist; that nobody outside can be
        nearer is checked for each query, and where it cannot be said all are compared.
        """
        flat, keep = self._flat(queries), k + MARGIN
        if not isinstance(self.inputs, Tensor) or flat.dtype == torch.float64 or 2 * keep > len(self.inputs):
            return self._compared(flat, k, progress)
        # ‖x_i‖² − 2 q·x_i, off by no more than n u |q||x_i| in the product and as much in the sum.
        squares = self._squares
        near = torch.addmm(squares, flat, self.inputs.T, alpha=-2)
        values, rows = near.topk(keep, dim=1, largest=False)
        rows = rows.sort(1).values
        exact = torch.cat(
            [
                -scores.squared_distance(query[None], self.inputs[own])
                for query, own in zip(flat, rows, strict=True)
            ]
        )
        places, found = scores.top_k(exact, k)
        indices = rows.gather(1, places)
        length = flat.double().square().sum(1)
        longest = float(squares.max().sqrt())
        share = 4 * flat.shape[1] * torch.finfo(flat.dtype).eps
        slack = share * longest * (length.sqrt() + longest)
        outside = -(values[:, -1].double() + length - slack)
        for query in torch.nonzero(found[:, -1] <= outside)[:, 0].tolist():
            indices[query], found[query] = (one[0] for one in self._compared(flat[query : query + 1], k))
        return indices, found

    def _compared(
        self,
        flat: Float[Tensor, "query feature"],
        k: int,
        progress: Callable[[float], None] = lambda done: None,
    ) -> tuple[Int[Tensor, "query k"], Float[Tensor, "query k"]]:
        """The k nearest, all of them compared in float64."""
        running = scores.Running(k, "positive")
        for first, score in self._scored(flat, progress):
            running.add(first, score)
        return running.best

    def _scored(
        self, flat: Float[Tensor, "query feature"], progress: Callable[[float], None]
    ) -> Iterator[tuple[int, Float[Tensor, "query part"]]]:
        """Minus the squared distances of some training examples after the other, with the first one's row."""
        first = 0
        for part in self._parts():
            yield first, -scores.squared_distance(flat, part)
            first += len(part)
            progress(first / self.inputs.shape[0])

    def _flat(self, queries: Any) -> Float[Tensor, "query feature"]:
        flat = flatten_inputs(queries) if self.features is None else self.features.of(queries)
        if flat.shape[1] != self.inputs.shape[1]:
            raise DataError(
                f"The query has {flat.shape[1]} values and the training inputs {self.inputs.shape[1]}: there is no "
                "distance between them. Bring it to the size that the model was trained on."
            )
        return flat

    def _parts(self) -> Iterable[Tensor]:
        if not isinstance(self.inputs, Tensor):
            return self.inputs.read()
        return torch.split(self.inputs, max(1, (1 << 23) // max(1, self.inputs.shape[1])))

    @cached_property
    def _squares(self) -> Float[Tensor, "train"]:
        """‖x_i‖²."""
        assert isinstance(self.inputs, Tensor)
        return scores.squared_lengths(self.inputs).to(self.inputs.dtype)


def find_features(objective: Objective, inputs: Any) -> Features:
    """The space of the last layer's inputs.

    Raises:
        ModelError: No Linear or convolution gives the model's output, or it sees no row per example.
    """
    return Features(objective, run_last(objective, inputs).layer)


class Last(NamedTuple):
    """A model's last layer while it ran.

    Attributes:
        layer: Its name.
        inputs: What went into it, flattened to rows.
        outputs: What the model gave in the end.
    """

    layer: str
    inputs: Float[Tensor, "batch feature"]
    outputs: Float[Tensor, "batch output"]


def run_last(objective: Objective, inputs: Any) -> Last:
    """Run a model, and look at the last Linear or convolution that a batch goes through.

    Raises:
        ModelError: There is none, or what goes in is not one row per example.
    """
    last: list[tuple[str, Tensor]] = []
    handles = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            last[:] = [(name, args[0] if args else kwargs["input"])]

        return hook

    try:
        for name, module in objective.model.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                handles.append(module.register_forward_pre_hook(note(name), with_kwargs=True))
        with torch.no_grad():
            outputs = objective.outputs(objective.parameters, inputs)
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        raise ModelError(
            'space="features" compares what the last Linear or convolution sees, and this model runs none. '
            'Use space="inputs".'
        )
    name, value = last[0]
    if len(value) != batch_length(inputs):
        raise ModelError(
            f'space="features" compares what the last layer, {name!r}, sees; that has {len(value)} rows for '
            f'{batch_length(inputs)} examples. Use space="inputs".'
        )
    return Last(name, value.detach().flatten(1), outputs)


def flatten_inputs(inputs: Any) -> Float[Tensor, "batch feature"]:
    """A batch of inputs as rows.

    Raises:
        DataError: The inputs are not one tensor, so they have no input space.
    """
    if not isinstance(inputs, Tensor):
        raise no_input_space(inputs)
    flat = inputs.flatten(1)
    return flat if flat.is_floating_point() else flat.float()


def no_input_space(inputs: Any) -> DataError:
    """The error for a question about distances where there are none."""
    seen = (
        "of different lengths"
        if isinstance(inputs, Tensor)
        else f"a {type(inputs).__name__} of several tensors"
    )
    return DataError(
        f"nearest needs inputs that are one tensor each, all of one shape; these are {seen}. "
        "Use influence, theta_relative or loss_relative."
    )
