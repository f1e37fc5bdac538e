"""Over which labels a Fisher takes its expectation, for curvatures that see it through rows δᵀ ∂f/∂θ.

For every example Σ_row δδᵀ is E_y ∇²_f ℓ, or an unbiased estimate of it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import one_of
from ..gradients import GradientBatch

FisherLabels = Literal["sample", "rademacher", "exact", "empirical"]


EXACT_ROWS = 200_000
"""Examples × outputs up to which all labels are worth their while."""

EXACT_NUMBERS = 500_000_000
"""The same times parameters, for a curvature that multiplies with whole rows."""

FEW = 2048
"""Examples of which one draw each would not span what is to be found."""


class Labels:
    """Slopes of the outputs, the same in every pass and whatever the batch size.

    - "sample": the gradient at one label drawn from the model, as is usual.
    - "rademacher": Bᵀs with random signs s, where BᵀB is the exact expectation: the
      gradients of all labels in one random combination. It costs what one drawn label
      costs and its variance is far smaller where the model is confident, because
      there a drawn label is nearly always the same one, with hardly any gradient.
    - "exact": B itself, a row per output.
    - "empirical": the gradient at the training label.

    Args:
        kind: One of these; None for "exact" where that is cheap (n × outputs to 200,000), and
            `drawn` otherwise. Of few examples a single draw each knows little: no more
            directions than examples.
        drawn: What None means for many examples.
        seed: Of the drawing.
        whole: Whether the curvature multiplies with whole rows. Then n × outputs × P counts as
            well, to 500 million, from 2,048 examples on.
    """

    def __init__(
        self, kind: FisherLabels | None, drawn: FisherLabels, seed: int = 0, *, whole: bool = False
    ) -> None:
        if kind is not None:
            one_of("fisher_labels", kind, get_args(FisherLabels))
        self._asked, self._drawn = kind, drawn
        self.kind: FisherLabels = drawn if kind is None else kind
        self.seed = seed
        self._whole = whole

    @property
    def exact(self) -> bool:
        """Whether every example has a row for every output."""
        return self.kind == "exact"

    def begin_pass(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)

    def slopes(self, batch: GradientBatch) -> Float[Tensor, "batch row output"]:
        """δ for every example of a batch.

        Raises:
            ModelError: The loss has no known likelihood.
        """
        if self.kind == "empirical":
            batch.check(batch.loss_slopes, "The slope of the loss")
            return batch.loss_slopes[:, None]
        loss, outputs = batch.objective.loss, batch.outputs
        if self.kind == "exact":
            return loss.curvature_factor(outputs)
        # float64 on the CPU: one stream of numbers whatever the device, dtype or batch size
        shape = (len(outputs), outputs.shape[1])
        uniform = torch.rand(shape, generator=self._generator, dtype=torch.float64).clamp_(min=1e-12)
        if self.kind == "sample":
            return loss.label_gradient(outputs, uniform.to(outputs))[:, None]
        signs = torch.where(uniform < 0.5, -1.0, 1.0).to(outputs)
        return torch.einsum("bf,bfo->bo", signs, loss.curvature_factor(outputs))[:, None]

    def check(self, batch: GradientBatch, count: int) -> None:
        """Decide what None means for n = `count` examples; refuse a loss without a likelihood."""
        if self._asked is None:
            rows = count * batch.outputs.shape[1]
            dear = self._whole and count >= FEW and rows * batch.objective.size > EXACT_NUMBERS
            self.kind = "exact" if rows <= EXACT_ROWS and not dear else self._drawn
        if self.kind != "empirical":
            batch.objective.loss.curvature_factor(batch.outputs)

    @property
    def detail(self) -> str:
        """In words."""
        return {
            "sample": "over one label drawn for each example",
            "rademacher": "over one random mixture of all labels for each example",
            "exact": "over all labels",
            "empirical": "at the training labels",
        }[self.kind]
