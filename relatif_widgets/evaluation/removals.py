"""What leaving examples out tells: their global effects, and whether influence predicts the change of a loss."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from .. import retraining
from ..errors import ChoiceError
from ..explanation import METHODS, Method, method_title
from ..retraining import Retrain
from .asked import as_methods, table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..explainer import Explainer
    from ..gradients import GradientBatch
    from ..retraining import Removal


QUANTITIES = {
    "test_loss": "Δℓ_test",
    "parameters": "‖Δθ‖",
    "train_losses": "√Σ(Δℓ_i)²",
    "test_loss_per_parameters": "Δℓ_test/‖Δθ‖",
    "test_loss_per_train_losses": "Δℓ_test/√Σ(Δℓ_i)²",
}
"""The columns of Tables 2 and 4."""

_FORMULAS = (
    r"$\Delta\ell_\mathrm{test}$",
    r"$\|\Delta\theta\|$",
    r"$\sqrt{\Sigma(\Delta\ell_i)^2}$",
    r"$\Delta\ell_\mathrm{test}\;/\;\|\Delta\theta\|$",
    r"$\Delta\ell_\mathrm{test}\;/\;\sqrt{\Sigma(\Delta\ell_i)^2}$",
)


@dataclass(frozen=True, eq=False)
class Correlation:
    """Predicted and actual change of test losses when training examples are removed: Figure 6.

    Attributes:
        removed: Rows of the training set, each removed alone.
        predicted: I(i, query)/n, float64 [removed, query].
        actual: ℓ(query) after retraining without i minus before, float64 [removed, query].
        damping: λ of the prediction, and of the built-in refit.

    >>> found = Correlation((17,), np.array([[0.0, 1.0, 2.0]]), np.array([[1.0, 4.0, 7.0]]), 0.001)
    >>> found
    Correlation(Pearson 1.0000, slope 3.000; 1 × 3 pairs of a removed example and a query, damping 0.001)
    """

    removed: tuple[int, ...]
    predicted: Float[np.ndarray, "removed query"]
    actual: Float[np.ndarray, "removed query"]
    damping: float

    @property
    def pearson(self) -> float:
        """Pearson's correlation over all pairs of a removed example and a query; NaN where either is constant."""
        x, y = self._centred()
        spread = float(np.sqrt((x @ x) * (y @ y)))
        return float(x @ y) / spread if x.any() and y.any() else float("nan")

    @property
    def slope(self) -> float:
        """Of the least-squares line actual = slope · predicted + intercept; NaN where predictions are constant."""
        x, y = self._centred()
        return float(x @ y) / float(x @ x) if x.any() else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """A line per pair: removed (row of the training set), query (its position), predicted, actual."""
        import pandas as pd

        queries = self.predicted.shape[1]
        return pd.DataFrame(
            {
                "removed": np.repeat(np.asarray(self.removed), queries),
                "query": np.tile(np.arange(queries), len(self.removed)),
                "predicted": self.predicted.ravel(),
                "actual": self.actual.ravel(),
            }
        )

    def figure(self, *, width: float = 4.0) -> Figure:
        """Predicted against actual change, a point per pair, and the line where they are equal.

        Args:
            width: In inches.
        """
        from ..views import plots

        note = f"r = {self.pearson:.4f}\nslope {self.slope:.3f}"
        return plots.agreement(self.predicted.ravel(), self.actual.ravel(), note, width=width)

    def _centred(self) -> tuple[np.ndarray, np.ndarray]:
        """Both, less their means; exactly zero where all are equal, whose mean may be rounded."""
        x, y = self.predicted.ravel(), self.actual.ravel()
        return x - (x.mean() if np.ptp(x) else x), y - (y.mean() if np.ptp(y) else y)

    def __repr__(self) -> str:
        return (
            f"Correlation(Pearson {self.pearson:.4f}, slope {self.slope:.3f}; "
            f"{len(self.removed):,} × {self.predicted.shape[1]:,} pairs of a removed example and a query, "
            f"damping {self.damping:g})"
        )


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """What removing each query's example changes, by method: Tables 2 and 4.

    Attributes:
        chosen: Method, or the name of a baseline of your own → the training example removed for each query.
        removed: The distinct ones, ascending; each was retrained without once.
        predicted: I(i, query)/n, float64 [removed, query].
        actual: Δℓ of every query, float64 [removed, query]; positive where the removed example helped.
        parameters: ‖Δθ‖ of the scored parameters, [removed].
        losses: √Σ(Δℓ_i)² over the whole training set, the removed example included, [removed].
        damping: λ of the scores, and of the built-in refit.
        retrained: How: "refit" (the built-in one) or "retrain" (your function).
        seconds: Wall time of the retrainings.
    """

    chosen: Mapping[str, tuple[int, ...]]
    removed: tuple[int, ...]
    predicted: Float[np.ndarray, "removed query"]
    actual: Float[np.ndarray, "removed query"]
    parameters: Float[np.ndarray, "removed"]
    losses: Float[np.ndarray, "removed"]
    damping: float
    retrained: Literal["refit", "retrain"]
    seconds: float

    def to_frame(self) -> pd.DataFrame:
        """The raw rows, one per query and method.

        Columns: query (its position), method, removed (row of the training set), predicted (I/n),
        test_loss (Δℓ_test), parameters (‖Δθ‖), train_losses (√Σ(Δℓ_i)²), and Table 4's two ratios,
        test_loss_per_parameters and test_loss_per_train_losses (0 where a removal changes nothing).
        """
        import pandas as pd

        parts = []
        for method, rows in self.chosen.items():
            known = {"query": np.arange(len(rows)), "method": method, "removed": np.asarray(rows)}
            parts.append(
                pd.DataFrame({**known, "predicted": self._predicted(method), **self._measured(method)})
            )
        return pd.concat(parts, ignore_index=True)

    def summary(self) -> pd.DataFrame:
        """Tables 2 and 4: a line per method, mean and standard error over the queries.

        The index is the method; the columns are pairs (quantity, "mean" or "standard_error"), with
        the quantities of `to_frame`. The standard error is the sample's standard deviation over
        √queries; NaN for a single query.
        """
        import pandas as pd

        return pd.DataFrame(
            [
                [number for values in self._measured(method).values() for number in _mean(values)]
                for method in self.chosen
            ],
            index=pd.Index(list(self.chosen), name="method"),
            columns=pd.MultiIndex.from_product([list(QUANTITIES), ["mean", "standard_error"]]),
        )

    def correlation(self) -> Correlation:
        """Figure 6 over these retrainings: every removed example with every query."""
        return Correlation(self.removed, self.predicted, self.actual, self.damping)

    def figure(self, *, width: float = 7.0) -> Figure:
        """Mean ± standard error of each quantity and method.

        Args:
            width: In inches.
        """
        from ..views import plots

        measured = [self._measured(method) for method in self.chosen]
        panels = []
        for name, title in zip(QUANTITIES, _FORMULAS, strict=True):
            means, errors = zip(*(_mean(values[name]) for values in measured), strict=True)
            alone = self.actual.shape[1] < 2
            note = "" if alone else "mean ± standard error"
            panels.append(plots.Panel(title, means, () if alone else errors, note=note))
        return plots.dots(list(self.chosen), panels, columns=3, width=width)

    def _places(self, method: str) -> tuple[np.ndarray, np.ndarray]:
        rows = np.asarray(self.chosen[method])
        return np.searchsorted(np.asarray(self.removed), rows), np.arange(len(rows))

    def _predicted(self, method: str) -> Float[np.ndarray, "query"]:
        found: np.ndarray = self.predicted[self._places(method)]
        return found

    def _measured(self, method: str) -> dict[str, Float[np.ndarray, "query"]]:
        """Each of the quantities, by query."""
        at, query = self._places(method)
        change, parameters, losses = self.actual[at, query], self.parameters[at], self.losses[at]
        ratios = _ratio(change, parameters), _ratio(change, losses)
        return dict(zip(QUANTITIES, (change, parameters, losses, *ratios), strict=True))

    def __repr__(self) -> str:
        rows = []
        for method in self.chosen:
            row = [method_title(method)]
            for values in self._measured(method).values():
                mean, error = _mean(values)
                row.append(f"{mean:.4f}" + ("" if np.isnan(error) else f" ± {error:.4f}"))
            rows.append(row)
        how = "the built-in refit" if self.retrained == "refit" else "retrain="
        return table(
            f"{len(self.removed):,} training examples removed one by one for {self.actual.shape[1]:,} queries, "
            f"retrained by {how} (Tables 2 and 4), damping {self.damping:g}",
            ["", *QUANTITIES.values()],
            rows,
        )


