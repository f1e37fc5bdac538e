"""A test set seen through the model: what it predicts, which rows to look at, and their explanations."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import media
from .data import Source, map_tensors
from .errors import ChoiceError, one_of
from .explanation import Explanation, Sprite
from .scoring import Progress
from .task import BATCH, Label, Task

Filter = Literal["all", "misclassified", "close"]
FILTERS: tuple[Filter, ...] = ("all", "misclassified", "close")

CLOSE_MARGIN = 0.2
"""A call is close where the two largest probabilities differ by less than this."""


@dataclass(frozen=True, kw_only=True)
class QueryCard:
    """One test example in the query strip; names of classes, None in a regression."""

    index: int
    label: str | None
    predicted: str | None
    probability: float | None
    caption: str
    media: media.Small


@dataclass(frozen=True, kw_only=True)
class QueryPage:
    """Some consecutive cards of a filtered strip, with their thumbnails."""

    filter: Filter
    offset: int
    total: int
    counts: dict[Filter, int]
    items: tuple[QueryCard, ...]
    sprite: Sprite | None


class QuerySet:
    """Test examples, the model's predictions for them, and an explanation of each on request.

    Predictions are made once, when first needed.

    Args:
        task: The model that predicts.
        source: The test set.
        explain: `Explainer.explain` of a fitted explainer.
        damping: Its default damping.
        render: The user's hook for showing an example.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        explain: Callable[..., Explanation],
        damping: float,
        render: media.Render | None,
    ) -> None:
        self.damping = damping
        self._task = task
        self._source = source
        self._explain = explain
        self._render = render
        self._forwarding = threading.Lock()

    def __len__(self) -> int:
        return self._source.length

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty for a regression."""
        return self._task.class_names

    def rows(self, which: Filter) -> list[int]:
        """Rows of the test set that a filter keeps: in order, but close calls closest first."""
        one_of("filter", which, FILTERS)
        if which == "all":
            return list(range(len(self)))
        if which == "misclassified":
            return torch.nonzero(self._wrong).reshape(-1).tolist()
        close = torch.nonzero(self._margin < CLOSE_MARGIN).reshape(-1)
        return close[self._margin[close].argsort(stable=True)].tolist()

    def default_labels(self, row: int) -> list[str]:
        """The labels to open a query with.

        The prediction, and the runner-up beside it where the call is close
        (`CLOSE_MARGIN`) or wrong; in a regression "true".
        """
        row = self._row(row)
        if not self.class_names:
            return ["true"]
        best = self._probabilities[row].argsort(descending=True, stable=True).tolist()
        doubtful = bool(self._wrong[row]) or float(self._margin[row]) < CLOSE_MARGIN
        return [self.class_names[label] for label in best[: 2 if doubtful else 1]]

    def explain(
        self,
        row: int,
        labels: Sequence[Label] | None = None,
        *,
        damping: float | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Explain one row.

        Args:
            row: Of the test set.
            labels: As in `Explainer.explain`; None for `default_labels`.
            damping: Where the slider stands.
            progress: Called with the fraction done.
        """
        row = self._row(row)
        inputs, targets = self._source.batch([row])
        return self._explain(
            map_tensors(lambda x: x[0], inputs),
            labels=labels or self.default_labels(row),
            target=None if targets is None else targets[0],
            name=f"test #{row}",
            index=row,
            raw=self._source.raw(row),
            damping=damping,
            progress=progress,
        )

    def page(self, which: Filter, offset: int, count: int) -> QueryPage:
        """`count` cards of a filtered strip, from `offset`."""
        rows = self.rows(which)
        start = max(0, offset)
        shown = rows[start : start + max(0, count)]
        cells, sprite = media.sheet([media.show(self._source.raw(row), self._render) for row in shown])
        return QueryPage(
            filter=which,
            offset=start,
            total=len(rows),
            counts={name: len(self.rows(name)) for name in FILTERS},
            items=tuple(self._card(row, cell) for row, cell in zip(shown, cells, strict=True)),
            sprite=sprite,
        )

    def _card(self, row: int, shown: media.Small) -> QueryCard:
        if not self.class_names:
            value = f"{float(self._outputs[row, 0]):.4g}"
            return QueryCard(
                index=row, label=None, predicted=None, probability=None, caption=value, media=shown
            )
        probability, best = self._probabilities[row].max(0)
        predicted = self.class_names[int(best)]
        return QueryCard(
            index=row,
            label=None if self._labels is None else self.class_names[int(self._labels[row])],
            predicted=predicted,
            probability=round(float(probability), 6),
            caption=predicted,
            media=shown,
        )

    def _row(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise ChoiceError(f"query={row} is outside the test set; expected 0 to {len(self) - 1}.")
        return row

    @property
    def _outputs(self) -> Float[Tensor, "row output"]:
        with self._forwarding:  # the strip and an explanation may both be first
            return self._forwarded[0]

    @property
    def _labels(self) -> Int[Tensor, "row"] | None:
        with self._forwarding:
            return self._forwarded[1]

    @cached_property
    def _forwarded(self) -> tuple[Float[Tensor, "row output"], Int[Tensor, "row"] | None]:
        outputs, labels = [], []
        name = self._source.name
        with self._task.evaluating():
            for first, raw, targets in self._source.batches(BATCH):
                outputs.append(self._task.forward(self._task.inputs(raw, name, first)).cpu())
                if targets is not None:
                    labels.append(self._task.classes(self._task.targets(targets, name, first)).cpu())
        return torch.cat(outputs), torch.cat(labels) if labels else None

    @cached_property
    def _probabilities(self) -> Float[Tensor, "row cls"]:
        found = self._task.objective.loss.probabilities(self._outputs)
        assert found is not None
        return found

    @cached_property
    def _margin(self) -> Float[Tensor, "row"]:
        if not self.class_names:
            return torch.full((len(self),), math.inf)
        best = self._probabilities.topk(2, dim=1).values
        return best[:, 0] - best[:, 1]

    @cached_property
    def _wrong(self) -> Tensor:
        if not self.class_names or self._labels is None:
            return torch.zeros(len(self), dtype=torch.bool)
        return self._probabilities.argmax(1) != self._labels
