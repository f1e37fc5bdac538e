"""Attach to a model and its training set, fit once, then ask."""

from __future__ import annotations

import datetime
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import media, scores
from ._version import __version__
from .curvature import Curvature, as_curvature
from .data import Collate, Fingerprint, Source, as_inputs, as_source, batch_length, fit_inputs, map_tensors
from .errors import ChoiceError, DataError, ModelError, RelatifError, unknown_name
from .explanation import (
    METHODS,
    SIGNS,
    Explanation,
    Method,
    Panel,
    Provenance,
    Query,
    Ranking,
    Settings,
    Sign,
    TableSign,
    TrainingExample,
)
from .gradients import GradientBatch
from .index import Index
from .neighbors import Neighbors, flatten_inputs
from .objective import LossLike, ParameterChoice, make_objective

if TYPE_CHECKING:
    from .queries import QuerySet

DAMPINGS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The default damping stops."""

TOP = 20
"""Examples that a ranking table keeps per method, sign and stop."""

Progress = Callable[[float], None]
Label = str | int | float
_CHUNK_BYTES = 256 << 20
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class TopK:
    """The best training examples of each query.

    Attributes:
        indices: Rows of the training set, best first, [query, k].
        scores: Their scores, [query, k].
        certified: True where no example outside can belong to the top k,
            [query]. Always true here: every training example is scored exactly.
    """

    indices: Int[Tensor, "query k"]
    scores: Float[Tensor, "query k"]
    certified: Bool[Tensor, "query"]


@dataclass(frozen=True)
class _Fitted:
    index: Index
    neighbors: Neighbors | None
    targets: Tensor
    losses: Tensor
    predicted: Tensor | None
    probability: Tensor | None
    outputs: int
    class_names: tuple[str, ...]
    example_shape: Any
    data_fingerprint: str
    seconds: float


class Explainer:
    """Explains a model's predictions by the training examples that taught them.

    The model is snapshotted here: later training does not change the answers.
    It is run in evaluation mode and comes back exactly as it was.

    Args:
        model: A trained module whose output is [batch, outputs].
        train_set: What it was trained on, without random augmentation: a torch
            `Dataset` of (input, target), a Hugging Face or torchvision data set,
            or a pair of arrays (inputs, targets).
        loss: "cross_entropy", "bce_with_logits", "mse" (½‖f − y‖²), a torch loss
            module, or a callable (outputs, targets) -> [batch].
        parameters: Which parameters to differentiate: all trainable ones by
            default; a module's name ("fc"), a list of names, or a predicate
            (name, parameter) -> bool.
        curvature: "fisher" (exact, over the model's own labels), "identity"
            (plain gradients), "auto" (the Fisher, to about 8,000 parameters), or
            an object of the `relatif_widgets.curvature.Curvature` protocol.
        damping: λ in (H + λI), absolute as in the paper; the default of every
            question.
        dampings: The stops of the widget's slider; `damping` joins them.
        batch_size: Examples a batch; by default as many as memory allows, at most 256.
        collate_fn: Turns a list of items into (inputs, targets), as in a DataLoader.
        device: Where to compute; by default where the model is.
        memory_limit: Most bytes that fitting may take for rows, inputs and
            curvature: a number, or text such as "2GB". None: no limit.
        class_names: Names of the classes; by default the data set's own, else numbers.
        render: Hook that turns a raw example into what is shown: a picture, text,
            or a mapping of column to value.

    Raises:
        RelatifError: One of its kinds, before any long work: empty or
            unindexable data, weights that are NaN, no trainable parameters,
            unknown names, or more memory than `memory_limit`.
    """

    def __init__(
        self,
        model: nn.Module,
        train_set: Any,
        *,
        loss: LossLike = "cross_entropy",
        parameters: ParameterChoice = None,
        curvature: str | Curvature = "auto",
        damping: float = 1e-3,
        dampings: Iterable[float] = DAMPINGS,
        batch_size: int | None = None,
        collate_fn: Collate | None = None,
        device: torch.device | str | None = None,
        memory_limit: int | str | None = None,
        class_names: Sequence[str] | None = None,
        render: media.Render | None = None,
    ) -> None:
        self.damping = _damping(damping)
        self.dampings = tuple(sorted({*map(_damping, dampings), self.damping}))
        self._objective = make_objective(model, loss, parameters, device)
        self._curvature = as_curvature(curvature, self._objective.size)
        self._collate = collate_fn
        self._source = as_source(train_set, "train_set", collate_fn)
        self._class_names = None if class_names is None else tuple(map(str, class_names))
        if batch_size is not None and batch_size < 1:
            raise ChoiceError(f"batch_size={batch_size}; expected at least 1.")
        self._batch_size = batch_size
        self._memory_limit = _bytes(memory_limit)
        self._render = render
        self._fitted: _Fitted | None = None
        # functional_call swaps tensors on the user's module while it runs.
        self._lock = threading.RLock()

    # Fitting

    def fit(self, *, progress: bool = True) -> Explainer:
        """Rotate every training gradient into the curvature's eigenbasis, once.

        Args:
            progress: Show a progress bar.

        Returns:
            Itself, ready for questions.

        Raises:
            DataError: Labels outside the model's outputs, NaN or infinite inputs
                (with the index), or a data set whose passes disagree.
            ModelError: A loss that is not per example, non-finite outputs or
                gradients (with the index), or too little memory.
        """
        started = time.perf_counter()
        with self._lock, self._objective.evaluating():
            self._source.probe()
            outputs = self._trial_run()
            self._check_memory(outputs)
            with tqdm(total=self.train_size, desc="gradients", unit="ex", disable=not progress) as bar:
                self._fitted = self._fit(outputs, bar, started)
                bar.set_description("fitted")
        return self

    def _fit(self, outputs: int, bar: Any, started: float) -> _Fitted:
        size, device, dtype = self.parameter_count, self._objective.device, self._objective.dtype
        rows = torch.empty(self.train_size, size, dtype=dtype, device=device)
        losses = torch.empty(self.train_size, dtype=dtype, device=device)
        fingerprint = Fingerprint()
        all_targets, predicted, probability, flat = [], [], [], []
        self._curvature.begin(self._objective)
        shape: Any = None
        for batch in self._batches(self._source, self._chunk(outputs)):
            part = slice(batch.first, batch.first + len(batch.targets))
            fingerprint.add(batch.inputs, batch.targets)
            self._curvature.update(batch)
            rows[part] = batch.gradients
            losses[part] = batch.losses
            all_targets.append(batch.targets)
            probabilities = self._objective.loss.probabilities(batch.outputs)
            if probabilities is not None:
                classes = self._classes(batch.targets)
                predicted.append(probabilities.argmax(1))
                probability.append(probabilities.gather(1, classes[:, None])[:, 0])
            if isinstance(batch.inputs, Tensor):
                flat.append(flatten_inputs(batch.inputs))
            shape = map_tensors(lambda x: list(x.shape[1:]), batch.inputs)
            bar.update(len(batch.targets))
        bar.set_description("eigenbasis")
        basis = self._curvature.finish()
        bar.set_description("rotating")
        index = Index(basis, _rotated(basis.rotate, rows))
        index.prepare(self.dampings if basis.damped else (self.damping,))
        return _Fitted(
            index=index,
            neighbors=Neighbors(torch.cat(flat)) if flat and len({x.shape[1] for x in flat}) == 1 else None,
            targets=torch.cat(all_targets),
            losses=losses,
            predicted=torch.cat(predicted) if predicted else None,
            probability=torch.cat(probability) if probability else None,
            outputs=outputs,
            class_names=self._names(outputs),
            example_shape=shape,
            data_fingerprint=fingerprint.hexdigest(),
            seconds=time.perf_counter() - started,
        )

    # Asking

    def scores(
        self,
        queries: Any,
        labels: Any = None,
        *,
        method: Method = "loss_relative",
        damping: float | None = None,
    ) -> Float[Tensor, "query train"]:
        """The score of every training example for every query; positive = helpful (Definition 2.1).

        Args:
            queries: A batch of inputs [query, ...], or a data set, whose inputs are taken.
            labels: One target per query (class indices or names, or values for a
                regression); None for the predicted class.
            method: "influence" (IF), "theta_relative" (Definition 3.2),
                "loss_relative" (Definition 3.4) or "nearest" (minus the squared
                distance in input space; labels and damping do not enter).
            damping: λ; the explainer's default if None.

        Returns:
            Scores in the model's dtype, [query, train] ("nearest": float64).

        Raises:
            RelatifError: One of its kinds: not fitted, unknown method, labels outside the outputs,
                inputs that the model does not take.
        """
        parts = [
            torch.cat([score for _, score in block], dim=1)
            for block in self._score_blocks(queries, labels, method, damping)
        ]
        return torch.cat(parts)

    def top_k(
        self,
        queries: Any,
        labels: Any = None,
        *,
        k: int = 5,
        method: Method = "loss_relative",
        damping: float | None = None,
        sign: Sign = "positive",
    ) -> TopK:
        """The k best training examples of every query, without ever holding [query, train].

        Args:
            queries, labels, method, damping: As in `scores`.
            k: How many, at most the number of training examples.
            sign: "positive": most helpful; "negative": most harmful; "both": largest
                absolute score, as in Eq. (11). "nearest" has no sign.

        Returns:
            Indices and scores, best first; equal scores by ascending index.
        """
        self._known("sign", sign, SIGNS)
        self._known("method", method, METHODS)
        if method == "nearest" and sign != "positive":
            raise ChoiceError(f'method="nearest" has no sign {sign!r}: distances do not help or harm. Use "positive".')
        if isinstance(k, bool) or not 1 <= k <= self.train_size:
            raise ChoiceError(f"k={k}; expected 1 to {self.train_size}, the number of training examples.")
        indices, values = [], []
        for block in self._score_blocks(queries, labels, method, damping):
            best: tuple[Tensor, Tensor] | None = None
            for part, score in block:
                found, value = scores.top_k(score, min(k, score.shape[1]), sign)
                found = found + part.start
                if best is not None:
                    # Earlier parts come first, so equal scores stay in index order.
                    found, value = torch.cat([best[0], found], 1), torch.cat([best[1], value], 1)
                    order, value = scores.top_k(value, min(k, value.shape[1]), sign)
                    found = found.gather(1, order)
                best = found, value
            assert best is not None
            indices.append(best[0])
            values.append(best[1])
        found, value = torch.cat(indices), torch.cat(values)
        return TopK(found, value, torch.ones(len(found), dtype=torch.bool, device=found.device))

    def self_influence(self, damping: float | None = None) -> Float[Tensor, "train"]:
        """I_i,i = g_iᵀ (H+λI)⁻¹ g_i of every training example, float64: large for outliers and mislabels."""
        return self._ready().index.self_influence([self._one_damping(damping)])[0].clone()

    def explain(
        self,
        query: Any,
        labels: Label | Sequence[Label] = "predicted",
        *,
        target: Any = None,
        name: str = "query",
        index: int | None = None,
        raw: Any = None,
        damping: float | None = None,
        top: int = TOP,
        progress: Progress | None = None,
    ) -> Explanation:
        """Explain one prediction, for one or more labels, at every slider position.

        Args:
            query: One input without a batch dimension, as in `test_set[7][0]`.
            labels: Classes by name or index, or "predicted", "true" (needs
                `target`), or "top2"; in a regression, target values.
            target: The query's true target, if known.
            name: What to call it, such as "test #7".
            index: Its row in the test set, if it has one.
            raw: What to show of it; by default the input itself.
            damping: Where the slider stands, becoming a stop if it is none.
            top: Examples to keep per method, sign and damping stop.
            progress: Called with the fraction done, 0 to 1; what it raises stops the work.

        Returns:
            A document that displays itself, saves, and opens without torch.
        """
        started = time.perf_counter()
        fitted = self._ready()
        if isinstance(top, bool) or top < 1:
            raise ChoiceError(f"top={top}; expected at least 1.")
        damping = self._one_damping(damping)
        dampings = tuple(sorted({*self.dampings, damping})) if fitted.index.basis.damped else (damping,)
        inputs = map_tensors(lambda x: x[None], _single(query))
        self._check_shape(inputs, "query")
        with self._lock, self._objective.evaluating():
            inputs = fit_inputs(inputs, self._objective.dtype, self._objective.device, "query", 0)
            outputs = self._forward(inputs)
            truth = None if target is None else self._targets(torch.as_tensor(target).reshape(1, -1), "target")
            targets, names, classes = self._explained(outputs, labels, truth)
            batch = GradientBatch(self._objective, map_tensors(lambda x: x.expand(len(targets), *x.shape[1:]), inputs), targets)
            gradients = fitted.index.basis.rotate(batch.gradients)
        tables = self._tables(gradients, dampings, min(top, self.train_size), progress or _silent)
        nearest = self._nearest_table(inputs, min(top, self.train_size))
        mentioned = sorted({i for panel in (*tables, [nearest]) for table in panel for row in table.examples for i in row})
        position = {example: place for place, example in enumerate(mentioned)}
        shown, sprite = media.sheet([media.show(self._source.raw(i), self._render) for i in mentioned])
        probabilities = self._objective.loss.probabilities(outputs)
        return Explanation(
            query=Query(
                name=name,
                index=index,
                label=None if truth is None or probabilities is None else int(self._classes(truth)[0]),
                target=None if truth is None or probabilities is not None else _value(truth[0]),
                predicted=None if probabilities is None else int(probabilities[0].argmax()),
                output=None if probabilities is not None else _value(outputs[0]),
                probabilities=() if probabilities is None else tuple(_rounded(p) for p in probabilities[0].tolist()),
                media=media.standalone(media.show(query if raw is None else raw, self._render)),
            ),
            class_names=fitted.class_names,
            dampings=dampings,
            panels=tuple(
                Panel(label=label, name=title, rankings=tuple(_at(table, position) for table in (*panel, nearest)))
                for label, title, panel in zip(classes, names, tables, strict=True)
            ),
            examples=tuple(self._training_example(i, one) for i, one in zip(mentioned, shown, strict=True)),
            sprite=sprite,
            settings=Settings(damping=damping, k=min(5, self.train_size)),
            provenance=Provenance(
                package_version=__version__,
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                curvature=self._curvature.name,
                curvature_detail=fitted.index.basis.detail,
                loss=self._objective.loss.name,
                parameters=self.parameter_count,
                train_size=self.train_size,
                mean_eigenvalue=fitted.index.basis.mean_eigenvalue,
                model_fingerprint=self._objective.fingerprint(),
                data_fingerprint=fitted.data_fingerprint,
                prepare_seconds=round(time.perf_counter() - started, 4),
            ),
        )

    def queries(self, test_set: Any) -> QuerySet:
        """The model's predictions on a test set, and an explanation of any of its rows on request."""
        from .queries import QuerySet  # a QuerySet holds an Explainer

        return QuerySet(self, as_source(test_set, "test_set", self._collate))

    # What it is

    @property
    def train_size(self) -> int:
        """n, the number of training examples."""
        return self._source.length

    @property
    def parameter_count(self) -> int:
        """P, the number of parameters that are differentiated."""
        return self._objective.size

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty for a regression."""
        return self._ready().class_names

    def report(self) -> str:
        """What was fitted, in words: parameters, curvature, spectrum, memory and time."""
        fitted = self._ready()
        basis = fitted.index.basis
        lines = [
            f"{self.train_size:,} training examples, {self.parameter_count:,} parameters in "
            f"{', '.join(self._objective.parameters)}",
            f"curvature: {basis.detail}",
            f"loss: {self._objective.loss.name}, mean {float(fitted.losses.mean()):.4g} on the training set",
            f"index: {fitted.index.rows.numel() * fitted.index.rows.element_size() / 1e6:,.1f} MB of rotated gradients",
            f"fitted in {fitted.seconds:.1f} s",
        ]
        if basis.eigenvalues is not None:
            above = int((basis.eigenvalues > self.damping).sum())
            lines.insert(
                2,
                f"eigenvalues: largest {float(basis.eigenvalues.max()):.4g}, mean {basis.mean_eigenvalue:.4g}; "
                f"{above:,} above the damping of {self.damping:g}",
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        state = "fitted" if self._fitted else "not fitted"
        return (
            f"Explainer({self.train_size:,} training examples, {self.parameter_count:,} parameters, "
            f"curvature={self._curvature.name!r}, {state})"
        )

    # Inside

    def _ready(self) -> _Fitted:
        if self._fitted is None:
            raise RelatifError("The explainer is not fitted yet: call explainer.fit() first.")
        return self._fitted

    def _batches(self, source: Source, size: int) -> Iterator[GradientBatch]:
        for first, inputs, targets in source.batches(size):
            inputs = fit_inputs(inputs, self._objective.dtype, self._objective.device, source.name, first)
            assert targets is not None
            yield GradientBatch(self._objective, inputs, self._targets(targets, source.name, first), first)

    def _targets(self, targets: Tensor, name: str, first: int = 0) -> Tensor:
        outputs = self._outputs
        try:
            targets = self._objective.loss.as_targets(targets, outputs)
        except DataError as error:
            message = re.sub(r"at position (\d+)", lambda m: f"of example {first + int(m[1])}", str(error))
            raise DataError(f"{name}: {message}") from None
        if targets.is_floating_point():
            targets = targets.to(self._objective.dtype)
        return targets.to(self._objective.device)

    def _trial_run(self) -> int:
        """Outputs of the model, after one small batch has gone all the way."""
        rows = range(min(2, self.train_size))
        inputs, targets = self._source.batch(rows)
        assert targets is not None
        inputs = fit_inputs(inputs, self._objective.dtype, self._objective.device, "train_set", 0)
        outputs = self._forward(inputs)
        if len(outputs) != len(rows):
            raise ModelError(f"The model returned {len(outputs)} predictions for {len(rows)} examples.")
        self._outputs = outputs.shape[1]
        targets = self._targets(targets, "train_set")
        self._objective.loss.per_example(outputs, targets)
        if self._curvature.uses_jacobian:
            self._objective.loss.curvature_factor(outputs)
        self._names(outputs.shape[1])
        return outputs.shape[1]

    def _forward(self, inputs: Any) -> Tensor:
        try:
            with torch.no_grad():
                return self._objective.outputs(self._objective.parameters, inputs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, RelatifError):
                raise
            shapes = map_tensors(lambda x: list(x.shape), inputs)
            raise DataError(
                f"The model does not take inputs of shape {shapes}: {error}. Pass the data set with the transform "
                "that the model was trained with, or collate_fn=."
            ) from error

    def _chunk(self, outputs: int) -> int:
        if self._batch_size is not None:
            return self._batch_size
        width = outputs + 1 if self._curvature.uses_jacobian else 1
        example = 3 * width * self.parameter_count * self._objective.dtype.itemsize
        room = _CHUNK_BYTES if self._memory_limit is None else min(_CHUNK_BYTES, self._memory_limit // 8)
        return max(1, min(256, room // example))

    def _check_memory(self, outputs: int) -> None:
        if self._memory_limit is None:
            return
        itemsize = self._objective.dtype.itemsize
        inputs, _ = self._source.batch([0])
        features = inputs.numel() if isinstance(inputs, Tensor) else 0
        parts = {
            "rotated gradients": self.train_size * self.parameter_count * itemsize,
            "curvature": self._curvature.working_memory(self.parameter_count),
            "inputs for k-NN": self.train_size * features * itemsize,
            "one batch": 3 * self._chunk(outputs) * (outputs + 1) * self.parameter_count * itemsize,
        }
        total = sum(parts.values())
        if total > self._memory_limit:
            detail = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts.items())
            raise ModelError(
                f"Fitting needs about {total / 1e9:.2f} GB ({detail}); memory_limit is {self._memory_limit / 1e9:.2f} "
                'GB. Score fewer parameters, such as parameters="fc", a part of the training set, or raise the limit.'
            )

    def _names(self, outputs: int) -> tuple[str, ...]:
        count = self._objective.loss.class_count(outputs)
        if count is None:
            return ()
        if self._class_names is not None and len(self._class_names) != count:
            raise ChoiceError(
                f"class_names has {len(self._class_names)} names; the model has {count} classes. Give one name each."
            )
        names = self._class_names or self._source.class_names
        if names is None or len(names) != count:
            return tuple(str(label) for label in range(count))
        if len(set(names)) != count:
            return tuple(f"{name} ({label})" if names.count(name) > 1 else name for label, name in enumerate(names))
        return names

    def _classes(self, targets: Tensor) -> Tensor:
        return targets.reshape(len(targets), -1)[:, 0].round().long()

    def _known(self, option: str, value: Any, known: Sequence[str]) -> None:
        if value not in known:
            raise unknown_name(option, value, known)

    def _one_damping(self, damping: float | None) -> float:
        return self.damping if damping is None else _damping(damping)

    def _check_shape(self, inputs: Any, name: str) -> None:
        expected = self._ready().example_shape
        if isinstance(inputs, Tensor) and isinstance(expected, list) and inputs.dim() != len(expected) + 1:
            raise DataError(
                f"{name} has shape {list(inputs.shape[1:])}; expected one example like the training inputs, {expected}."
                if name == "query"
                else f"{name} has shape {list(inputs.shape)}; expected a batch [query, "
                f"{', '.join(map(str, expected))}]. For one example pass x[None]."
            )

    def _score_blocks(
        self, queries: Any, labels: Any, method: Method, damping: float | None
    ) -> Iterator[Iterator[tuple[slice, Tensor]]]:
        """For each block of queries, the scores of one part of the training set after the other."""
        fitted = self._ready()
        self._known("method", method, METHODS)
        damping = self._one_damping(damping)
        source = as_inputs(queries, self._collate)
        targets = None if labels is None else self._query_targets(labels, source.length)
        for first, inputs, _ in source.batches(self._chunk(1)):
            self._check_shape(inputs, "queries")
            inputs = fit_inputs(inputs, self._objective.dtype, self._objective.device, "queries", first)
            if method == "nearest":
                if fitted.neighbors is None:
                    flatten_inputs(inputs if not isinstance(inputs, Tensor) else [])
                    raise DataError("nearest needs training inputs of one shape; these differ in length.")
                yield iter([(slice(0, self.train_size), fitted.neighbors.score(inputs))])
                continue
            with self._lock, self._objective.evaluating():
                outputs = self._forward(inputs)
                wanted = self._objective.loss.predicted(outputs) if targets is None else (
                    targets[first : first + len(outputs)]
                )
                gradients = GradientBatch(self._objective, inputs, wanted, first).gradients
            yield self._parts(fitted.index, fitted.index.basis.rotate(gradients), method, damping)

    def _parts(self, index: Index, rows: Tensor, method: Method, damping: float) -> Iterator[tuple[slice, Tensor]]:
        assert method != "nearest"
        for part, influence in index.influence(rows, [damping]):
            yield part, index.relative(method, influence[:, 0], damping, part)

    def _query_targets(self, labels: Any, count: int) -> Tensor:
        values: Any
        if isinstance(labels, (Tensor,)):
            values = labels
        else:
            listed = [labels] if isinstance(labels, (str, int, float)) else list(labels)
            values = torch.as_tensor([self._class(label) if isinstance(label, str) else label for label in listed])
        if values.dim() == 0:
            values = values[None]
        if len(values) != count:
            raise DataError(f"labels has {len(values)} entries for {count} queries; expected one target per query.")
        return self._targets(values, "labels")

    def _class(self, label: str | int) -> int:
        names = self._ready().class_names
        if isinstance(label, str):
            if label not in names:
                raise unknown_name("label", label, names)
            return names.index(label)
        if isinstance(label, bool) or not 0 <= label < len(names):
            raise ChoiceError(f"label={label} is outside the model's {len(names)} classes; expected 0 to {len(names) - 1}.")
        return int(label)

    def _explained(
        self, outputs: Tensor, labels: Label | Sequence[Label], truth: Tensor | None
    ) -> tuple[Tensor, list[str], list[int | None]]:
        """The targets, names and classes of the labels to explain; `outputs` is [1, outputs]."""
        listed = [labels] if isinstance(labels, (str, int, float)) else list(labels)
        if not listed:
            raise ChoiceError('labels=[] asks for no panel; name a class, "predicted", "true" or "top2".')
        probabilities = self._objective.loss.probabilities(outputs)
        if probabilities is None:
            return self._explained_values(outputs, listed, truth)
        order = probabilities[0].argsort(descending=True, stable=True).tolist()
        classes: list[int] = []
        for label in listed:
            known = isinstance(label, str) and label in self._ready().class_names
            if label == "predicted" and not known:
                found = order[:1]
            elif label == "top2" and not known:
                found = order[:2]
            elif label == "true" and not known:
                if truth is None:
                    raise ChoiceError('labels="true" needs the query\'s true label: explain(..., target=...).')
                found = [int(self._classes(truth)[0])]
            elif isinstance(label, float):
                raise ChoiceError(f"label={label} is a number with a fraction; expected a class name or index.")
            else:
                found = [self._class(label)]
            classes += [label for label in found if label not in classes]
        targets = self._targets(torch.tensor(classes), "labels")
        return targets, [self._ready().class_names[label] for label in classes], list(classes)

    def _explained_values(
        self, outputs: Tensor, labels: list[Label], truth: Tensor | None
    ) -> tuple[Tensor, list[str], list[int | None]]:
        values = []
        for label in labels:
            if label == "true" and truth is not None:
                values.append(truth.reshape(-1))
            elif isinstance(label, str):
                self._objective.loss.predicted(outputs)  # its error says what a regression needs
                raise ChoiceError(f"label={label!r} names no target of this model; pass values.")
            else:
                values.append(torch.as_tensor(label, dtype=self._objective.dtype).reshape(-1))
        targets = self._targets(torch.stack(values), "labels")
        return targets, [_value(target) for target in targets], [None] * len(values)

    def _tables(
        self, rows: Tensor, dampings: Sequence[float], top: int, progress: Progress
    ) -> list[list[Ranking]]:
        """Per label, the rankings of the three criteria; `examples` holds training rows for now."""
        index = self._ready().index
        index.prepare(dampings)
        influence = torch.empty(len(rows), len(dampings), self.train_size, dtype=rows.dtype, device=rows.device)
        for part, score in index.influence(rows, dampings):
            influence[:, :, part] = score
            progress(0.5 * part.stop / self.train_size)
        everything = slice(0, self.train_size)
        panels: list[list[Ranking]] = []
        for label, panel in enumerate(influence):
            tables: list[Ranking] = []
            for method in ("influence", "theta_relative", "loss_relative"):
                score = torch.stack(
                    [index.relative(method, panel[s], damping, everything) for s, damping in enumerate(dampings)]
                )
                tables += [_ranking(method, sign, score, top) for sign in ("positive", "negative")]
                progress(0.5 + 0.5 * (label + len(tables) / 6) / len(influence))
            panels.append(tables)
        return panels

    def _nearest_table(self, inputs: Any, top: int) -> Ranking:
        neighbors = self._ready().neighbors
        if neighbors is None:
            return Ranking(method="nearest", sign="positive", examples=((),), scores=((),))
        indices, values = scores.top_k(neighbors.score(inputs), top)
        return Ranking(
            method="nearest",
            sign="positive",
            examples=(tuple(indices[0].tolist()),),
            scores=(tuple(_rounded(v) for v in values[0].tolist()),),
        )

    def _training_example(self, i: int, shown: Any) -> TrainingExample:
        fitted = self._ready()
        is_class = fitted.predicted is not None
        target = fitted.targets[i]
        return TrainingExample(
            index=i,
            label=int(self._classes(target[None])[0]) if is_class else None,
            target=None if is_class else _value(target),
            predicted=int(fitted.predicted[i]) if fitted.predicted is not None else None,
            probability=None if fitted.probability is None else _rounded(float(fitted.probability[i])),
            loss=_rounded(float(fitted.losses[i])),
            media=shown,
        )


def _ranking(method: Literal["influence", "theta_relative", "loss_relative"], sign: TableSign, score: Tensor, top: int) -> Ranking:
    indices, values = scores.top_k(score, top, sign)
    examples, kept = [], []
    for row, value in zip(indices.tolist(), values.tolist(), strict=True):
        pairs = [(i, v) for i, v in zip(row, value, strict=True) if (v > 0 if sign == "positive" else v < 0)]
        examples.append(tuple(i for i, _ in pairs))
        kept.append(tuple(_rounded(v) for _, v in pairs))
    return Ranking(method=method, sign=sign, examples=tuple(examples), scores=tuple(kept))


def _at(table: Ranking, position: dict[int, int]) -> Ranking:
    return Ranking(
        method=table.method,
        sign=table.sign,
        examples=tuple(tuple(position[i] for i in row) for row in table.examples),
        scores=table.scores,
    )


def _rotated(rotate: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    # In place, block by block: the rows are the largest thing here.
    for block in rows.split(1024):
        block.copy_(rotate(block))
    return rows


def _single(query: Any) -> Any:
    if isinstance(query, (Tensor, dict, tuple)):
        return query
    try:
        return torch.as_tensor(query)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"query is {type(query).__name__}; expected one input as the model takes it, such as test_set[7][0] "
            f"({error})."
        ) from error


def _damping(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ChoiceError(f"damping={value!r} is no number; expected λ > 0, such as 0.001.") from None
    if not (math.isfinite(number) and number > 0):
        raise ChoiceError(f"damping={number:g}; expected a finite λ > 0, so that H + λI is invertible.")
    return number


def _bytes(limit: int | str | None) -> int | None:
    if limit is None or (isinstance(limit, int) and limit > 0):
        return limit
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", str(limit).lower())
    if found is None or isinstance(limit, int):
        raise ChoiceError(f'memory_limit={limit!r}; expected a number of bytes or text such as "2GB".')
    return int(float(found[1]) * _UNITS[found[2]])


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")  # nine digits carry a float32 exactly


def _value(target: Tensor) -> str:
    return ", ".join(f"{value:.6g}" for value in target.reshape(-1).tolist())


def _silent(fraction: float) -> None:
    pass
