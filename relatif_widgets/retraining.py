"""A prediction of influence, checked by retraining without the examples.

Without the training examples S the chosen parameters are refitted to the minimum of

    F(θ) = (1/n) Σ_{j∉S} ℓ_j(θ) + (λ/2) ‖θ − θ₀‖² − ∇L(θ₀)ᵀ (θ − θ₀),

with L the mean loss of all n training examples, θ₀ the attached weights and λ the
damping. The last term makes θ₀ the exact optimum of S = ∅, however far training
went. A model trained to the optimum of L + (λ/2)‖θ‖² has ∇L(θ₀) = −λθ₀, and F is
then the retraining itself, but for a constant. Elsewhere it is a proximal Bregman
response function (Bae, Ng, Lo, Ghassemi and Grosse, "If influence functions are the
answer, then what is the question?", 2022) with the loss itself as its distance.

Its first Newton step is θ − θ₀ = (1/n) (C+λI)⁻¹ Σ_{i∈S} g_i, so that the loss of a
query changes by Σ_{i∈S} I(i, query)/n: what a check compares the refit with.
"""

from __future__ import annotations

import copy
import math
import operator
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .curvature import Eigenbasis
from .data import Fingerprint, Source, as_source, batch_length, map_tensors
from .errors import ChoiceError, ModelError
from .gradients import GradientBatch, Plan
from .neighbors import Last, run_last
from .objective import Objective, make_objective
from .scoring import Progress, Scorer
from .task import Task

if TYPE_CHECKING:
    import pandas as pd

Retrain = Callable[[list[int]], nn.Module]

MEMORY = 10
"""Steps whose change of the gradient the inverse curvature learns from."""

STEPS = 100
"""Of a refit at most: passes over the kept examples."""

BLOCK_BYTES = 16 << 20
"""Of a last layer's inputs at once."""

STORED_BYTES = 512 << 20
"""That the inputs of a last layer may take while it is refitted."""

NOISE = 64
"""Rounding of a sum of gradients, in units of the machine's precision and of the batches' own sums."""

REFUSALS = (RuntimeError, TypeError, ValueError)
"""What torch and a model raise for a precision that they do not take."""


@dataclass(frozen=True)
class Check:
    """Predicted and actual change of a query's loss when training examples are removed.

    Attributes:
        removed: Rows of the training set.
        labels: The labels that the query's loss was taken at, by name, or target values.
        before: ℓ(query, label) under the attached weights, one per label.
        after: The same under the weights without the removed examples.
        predicted: Σ_{i∈removed} I(i, query, label)/n.
        actual: after − before; positive where the removed examples helped.
        damping: λ of the prediction and of the built-in refit.
        precision: In which the losses were computed: "float64", or the model's own where it takes no other.
        seconds: Wall time, retraining included.
    """

    removed: tuple[int, ...]
    labels: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    predicted: tuple[float, ...]
    actual: tuple[float, ...]
    damping: float
    precision: str
    seconds: float

    def to_frame(self) -> pd.DataFrame:
        """A line per label: label, before, after, actual, predicted."""
        import pandas as pd

        return pd.DataFrame(
            {
                "label": list(self.labels),
                "before": list(self.before),
                "after": list(self.after),
                "actual": list(self.actual),
                "predicted": list(self.predicted),
            }
        )


@dataclass(frozen=True)
class Refit:
    """The minimum of F.

    Attributes:
        objective: The task's, at the refitted parameters; in float64 where the model takes that.
        steps: Passes over the kept training examples.
        residual: ‖∇F‖ over what the removal caused, ‖(1/n) Σ_{i∈S} g_i‖.
    """

    objective: Objective
    steps: int
    residual: float


@dataclass(frozen=True)
class Removal:
    """What removing one training example changed (Section 4.1, Tables 2 and 4).

    Attributes:
        row: Of the training set.
        parameters: ‖Δθ‖, of the chosen parameters.
        losses: √Σ(Δℓ_i)² over the whole training set, the removed example included.
        queries: Δℓ of every query, float64.
    """

    row: int
    parameters: float
    losses: float
    queries: Float[Tensor, "query"]


