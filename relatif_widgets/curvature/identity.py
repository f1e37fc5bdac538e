"""H + λI := I, the paper's "gradient" baseline."""

from __future__ import annotations

from ..gradients import GradientBatch
from .base import Eigenbasis, NoRotation, OnePass, Rotation, Setting


class Identity(OnePass):
    """No curvature: influence is the scalar product of two gradients, whatever the damping."""

    name = "identity"

    def begin(self, setting: Setting) -> None:
        pass

    def update(self, batch: GradientBatch) -> None:
        pass

    def rotation(self) -> Rotation:
        return NoRotation()

    def finish(self) -> Eigenbasis:
        return Eigenbasis("identity curvature", NoRotation(), None)

    def working_memory(self, size: int) -> int:
        return 0
