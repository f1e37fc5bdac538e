"""What the widget needs of the model and data it is attached to; views know them by these protocols alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..explanation import Explanation
from ..tags import Tags

if TYPE_CHECKING:
    import pandas as pd


class Check(Protocol):
    """What became of a query's loss on removing some training examples: `relatif_widgets.Check`."""

    @property
    def removed(self) -> tuple[int, ...]: ...

    @property
    def damping(self) -> float: ...

    def to_frame(self) -> pd.DataFrame: ...


class Queries(Protocol):
    """What the widget needs of a test set: `relatif_widgets.queries.QuerySet` has it."""

    def __len__(self) -> int: ...

    @property
    def damping(self) -> float: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def explain(
        self,
        row: int,
        labels: Sequence[str] | None = None,
        *,
        damping: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Explanation: ...

    def page(self, wanted: Any, offset: int, count: int, *, around: int | None = None) -> Any: ...

    def check(
        self,
        row: int,
        removed: Sequence[int],
        labels: Sequence[str],
        *,
        retrain: Any,
        damping: float,
        progress: Callable[[float], None],
    ) -> Check: ...


class Attachable(Protocol):
    """What can be asked about a model and its training set: a fitted `Explainer`."""

    @property
    def tags(self) -> Tags: ...

    @property
    def train_size(self) -> int: ...

    @property
    def can_refit(self) -> bool: ...

    def queries(self, test_set: Any, *, default_labels: Any, close_margin: float) -> Any: ...

    def examples(self, indices: Sequence[int]) -> pd.DataFrame: ...

    def show(self, index: int) -> Any: ...

    def more_like(
        self, index: int, *, damping: float | None, progress: Callable[[float], None] | None
    ) -> Explanation: ...