def leave_one_out(
    explainer: Explainer,
    queries: Any,
    labels: Any = None,
    *,
    methods: Iterable[Method] = METHODS,
    removed: Mapping[str, Sequence[int]] | None = None,
    damping: float | None = None,
    retrain: Retrain | None = None,
    tolerance: float = 1e-8,
    progress: bool = True,
) -> LeaveOneOut:
    """Remove the top example of every query by each method, retrain, and measure: Tables 2 and 4.

    Each distinct example is retrained without once, however many queries and methods name it.

    The built-in retraining is `Explainer.refit`: the chosen parameters, all others held fixed, to the
    minimum of (1/n) Σ_{j≠i} ℓ_j(θ) + (λ/2)‖θ − θ₀‖² − ∇L(θ₀)ᵀ(θ − θ₀) at the damping λ. For a model
    trained to the optimum of mean loss + (λ/2)‖θ‖² this is the retraining itself, exactly: there
    ∇L(θ₀) = −λθ₀, and the two objectives differ by a constant. Tables 2 and 4 are measured
    so in docs/paper.md, with λ the model's L2 coefficient over the chosen parameters; the paper does
    not give its own. Away from it (stopped early, another L2
    coefficient, a bias left out of it, an objective that is not convex) it answers how this optimum
    moves, which is what influence predicts, and not what your training would give: for that pass
    `retrain`. The loss of the removed example keeps its weight 1/n out of the mean, w_i = 0 (Section 2).

    Args:
        explainer: A fitted explainer.
        queries, labels, damping: As in `Explainer.scores`. Δℓ_test is at these labels, by default the predicted ones.
        methods: Whose top example is removed; () for those of `removed` alone.
        removed: Baselines of your own: a name → one row of the training set per query, such as {"random": rows}.
        retrain: Your own retraining: takes the list of removed rows (one) and returns the retrained
            module. Its changes are measured from the attached weights, so it should return those where
            nothing is removed: the same seed, initial weights and order. What it raises passes through.
        tolerance: Of the built-in refit: the gradient left, as a share of what the removal causes.
        progress: Show a progress bar.

    Raises:
        ChoiceError: `removed` is not one row of the training set per query, or names a method; a
            curvature without an inverse, and no `retrain`.
        ModelError: The refit does not converge; or the retrained model has other parameters or
            outputs, or losses that are not finite.
    """
    own = {} if removed is None else dict(removed)
    for name in own:
        if name in METHODS:
            raise ChoiceError(f"removed= names {name!r}, which is a method; give your baseline another name.")
    asked = methods if isinstance(methods, str) else tuple(methods)
    chosen = as_methods(asked) if asked or not own else ()
    batches = list(explainer._asked(queries, labels))
    count = sum(len(batch.targets) for batch in batches)
    rows = {name: tuple(_rows(name, given, count, explainer.train_size)) for name, given in own.items()}
    _before_work(explainer, damping, retrain, tolerance)
    if chosen:
        found = explainer._top(queries, labels, k=1, methods=chosen, damping=damping)
        tops: dict[str, tuple[int, ...]] = {
            method: tuple(found[method].indices[:, 0].tolist()) for method in chosen
        }
        rows = {**tops, **rows}
    distinct = sorted({row for given in rows.values() for row in given})
    started = time.perf_counter()
    predicted, removals = _removed(explainer, distinct, batches, damping, retrain, tolerance, progress)
    return LeaveOneOut(
        chosen=rows,
        removed=tuple(distinct),
        predicted=predicted,
        actual=np.stack([removal.queries.cpu().numpy() for removal in removals]),
        parameters=np.array([removal.parameters for removal in removals]),
        losses=np.array([removal.losses for removal in removals]),
        damping=explainer._damping(damping),
        retrained="refit" if retrain is None else "retrain",
        seconds=time.perf_counter() - started,
    )


