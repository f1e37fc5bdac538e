"""A test set seen through the model: what it predicts, which rows to look at, and their explanations."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import media
from .data import Source, map_tensors
from .errors import ChoiceError, RelatifError, one_of
from .explanation import Explanation, Row, Sprite, Text
from .rankings import rounded
from .report import Report
from .scoring import Progress
from .tags import as_indices
from .task import BATCH, Label, Task, as_labels, value_text

Which = Literal["all", "misclassified", "close"]
WHICH: tuple[Which, ...] = ("all", "misclassified", "close")

Sort = Literal["index", "confidence", "loss", "margin"]
SORTS: tuple[Sort, ...] = ("index", "confidence", "loss", "margin")

DefaultLabels = Literal["auto", "predicted", "true", "top2"] | Callable[[int], Any]
DEFAULT_LABELS = ("auto", "predicted", "true", "top2")

CLOSE_MARGIN = 0.2
"""A call is close where the two largest probabilities differ by less than this."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which rows of a test set to look at, and in which order; every condition has to hold.

    Attributes:
        which: All rows, those whose prediction is wrong, or those where it was a close call.
        label: Name of the true class, or None for any.
        predicted: Name of the predicted class, or None for any.
        confidence: Least and largest probability of the predicted class.
        search: What the example's text, or a value of its row, contains; case does not matter.
        sort: By row number, probability of the predicted class, loss at the true label, or
            distance between the two largest probabilities. Ties stay in the test set's order.
        descending: From the largest.

    Raises:
        ChoiceError: A choice is none of the possible ones.
    """

    which: Which = "all"
    label: str | None = None
    predicted: str | None = None
    confidence: tuple[float, float] = (0.0, 1.0)
    search: str = ""
    sort: Sort = "index"
    descending: bool = False

    def __post_init__(self) -> None:
        one_of("which", self.which, WHICH)
        one_of("sort", self.sort, SORTS)
        for option in ("label", "predicted"):
            if not isinstance(getattr(self, option), str | None):
                raise ChoiceError(f"{option}={getattr(self, option)!r}; expected a class name or None.")
        if not isinstance(self.search, str):
            raise ChoiceError(f"search={self.search!r}; expected text.")
        if not isinstance(self.descending, bool):
            raise ChoiceError(f"descending={self.descending!r}; expected True or False.")
        try:
            low, high = map(float, self.confidence)
        except (TypeError, ValueError):
            low = high = math.nan
        if not 0 <= low <= high <= 1:
            raise ChoiceError(
                f"confidence={self.confidence!r}; expected (least, largest) with 0 <= least <= largest <= 1."
            )
        object.__setattr__(self, "confidence", (low, high))  # JSON has lists only

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Filter:
        """From what a browser sent.

        Raises:
            ChoiceError: A field is unknown, or its value is.
        """
        for name in fields:
            one_of("filter", name, [field.name for field in dataclasses.fields(cls)])
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class QueryCard:
    """One test example in the query strip; None for what is not known of it."""

    index: int
    label: str | None
    predicted: str | None
    probability: float | None
    loss: float | None
    caption: str
    media: media.Small


@dataclass(frozen=True, kw_only=True)
class QueryPage:
    """Some consecutive cards of a filtered test set, their thumbnails, and what else can be asked for.

    Attributes:
        filter: What it answers.
        offset: Where among the filtered rows the first card stands.
        total: How many rows pass the filter.
        around: The row that was asked for, or None.
        position: Where among the filtered rows that one stands; None where the filter leaves it out.
        counts: Rows of the whole test set per preset that applies to it.
        labels: Names of the true classes that occur; empty where they are not known.
        predictions: Names of the predicted classes that occur; empty in a regression.
        sorts: The orders that apply.
        searchable: Whether examples are shown as text or rows.
        items: The cards.
        sprite: Their thumbnails, where examples are shown as pictures.
    """

    filter: Filter
    offset: int
    total: int
    around: int | None
    position: int | None
    counts: dict[Which, int]
    labels: tuple[str, ...]
    predictions: tuple[str, ...]
    sorts: tuple[Sort, ...]
    searchable: bool
    items: tuple[QueryCard, ...]
    sprite: Sprite | None


@dataclass(frozen=True)
class _Seen:
    """What one pass over the test set found; None for what does not apply to it.

    Attributes:
        outputs: The first output of each row.
        labels: True classes.
        best: The two likeliest classes, likeliest first.
        top: Their probabilities.
        loss: The task's loss at the true label.
    """

    outputs: Float[Tensor, "row"]
    labels: Int[Tensor, "row"] | None
    best: Int[Tensor, "row 2"] | None
    top: Float[Tensor, "row 2"] | None
    loss: Float[Tensor, "row"] | None

    @property
    def predicted(self) -> Int[Tensor, "row"] | None:
        return None if self.best is None else self.best[:, 0]

    @property
    def confidence(self) -> Float[Tensor, "row"] | None:
        return None if self.top is None else self.top[:, 0]

    @property
    def margin(self) -> Float[Tensor, "row"] | None:
        return None if self.top is None else self.top[:, 0] - self.top[:, 1]

    @property
    def wrong(self) -> Bool[Tensor, "row"] | None:
        return None if self.labels is None or self.best is None else self.best[:, 0] != self.labels


class QuerySet:
    """Test examples, the model's predictions for them, and an explanation of each on request.

    Predictions are made once, when first needed; texts are read once, when first searched.

    Args:
        task: The model that predicts.
        source: The test set.
        explain: `Explainer.explain` of a fitted explainer.
        check: `Explainer.check` of the same.
        damping: Its default damping.
        render: The user's hook for showing an example.
        default_labels: As in `Explainer.queries`.
        close_margin: As in `Explainer.queries`.

    Raises:
        ChoiceError: `default_labels` or `close_margin` is none that applies here.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        explain: Callable[..., Explanation],
        check: Callable[..., Any],
        damping: float,
        render: media.Render | None,
        *,
        default_labels: DefaultLabels = "auto",
        close_margin: float = CLOSE_MARGIN,
    ) -> None:
        if not callable(default_labels):
            one_of("default_labels", default_labels, DEFAULT_LABELS)
        if default_labels == "true" and source.batch([0])[1] is None:
            raise ChoiceError(
                'default_labels="true" needs true labels, and this test set is inputs alone. Pass pairs '
                '(input, target), or default_labels="predicted".'
            )
        if default_labels in ("predicted", "top2") and not task.class_names:
            raise ChoiceError(
                f'default_labels="{default_labels}" needs classes, and this model has none. Leave it "auto" or '
                '"true", or pass a function of the row that returns target values.'
            )
        self.damping = damping
        self._task = task
        self._source = source
        self._explain = explain
        self._check = check
        self._render = render
        self._default_labels = default_labels
        self._close_margin = _as_margin(close_margin)
        self._guard = threading.RLock()  # the strip and an explanation may both be first
        self._passed: _Seen | None = None
        self._read: list[str] | None = None

    def __len__(self) -> int:
        return self._source.length

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty for a regression."""
        return self._task.class_names

    def rows(
        self,
        which: Which = "all",
        *,
        label: str | None = None,
        predicted: str | None = None,
        confidence: tuple[float, float] = (0.0, 1.0),
        search: str = "",
        sort: Sort = "index",
        descending: bool = False,
    ) -> list[int]:
        """Rows of the test set, filtered and sorted.

        Args:
            which, label, predicted, confidence, search, sort, descending: As in `Filter`.

        Raises:
            ChoiceError: A choice is none of the possible ones, or does not apply to this test set.
        """
        wanted = Filter(
            which=which,
            label=label,
            predicted=predicted,
            confidence=confidence,
            search=search,
            sort=sort,
            descending=descending,
        )
        return self._order(wanted).tolist()

    def default_labels(self, row: int) -> list[Label]:
        """The labels to open a query with.

        By default the prediction, and beside it the true label where the prediction is wrong,
        else the runner-up where the call is close; in a regression "true".
        """
        row = self._row(row)
        rule = self._default_labels
        if callable(rule):
            return self._asked(rule, row)
        seen = self._seen
        if rule == "true" or seen.best is None or seen.margin is None:
            if self._source.batch([row])[1] is None:
                raise ChoiceError(
                    "A regression is explained at target values, and this test set is inputs alone. Pass pairs "
                    "(input, target), labels=[value], or default_labels=a function of the row that returns values."
                )
            return ["true"]
        first, second = seen.best[row].tolist()
        shown = [first]
        if rule == "top2":
            shown = [first, second]
        elif rule == "auto" and seen.labels is not None and first != int(seen.labels[row]):
            shown = [first, int(seen.labels[row])]
        elif rule == "auto" and float(seen.margin[row]) < self._close_margin:
            shown = [first, second]
        return [self.class_names[found] for found in shown]

    def _asked(self, rule: Callable[[int], Any], row: int) -> list[Label]:
        """What the user's own rule says, checked while it can still be named."""
        try:
            found = as_labels(rule(row))
        except RelatifError as error:
            raise ChoiceError(f"default_labels({row}): {error}") from error
        except Exception as error:
            raise ChoiceError(f"default_labels({row}) raised {type(error).__name__}: {error}") from error
        known = ("predicted", "true", "top2")
        for label in found if self.class_names else ():
            if label not in known:
                try:
                    self._task.class_index(label)
                except RelatifError as error:
                    raise ChoiceError(f"default_labels({row}): {error}") from error
        return found

    def _meant(self, labels: Sequence[Label] | None, targets: Tensor | None) -> list[Label] | None:
        """In a regression the names of panels are values in words: back to the values."""
        if labels is None or self.class_names:
            return None if labels is None else list(labels)
        own = None if targets is None else value_text(targets[0])
        found: list[Any] = []
        for label in labels:
            if not isinstance(label, str) or label in ("true", "predicted"):
                found.append(label)
            elif label == own:
                found.append("true")  # the words are rounded
            else:
                try:
                    values = [float(part) for part in label.split(",")]
                except ValueError:
                    found.append(label)  # refused in its own words
                    continue
                found.append(values if len(values) > 1 else values[0])
        return found

    def _question(self, row: int, labels: Sequence[Label] | None) -> tuple[Any, list[Label], Tensor | None]:
        """One row's input, the labels that are meant for it, and its true target where that is known."""
        inputs, targets = self._source.batch([self._row(row)])
        return (
            map_tensors(lambda x: x[0], inputs),
            self._meant(labels, targets) or self.default_labels(row),
            None if targets is None else targets[0],
        )

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
        query, meant, target = self._question(row, labels)
        return self._explain(
            query,
            labels=meant,
            target=target,
            name=f"test #{row}",
            index=row,
            raw=self._source.raw(row),
            damping=damping,
            progress=progress,
        )

    def report(
        self,
        rows: Sequence[int],
        labels: Sequence[Label] | None = None,
        *,
        damping: float | None = None,
        title: str = "",
    ) -> Report:
        """Explain several rows in one document.

        Args:
            rows: Of the test set, in the report's order.
            labels: For every row, as in `explain`.
            damping: Where the sliders stand.
            title: What stands above the report's index.

        Returns:
            The `Report`: `save`, `to_html`.

        Raises:
            ChoiceError: A row is outside the test set, or there is none.
        """
        chosen = as_indices(rows, len(self), "Test")
        return Report([self.explain(row, labels, damping=damping) for row in chosen], title)

    def check(
        self,
        row: int,
        removed: Sequence[int],
        labels: Sequence[Label] | None = None,
        *,
        retrain: Callable[[list[int]], Any] | None = None,
        damping: float | None = None,
        progress: Progress | None = None,
    ) -> Any:
        """What becomes of one row's loss on removing training examples: a `Check`, as of `Explainer.check`.

        Args:
            row: Of the test set.
            removed: Rows of the training set.
            labels: As in `explain`.
            retrain, damping, progress: As in `Explainer.check`.
        """
        query, meant, target = self._question(row, labels)
        return self._check(
            removed,
            query,
            meant,
            target=target,
            retrain=retrain,
            damping=damping,
            progress=progress,
        )

    def page(
        self,
        wanted: Filter | Which | Mapping[str, Any],
        offset: int,
        count: int,
        *,
        around: int | None = None,
    ) -> QueryPage:
        """`count` cards of the rows that pass a filter.

        Args:
            wanted: The filter, or one of its presets by name: "all", "misclassified", "close".
            offset: Where among those rows to begin.
            count: Cards to give.
            around: A row of the test set. Where it passes the filter, the page is the one that
                it stands on (its offset a multiple of `count`), else `offset` counts.

        Raises:
            ChoiceError: Something asked for is none of the possible ones.
        """
        if isinstance(wanted, str):
            wanted = Filter(which=one_of("filter", wanted, WHICH))
        elif not isinstance(wanted, Filter):
            wanted = Filter.of(wanted)
        if offset < 0 or count < 1:
            raise ChoiceError(f"offset={offset}, count={count}; expected at least 0 and 1.")
        rows = self._order(wanted)
        position = None
        if around is not None:
            found = torch.nonzero(rows == self._row(around)).reshape(-1).tolist()
            position = found[0] if found else None
        if position is not None:
            offset = position // count * count
        part = rows[offset : offset + count].tolist()
        cells, sprite = media.sheet([media.show(self._source.raw(row), self._render) for row in part])
        seen = self._seen
        return QueryPage(
            filter=wanted,
            offset=offset,
            total=len(rows),
            around=around,
            position=position,
            counts=self._counts(),
            labels=self._occurring(seen.labels),
            predictions=self._occurring(seen.predicted),
            sorts=tuple(sort for sort in SORTS if sort == "index" or getattr(seen, sort) is not None),
            searchable=self._searchable,
            items=tuple(self._card(row, cell) for row, cell in zip(part, cells, strict=True)),
            sprite=sprite,
        )

    # Choosing and sorting, all rows at once

    def _order(self, wanted: Filter) -> Int[Tensor, "kept"]:
        """Rows that pass a filter, in its order."""
        seen = self._seen
        keep = self._preset(wanted.which).clone()
        if wanted.label is not None:
            labels = self._known("label", "classes and true labels", seen.labels)
            keep &= labels == self.class_names.index(one_of("label", wanted.label, self.class_names))
        if wanted.predicted is not None:
            predicted = self._known("predicted", "classes", seen.predicted)
            keep &= predicted == self.class_names.index(
                one_of("predicted", wanted.predicted, self.class_names)
            )
        low, high = wanted.confidence
        if (low, high) != (0.0, 1.0):
            confidence = self._known("confidence", "classes", seen.confidence)
            if low > 0:
                keep &= confidence >= low
            if high < 1:  # a probability of 1 may be rounded up
                keep &= confidence <= high
        if wanted.search:
            if not self._searchable:
                raise ChoiceError(
                    f"search={wanted.search!r} finds nothing in pictures; it needs examples shown as text or rows."
                )
            needle = wanted.search.casefold()
            keep &= torch.tensor([needle in text for text in self._texts], dtype=torch.bool)
        rows = torch.nonzero(keep).reshape(-1)
        if wanted.sort == "index":
            return rows.flip(0) if wanted.descending else rows
        needs = "true labels" if wanted.sort == "loss" else "classes"
        values = self._known(f"sort={wanted.sort!r}", needs, getattr(seen, wanted.sort))
        return rows[values[rows].argsort(descending=wanted.descending, stable=True)]

    def _preset(self, which: Which) -> Bool[Tensor, "row"]:
        if which == "misclassified":
            return self._known("which='misclassified'", "classes and true labels", self._seen.wrong)
        if which == "close":
            return self._known("which='close'", "classes", self._seen.margin) < self._close_margin
        return torch.ones(len(self), dtype=torch.bool)

    def _counts(self) -> dict[Which, int]:
        applying: list[Which] = ["all"]
        if self._seen.wrong is not None:
            applying.append("misclassified")
        if self._seen.margin is not None:
            applying.append("close")
        return {which: int(self._preset(which).sum()) for which in applying}

    def _occurring(self, classes: Int[Tensor, "row"] | None) -> tuple[str, ...]:
        if classes is None:
            return ()
        found = classes.bincount(minlength=len(self.class_names)).tolist()
        return tuple(name for name, count in zip(self.class_names, found, strict=True) if count)

    def _known(self, option: str, needs: str, values: Tensor | None) -> Tensor:
        if values is None:
            missing = "classes" in needs and not self.class_names
            why = "this model has no classes" if missing else "this test set is inputs alone"
            raise ChoiceError(f"{option} needs {needs}, and {why}.")
        return values

    def _card(self, row: int, shown: media.Small) -> QueryCard:
        seen = self._seen
        loss = None if seen.loss is None else _finite(seen.loss[row])
        if seen.best is None or seen.top is None:
            return QueryCard(
                index=row,
                label=None,
                predicted=None,
                probability=None,
                loss=loss,
                caption=f"{float(seen.outputs[row]):.4g}",
                media=shown,
            )
        predicted = self.class_names[int(seen.best[row, 0])]
        probability = _finite(seen.top[row, 0])
        return QueryCard(
            index=row,
            label=None if seen.labels is None else self.class_names[int(seen.labels[row])],
            predicted=predicted,
            probability=None if probability is None else min(1.0, round(probability, 6)),
            loss=loss,
            caption=predicted,
            media=shown,
        )

    def _row(self, row: int) -> int:
        if not 0 <= row < len(self):
            raise ChoiceError(f"query={row} is outside the test set; expected 0 to {len(self) - 1}.")
        return row

    # What is found out once

    @property
    def _seen(self) -> _Seen:
        with self._guard:
            if self._passed is None:
                self._passed = self._pass()
            return self._passed

    def _pass(self) -> _Seen:
        task, name = self._task, self._source.name
        loss = task.objective.loss
        outputs, labels, best, top, losses = [], [], [], [], []
        with task.evaluating(), torch.no_grad():
            for first, raw, given in self._source.batches(BATCH):
                found = task.forward(task.inputs(raw, name, first))
                outputs.append(found[:, 0].cpu())
                if task.class_names:
                    probabilities = loss.probabilities(found)
                    assert probabilities is not None
                    # Sorted stably, so that a tie goes to the same class as in an explanation.
                    values, order = probabilities.sort(dim=1, descending=True, stable=True)
                    best.append(order[:, :2].cpu())
                    top.append(values[:, :2].cpu())
                if given is not None:
                    targets = task.targets(given, name, first)
                    losses.append(loss.per_example(found, targets).cpu())
                    if task.class_names:
                        labels.append(task.classes(targets).cpu())
        return _Seen(
            outputs=torch.cat(outputs),
            labels=torch.cat(labels) if labels else None,
            best=torch.cat(best) if best else None,
            top=torch.cat(top) if top else None,
            loss=torch.cat(losses) if losses else None,
        )

    @property
    def _searchable(self) -> bool:
        if self._read is not None:
            return True
        return not _is_picture(media.show(self._source.raw(0), self._render))

    @property
    def _texts(self) -> list[str]:
        """What a search looks through: each row's text or values, casefolded."""
        with self._guard:
            if self._read is None:
                self._read = [
                    _words(media.show(self._source.raw(row), self._render)) for row in range(len(self))
                ]
            return self._read


def _as_margin(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ChoiceError(f"close_margin={value!r}; expected a difference of probabilities, 0 to 1.")
    return number


def _is_picture(shown: media.Shown) -> bool:
    return not isinstance(shown, (Text, Row))


def _words(shown: media.Shown) -> str:
    if isinstance(shown, Text):
        return shown.text.casefold()
    if isinstance(shown, Row):
        return "\n".join(shown.values).casefold()  # no match from one value into the next
    return ""


def _finite(value: Tensor) -> float | None:
    """A number that JSON can hold."""
    number = float(value)
    return rounded(number) if math.isfinite(number) else None
