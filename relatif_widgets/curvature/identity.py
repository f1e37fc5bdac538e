"""H + λI := I, the paper's "gradient" baseline."""

from __future__ import annotations

from ..gradients import GradientBatch
from ..objective import Objective
from .base import Eigenbasis


class Identity:
    """No curvature: influence is the scalar product of two gradients, whatever the damping."""

    name = "identity"
    uses_jacobian = False

    def begin(self, objective: Objective) -> None:
        pass

    def update(self, batch: GradientBatch) -> None:
        pass

    def finish(self) -> Eigenbasis:
        return Eigenbasis("identity curvature", None, None)

    def working_memory(self, size: int) -> int:
        return 0