def correlation(
    explainer: Explainer,
    queries: Any,
    labels: Any = None,
    *,
    removed: Iterable[int],
    damping: float | None = None,
    retrain: Retrain | None = None,
    tolerance: float = 1e-8,
    progress: bool = True,
) -> Correlation:
    """Predicted against actual change of test losses, on removing training examples one by one: Figure 6.

    Every removed example is compared on every query. The paper does not say which it removed; a good
    choice reaches from the strongest to some at random, and `LeaveOneOut.correlation` takes those
    that Tables 2 and 4 are made of.

    Args:
        explainer: A fitted explainer.
        queries, labels, damping: As in `Explainer.scores`.
        removed: Rows of the training set, each once.
        retrain, tolerance, progress: As in `leave_one_out`.

    Raises:
        RelatifError: One of its kinds, as in `leave_one_out`.
    """
    rows = retraining.as_removed(removed, explainer.train_size)
    _before_work(explainer, damping, retrain, tolerance)
    batches = list(explainer._asked(queries, labels))
    predicted, removals = _removed(explainer, rows, batches, damping, retrain, tolerance, progress)
    return Correlation(
        removed=tuple(rows),
        predicted=predicted,
        actual=np.stack([removal.queries.cpu().numpy() for removal in removals]),
        damping=explainer._damping(damping),
    )


