"""Checks by retraining: one at a time, each with the query it was made for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import RelatifError
from .attached import Check

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[float], None]


class Checks:
    """Runs checks and remembers what they found."""

    def __init__(self) -> None:
        self._found: list[tuple[str, Check]] = []
        self._running = threading.Lock()  # the user's own training runs once at a time
        self._asked = self._cancelled = 0

    def run(self, query: str, work: Callable[[Progress], Check], *, own: bool) -> Check:
        """One check, after those that run already.

        Args:
            query: Name of the query.
            work: Does it; gets a callback for the fraction done, which raises where it is cancelled.
            own: Whether it calls the user's own training, which an error then names.

        Raises:
            RelatifError: It was cancelled; or whatever `work` raises.
        """
        self._asked += 1
        ticket = self._asked

        def progress(fraction: float) -> None:
            if ticket <= self._cancelled:
                raise RelatifError("The check was cancelled.")

        with self._running:
            progress(0.0)
            try:
                found = work(progress)
            except Exception as error:
                if own and not isinstance(error, RelatifError):
                    error.add_note("It was raised by the callable that was passed as retrain=.")
                raise
            self._found.append((query, found))
        return found

    def cancel(self) -> None:
        """Stop those that run or wait, at their next progress call."""
        self._cancelled = self._asked

    @property
    def asked(self) -> int:
        """How many were asked for so far."""
        return self._asked

    def to_frame(self) -> pd.DataFrame:
        """A line for each check and label: query, removed, the columns of `Check.to_frame`, damping."""
        import pandas as pd

        frames = []
        for query, check in self._found:
            frame = check.to_frame()
            frame.insert(0, "query", query)
            frame.insert(1, "removed", [check.removed] * len(frame))
            frame["damping"] = check.damping
            frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
