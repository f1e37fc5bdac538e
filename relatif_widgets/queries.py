"""A test set seen through the model: what it predicts, which rows to look at, and their explanations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from . import media
from .data import Source, fit_inputs
from .errors import ChoiceError, unknown_name
from .explainer import Explainer, Label, Progress
from .explanation import Cell, Explanation, Row, Sprite, Text

Filter = Literal["all", "misclassified", "close"]
FILTERS: tuple[Filter, ...] = ("all", "misclassified", "close")

CLOSE_MARGIN = 0.2
"""A call is close where the two largest probabilities differ by less than this."""


@dataclass(frozen=True, kw_only=True)
class QueryCard:
    """One test example in the query strip."""

    index: int
    label: str | None
    predicted: str | None
    probability: float | None
    caption: str
    media: Cell | Text | Row


@dataclass(frozen=True, kw_only=True)
class QueryPage:
    """Some consecutive cards of a filtered strip, with their thumbnails."""

    filter: Filter
    offset: int
    total: int
    counts: dict[Filter, int]
    cards: tuple[QueryCard, ...]
    sprite: Sprite | None


class QuerySet:
    """Test examples, the model's predictions for them, and an explanation of each on request.

    Args:
        explainer: A fitted explainer.
        source: The test set.
    """

    def __init__(self, explainer: Explainer, source: Source) -> None:
        explainer._ready()
        self._explainer = explainer
        self._source = source

    def __len__(self) -> int:
        return self._source.length

    @property
    def dampings(self) -> tuple[float, ...]:
        """The explainer's damping stops."""
        return self._explainer.dampings

    @property
    def damping(self) -> float:
        """The explainer's default damping."""
        return self._explainer.damping

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty for a regression."""
        return self._explainer.class_names

    def rows(self, which: Filter) -> list[int]:
        """Rows of the test set that a filter keeps, in order; close calls closest first."""
        if which not in FILTERS:
            raise unknown_name("filter", which, FILTERS)
        if which == "all":
            return list(range(len(self)))
        margin, wrong = self._judged
        if which == "misclassified":
            return wrong
        close = [row for row, value in enumerate(margin) if value < CLOSE_MARGIN]
        return sorted(close, key=lambda row: margin[row])

    def default_labels(self, row: int) -> list[str] | None:
        """The labels to open with: the prediction, and the runner-up beside it where the call is
        close or wrong. None in a regression, whose panel is the true target's."""
        if not self.class_names:
            return None
        margin, wrong = self._judged
        best = self._probabilities[self._row(row)].argsort(descending=True, stable=True).tolist()
        count = 2 if row in set(wrong) or margin[row] < CLOSE_MARGIN else 1
        return [self.class_names[label] for label in best[:count]]

    def explain(
        self,
        row: int,
        labels: Sequence[Label] | None = None,
        *,
        damping: float | None = None,
        progress: Progress | None = None,
    ) -> Explanation:
        """Explain one row; `labels` as in `Explainer.explain`, by default `default_labels`."""
        row = self._row(row)
        inputs, targets = self._source.batch([row])
        assert targets is not None
        chosen: Sequence[Label] | None = labels or self.default_labels(row)
        return self._explainer.explain(
            _first(inputs),
            labels=chosen or ["true"],
            target=targets[0],
            name=f"test #{row}",
            index=row,
            raw=self._source.raw(row),
            damping=damping,
            progress=progress,
        )

    def page(self, which: Filter, offset: int, count: int) -> QueryPage:
        """`count` cards of a filtered strip, from `offset`."""
        rows = self.rows(which)
        shown = rows[max(0, offset) : max(0, offset) + max(0, count)]
        cells, sprite = media.sheet([media.show(self._source.raw(row), self._explainer._render) for row in shown])
        return QueryPage(
            filter=which,
            offset=offset,
            total=len(rows),
            counts={name: len(self.rows(name)) for name in FILTERS},
            cards=tuple(self._card(row, cell) for row, cell in zip(shown, cells, strict=True)),
            sprite=sprite,
        )

    def _card(self, row: int, cell: Cell | Text | Row) -> QueryCard:
        if not self.class_names:
            return QueryCard(
                index=row, label=None, predicted=None, probability=None, caption=f"{self._outputs[row, 0]:.4g}", media=cell
            )
        probabilities = self._probabilities[row]
        predicted = int(probabilities.argmax())
        return QueryCard(
            index=row,
            label=self.class_names[self._labels[row]],
            predicted=self.class_names[predicted],
            probability=round(float(probabilities[predicted]), 6),
            caption=self.class_names[predicted],
            media=cell,
        )

    def _row(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise ChoiceError(f"query={row} is outside the test set; expected 0 to {len(self) - 1}.")
        return row

    @cached_property
    def _forwarded(self) -> tuple[Tensor, list[int]]:
        explainer = self._explainer
        objective = explainer._objective
        outputs, labels = [], []
        with explainer._lock, objective.evaluating():
            for first, inputs, targets in self._source.batches(256):
                inputs = fit_inputs(inputs, objective.dtype, objective.device, self._source.name, first)
                outputs.append(explainer._forward(inputs))
                assert targets is not None
                checked = explainer._targets(targets, self._source.name, first)
                labels += explainer._classes(checked).tolist() if self.class_names else []
        return torch.cat(outputs).cpu(), labels

    @property
    def _outputs(self) -> Tensor:
        return self._forwarded[0]

    @property
    def _labels(self) -> list[int]:
        return self._forwarded[1]

    @cached_property
    def _probabilities(self) -> Tensor:
        found = self._explainer._objective.loss.probabilities(self._outputs)
        assert found is not None
        return found

    @cached_property
    def _judged(self) -> tuple[list[float], list[int]]:
        """Per row the margin between the two largest probabilities; the rows that are wrong."""
        if not self.class_names:
            return [math_inf] * len(self), []
        best = self._probabilities.topk(2, dim=1)
        wrong = (best.indices[:, 0] != torch.tensor(self._labels)).nonzero().reshape(-1)
        return (best.values[:, 0] - best.values[:, 1]).tolist(), wrong.tolist()


math_inf = float("inf")


def _first(inputs: Any) -> Any:
    from .data import map_tensors

    return map_tensors(lambda x: x[0], inputs)
