"""The errors a user can meet: what was seen, what was expected, what to try."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from typing import Any


class RelatifError(Exception):
    """Base of every error that relatif_widgets raises on purpose."""


class DataError(RelatifError, ValueError):
    """A data set, an input or a label is not what scoring needs."""


class ModelError(RelatifError, ValueError):
    """The model, its parameters, its outputs or its loss cannot be scored."""


class ChoiceError(RelatifError, ValueError):
    """A name or a number given for an option is not one of the possible ones."""


class DocumentError(RelatifError, ValueError):
    """A saved explanation is damaged, or written by a newer major version."""


class Cancelled(Exception):
    """Raised by a progress callback: stop the work, and keep what there is of it."""


ALSO_CALLED = {
    "if": "influence",
    "influence_functions": "influence",
    "theta": "theta_relative",
    "relatif": "loss_relative",
    "l": "loss_relative",
    "loss": "loss_relative",
    "knn": "nearest",
    "k-nn": "nearest",
    "helpful": "positive",
    "proponents": "positive",
    "harmful": "negative",
    "opponents": "negative",
    "ce": "cross_entropy",
    "crossentropy": "cross_entropy",
    "nll": "cross_entropy",
    "bce": "bce_with_logits",
    "l2": "mse",
    "ggn": "fisher",
    "gauss_newton": "fisher",
    "ek-fac": "ekfac",
    "k-fac": "kfac",
}
"""What people call things that have another name here."""

SHOWN = 20
"""Names that a message lists at the most."""
LONGEST = 80
"""Characters of one name in a message."""


def unknown_name(option: str, seen: object, known: Iterable[str]) -> ChoiceError:
    """Build the error for a word that names nothing, with the nearest word that does.

    >>> print(unknown_name("method", "influnce", ["influence", "nearest"]))
    method='influnce' is not known; expected one of 'influence', 'nearest'. Did you mean 'influence'?
    """
    names = list(known)
    expected = ", ".join(_brief(name) for name in names[:SHOWN])
    if len(names) > SHOWN:
        expected += f" and {len(names) - SHOWN:,} more"
    message = f"{option}={_brief(seen)} is not known; expected one of {expected}."
    alias = ALSO_CALLED.get(str(seen).lower())
    if alias in names:
        return ChoiceError(f"{message} Did you mean {_brief(alias)}?")
    near = difflib.get_close_matches(str(seen).lower(), [name.lower() for name in names], n=1, cutoff=0.4)
    if near:
        nearest = next(name for name in names if name.lower() == near[0])
        message += f" Did you mean {_brief(nearest)}?"
    return ChoiceError(message)


def one_of(option: str, value: Any, known: Collection[Any]) -> Any:
    """The value, where it is one of the known names.

    Raises:
        ChoiceError: It is none of them (with the nearest).
    """
    if value not in known:
        raise unknown_name(option, value, known)
    return value


def _brief(name: object) -> str:
    text = repr(name)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