def _before_work(
    explainer: Explainer, damping: float | None, retrain: Retrain | None, tolerance: float
) -> None:
    retraining.as_tolerance(tolerance)
    if retraining.as_retrain(retrain) is None:
        retraining.check_inverse(explainer._ready().index.basis, explainer._damping(damping))


def _removed(
    explainer: Explainer,
    rows: Sequence[int],
    queries: Sequence[GradientBatch],
    damping: float | None,
    retrain: Retrain | None,
    tolerance: float,
    progress: bool,
) -> tuple[np.ndarray, list[Removal]]:
    """Predicted changes [row, query], and what the retrainings changed."""
    scorer, chosen = explainer._scorer(), explainer._damping(damping)
    predicted = retraining.predictions(scorer, rows, queries, chosen)
    found = retraining.removals(scorer, rows, queries, chosen, retrain, tolerance)
    bar = tqdm(found, total=len(rows), unit=" retrainings", desc="leaving out", disable=not progress)
    return predicted.cpu().numpy(), list(bar)


def _rows(name: str, given: Any, count: int, most: int) -> list[int]:
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ChoiceError(f"removed[{name!r}]={given!r}; expected a training row per query, {count} in all.")
    rows = [retraining.as_removed([row], most)[0] for row in given]
    if len(rows) != count:
        raise ChoiceError(
            f"removed[{name!r}] has {len(rows)} rows for {count} queries; expected one per query."
        )
    return rows


def _mean(values: Float[np.ndarray, "query"]) -> tuple[float, float]:
    """Mean and standard error."""
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(values.mean()), float(error)


def _ratio(change: np.ndarray, of: np.ndarray) -> np.ndarray:
    """change/of; 0 where a removal changes nothing at all."""
    found: np.ndarray = np.divide(change, of, out=np.zeros_like(change), where=of > 0)
    return found