def as_removed(removed: Any, count: int) -> list[int]:
    """Rows to remove from a training set of `count` examples.

    Raises:
        ChoiceError: None, all, one twice, one outside, or something that is no row number.
    """
    if isinstance(removed, (str, bytes)) or not isinstance(removed, Iterable):
        raise ChoiceError(f"removed={removed!r}; expected a list of training rows, such as [17, 3].")
    rows = [_as_row(row, count) for row in removed]
    if not rows:
        raise ChoiceError("removed=[] removes nothing; expected at least one row of the training set.")
    if len(set(rows)) < len(rows):
        twice = next(row for place, row in enumerate(rows) if row in rows[:place])
        raise ChoiceError(f"removed= names training example {twice} more than once; expected every row once.")
    if len(rows) == count:
        raise ChoiceError(
            f"removed= names all {count} training examples; expected to leave at least one to train on."
        )
    return rows


def as_retrain(retrain: Any) -> Retrain | None:
    """The user's function that retrains, or None.

    Raises:
        ChoiceError: It cannot be called.
    """
    if retrain is not None and not callable(retrain):
        raise ChoiceError(
            f"retrain is {type(retrain).__name__}; expected a function that takes the list of removed rows and "
            "returns the retrained torch.nn.Module."
        )
    function: Retrain | None = retrain
    return function


