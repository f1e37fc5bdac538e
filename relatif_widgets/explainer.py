"""Attach to a model and its training set, fit once, then ask."""

from __future__ import annotations

import math
import operator
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from . import best, documents, fitting, media, retraining
from .best import TopK
from .curvature import Curvature, FisherLabels, as_curvature
from .data import Collate, as_inputs, as_source, batch_length, map_tensors, row_values
from .errors import ChoiceError, DataError, ModelError, RelatifError, one_of
from .explanation import METHODS, SIGNS, TOP, Explanation, Method, Sign, Space
from .gradients import GradientBatch
from .index import RelativeMethod
from .neighbors import Neighbors, no_input_space
from .objective import LossLike, ParameterChoice, make_objective
from .queries import CLOSE_MARGIN, DefaultLabels, QuerySet
from .scoring import Progress, Scorer, stretch
from .tags import Tags, as_indices
from .task import BATCH, Label, attach, value_text

if TYPE_CHECKING:
    import pandas as pd

DAMPINGS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The default damping stops."""

T = TypeVar("T")

Storage = Literal["float64", "float32", "float16", "bfloat16"]

QUERIES = 1024
"""Queries at once where the index answers alone: enough that reading it is little of the work."""

SPACES: tuple[Space, ...] = ("inputs", "features")


class Explainer:
    """Explains a model's predictions by the training examples that taught them.

    The model is snapshotted here: later training does not change the answers.
    It is run in evaluation mode and comes back exactly as it was.

    Args:
        model: A trained module whose output is [batch, outputs].
        train_set: What it was trained on, without random augmentation: a torch
            `Dataset` of (input, target), a Hugging Face or torchvision data set,
            or a pair (inputs, targets) of arrays or of a DataFrame and its targets.
        loss: "cross_entropy", "bce_with_logits", "mse" (½‖f − y‖²), a torch loss
            module, or a callable (outputs, targets) -> [batch].
        parameters: Which parameters to differentiate: all trainable ones by
            default; a module or its name ("fc"), a list of names, or a predicate
            (name, parameter) -> bool.
        curvature: "auto": the most faithful that fits, "fisher" to about 8,000
            parameters, then "low_rank", then "ekfac"; `report()` says which.
            "fisher" (exact, over the model's own labels), "hessian" (exact),
            "empirical_fisher" (at the training labels), "block_fisher" (the exact
            Fisher of each layer), "low_rank" (leading eigenpairs of the whole Fisher
            and an isotropic tail), "kfac", "ekfac", "lissa" (a recursion for each
            query), "identity" (plain gradients), or an object of the
            `relatif_widgets.curvature.Curvature` protocol, such as
            `LowRank(rank=2048)` or `Lissa(matrix="fisher")`.
        fisher_labels: Which labels "low_rank", "kfac" and "ekfac" take their
            expectation over: "exact" (all of them; the default where that is cheap, to
            200,000 examples × outputs, and for "low_rank" of 2,048 examples and more to
            500 million times parameters), "sample" (one drawn from the model for each
            example; K-FAC's and EK-FAC's default beyond), "rademacher" (one random
            mixture of all labels for each, as cheap and less noisy; "low_rank"'s
            default beyond), or "empirical" (the training labels, for a loss without a
            likelihood).
        damping: λ in (H + λI), absolute as in the paper; the default of every
            question.
        dampings: The stops of the widget's slider; `damping` joins them.
        batch_size: Examples a batch; by default as many as memory allows, at most 256.
        collate_fn: Turns a list of items into (inputs, targets), as in a DataLoader.
        device: Where to compute; by default where the model is.
        space: Where "nearest" measures distance: "inputs" (the paper's k-NN) or
            "features", the inputs of the model's last layer.
        memory_limit: Most bytes that fitting may take for rows, inputs and
            curvature: a number, or text such as "2GB". None: half of what is free.
            Where rotated gradients do not fit whole, the coordinates with the largest
            eigenvalues are kept, and the best of a ranking are scored exactly from
            gradients computed afresh; where there is room for none, each question takes
            a pass over the training set. Inputs that have no room beside the curvature are
            read anew whenever "nearest" is asked for. `report()` says which.
        storage: Precision in which rotated gradients are kept, "float32", "float16" or
            "bfloat16" (half the memory, and two or three digits); None for the model's
            own. The best of a ranking are scored exactly from gradients computed afresh;
            `scores` and `self_influence` keep the rounding. "low_rank" keeps its
            coordinates alone then, no gradients beside them.
        index_folder: A folder on a disk, made if it is not there, where rotated gradients are kept in a file, mapped
            into memory, instead of in memory: `memory_limit` does not count them, and the
            file goes with the explainer. None: in memory.
        class_names: Names of the classes, a list or a mapping from index; by default the data set's own, else numbers.
        render: Hook that turns a raw example into what is shown: a picture, a matplotlib
            figure, text, or a mapping of column to value.

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
        fisher_labels: FisherLabels | None = None,
        damping: float = 1e-3,
        dampings: Iterable[float] = DAMPINGS,
        batch_size: int | None = None,
        collate_fn: Collate | None = None,
        device: torch.device | str | None = None,
        space: Space = "inputs",
        memory_limit: int | float | str | None = None,
        storage: Storage | torch.dtype | None = None,
        index_folder: str | os.PathLike[str] | None = None,
        class_names: Sequence[str] | Mapping[int, str] | None = None,
        render: media.Render | None = None,
    ) -> None:
        self.damping = as_damping(damping)
        if not hasattr(dampings, "__iter__") or isinstance(dampings, (str, bytes)):
            raise ChoiceError(f"dampings={dampings!r}; expected several, such as [0.001, 0.01, 0.1].")
        self.dampings = tuple(sorted({*map(as_damping, dampings), self.damping}))
        batch_size = None if batch_size is None else _count("batch_size", batch_size)
        one_of("space", space, SPACES)
        limit = fitting.as_bytes(memory_limit)
        self._storage = fitting.as_storage(storage)
        self._folder = fitting.as_folder(index_folder)
        self._memory = fitting.available_memory() if limit is None else limit
        objective = make_objective(model, loss, parameters, device)
        source = as_source(train_set, "train_set", collate_fn)
        self._curvature = as_curvature(
            curvature, objective.size, source.length, self._memory, objective.dtype.itemsize, fisher_labels
        )
        self._collate = collate_fn
        self._render = render
        self._task = attach(objective, source, class_names, self._curvature)
        self._features = self._task.features() if space == "features" else None
        self._sizes = fitting.batch_sizes(
            self._task,
            self._curvature,
            batch_size,
            self._memory,
            same=collate_fn is not None,  # which may pad its batches, and passes are compared
        )
        fitting.check_memory(self._task, self._curvature, self._sizes, self._memory)
        self._at_once = fitting.gradients_at_once(self._task, batch_size, self._memory)
        self._fitted: fitting.Fitted | None = None
        owner = weakref.ref(self)  # not itself: an index of gigabytes would wait for the garbage collector

        def alive() -> Explainer:
            found = owner()
            if found is None:
                raise RelatifError(
                    "The explainer that these tags belong to is gone: keep it as long as its tags."
                )
            return found

        self.tags = Tags(
            self.train_size,
            lambda indices: alive().examples(indices),
            lambda: alive()._ready().data_fingerprint,
        )

    def fit(self, *, progress: bool | Progress = True) -> Explainer:
        """Rotate every training gradient into the curvature's eigenbasis, once.

        Args:
            progress: Show a progress bar; or a function, called with the fraction done, 0 to 1, whose
                exceptions stop the work.

        Returns:
            Itself, ready for questions.

        Raises:
            DataError: Labels outside the model's outputs, NaN or infinite inputs (with the index).
            ModelError: Outputs or gradients that are not finite (with the index).
        """
        told = _told(None if isinstance(progress, bool) else progress)
        self._fitted = (
            None  # whatever comes of this, the former answers are old; and two indexes need not fit
        )
        done = 0
        with tqdm(
            total=self.train_size * self._curvature.passes, unit=" examples", disable=progress is not True
        ) as bar:

            def report(stage: str, examples: int) -> None:
                nonlocal done
                total = self.train_size * self._curvature.passes
                bar.set_description(stage, refresh=not examples)
                bar.total = total
                bar.update(examples)
                done += examples
                told(0.9 * done / total)

            self._fitted = fitting.fit(
                self._task,
                self._curvature,
                self.dampings,
                self.damping,
                self._sizes,
                self._memory,
                self._storage,
                self._folder,
                self._features,
                report,
            )
            bar.set_description("fitted")
            told(1.0)
        return self

    # Asking

    def scores(
        self,
        queries: Any,
        labels: Any = None,
        *,
        method: Method = "loss_relative",
        damping: float | None = None,
        progress: Progress | None = None,
    ) -> Float[Tensor, "query train"]:
        """The score of every training example for every query; positive = helpful (Definition 2.1).

        Args:
            queries: A batch of inputs [query, ...], or a data set, whose inputs are taken.
            labels: One target per query (class indices or names, or values for a
                regression); None for the predicted class.
            method: "influence" (IF), "theta_relative" (Definition 3.2),
                "loss_relative" (Definition 3.4) or "nearest" (minus the squared
                distance, see `space`; labels and damping do not enter).
            damping: λ; the explainer's default if None.
            progress: Called with the fraction done, 0 to 1; what it raises stops the work.

        Returns:
            Scores in the model's dtype, [query, train] ("nearest": float64).

        Raises:
            RelatifError: One of its kinds: not fitted, unknown method, labels outside the outputs,
                inputs that the model does not take.
        """
        chosen = self._damping(damping)
        one_of("method", method, METHODS)
        told = _told(progress)
        if method == "nearest":
            return torch.cat([*self._near(queries, labels, Neighbors.score, told)])
        blocks = self._gradient_blocks(queries, labels, told)
        return torch.cat([self._scored(block, method, chosen, own) for block, own in blocks])

    def top_k(
        self,
        queries: Any,
        labels: Any = None,
        *,
        k: int = 5,
        method: Method = "loss_relative",
        damping: float | None = None,
        sign: Sign = "positive",
        progress: Progress | None = None,
    ) -> TopK:
        """The k best training examples of every query, without ever holding [query, train].

        Args:
            queries, labels, method, damping, progress: As in `scores`.
            k: How many, at most the number of training examples.
            sign: "positive": most helpful; "negative": most harmful; "both": largest
                absolute score, as in Eq. (11). "nearest" has no sign.

        Returns:
            Indices and scores, best first; equal scores by ascending index.
        """
        found = self._top(
            queries, labels, k=k, methods=[method], damping=damping, sign=sign, progress=progress
        )
        return found[method]

    def self_influence(
        self, damping: float | None = None, *, progress: Progress | None = None
    ) -> Float[Tensor, "train"]:
        """I_i,i = g_iᵀ (H+λI)⁻¹ g_i of every training example, float64: large for outliers and mislabels.

        Args:
            damping: λ; the explainer's default if None. At a stop this is a lookup.
            progress: As in `scores`; not called where no pass over the training set is needed.
        """
        chosen = [self._damping(damping)]
        scorer = self._scorer()
        scorer.prepare(chosen, _told(progress))
        return scorer.index.self_influence(chosen)[0].clone()

    def examples(self, indices: Iterable[int]) -> pd.DataFrame:
        """What is known of some training examples.

        Args:
            indices: Rows of the training set.

        Returns:
            A line each, in the order given: index, label (a class's name, or the target), predicted,
            probability (of the training label), loss, self_influence (at the default damping).

        Raises:
            ChoiceError: An index is outside the training set.
        """
        import pandas as pd

        fitted, task = self._ready(), self._task
        rows = as_indices(indices, self.train_size, once=False)
        names = self.class_names
        targets = fitted.targets[rows]
        if fitted.predicted is None:
            labels = [value_text(target) for target in targets]
        else:
            labels = [names[c] for c in task.classes(targets).tolist()] if rows else []
        predicted, probability = fitted.predicted, fitted.probability
        return pd.DataFrame(
            {
                "index": rows,
                "label": labels,
                "predicted": [None if predicted is None else names[int(predicted[row])] for row in rows],
                "probability": [None if probability is None else float(probability[row]) for row in rows],
                "loss": fitted.losses[rows].tolist(),
                "self_influence": self.self_influence()[rows].tolist(),
            }
        )

    def show(self, index: int) -> media.Alone:
        """What to show of one training example: text, a row, or a picture of at most 256 pixels each way."""
        (row,) = as_indices(index, self.train_size)
        return media.standalone(media.show(self._task.source.raw(row), self._render))

    def more_like(
        self,
        index: int,
        *,
        damping: float | None = None,
        top: int = TOP,
        progress: Progress | None = None,
    ) -> Explanation:
        """Training examples like one of them: it is explained as a query at its own label, itself left out.

        By influence these are the examples that move the model in the same direction, such as others
        that are mislabelled in the same way.

        Args:
            index: Row of the training set.
            damping, top, progress: As in `explain`.
        """
        self._ready()
        (row,) = as_indices(index, self.train_size)
        inputs, targets = self._task.source.batch([row])
        assert targets is not None
        found = self._explain(
            map_tensors(lambda x: x[0], inputs),
            labels="true",
            target=targets[0],
            name=f"training example #{row}",
            raw=self._task.source.raw(row),
            damping=damping,
            top=min(top + 1, self.train_size),
            progress=progress,
            render=self._render,
        )
        return found.without(row, top)

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
            raw: What to show of it, as it is; by default the input itself, by way of `render`.
            damping: Where the slider stands, becoming a stop if it is none.
            top: Examples to keep per method, sign and damping stop.
            progress: Called with the fraction done, 0 to 1; what it raises stops the work.

        Returns:
            A document that displays itself, saves, and opens without torch.
        """
        return self._explain(
            query,
            labels,
            target=target,
            name=name,
            index=index,
            raw=query if raw is None else raw,
            damping=damping,
            top=top,
            progress=progress,
            render=self._render if raw is None else None,
        )

    def _explain(
        self,
        query: Any,
        labels: Label | Sequence[Label] = "predicted",
        *,
        raw: Any,
        render: media.Render | None,
        target: Any = None,
        name: str = "query",
        index: int | None = None,
        damping: float | None = None,
        top: int = TOP,
        progress: Progress | None = None,
    ) -> Explanation:
        """As `explain`, with `raw` shown by way of `render`."""
        fitted = self._ready()
        top = _count("top", top)
        inputs = map_tensors(lambda x: x[None], _one_input(query, self._task.example))
        self._task.check_query(inputs, single=True)
        basis, chosen = fitted.index.basis, self._damping(damping)
        if not basis.is_definite(chosen):
            raise ModelError(f"The {basis.detail} is indefinite at damping {chosen:g}. {basis.remedy}")
        stops = [stop for stop in (*self.dampings, chosen) if basis.is_definite(stop)]
        if not basis.damped or basis.solver is not None:
            stops = [chosen]  # damping changes nothing, or each one is a new recursion
        truth = None if target is None else self._truth(target)
        asked = documents.Asked(
            inputs=inputs,
            truth=truth,
            name=name,
            index=index,
            raw=raw,
            render=render,
            labels=labels,
            damping=chosen,
            dampings=tuple(sorted(set(stops))),
            top=min(top, self.train_size),
        )
        return documents.explain(
            self._scorer(), fitted, asked, self._curvature.name, self._render, _told(progress)
        )

    @cached_property
    def can_refit(self) -> bool:
        """Whether `refit` solves a convex problem to its one optimum.

        So it does where the outputs are affine in the scored parameters (a last layer, a linear
        model), the loss is a known likelihood, and the curvature can be inverted.
        """
        basis, task = self._ready().index.basis, self._task
        batch = next(task.some(range(min(3, self.train_size)), 3))
        try:
            batch.objective.loss.curvature_factor(batch.outputs)
        except ModelError:
            return False
        with task.evaluating():
            return basis.damped and basis.solver is None and task.objective.is_affine(batch.inputs)

    def refit(
        self,
        removed: Sequence[int],
        *,
        damping: float | None = None,
        tolerance: float = 1e-8,
        steps: int = 100,
    ) -> nn.Module:
        """The model with its chosen parameters refitted without some training examples, all others held fixed.

        The minimum of (1/n) Σ_{j∉S} ℓ_j(θ) + (λ/2)‖θ − θ₀‖² − ∇L(θ₀)ᵀ(θ − θ₀), with θ₀ the attached
        weights and L the mean training loss. With nothing removed that is θ₀, however far training
        went; the first Newton step without S is what influence predicts. For a model trained to the
        optimum of L + (λ/2)‖θ‖² it is the retraining itself. Reached by quasi-Newton steps from the
        fitted (C+λI)⁻¹, one pass over the training set each, in float64 where the model computes in that.

        Args:
            removed: Rows of the training set, S.
            damping: λ; the explainer's default if None.
            tolerance: Where to stop: the gradient left, as a share of what the removal causes.
            steps: At most so many passes over the training set.

        Returns:
            A copy of the model in evaluation mode, in the model's own precision. The model itself stays as it is.

        Raises:
            ChoiceError: `removed` is empty, everything, or holds what is no row or one row twice; a
                curvature without an inverse ("identity", "lissa").
            ModelError: It does not converge, or the loss is far from convex in the parameters (a larger
                damping, or the last layer alone, helps both); the model cannot be copied; the curvature
                is indefinite at this damping.
        """
        fitted, chosen = self._ready(), self._damping(damping)
        rows = retraining.as_removed(removed, self.train_size)
        tolerance, steps = retraining.as_tolerance(tolerance), _count("steps", steps)
        retraining.check_inverse(fitted.index.basis, chosen)
        twin = retraining.copied(self._task)
        found = retraining.refit(
            self._task, fitted.index.basis, rows, chosen, tolerance=tolerance, steps=steps
        )
        return retraining.fill(twin, found.objective)

    def check(
        self,
        removed: Sequence[int],
        query: Any,
        labels: Label | Sequence[Label] = "predicted",
        *,
        retrain: retraining.Retrain | None = None,
        target: Any = None,
        damping: float | None = None,
        progress: Progress | None = None,
    ) -> retraining.Check:
        """Whether removing training examples changes a query's loss as influence predicts.

        Predicted is Σ_{i∈S} I(i, query, label)/n, by influence itself and no relative score. Actual is the
        loss after retraining without S minus the loss before, both in float64 on the model's weights
        (`Check.precision` says so) or, where the model computes in no float64, in its own precision,
        whose differences below about 1e-6 of the loss are noise.

        Args:
            removed: Rows of the training set, S.
            query: One input without a batch dimension, as in `explain`.
            labels: What to take the query's loss at, as in `explain`.
            retrain: Your own retraining: takes the list of removed rows, returns the retrained module.
                None: the built-in refit of the chosen parameters, see `refit`. What it raises passes through.
            target: The query's true target, for labels="true".
            damping: λ of the prediction and of the built-in refit; the explainer's default if None.
            progress: Called with the fraction done, 0 to 1; what it raises stops the work.

        Raises:
            ChoiceError: As in `refit` (the curvature's inverse is not needed with `retrain`), or `retrain`
                cannot be called or returns no module.
            ModelError: The refit does not converge; or the retrained model has other outputs, weights
                or losses that are not finite.
        """
        fitted, chosen = self._ready(), self._damping(damping)
        rows = retraining.as_removed(removed, self.train_size)
        function = retraining.as_retrain(retrain)
        if function is None:
            retraining.check_inverse(fitted.index.basis, chosen)
        inputs = map_tensors(lambda x: x[None], _one_input(query, self._task.example))
        self._task.check_query(inputs, single=True)
        truth = None if target is None else self._truth(target)
        with self._task.evaluating():
            inputs = self._task.inputs(inputs, "query")
            outputs = self._task.forward(inputs)
            targets, names, _ = documents.explained(self._task, outputs, labels, truth)
        return retraining.check(
            self._scorer(), rows, inputs, targets, names, chosen, function, _told(progress)
        )

    def queries(
        self,
        test_set: Any,
        *,
        default_labels: DefaultLabels = "auto",
        close_margin: float = CLOSE_MARGIN,
    ) -> QuerySet:
        """The model's predictions on a test set, and an explanation of any of its rows on request.

        Args:
            test_set: Like the training set, or a batch of inputs alone, whose true labels are unknown.
            default_labels: The labels that a query opens with. "auto": the prediction, and beside it
                the true label where the prediction is wrong, else the runner-up where the call is
                close; in a regression the true target. "predicted", "true" or "top2": always that. A
                function of the row: whatever it returns.
            close_margin: A call is close where the two largest probabilities differ by less.

        Raises:
            ChoiceError: `default_labels` is none of these, or the test set does not have it.
        """
        self._ready()
        source = as_inputs(test_set, "test_set", self._collate)
        return QuerySet(
            self._task,
            source,
            partial(self._explain, render=self._render),
            self.check,
            self.damping,
            self._render,
            default_labels=default_labels,
            close_margin=close_margin,
        )

    @property
    def train_size(self) -> int:
        """n, the number of training examples."""
        return self._task.source.length

    @property
    def parameter_count(self) -> int:
        """P, the number of parameters that are differentiated."""
        return self._task.objective.size

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty for a regression."""
        return self._task.class_names

    def report(self) -> str:
        """What was fitted, in words: parameters, curvature, spectrum, memory and time."""
        fitted = self._ready()
        basis = fitted.index.basis
        plan, objective = self._task.plan, self._task.objective
        spectrum = []
        if basis.eigenvalues is not None:
            above = int((basis.eigenvalues > self.damping).sum())
            spectrum.append(
                f"eigenvalues: largest {float(basis.eigenvalues.max()):.4g}, mean {basis.mean_eigenvalue:.4g}; "
                f"{above:,} above the damping of {self.damping:g}"
            )
        ways = []
        if plan.layers:
            names = ", ".join(layer.name or "the model itself" for layer in plan.layers)
            ways.append(f"hooks for {names}")
        rest = ", ".join(plan.rest(objective))
        if rest:
            ways.append(f"{'torch.func' if plan.way == 'vmap' else 'one example at a time'} for {rest}")
        return "\n".join(
            [
                f"{self.train_size:,} training examples; {self.parameter_count:,} parameters in "
                f"{', '.join(objective.parameters)}",
                f"gradients: {'; '.join(ways)}",
                f"curvature: {basis.summary}",
                *(f"  {note}" for note in basis.notes),
                *spectrum,
                f"loss: {objective.loss.name}, mean {float(fitted.losses.mean()):.4g} on the training set",
                f"index: {fitting.stored(fitted.index)}",
                *fitting.unkept(fitted.neighbors),
                f"fitted in {fitted.seconds:.1f} s",
            ]
        )

    def __repr__(self) -> str:
        state = "fitted" if self._fitted else "not fitted"
        return (
            f"Explainer({self.train_size:,} training examples, {self.parameter_count:,} parameters, "
            f"curvature={self._curvature.name!r}, {state})"
        )

    def _ready(self) -> fitting.Fitted:
        if self._fitted is None:
            raise RelatifError("The explainer is not fitted yet: call explainer.fit() first.")
        return self._fitted

    def _truth(self, target: Any) -> Tensor:
        if isinstance(target, str):
            return self._task.query_targets(target, 1, "target")
        return self._task.target_of(target)

    def _damping(self, damping: float | None) -> float:
        return self.damping if damping is None else as_damping(damping)

    def _scorer(self) -> Scorer:
        return Scorer(self._task, self._ready().index, self._sizes["part"])

    def _asked(self, queries: Any, labels: Any) -> Iterator[GradientBatch]:
        """The queries in batches, each at its label: as given, or as the model predicts."""
        self._ready()
        task = self._task
        source = as_inputs(queries, "queries", self._collate)
        targets = None if labels is None else task.query_targets(labels, source.length)
        for first, raw, _ in source.batches(self._at_once):
            task.check_query(raw, single=False)
            inputs = task.inputs(raw, "queries", first)
            if targets is None:
                with task.evaluating():
                    wanted = task.objective.loss.predicted(task.forward(inputs))
            else:
                wanted = targets[first:][: batch_length(inputs)]
            yield task.query(inputs, wanted, first)

    def _gradient_blocks(
        self, queries: Any, labels: Any, progress: Progress
    ) -> Iterator[tuple[Tensor, Progress]]:
        """The queries' gradients, as many together as share a pass, each with the progress of its own work."""
        total = as_inputs(queries, "queries", self._collate).length
        waiting: list[Tensor] = []
        first = last = 0
        for batch in self._asked(queries, labels):
            with self._task.evaluating():
                waiting.append(batch.gradients)
            last += len(batch.targets)
            if last - first >= self._queries_at_once() or last == total:
                yield torch.cat(waiting), stretch(progress, first / total, last / total)
                waiting, first = [], last

    def _near(
        self, queries: Any, labels: Any, ask: Callable[[Neighbors, Any, Progress], T], progress: Progress
    ) -> Iterator[T]:
        """What is asked of the neighbours of each batch of queries."""
        fitted, task = self._ready(), self._task
        source = as_inputs(queries, "queries", self._collate)
        if labels is not None:
            task.query_targets(labels, source.length)  # of no use, but a slip all the same
        for first, raw, _ in source.batches(BATCH):
            task.check_query(raw, single=False)
            inputs = task.inputs(raw, "queries", first)
            if fitted.neighbors is None:
                raise no_input_space(inputs)
            last = first + batch_length(inputs)
            own = stretch(progress, first / source.length, last / source.length)
            with task.evaluating():
                found = ask(fitted.neighbors, inputs, own)
            own(1.0)
            yield found

    def _queries_at_once(self) -> int:
        """Queries that share a pass over the index, or over the training set where that does not answer alone."""
        index = self._ready().index
        # A query's gradient, the same rotated and solved for; bounds and temporaries on a part.
        numbers = 6 * self.parameter_count
        room = max(1, self._memory // 8 // (numbers * self._task.objective.dtype.itemsize))
        alone = index.rows is not None and not index.partial
        return min(room, QUERIES) if alone else room

    def _top(
        self,
        queries: Any,
        labels: Any = None,
        *,
        k: int,
        methods: Sequence[Method],
        damping: float | None = None,
        sign: Sign = "positive",
        progress: Progress | None = None,
    ) -> dict[Method, TopK]:
        """`top_k` by several methods, whose influence is computed once.

        Args:
            queries, labels, k, damping, sign, progress: As in `top_k`.
            methods: Which, each once.
        """
        one_of("sign", sign, SIGNS)
        for method in methods:
            one_of("method", method, METHODS)
        if "nearest" in methods and sign != "positive":
            raise ChoiceError(
                f'method="nearest" has no sign {sign!r}: distances do not help or harm. Use "positive".'
            )
        k = _count("k", k)
        if k > self.train_size:
            raise ChoiceError(f"k={k}; expected 1 to {self.train_size}, the number of training examples.")
        chosen = self._damping(damping)
        found: dict[Method, list[TopK]] = {method: [] for method in methods}
        scored: list[RelativeMethod] = [method for method in methods if method != "nearest"]
        share, told = len(scored) / len(methods), _told(progress)
        blocks = self._gradient_blocks(queries, labels, stretch(told, 0.0, share)) if scored else ()
        for block, own in blocks:
            for method, top in best.top_k(self._scorer(), block, chosen, scored, k, sign, own).items():
                found[method].append(top)
            own(1.0)
        if "nearest" in methods:

            def nearest(known: Neighbors, inputs: Any, own: Progress) -> tuple[Tensor, Tensor]:
                return known.top(inputs, k, own)

            for indices, value in self._near(queries, labels, nearest, stretch(told, share, 1.0)):
                sure = torch.ones(len(indices), dtype=torch.bool, device=indices.device)
                found["nearest"].append(TopK(indices, value, sure))
        return {method: TopK.joined(blocks) for method, blocks in found.items()}

    def _scored(self, block: Tensor, method: RelativeMethod, damping: float, progress: Progress) -> Tensor:
        """Scores of the whole training set, [query, train]."""
        scorer = self._scorer()
        if method != "influence":
            scorer.prepare([damping], stretch(progress, 0.0, 0.3))
        parts = [
            scorer.index.relative(method, influence[:, 0], damping, part)
            for part, influence in scorer.influence(block, [damping], stretch(progress, 0.3, 1.0))
        ]
        return torch.cat(parts, dim=1)


def _count(option: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise ChoiceError(f"{option}={value!r}; expected a whole number, at least 1.")
    return number


def _one_input(query: Any, example: Any) -> Any:
    if isinstance(query, tuple) and len(query) == 2 and not isinstance(example, tuple):
        raise DataError(
            "query is a pair; expected one input alone, as in test_set[7][0]. "
            "The target has an argument of its own: explain(test_set[7][0], target=test_set[7][1])."
        )
    if isinstance(query, (Tensor, Mapping, tuple)):
        return query
    if hasattr(query, "iloc"):
        query = row_values(query)
    try:
        return torch.as_tensor(query)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"query is {type(query).__name__}; expected one input as the model takes it, such as test_set[7][0]. "
            "Where a collate_fn= makes it so, ask by row: explainer.queries(test_set).explain(7)."
        ) from error


def as_damping(value: Any) -> float:
    try:
        number = float("" if isinstance(value, (str, bytes, bool)) else value)
    except (TypeError, ValueError):
        raise ChoiceError(f"damping={value!r} is no number; expected λ > 0, such as 0.001.") from None
    if not (math.isfinite(number) and number > 0):
        raise ChoiceError(f"damping={number:g}; expected a finite λ > 0, so that H + λI is invertible.")
    return number


def _told(progress: Progress | None) -> Progress:
    """What is told of the work; nobody where it is None."""
    if progress is None:
        return lambda fraction: None
    if not callable(progress):
        raise ChoiceError(
            f"progress={progress!r}; expected a function of the fraction done, such as print, or None."
        )
    return progress
