"""Which notebook cell made a widget, so that running the cell again lets go of the last run's widgets.

ipywidgets keeps every widget until it is closed, and IPython every output: without this, each
run of a notebook would keep another model, data set and index alive.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any, Protocol


class Closable(Protocol):
    """A widget, as far as this module needs it."""

    comm: Any

    def close(self) -> None: ...


_made: list[tuple[weakref.ref[Any], str | None, str]] = []  # widget, cell, run


def supersede(widget: Closable) -> None:
    """Note who made the widget; close those of earlier runs of its cell, and of cells that were deleted.

    Of marimo's cells nothing is known here, but it closes the comms of a cell that it is to run again.
    """
    cell, run, deleted = _running()
    for made in list(_made):
        reference, its_cell, its_run = made
        old = reference()
        again = cell is not None and its_cell == cell and its_run != run
        cut_off = bool(getattr(getattr(old, "comm", None), "_closed", False))
        if old is not None and not (again or cut_off or its_cell in deleted):
            continue
        with contextlib.suppress(ValueError):  # marimo's sessions are threads of one process
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