def as_tolerance(value: Any) -> float:
    """A share of the gradient, between 0 and 1.

    Raises:
        ChoiceError: It is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < 1:
        raise ChoiceError(f"tolerance={value!r}; expected a share of the gradient, such as 1e-8.")
    return number


def refit(
    task: Task,
    basis: Eigenbasis,
    removed: Sequence[int],
    damping: float,
    *,
    tolerance: float = 1e-8,
    steps: int = STEPS,
    progress: Progress = lambda fraction: None,
) -> Refit:
    """Minimise F by quasi-Newton steps that start from the fitted (C+λI)⁻¹.

    A limited-memory BFGS, whose inverse Hessian is the basis's to begin with, and
    backtracking. Where C + λI is F's Hessian the first step is Newton's. In float64
    where the model takes that, whatever its own precision.

    Args:
        task: Model and training set.
        basis: Fitted to them; any that is positive definite at this damping.
        removed: Checked rows, S.
        damping: λ.
        tolerance: Stop at this ‖∇F‖ over ‖(1/n) Σ_{i∈S} g_i‖, or at the rounding of the sums if that is larger.
        steps: At most so many passes over the kept examples.
        progress: Called with the fraction done, on the scale of the gradient's logarithm.

    Raises:
        ChoiceError: The curvature has no inverse to step with.
        ModelError: C + λI is indefinite, the tolerance was not reached, or the loss is far from
            convex between θ₀ and the minimum found, which then has little to do with the removal.
    """
    check_inverse(basis, damping)
    wide = _in_float64(task)
    problem = _Problem(_narrowed(wide), removed, damping)
    objective = wide.objective
    eps = torch.finfo(objective.dtype).eps
    slack, rounding = NOISE * eps * problem.size, NOISE * eps * problem.noise

    def inverse(slope: Tensor) -> Tensor:
        return basis.solve(slope.to(task.objective.dtype)[None], damping)[0].to(slope)

    shift = torch.zeros_like(problem.caused)
    value, slope = 0.0, -problem.caused
    start = norm = float(slope.norm())
    goal = max(tolerance * start, rounding)
    pairs: deque[tuple[Tensor, Tensor]] = deque(maxlen=MEMORY)
    done, length, reached = 0, 1.0, 0.0
    direction, descent = slope, 0.0
    while norm > goal and done < steps and length > 1e-9:
        if length == 1:
            direction = -_times_inverse(slope, pairs, inverse)
            descent = float(slope @ direction)
            if descent >= 0:  # what was learnt is rounding
                pairs.clear()
                direction = -inverse(slope)
                descent = float(slope @ direction)
        trial = shift + length * direction
        trial_value, trial_slope = problem.at(trial)
        done += 1
        trial_norm = float(trial_slope.norm())
        fell = trial_value <= value + 1e-4 * length * descent
        # Near the optimum F changes by less than its rounding; its gradient still tells.
        if fell or (abs(trial_value - value) <= slack and trial_norm < norm):
            moved, turned = trial - shift, trial_slope - slope
            # How F bends along this step and all the way, by the difference of its slopes. Where every
            # loss is convex, along any way at least as a parabola with λ does.
            bend, whole = float(moved @ turned), float((trial_slope + problem.caused) @ trial)
            short = 0.5 * damping * float(trial @ trial) - whole > rounding * float(trial.norm())
            if short or bend < -rounding * float(moved.norm()):
                raise ModelError(
                    f"Refitting without {_examples(removed)} meets a loss that is not convex enough at damping "
                    f"{damping:g}: between the attached and the refitted weights it curves down, so where it ends is "
                    "not decided by what was removed. Raise damping, take a layer that is linear in its parameters, "
                    "such as the last one, or retrain the model yourself: check(..., retrain=...)."
                )
            if bend > rounding * float(moved.norm()):
                pairs.append((moved, turned))
            shift, value, slope, norm, length = trial, trial_value, trial_slope, trial_norm, 1.0
        else:
            length /= 2
        if goal < norm < start:
            reached = max(reached, math.log(norm / start) / math.log(goal / start))
        progress(reached)
    if norm > goal:
        raise ModelError(
            f"Refitting without {_examples(removed)} did not converge: after {done} passes over the training set the "
            f"gradient is {norm / start:.2g} of what the removal causes, expected {goal / start:.2g}. "
            f"Raise damping (now {damping:g}), which makes the problem more convex, let refit take more steps= or a "
            "larger tolerance=, or retrain the model yourself: check(..., retrain=...)."
        )
    return Refit(
        replace(objective, parameters=_moved(objective, shift)), done, norm / start if start else 0.0
    )


def check_inverse(basis: Eigenbasis, damping: float) -> None:
    """Refuse a curvature that the built-in refit cannot step with.

    Raises:
        ChoiceError: It is the identity, or a recursion per query.
        ModelError: It is indefinite at this damping.
    """
    if basis.solver is not None or not basis.damped:
        raise ChoiceError(
            f"The curvature is {basis.detail}, which has no inverse to refit with. Fit with another, such as "
            'curvature="fisher", "low_rank" or "ekfac", or retrain the model yourself: check(..., retrain=...).'
        )
    if not basis.is_definite(damping):
        raise ModelError(f"The {basis.detail} is indefinite at damping {damping:g}. {basis.remedy}")


def copied(task: Task) -> nn.Module:
    """A copy of the user's model, in evaluation mode, with the weights as they were attached.

    Raises:
        ModelError: The model cannot be copied.
    """
    advice = "Wrap it in a module that copy.deepcopy can copy, or use check(), which compares losses without a copy."
    model = task.objective.model
    try:
        with task.evaluating():  # so that no other thread has its tensors swapped meanwhile
            twin = copy.deepcopy(model)
    except Exception as error:  # a module's own __deepcopy__ may raise anything
        raise ModelError(
            f"The model, {type(model).__name__}, cannot be copied ({type(error).__name__}: {error}). {advice}"
        ) from error
    if _shapes(twin) != {name: value.shape for name, value in _values(task.objective).items()}:
        raise ModelError(
            f"The model, {type(model).__name__}, has other weights than when the explainer was attached. Attach to it "
            "anew: Explainer(model, ...).fit()."
        )
    shared = {id(value) for value in model.parameters()} & {id(value) for value in twin.parameters()}
    if twin is model or shared:
        raise ModelError(
            f"The model, {type(model).__name__}, cannot be copied: its copy holds the same parameters. {advice}"
        )
    return twin.eval()


def fill(model: nn.Module, objective: Objective) -> nn.Module:
    """Write an objective's weights into a copy of its model, in the copy's own precision and on its device."""
    values = _values(objective)
    with torch.no_grad():
        # In place: tied weights, parametrisations and an LSTM's flattened weights refer to these tensors.
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            value.copy_(values[name])
    return model


def check(
    scorer: Scorer,
    removed: Sequence[int],
    inputs: Any,
    targets: Tensor,
    labels: Sequence[str],
    damping: float,
    retrain: Retrain | None,
    progress: Progress,
) -> Check:
    """Compare predicted with actual change of a query's loss.

    Args:
        scorer: Of a fitted index.
        removed: Checked rows.
        inputs: The query as a batch of one.
        targets: What to take its loss at.
        labels: Their names.
        damping: λ.
        retrain: None for the built-in refit, else the user's: rows -> a module.
        progress: Called with the fraction done.
    """
    started = time.perf_counter()
    task, basis = scorer.task, scorer.index.basis
    if retrain is None:
        check_inverse(basis, damping)
    repeated = map_tensors(lambda x: x.expand(len(targets), *x.shape[1:]), inputs)
    with task.evaluating():
        gradients = task.query(repeated, targets).gradients
        solved = basis.solve(gradients, damping, lambda share: progress(0.1 * share))
    _, caused, _ = _total(task, None, removed)
    predicted = (solved @ caused).double() / task.source.length
    progress(0.1)
    if retrain is None:
        again = refit(
            task, basis, removed, damping, progress=lambda share: progress(0.1 + 0.85 * share)
        ).objective
    else:
        again = _objective_of(task, retrain(list(removed)))
    before, after, precision = _losses(task, again, inputs, targets)
    progress(1.0)
    return Check(
        removed=tuple(removed),
        labels=tuple(labels),
        before=_floats(before),
        after=_floats(after),
        predicted=_floats(predicted),
        actual=_floats(after - before),
        damping=damping,
        precision=precision,
        seconds=time.perf_counter() - started,
    )


def predictions(
    scorer: Scorer, rows: Sequence[int], queries: Sequence[GradientBatch], damping: float
) -> Float[Tensor, "row query"]:
    """I(i, query)/n of some training examples and all queries: the change of loss that influence predicts.

    Args:
        scorer: Of a fitted index.
        rows: Of the training set.
        queries: In batches, each query at its label.
        damping: λ.
    """
    task, basis = scorer.task, scorer.index.basis
    found = []
    with task.evaluating():
        for batch in queries:
            solved = basis.solve(batch.gradients, damping)
            parts = [part.products(solved, forward=False) for part in task.some(rows, scorer.chunk)]
            found.append(torch.cat(parts).double() / task.source.length)
    return torch.cat(found, dim=1)


def removals(
    scorer: Scorer,
    rows: Sequence[int],
    queries: Sequence[GradientBatch],
    damping: float,
    retrain: Retrain | None,
    tolerance: float,
) -> Iterator[Removal]:
    """Retrain without one training example after the other, and measure what changed.

    Args:
        scorer: Of a fitted index.
        rows: Of the training set, each retrained without alone.
        queries: In batches, each query at its label.
        damping: λ of the built-in refit.
        retrain: None for the built-in refit, else the user's: rows -> a module.
        tolerance: Of the built-in refit.

    Raises:
        ModelError: The refit does not converge; or the retrained model has other parameters,
            outputs, or losses that are not finite.
    """
    task, basis = scorer.task, scorer.index.basis
    wide = _in_float64(task)
    narrow = wide if retrain else _narrowed(wide)
    dtype = wide.objective.dtype
    train_before = _train_losses(narrow, narrow.objective)
    queries_before = _query_losses(wide, wide.objective, queries)
    for row in rows:
        if retrain is None:
            again = refit(task, basis, [row], damping, tolerance=tolerance).objective
            same = dict(zip(narrow.objective.parameters, again.parameters.values(), strict=True))
            there = replace(narrow.objective, parameters=same)
        else:
            there = again = _as(_objective_of(task, retrain([row])), dtype)
        try:
            moved = _distance(wide.objective, again)
            train_after = _train_losses(narrow, there)
            queries_after = _query_losses(wide, again, queries)
        except REFUSALS as error:
            raise ModelError(
                f"The model retrained without training example {row} does not compare with the attached one: {error}"
            ) from error
        yield Removal(
            row=row,
            parameters=moved,
            losses=float((train_after - train_before).norm()),
            queries=queries_after - queries_before,
        )


def _train_losses(task: Task, objective: Objective) -> Float[Tensor, "train"]:
    """ℓ of every training example under an objective, float64."""
    there = replace(task, objective=objective)
    with there.evaluating(), torch.no_grad():
        batches = there.batches(there.source, there.forward_chunk())
        return torch.cat([_batch_losses(there, batch) for batch in batches])


def _query_losses(
    task: Task, objective: Objective, queries: Sequence[GradientBatch]
) -> Float[Tensor, "query"]:
    """ℓ of every query under an objective, float64."""
    there = replace(task, objective=objective)
    with there.evaluating(), torch.no_grad():
        return torch.cat([_batch_losses(there, batch) for batch in queries])


def _batch_losses(task: Task, batch: GradientBatch) -> Float[Tensor, "batch"]:
    objective = task.objective
    inputs = map_tensors(lambda x: _cast(x, objective.dtype), batch.inputs)
    outputs = _outputs(objective, objective.parameters, inputs, task.plan)
    if outputs.shape[1:] != (task.outputs,):
        raise ModelError(
            f"it returned shape {list(outputs.shape)}; expected {[len(batch.targets), task.outputs]}."
        )
    found = objective.loss.per_example(outputs, _cast(batch.targets, objective.dtype)).double()
    if not bool(found.isfinite().all()):
        raise ModelError("its losses are NaN or infinite. Did its training diverge?")
    return found


def _distance(before: Objective, after: Objective) -> float:
    """‖Δθ‖ of the parameters chosen before, wherever they stand among those of the model after."""
    values = _values(after)
    for name, value in before.parameters.items():
        if name not in values or values[name].shape != value.shape:
            raise ModelError(f"its parameters lack {name!r} of shape {list(value.shape)}.")
    squares = [(values[name] - value).double().square().sum() for name, value in before.parameters.items()]
    return math.sqrt(float(torch.stack(squares).sum()))


class _Problem:
    """F and its gradient, as functions of the shift θ − θ₀ and with F(θ₀) = 0.

    Attributes:
        caused: (1/n) Σ_{i∈S} g_i(θ₀), minus the gradient of F at θ₀.
        size: The mean loss at θ₀: F rounds in proportion to it.
        noise: The batches' own gradients, summed by their norms: ∇F rounds in proportion to it.
    """

    def __init__(self, task: Task, removed: Sequence[int], damping: float) -> None:
        without = set(removed)
        self._task, self._damping, self._count = task, damping, task.source.length
        self._kept = [row for row in range(self._count) if row not in without]
        losses, slope, noise = _total(task, None, self._kept)
        self._losses, self._slope = losses, slope
        self.caused = _total(task, None, removed)[1] / self._count
        self.size, self.noise = abs(losses) / self._count, noise / self._count

    def at(self, shift: Float[Tensor, "param"]) -> tuple[float, Float[Tensor, "param"]]:
        losses, slope, _ = _total(self._task, shift, self._kept)
        # ∇L(θ₀) = (1/n) Σ_{j∉S} g_j(θ₀) + caused
        fixed = self._slope / self._count + self.caused
        value = (losses - self._losses) / self._count - float(fixed @ shift)
        value += 0.5 * self._damping * float(shift @ shift)
        return value, slope / self._count - fixed + self._damping * shift


def _times_inverse(
    slope: Float[Tensor, "param"],
    pairs: Sequence[tuple[Tensor, Tensor]],
    inverse: Callable[[Tensor], Tensor],
) -> Float[Tensor, "param"]:
    """The limited-memory BFGS product of the inverse Hessian (Nocedal and Wright, Algorithm 7.4)."""
    found, shares = slope, []
    for moved, turned in reversed(pairs):
        share = (moved @ found) / (moved @ turned)
        found = found - share * turned
        shares.append(share)
    found = inverse(found)
    for (moved, turned), share in zip(pairs, reversed(shares), strict=True):
        found = found + moved * (share - (turned @ found) / (moved @ turned))
    return found


def _total(
    task: Task, shift: Float[Tensor, "param"] | None, rows: Sequence[int]
) -> tuple[float, Float[Tensor, "param"], float]:
    """Σ ℓ_j and Σ g_j of some training examples at θ₀ + shift, and the sum of the batches' ‖Σ g_j‖."""
    objective = task.objective
    parameters = objective.parameters if shift is None else _moved(objective, shift)
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    losses, noise = 0.0, 0.0
    slope = torch.zeros(objective.size, dtype=objective.dtype, device=objective.device)
    with task.evaluating():
        for batch in task.some(rows, task.forward_chunk()):
            with torch.enable_grad():
                outputs = _outputs(objective, leaves, batch.inputs, task.plan)
                total = objective.loss.per_example(outputs, batch.targets).sum()
            parts = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
            flat = torch.cat([part.reshape(-1) for part in parts])
            slope += flat
            noise += float(flat.norm())
            losses += float(total.detach())
    return losses, slope, noise


