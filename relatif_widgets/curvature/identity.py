"""H + λI := I, the paper's "gradient" baseline."""

from __future__ import annotations

from ..gradients import GradientBatch, Plan
from .base import Eigenbasis, Held, NoRotation, OnePass, Rotation, Setting, formed


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

    def working_memory(self, size: int, plan: Plan, *, last: bool = False) -> int:
        return 0

    def numbers(self, plan: Plan, size: int, *, held: Held) -> int:
        return formed(plan, size, held) if held == "part" else size
