"""Curvatures H, and the one place that knows their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from ..errors import ChoiceError, one_of, unknown_name
from ..gradients import Plan
from .base import Columns, Curvature, Eigenbasis, Held, NoRotation, OnePass, Parts, Rotation, Setting
from .dense import BlockFisher, EmpiricalFisher, Fisher, Hessian
from .identity import Identity
from .kronecker import EKFAC, KFAC
from .labels import FisherLabels
from .lissa import Lissa
from .low_rank import LowRank, affordable_rank

__all__ = [
    "CURVATURES",
    "EKFAC",
    "KFAC",
    "BlockFisher",
    "Columns",
    "Curvature",
    "Eigenbasis",
    "EmpiricalFisher",
    "Fisher",
    "FisherLabels",
    "Held",
    "Hessian",
    "Identity",
    "Lissa",
    "LowRank",
    "NoRotation",
    "OnePass",
    "Parts",
    "Rotation",
    "Setting",
    "as_curvature",
]

CURVATURES: dict[str, Callable[[], Curvature]] = {
    kind.name: kind
    for kind in (Fisher, Hessian, EmpiricalFisher, BlockFisher, LowRank, KFAC, EKFAC, Lissa, Identity)
}
_SAMPLED: dict[str, Callable[[FisherLabels], Curvature]] = {
    "low_rank": lambda labels: LowRank(labels=labels),
    "kfac": KFAC,
    "ekfac": EKFAC,
}

DENSE_LIMIT = 8_000
"""Parameters up to which "auto" takes the dense Fisher: eigh grows with the cube."""

LEAST_RANK = 64
"""Eigenpairs below which "auto" would rather have EK-FAC."""


def as_curvature(
    curvature: str | Curvature,
    size: int,
    count: int,
    memory: int,
    itemsize: int = 4,
    labels: FisherLabels | None = None,
) -> Curvature:
    """The curvature of a name, or the given object of the protocol.

    Args:
        curvature: "auto", a key of `CURVATURES`, or an object of the protocol.
        size: P, by which "auto" decides.
        count: n, the number of training examples.
        memory: Bytes that may be used.
        itemsize: Bytes of one number of a row.
        labels: For low-rank and Kronecker curvatures; None for their own default.

    Raises:
        ChoiceError: The name is unknown, the object does not keep the protocol, or
            `labels` are given to a curvature that has no use for them.
    """
    if labels is not None:
        one_of("fisher_labels", labels, get_args(FisherLabels))
    if not isinstance(curvature, str):
        if labels is not None:
            raise ChoiceError(
                f"fisher_labels={labels!r} goes with a curvature by name; give it to the object itself, as in "
                'LowRank(labels="exact").'
            )
        if isinstance(curvature, type):
            raise ChoiceError(
                f"curvature={curvature.__name__} is a class; expected an object: {curvature.__name__}()."
            )
        if isinstance(curvature, Curvature):
            return curvature
        raise ChoiceError(
            f"curvature={curvature!r} is neither a name nor an object of the protocol "
            "(relatif_widgets.curvature.Curvature; derive from OnePass there)."
        )
    if curvature == "auto":
        curvature = _automatic(size, count, memory, itemsize)
        labels = labels if curvature in _SAMPLED else None
    if curvature not in CURVATURES:
        raise unknown_name("curvature", curvature, ["auto", *CURVATURES])
    if labels is None:
        return CURVATURES[curvature]()
    if curvature not in _SAMPLED:
        raise ChoiceError(
            f"fisher_labels={labels!r} changes nothing for curvature={curvature!r}; it belongs to "
            f"{', '.join(_SAMPLED)}."
        )
    return _SAMPLED[curvature](labels)


def _automatic(size: int, count: int, memory: int, itemsize: int) -> str:
    """The most faithful that fits."""
    if size <= DENSE_LIMIT and Fisher().working_memory(size, Plan()) + size * count * itemsize <= memory:
        return "fisher"
    return "low_rank" if affordable_rank(size, count, itemsize, memory) >= LEAST_RANK else "ekfac"