def _outputs(
    objective: Objective, parameters: dict[str, Tensor], inputs: Any, plan: Plan
) -> Float[Tensor, "batch output"]:
    if not plan.apart:
        return objective.outputs(parameters, inputs)
    rows = [map_tensors(itemgetter(slice(i, i + 1)), inputs) for i in range(batch_length(inputs))]
    return torch.cat([objective.outputs(parameters, row) for row in rows])


def _moved(objective: Objective, shift: Float[Tensor, "param"]) -> dict[str, Tensor]:
    sizes = [value.numel() for value in objective.parameters.values()]
    return {
        name: value + part.view_as(value)
        for (name, value), part in zip(objective.parameters.items(), torch.split(shift, sizes), strict=True)
    }


def _in_float64(task: Task) -> Task:
    """The task in float64 where its model computes in that, else as it is."""
    if "float64" not in task.derived:
        task.derived["float64"] = _widened(task)
    return task.derived["float64"]


def _widened(task: Task) -> Task:
    if task.objective.dtype == torch.float64:
        return task
    wide = replace(task, objective=_as(task.objective, torch.float64))
    try:
        with wide.evaluating(), torch.no_grad():
            batch = next(wide.some([0], 1))
            outputs = wide.objective.outputs(wide.objective.parameters, batch.inputs)
        _total(wide, None, [0])
    except REFUSALS:
        return task
    return wide if outputs.dtype == torch.float64 else task


