"""The k-NN baseline: nearness in input space, which knows nothing of the model (Section 4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from . import scores
from .errors import DataError


@dataclass(frozen=True)
class Neighbors:
    """The training inputs, flattened.

    Attributes:
        inputs: [train, feature].
    """

    inputs: Float[Tensor, "train feature"]

    def score(self, queries: Any) -> Float[Tensor, "query train"]:
        """Minus the squared Euclidean distance, so that larger is nearer; float64.

        Args:
            queries: A batch of inputs like the training inputs.
        """
        flat = flatten_inputs(queries)
        if flat.shape[1] != self.inputs.shape[1]:
            raise DataError(
                f"The query has {flat.shape[1]} values and the training inputs {self.inputs.shape[1]}: there is no "
                "distance between them. Bring it to the size that the model was trained on."
            )
        parts = torch.split(self.inputs, max(1, (1 << 23) // max(1, self.inputs.shape[1])))
        return -torch.cat([scores.squared_distance(flat, part) for part in parts], dim=1)


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
