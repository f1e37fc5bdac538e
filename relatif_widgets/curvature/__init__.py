"""Curvatures H, and the one place that knows their names."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ChoiceError, ModelError, unknown_name
from .base import Curvature, Eigenbasis
from .dense import BlockFisher, EmpiricalFisher, Fisher, Hessian
from .identity import Identity

__all__ = ["CURVATURES", "Curvature", "Eigenbasis", "Fisher", "Identity", "as_curvature"]

CURVATURES: dict[str, Callable[[], Curvature]] = {
    kind.name: kind for kind in (Fisher, Hessian, EmpiricalFisher, BlockFisher, Identity)
}

DENSE_LIMIT = 8_000
"""Parameters up to which "auto" takes the dense Fisher: eigh grows with the cube."""


def as_curvature(curvature: str | Curvature, size: int) -> Curvature:
    """The curvature of a name, or the given object of the protocol.

    Args:
        curvature: "auto", a key of `CURVATURES`, or an object with `begin`,
            `update` and `finish`.
        size: P, by which "auto" decides.

    Raises:
        ChoiceError: The name is unknown or the object does not keep the protocol.
        ModelError: "auto" has no faithful curvature for so many parameters.
    """
    if isinstance(curvature, str):
        if curvature == "auto":
            if size > DENSE_LIMIT:
                raise ModelError(
                    f'curvature="auto" found {size:,} parameters; a dense Fisher is practical to about '
                    f'{DENSE_LIMIT:,}. Score fewer, such as parameters="fc" for the last layer, insist with '
                    'curvature="fisher", or take curvature="identity" (gradients alone, far less faithful).'
                )
            return Fisher()
        if curvature not in CURVATURES:
            raise unknown_name("curvature", curvature, ["auto", *CURVATURES])
        return CURVATURES[curvature]()
    if isinstance(curvature, Curvature):
        return curvature
    raise ChoiceError(
        f"curvature={curvature!r} is neither a name nor an object with begin, update, finish and "
        "working_memory (relatif_widgets.curvature.Curvature)."
    )