def _narrowed(task: Task) -> Task:
    """The last layer alone on what it sees of the training set, where no other parameters were chosen.

    Losses and gradients are the same, and the network before that layer runs once instead of in
    every step. Any other task comes back as it is.
    """
    if "last layer" not in task.derived:
        task.derived["last layer"] = _cut(task)
    return task.derived["last layer"]


def _cut(task: Task) -> Task:
    if task.plan.apart:
        return task
    alone: Objective | None = None
    seen, targets = [], []
    with task.evaluating(), torch.no_grad():
        for batch in task.batches(task.source, task.forward_chunk()):
            try:
                last = run_last(task.objective, batch.inputs)
            except ModelError:
                return task
            if alone is None:
                alone = _alone(task.objective, last.layer)
                size = task.source.length * last.inputs.shape[1] * last.inputs.element_size()
                if (
                    alone is None
                    or size > STORED_BYTES
                    or not _move_alike(task.objective, alone, batch.inputs, last)
                ):
                    return task
            if not _alike(alone.outputs(alone.parameters, last.inputs), last.outputs):
                return task
            seen.append(last.inputs)
            targets.append(batch.targets)
    assert alone is not None
    source = as_source((torch.cat(seen), torch.cat(targets)), task.source.name)
    return _LastLayer(alone, source, task.outputs, task.class_names, task.example, task.target, Plan())


