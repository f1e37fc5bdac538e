"""Which notebook cell made a widget, so that running the cell again lets go of the last run's widgets.

ipywidgets keeps every widget until it is closed, and IPython every output: without this, each
run of a notebook would keep another model, data set and index alive.
"""

from __future__ import annotations

import weakref
from typing import Any, Protocol


class Closable(Protocol):
    """A widget, as far as this module needs it."""

    def close(self) -> None: ...


_made: list[tuple[weakref.ref[Any], str, str]] = []  # widget, cell, run


def supersede(widget: Closable) -> None:
    """Note who made the widget; close those of earlier runs of its cell, and of cells that were deleted."""
    cell, run, deleted = _running()
    if cell is None:
        return
    for made in list(_made):
        reference, its_cell, its_run = made
        old = reference()
        if old is not None and not (its_cell in deleted or (its_cell == cell and its_run != run)):
            continue
        _made.remove(made)
        if old is not None:
            old.close()
    _made.append((weakref.ref(widget), cell, run))


def _running() -> tuple[str | None, str, tuple[str, ...]]:
    """The cell that runs, this run of it, and the cells deleted since the last; None outside a notebook."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    request: dict[str, Any] = getattr(getattr(shell, "kernel", None), "get_parent", dict)() or {}
    metadata = request.get("metadata", {})
    cell = metadata.get("cellId")
    run = request.get("header", {}).get("msg_id", "")
    return cell, run, tuple(metadata.get("deletedCells") or ())
