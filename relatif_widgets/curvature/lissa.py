"""LiSSA: s_test = (H+λI)⁻¹ g_test by a recursion over Hessian-vector products of batches.

Agarwal, Bullins & Hazan (2017), as Koh & Liang (2017) use it and Appendix C of the
paper after them. With a scale σ above half the largest eigenvalue,

    h_0 = g_test        h_j = g_test + h_{j−1} − (H_b + λI) h_{j−1} / σ

on one random batch b after the other tends to σ (H+λI)⁻¹ g_test. Nothing of size P×P
or n×P is formed. There is no eigenbasis: the recursion runs anew for every query
and damping, and the normalizers of the two relative criteria come from EK-FAC.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ChoiceError, ModelError, one_of
from ..gradients import GradientBatch, Plan, fisher_products, hessian_products
from .base import Curvature, Eigenbasis, Held, Rotation, Setting
from .kronecker import EKFAC

Matrix = Literal["hessian", "fisher"]

WINDOW = 50
"""Steps whose mean is the estimate: the last iterates scatter with the batches."""


@dataclass(frozen=True)
class Convergence:
    """How a recursion ended.

    Attributes:
        steps: Batches of each repeat.
        scale: σ.
        error: Estimated relative error: how far the mean of the last steps still moved, extrapolated.
        spread: Relative distance of the repeats from their mean, 0 for a single one.
        converged: Whether `error` came below the tolerance.
    """

    steps: int
    scale: float
    error: float
    spread: float
    converged: bool

    def __str__(self) -> str:
        state = "converged" if self.converged else "NOT converged"
        error = f"estimated error {self.error:.1e}" if math.isfinite(self.error) else "no error estimated"
        spread = f", spread of repeats {self.spread:.1e}" if self.spread else ""
        return f"{state} after {self.steps:,} steps (scale {self.scale:.3g}, {error}{spread})"


class Lissa:
    """LiSSA in place of an eigenbasis.

    Args:
        matrix: "hessian" of the training loss, as in the papers, or "fisher" (over the
            model's own labels), which is never indefinite.
        batch_size: Examples of one Hessian-vector product.
        steps: Most steps of one recursion.
        tolerance: Relative error at which a recursion stops.
        repeats: Recursions with other batches, averaged.
        scale: σ; by default 1.5 × the largest eigenvalue met by power iteration, plus λ.
        normalizers: Where the denominators of the relative criteria come from; EK-FAC by default.
        seed: Of the batches.
    """

    name = "lissa"

    def __init__(
        self,
        *,
        matrix: Matrix = "hessian",
        batch_size: int = 64,
        steps: int = 10_000,
        tolerance: float = 0.01,
        repeats: int = 2,
        scale: float | None = None,
        normalizers: Curvature | None = None,
        seed: int = 0,
    ) -> None:
        counts: list[tuple[str, Any]] = [("batch_size", batch_size), ("steps", steps), ("repeats", repeats)]
        for option, value in counts:
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ChoiceError(f"{option}={value!r}; expected a whole number, at least 1.")
        if not tolerance > 0:
            raise ChoiceError(f"tolerance={tolerance!r}; expected a relative error above 0, such as 0.01.")
        if scale is not None and not scale > 0:
            raise ChoiceError(f"scale={scale!r}; expected a number above 0.")
        self.matrix = one_of("matrix", matrix, ("hessian", "fisher"))
        self.batch_size, self.steps, self.tolerance = batch_size, steps, tolerance
        self.repeats, self.scale, self.seed = repeats, scale, seed
        if not (normalizers is None or isinstance(normalizers, Curvature)):
            raise ChoiceError(f"normalizers={normalizers!r}; expected a curvature object, such as EKFAC().")
        self._default = normalizers is None
        self.normalizers: Curvature = EKFAC() if normalizers is None else normalizers
        self.convergence: Convergence | None = None

    # The normalizers are another curvature's, fitted as usual.

    @property
    def passes(self) -> int:
        return self.normalizers.passes

    @property
    def uses_jacobian(self) -> bool:
        return self.normalizers.uses_jacobian

    def check(self, batch: GradientBatch, count: int) -> None:
        if self._default and self.matrix == "hessian":
            try:
                batch.objective.loss.curvature_factor(batch.outputs)
            except ModelError:  # the Hessian needs no likelihood, so neither shall its normalizers
                self.normalizers = EKFAC("empirical")
        self.normalizers.check(batch, count)
        if self.matrix == "fisher":
            batch.objective.loss.curvature_factor(batch.outputs)

    def numbers(self, plan: Plan, size: int, *, held: Held) -> int:
        return self.normalizers.numbers(plan, size, held=held)

    def begin(self, setting: Setting) -> None:
        self._setting = setting
        self._largest: float | None = None
        self.convergence = None
        self.normalizers.begin(setting)

    def begin_pass(self, number: int) -> None:
        self.normalizers.begin_pass(number)

    def update(self, batch: GradientBatch) -> None:
        self.normalizers.update(batch)

    def rotation(self) -> Rotation | None:
        return self.normalizers.rotation()

    def finish(self) -> Eigenbasis:
        basis = self.normalizers.finish()
        name = {"hessian": "Hessian", "fisher": "Fisher"}[self.matrix]
        return replace(
            basis,
            detail=f"LiSSA on the {name}, normalizers by {basis.detail}",
            notes=(
                f"tolerance {self.tolerance:g}, at most {self.steps:,} steps, {self.repeats} repeats",
                *basis.notes,
            ),
            solver=self,
        )

    def working_memory(self, size: int, plan: Plan, *, last: bool = False) -> int:
        return self.normalizers.working_memory(size, plan, last=last)

    def solve(
        self,
        gradients: Float[Tensor, "query param"],
        damping: float,
        progress: Callable[[float], Any],
    ) -> Float[Tensor, "query param"]:
        """s_test = (H+λI)⁻¹ g_test, all queries on the same batches; sets `convergence`.

        Raises:
            ModelError: The recursion diverges (with scale and damping).
        """
        scale = self.scale or 1.5 * self._power_iteration(gradients) + damping
        runs: list[Tensor] = []
        ends: list[tuple[int, float]] = []
        for repeat in range(self.repeats):
            generator = torch.Generator().manual_seed(self.seed + 1 + repeat)

            def share(done: float, repeat: int = repeat) -> None:
                progress((repeat + done) / self.repeats)

            found, steps, error = self._recursion(gradients, damping, scale, generator, share)
            runs.append(found)
            ends.append((steps, error))
        mean = torch.stack(runs).mean(0)
        size = float(mean.norm()) or 1.0
        error = max(error for _, error in ends)
        self.convergence = Convergence(
            steps=max(steps for steps, _ in ends),
            scale=scale,
            error=error,
            spread=max(float((run - mean).norm()) for run in runs) / size,
            converged=error <= self.tolerance,
        )
        if not self.convergence.converged:
            warnings.warn(
                f"LiSSA {self.convergence}: its scores are not to be trusted. Allow more steps, "
                f"Lissa(steps={4 * self.steps}), or raise the damping of {damping:g}.",
                stacklevel=2,
            )
        return mean

    def _recursion(
        self,
        gradients: Float[Tensor, "query param"],
        damping: float,
        scale: float,
        generator: torch.Generator,
        progress: Callable[[float], Any],
    ) -> tuple[Float[Tensor, "query param"], int, float]:
        """The solution, the steps taken and the estimated relative error."""
        value = gradients.clone()
        # A convergent recursion stays below this: ‖(H+λI)⁻¹‖ ≤ 1/λ.
        bound = 2 * float(gradients.norm()) * max(1.0, scale / damping)
        before: Tensor | None = None
        window = torch.zeros_like(value)
        error = float("inf")
        for step in range(1, self.steps + 1):
            value = gradients + value - (self._product(value, generator) + damping * value) / scale
            window += value
            if step % WINDOW and step != self.steps:
                continue
            progress(step / self.steps)
            length = float(value.norm())
            if not length <= bound:
                raise ModelError(
                    f"LiSSA diverges at scale {scale:.4g} and damping {damping:g}: after {step} steps the estimate "
                    f"has outgrown any solution. Raise the scale, "
                    "curvature=Lissa(scale=...), if batches are noisy; raise the damping, or take "
                    'Lissa(matrix="fisher"), if the Hessian is indefinite.'
                )
            mean = window / (step % WINDOW or WINDOW)
            if before is not None:
                moved = float((mean - before).norm()) / (float(mean.norm()) or 1.0)
                # What is left of the slowest component after a move of one window.
                error = moved * max(1.0, scale / damping / WINDOW)
            before, window = mean, torch.zeros_like(value)
            if error <= self.tolerance:
                break
        assert before is not None
        progress(1.0)
        return before / scale, step, error

    def _power_iteration(self, like: Float[Tensor, "query param"]) -> float:
        """The largest eigenvalue met on some batches."""
        if self._largest is None:
            generator = torch.Generator().manual_seed(self.seed)
            vector = torch.randn(1, like.shape[1], generator=generator, dtype=torch.float32).to(like)
            self._largest = 0.0
            for _ in range(20):
                vector = vector / vector.norm()
                vector = self._product(vector, generator)
                self._largest = max(self._largest, float(vector.norm()))
                if not bool(vector.any()):
                    break
        return self._largest

    def _product(
        self, vectors: Float[Tensor, "query param"], generator: torch.Generator
    ) -> Float[Tensor, "query param"]:
        """H_b v on a random batch."""
        count = self._setting.count
        if self.batch_size >= count:
            rows = list(range(count))
        else:
            rows = torch.randint(count, (self.batch_size,), generator=generator).tolist()
        batch = self._setting.batch(rows)
        product = hessian_products if self.matrix == "hessian" else fisher_products
        return product(batch.objective, batch.inputs, batch.targets, vectors) / len(rows)