class _LastLayer(Task):
    """A last layer on its stored inputs: checked when they came, and not copied where they lie together."""

    def forward_chunk(self) -> int:
        inputs, _ = self._stored()
        return max(1, BLOCK_BYTES // (inputs.shape[1] * inputs.element_size()))

    def batches(
        self, source: Source, size: int, digest: Fingerprint | None = None
    ) -> Iterator[GradientBatch]:
        for batch in self.some(range(source.length), size):
            if digest is not None:
                digest.add(batch.inputs, batch.targets)
            yield batch

    def some(self, rows: Sequence[int], size: int) -> Iterator[GradientBatch]:
        inputs, targets = self._stored()
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            first, after = part[0], part[0] + len(part)
            at = slice(first, after) if list(part) == list(range(first, after)) else list(part)
            yield self.query(inputs[at], targets[at], first)

    def _stored(self) -> tuple[Tensor, Tensor]:
        held = self.source.in_memory()
        assert held is not None
        return held


def _alone(objective: Objective, name: str) -> Objective | None:
    """A Linear layer as a model of its own, where the chosen parameters are its."""
    layer = objective.model.get_submodule(name)
    prefix = f"{name}." if name else ""
    own = {f"{prefix}{part}": part for part, _ in layer.named_parameters()}
    if (
        type(layer) is not nn.Linear
        or not objective.parameters.keys() <= own.keys() <= _values(objective).keys()
    ):
        return None
    return Objective(
        model=nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta"),
        loss=objective.loss,
        parameters={own[name]: value for name, value in objective.parameters.items()},
        frozen={part: objective.frozen[name] for name, part in own.items() if name in objective.frozen},
    )


def _move_alike(objective: Objective, alone: Objective, inputs: Any, last: Last) -> bool:
    """Whether the model's outputs follow the layer's parameters as the layer's own do, or also by another way."""
    if last.inputs.shape[1] != alone.model.in_features:
        return False
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(objective.size, generator=generator, dtype=torch.float64).to(
        torch.cat([value.reshape(-1) for value in objective.parameters.values()])
    )
    return _alike(
        alone.outputs(_moved(alone, step), last.inputs), objective.outputs(_moved(objective, step), inputs)
    )


def _alike(found: Tensor, right: Tensor) -> bool:
    """Equal to rounding."""
    return found.shape == right.shape and bool(
        (found - right).abs().max() <= 1e3 * torch.finfo(right.dtype).eps * right.abs().max()
    )


def _values(objective: Objective) -> dict[str, Tensor]:
    return {**objective.frozen, **objective.parameters}


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in (*model.named_parameters(), *model.named_buffers())}


