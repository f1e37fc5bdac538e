"""The index: the training set's rotated gradients and normalizers, in memory.

Fit once, then every damping is a reweighting of what is stored here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from . import scores
from .curvature import Eigenbasis
from .errors import ModelError

RelativeMethod = Literal["influence", "theta_relative", "loss_relative"]


@dataclass(frozen=True)
class Index:
    """Rotated rows of the training set.

    Attributes:
        basis: The eigenbasis that the rows are in.
        rows: c_i = Qᵀ g_i, [train, dim], in the model's dtype.
    """

    basis: Eigenbasis
    rows: Float[Tensor, "train dim"]
    _norms: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)

    def prepare(self, dampings: Sequence[float]) -> None:
        """Compute both normalizers for these dampings in one pass over the rows."""
        missing = sorted({self._key(damping) for damping in dampings} - self._norms.keys())
        if not missing:
            return
        weights = self.weights(missing)
        theta = scores.preconditioned_norm(self.rows, weights)
        own = scores.self_influence(self.rows, weights)
        for position, damping in enumerate(missing):
            self._norms[damping] = (theta[position], own[position])

    def weights(self, dampings: Sequence[float]) -> Float[Tensor, "stop dim"]:
        """1/(Λ+λ) in float64, a row per damping."""
        stops = torch.tensor(dampings, dtype=torch.float64, device=self.rows.device)
        return self.basis.weights(stops, self.rows.shape[1])

    def self_influence(self, dampings: Sequence[float]) -> Float[Tensor, "stop train"]:
        """I_i,i, the squared denominators of Definition 3.4, float64."""
        self.prepare(dampings)
        return torch.stack([self._norms[self._key(damping)][1] for damping in dampings])

    def influence(
        self,
        queries: Float[Tensor, "query dim"],
        dampings: Sequence[float],
        step: int | None = None,
    ) -> Iterator[tuple[slice, Float[Tensor, "query stop part"]]]:
        """Influence on rotated query gradients at all dampings, in one pass over the rows.

        Args:
            queries: Rotated query gradients.
            dampings: The stops.
            step: Training rows per part; by default parts of about 64 MB.

        Yields:
            The slice of the training set, and the scores of that part.
        """
        weights = self.weights(dampings).to(self.rows.dtype)
        if step is None:
            columns = max(self.rows.shape[1], len(queries) * len(dampings))
            step = max(1, (1 << 23) // columns)
        for start in range(0, len(self.rows), step):
            part = slice(start, min(start + step, len(self.rows)))
            yield part, scores.influence(queries, self.rows[part], weights)

    def relative(
        self,
        method: RelativeMethod,
        influence: Float[Tensor, "... part"],
        damping: float,
        part: slice,
    ) -> Float[Tensor, "... part"]:
        """Turn influence at one damping into the score of `method`, for one part of the training set."""
        if method == "influence":
            return influence
        self.prepare([damping])
        theta, own = self._norms[self._key(damping)]
        if method == "theta_relative":
            return scores.theta_relative(influence, theta[part]).to(influence.dtype)
        worst = int(own.argmin())
        if float(own[worst]) < 0:
            raise ModelError(
                f"Self-influence of training example {worst} is {float(own[worst]):.3g} at damping {damping:g}, and "
                f"loss_relative needs its root: the {self.basis.detail} is indefinite there. {self.basis.remedy}"
            )
        return scores.loss_relative(influence, own[part]).to(influence.dtype)

    def _key(self, damping: float) -> float:
        return damping if self.basis.damped else 1.0  # the identity has one normalizer for all
