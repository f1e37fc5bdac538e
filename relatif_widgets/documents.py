"""Rankings and media put together into the `Explanation` of one query."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from . import media, rankings
from ._version import __version__
from .data import map_tensors
from .errors import ChoiceError
from .explanation import Explanation, Panel, Provenance, Query, Settings, TrainingExample
from .fitting import Fitted
from .rankings import rounded
from .scoring import Progress, Scorer, stretch
from .task import Label, Task, as_labels, value_text


@dataclass(frozen=True)
class Asked:
    """One question: which query, and how to show it.

    Attributes:
        inputs: A batch of one, as the model takes it.
        truth: Its true target as a batch of one, or None.
        name: What to call the query.
        index: Its row in the test set, or None.
        raw: What to show of it.
        render: The hook that `raw` goes through, or None where it is to be shown as it is.
        labels: Labels to explain.
        damping: Where the slider stands.
        dampings: The stops, `damping` among them.
        top: Examples to keep per ranking.
    """

    inputs: Any
    truth: Tensor | None
    name: str
    index: int | None
    raw: Any
    render: media.Render | None
    labels: Label | Sequence[Label]
    damping: float
    dampings: tuple[float, ...]
    top: int


def explain(
    scorer: Scorer,
    fitted: Fitted,
    asked: Asked,
    curvature: str,
    render: media.Render | None,
    progress: Progress,
) -> Explanation:
    """Answer a question for every slider position."""
    started = time.perf_counter()
    task = scorer.task
    with task.evaluating():
        inputs = task.inputs(asked.inputs, "query")
        outputs = task.forward(inputs)
        targets, names, classes = explained(task, outputs, asked.labels, asked.truth)
        repeated = map_tensors(lambda x: x.expand(len(targets), *x.shape[1:]), inputs)
        gradients = task.query(repeated, targets).gradients
        nearest = rankings.nearest(fitted.neighbors, inputs, asked.top, stretch(progress, 0.0, 0.1))
    tables, examined = rankings.criteria(
        scorer, gradients, asked.dampings, asked.top, stretch(progress, 0.1, 1.0)
    )
    mentioned = sorted(
        {i for panel in (*tables, [nearest]) for table in panel for row in table.examples for i in row}
    )
    position = {row: place for place, row in enumerate(mentioned)}
    shown, sprite = media.sheet([media.show(task.source.raw(row), render) for row in mentioned])
    own = rankings.self_influences(scorer, asked.dampings, mentioned)
    panels = tuple(
        Panel(
            label=label,
            name=name,
            rankings=tuple(rankings.renumbered(table, position) for table in (*panel, nearest)),
        )
        for label, name, panel in zip(classes, names, tables, strict=True)
    )
    return Explanation(
        query=_query(task, asked, outputs),
        class_names=task.class_names,
        dampings=asked.dampings,
        panels=panels,
        examples=tuple(
            _training_example(task, fitted, i, one, *size)
            for i, one, size in zip(mentioned, shown, own, strict=True)
        ),
        sprite=sprite,
        settings=Settings(damping=asked.damping, k=min(5, asked.top)),
        provenance=Provenance(
            package_version=__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            curvature=curvature,
            curvature_detail=fitted.index.summary,
            loss=task.objective.loss.name,
            parameters=task.objective.size,
            train_size=task.source.length,
            mean_eigenvalue=fitted.index.basis.mean_eigenvalue,
            model_fingerprint=task.objective.fingerprint,
            data_fingerprint=fitted.data_fingerprint,
            prepare_seconds=round(time.perf_counter() - started, 4),
            nearest_space="features" if fitted.neighbors and fitted.neighbors.features else "inputs",
            examined=examined if examined < scorer.index.count else None,
        ),
    )


def explained(
    task: Task,
    outputs: Float[Tensor, "1 output"],
    labels: Label | Sequence[Label],
    truth: Tensor | None,
) -> tuple[Tensor, list[str], list[int | None]]:
    """Targets, names and classes of the labels to explain.

    Raises:
        ChoiceError: A label names nothing, or "true" without a true target.
        DataError: A regression asked for a class.
    """
    listed = as_labels(labels)
    if not listed:
        raise ChoiceError('labels=[] asks for no panel; name a class, "predicted", "true" or "top2".')
    if truth is None and "true" in listed and "true" not in task.class_names:
        raise ChoiceError('labels="true" needs the query\'s true label: explain(..., target=...).')
    probabilities = task.objective.loss.probabilities(outputs)
    if probabilities is None:
        return _explained_values(task, outputs, listed, truth)
    order = probabilities[0].argsort(descending=True, stable=True).tolist()
    classes: list[int] = []
    for label in listed:
        if isinstance(label, str) and label in task.class_names:
            found = [task.class_index(label)]
        elif label in ("predicted", "top2"):
            found = order[: 1 if label == "predicted" else 2]
        elif label == "true":
            assert truth is not None
            found = task.classes(truth).tolist()
        else:
            found = [task.class_index(label)]
        classes += [one for one in found if one not in classes]
    return (
        task.targets(torch.tensor(classes), "labels"),
        [task.class_names[c] for c in classes],
        list(classes),
    )


def _explained_values(
    task: Task, outputs: Tensor, labels: Sequence[Label], truth: Tensor | None
) -> tuple[Tensor, list[str], list[int | None]]:
    values = []
    for label in labels:
        if label == "true" and truth is not None:
            values.append(truth)
        elif label == "predicted":
            values.append(task.objective.loss.predicted(outputs))  # a regression's error says what it needs
        elif isinstance(label, str):
            raise ChoiceError(
                f'label={label!r} names no target of this model; pass the target\'s value, "predicted" or "true".'
            )
        else:
            values.append(task.target_of(label))
    targets = torch.cat(values)
    return targets, [value_text(target) for target in targets], [None] * len(values)


def _query(task: Task, asked: Asked, outputs: Tensor) -> Query:
    probabilities = task.objective.loss.probabilities(outputs)
    is_class = probabilities is not None
    truth = asked.truth
    return Query(
        name=asked.name,
        index=asked.index,
        label=int(task.classes(truth)[0]) if is_class and truth is not None else None,
        target=value_text(truth[0]) if not is_class and truth is not None else None,
        predicted=int(probabilities[0].argmax()) if probabilities is not None else None,
        output=None if is_class else value_text(outputs[0]),
        probabilities=() if probabilities is None else tuple(rounded(p) for p in probabilities[0].tolist()),
        media=media.standalone(media.show(asked.raw, asked.render)),
    )


def _training_example(
    task: Task,
    fitted: Fitted,
    row: int,
    shown: media.Small,
    self_influence: tuple[float, ...],
    self_influence_rank: tuple[int, ...],
) -> TrainingExample:
    target = fitted.targets[row]
    is_class = fitted.predicted is not None
    return TrainingExample(
        index=row,
        label=int(task.classes(target[None])[0]) if is_class else None,
        target=None if is_class else value_text(target),
        predicted=None if fitted.predicted is None else int(fitted.predicted[row]),
        probability=None if fitted.probability is None else rounded(float(fitted.probability[row])),
        loss=rounded(float(fitted.losses[row])),
        media=shown,
        self_influence=self_influence,
        self_influence_rank=self_influence_rank,
    )