def _as(objective: Objective, dtype: torch.dtype) -> Objective:
    def cast(values: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: _cast(value, dtype) for name, value in values.items()}

    return replace(objective, parameters=cast(objective.parameters), frozen=cast(objective.frozen))


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value


def _objective_of(task: Task, model: Any) -> Objective:
    """What `retrain` returned, as an objective with the task's loss."""
    if not isinstance(model, nn.Module):
        raise ChoiceError(
            f"retrain= returned {type(model).__name__}; expected the retrained torch.nn.Module."
        )
    try:
        made = make_objective(model, "mse", lambda name, parameter: True, task.objective.device)
    except ModelError as error:
        raise ModelError(f"The model that retrain= returned cannot be used: {error}") from None
    return replace(made, loss=task.objective.loss)


def _losses(
    task: Task, again: Objective, inputs: Any, targets: Tensor
) -> tuple[Float[Tensor, "label"], Float[Tensor, "label"], str]:
    """The query's loss at each target before and after, both in one precision, and its name."""
    own = task.objective.dtype
    with task.evaluating(), again.evaluating(), torch.no_grad():
        for dtype in dict.fromkeys([torch.float64, own]):
            try:
                before, after = (
                    _loss(task, _as(one, dtype), inputs, targets, dtype) for one in (task.objective, again)
                )
            except REFUSALS as error:
                if dtype == own:  # the query went through the attached model before
                    raise ModelError(
                        f"The retrained model does not take the query as the attached one does: {error}"
                    ) from error
                continue
            if before.dtype == after.dtype == dtype:
                break
    if not bool(after.isfinite().all()):
        raise ModelError(
            "The retrained model's loss of the query is NaN or infinite. Did its training diverge?"
        )
    return before.double(), after.double(), str(dtype).removeprefix("torch.")


def _loss(
    task: Task, objective: Objective, inputs: Any, targets: Tensor, dtype: torch.dtype
) -> Float[Tensor, "label"]:
    outputs = objective.outputs(objective.parameters, map_tensors(lambda x: _cast(x, dtype), inputs))
    if list(outputs.shape) != [1, task.outputs]:
        raise ModelError(f"it returned shape {list(outputs.shape)}; expected {[1, task.outputs]}.")
    return objective.loss.per_example(outputs.expand(len(targets), -1), _cast(targets, dtype))


def _floats(values: Tensor) -> tuple[float, ...]:
    return tuple(map(float, values.tolist()))


def _examples(rows: Sequence[int]) -> str:
    return f"training example {rows[0]}" if len(rows) == 1 else f"{len(rows)} training examples"


def _as_row(row: Any, count: int) -> int:
    try:
        if "bool" in str(getattr(row, "dtype", type(row).__name__)):
            raise TypeError
        number = operator.index(row)
    except TypeError:
        raise ChoiceError(
            f"removed= holds {row!r}; expected row numbers of the training set, 0 to {count - 1}. "
            "For a mask pass mask.nonzero()."
        ) from None
    if not 0 <= number < count:
        raise ChoiceError(
            f"removed= names training example {number}, which does not exist; expected 0 to {count - 1}."
        )
    return number
