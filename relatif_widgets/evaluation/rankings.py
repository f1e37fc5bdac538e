"""What rankings tell: sets of influential examples, and their overlap with the nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from ..data import as_inputs
from ..errors import ChoiceError, one_of
from ..explanation import METHOD_TITLES, METHODS, Method
from .asked import as_methods, table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from ..explainer import Explainer

SCORED: tuple[Method, ...] = ("influence", "theta_relative", "loss_relative")


@dataclass(frozen=True, eq=False)
class Rankings:
    """The top training examples of many queries, by several methods: what both measures of rankings read.

    Attributes:
        indices: Method → rows of the training set, best first, [query, k].
        probability: The model's probability of each training example's own label, [train]; None where
            the loss gives none, as in a regression.
        train_size: n.
        damping: λ of the scores.

    Example 0 is the best for both queries, so that the set of the top 1 is {0}, and that of the top 2 {0, 1, 2}:

    >>> near = np.array([[1, 0], [2, 3]])
    >>> ranked = Rankings(
    ...     {"influence": np.array([[0, 1], [0, 2]]), "nearest": near}, np.array([0.5, 0.1, 0.9, 0.3]), 4, 0.001
    ... )
    >>> [ranked.specificity(k).sets["influence", k].cardinality for k in (1, 2)]
    [1, 3]
    >>> ranked.overlap((1, 2)).percent("influence")
    array([ 0., 75.])
    """

    indices: Mapping[Method, Int[np.ndarray, "query k"]]
    probability: Float[np.ndarray, "train"] | None
    train_size: int
    damping: float

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods that ranked, in the order asked for."""
        return tuple(self.indices)

    @property
    def queries(self) -> int:
        """How many queries were ranked for."""
        return len(next(iter(self.indices.values())))

    @property
    def k(self) -> int:
        """How many examples each ranking holds."""
        return int(next(iter(self.indices.values())).shape[1])

    def specificity(self, k: int | Iterable[int] = (1, 5)) -> Specificity:
        """Table 1 from these rankings, see `specificity`.

        Raises:
            ChoiceError: A k beyond what was ranked.
        """
        wanted = _counts(k, self.k)
        returned = {
            method: np.stack(
                [np.bincount(rows[:, :top].ravel(), minlength=self.train_size) for top in wanted]
            )
            for method, rows in self.indices.items()
        }
        return Specificity(wanted, returned, self.probability, self.queries, self.damping)

    def overlap(self, k: int | Iterable[int] = (1, 5, 10, 20)) -> Overlap:
        """Section 4.3 from these rankings, which must hold "nearest"; see `overlap`.

        Raises:
            ChoiceError: "nearest" or any other method is missing, or a k beyond what was ranked.
        """
        if "nearest" not in self.indices or len(self.indices) < 2:
            raise ChoiceError(
                f'These rankings are by {", ".join(map(repr, self.methods))}; expected "nearest" and a method to '
                'compare it with. Rank again: rank(explainer, queries, methods=("loss_relative", "nearest")).'
            )
        wanted = _counts(k, self.k)
        near = self.indices["nearest"]
        shared: dict[Method, np.ndarray] = {
            method: np.stack([_shared(rows[:, :top], near[:, :top]) for top in wanted], axis=1)
            for method, rows in self.indices.items()
            if method != "nearest"
        }
        return Overlap(wanted, shared, self.damping)

    def __repr__(self) -> str:
        return (
            f"Rankings(top {self.k} of {self.train_size:,} training examples for {self.queries:,} queries by "
            f"{', '.join(METHOD_TITLES[method] for method in self.methods)}, damping {self.damping:g})"
        )


@dataclass(frozen=True)
class InfluentialSet:
    """The training examples that one method returns among the top k of at least one query, each once.

    Attributes:
        method: Who ranked.
        k: How many were taken of each ranking.
        cardinality: How many distinct examples there are.
        largest_possible: The smaller of k × queries and n.
        probability: Mean over the set of the model's probability of an example's own training label; NaN
            where the loss gives no probabilities.
        probability_std: Its standard deviation over the set.
        most_returned: The row of the training set that is returned for most queries.
        returned_for: For how many.
    """

    method: Method
    k: int
    cardinality: int
    largest_possible: int
    probability: float
    probability_std: float
    most_returned: int
    returned_for: int


@dataclass(frozen=True, eq=False)
class Specificity:
    """How specific and how typical the returned training examples are: Table 1.

    Attributes:
        k: The k's.
        returned: Method → for how many of the queries each training example is among the top k, [k, train].
        probability: The model's probability of each training example's own label, [train], or None.
        queries: How many were asked.
        damping: λ of the scores.
    """

    k: tuple[int, ...]
    returned: Mapping[Method, Int[np.ndarray, "k train"]]
    probability: Float[np.ndarray, "train"] | None
    queries: int
    damping: float

    @cached_property
    def sets(self) -> dict[tuple[Method, int], InfluentialSet]:
        """The influential set of each (method, k)."""
        found = {}
        for method, counts in self.returned.items():
            for k, count in zip(self.k, counts, strict=True):
                members = count > 0
                chance = np.full(1, np.nan) if self.probability is None else self.probability[members]
                most = int(count.argmax())
                found[method, k] = InfluentialSet(
                    method=method,
                    k=k,
                    cardinality=int(members.sum()),
                    largest_possible=min(k * self.queries, len(count)),
                    probability=float(chance.mean()),
                    probability_std=float(chance.std()),
                    most_returned=most,
                    returned_for=int(count[most]),
                )
        return found

    def to_frame(self) -> pd.DataFrame:
        """A line per method and k, with the fields of `InfluentialSet` as columns."""
        import pandas as pd

        return pd.DataFrame([asdict(one) for one in self.sets.values()])

    def counts(self, method: Method, k: int | None = None) -> pd.DataFrame:
        """The influential set itself, most returned first.

        Args:
            method: One of those measured.
            k: One of the k's; the first if None.

        Returns:
            A line per training example: index, returned_for (queries), probability (NaN without any).
            Equal counts by ascending index.
        """
        import pandas as pd

        count = self._count(method, k)
        rows = np.flatnonzero(count)
        rows = rows[np.argsort(-count[rows], kind="stable")]
        chance = np.full(len(rows), np.nan) if self.probability is None else self.probability[rows]
        return pd.DataFrame({"index": rows, "returned_for": count[rows], "probability": chance})

    def figure(self, *, width: float = 7.0) -> Figure:
        """Cardinality and probability of each method, a panel for each k.

        Args:
            width: In inches.
        """
        from ..views import plots

        panels = []
        for k in self.k:
            sets = [self.sets[method, k] for method in self.returned]
            panels.append(
                plots.Panel(
                    f"Distinct examples in the top {k}",
                    [float(one.cardinality) for one in sets],
                    limit=sets[0].largest_possible,
                    note=f"of {sets[0].largest_possible:,} possible",
                )
            )
        for k in self.k if self.probability is not None else ():
            sets = [self.sets[method, k] for method in self.returned]
            panels.append(
                plots.Panel(
                    f"Probability in the top {k}",
                    [one.probability for one in sets],
                    [one.probability_std for one in sets],
                    limit=1.0,
                    note="mean ± standard deviation over the set",
                )
            )
        return plots.dots(list(self.returned), panels, columns=len(self.k), width=width)

    def histogram(self, k: int | None = None, *, width: float = 7.0) -> Figure:
        """For how many queries each training example is returned, most returned first.

        Both axes are logarithmic. A curve starts at the height of the example that is returned most,
        and ends at the set's cardinality.

        Args:
            k: One of the k's; the first if None.
            width: In inches.
        """
        from ..views import plots

        chosen = self.k[0] if k is None else k
        curves: dict[str, np.ndarray] = {
            method: np.sort(count[count > 0])[::-1]
            for method in self.returned
            for count in [self._count(method, chosen)]
        }
        return plots.frequencies(curves, chosen, self.queries, width=width)

    def _count(self, method: Method, k: int | None) -> Int[np.ndarray, "train"]:
        counts = self.returned[one_of("method", method, list(self.returned))]
        if k is not None and k not in self.k:
            raise ChoiceError(f"k={k!r} was not measured; expected one of {', '.join(map(str, self.k))}.")
        found: np.ndarray = counts[0 if k is None else self.k.index(k)]
        return found

    def __repr__(self) -> str:
        has_chances = self.probability is not None
        rows = []
        for method in self.returned:
            sets = [self.sets[method, k] for k in self.k]
            chances = [f"{one.probability:.3f} ± {one.probability_std:.3f}" for one in sets]
            counts = [f"{one.cardinality:,}" for one in sets]
            rows.append([METHOD_TITLES[method], *counts, *(chances if has_chances else [])])
        quantities = ["cardinality", "probability"] if has_chances else ["cardinality"]
        return table(
            f"Influential sets of {self.queries:,} queries (Table 1), damping {self.damping:g}",
            ["", *(f"{quantity}, top {k}" for quantity in quantities for k in self.k)],
            rows,
        )


@dataclass(frozen=True, eq=False)
class Overlap:
    """How much of each method's top k the k nearest neighbours are: Section 4.3.

    Attributes:
        k: The k's.
        shared: Method → how many of each query's top k are among its k nearest neighbours, [query, k].
        damping: λ of the scores.
    """

    k: tuple[int, ...]
    shared: Mapping[Method, Int[np.ndarray, "query k"]]
    damping: float

    @property
    def queries(self) -> int:
        """How many were asked."""
        return len(next(iter(self.shared.values())))

    def percent(self, method: Method) -> Float[np.ndarray, "k"]:
        """100 × |top k ∩ k nearest| / k at each k, averaged over the queries."""
        counts = self.shared[one_of("method", method, list(self.shared))]
        found: np.ndarray = 100 * counts.mean(axis=0) / np.asarray(self.k)
        return found

    def to_frame(self) -> pd.DataFrame:
        """A line per method and k: method, k, percent."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"method": method, "k": top, "percent": float(value)}
                for method in self.shared
                for top, value in zip(self.k, self.percent(method), strict=True)
            ]
        )

    def figure(self, *, width: float = 5.0) -> Figure:
        """The overlap of each method over k.

        Args:
            width: In inches.
        """
        from ..views import plots

        return plots.overlap(self.k, {method: self.percent(method) for method in self.shared}, width=width)

    def __repr__(self) -> str:
        rows = [
            [METHOD_TITLES[method], *(f"{value:.1f} %" for value in self.percent(method))]
            for method in self.shared
        ]
        return table(
            f"Overlap with the k nearest neighbours over {self.queries:,} queries (Section 4.3), "
            f"damping {self.damping:g}",
            ["", *(f"k = {top}" for top in self.k)],
            rows,
        )


def rank(
    explainer: Explainer,
    queries: Any,
    labels: Any = None,
    *,
    methods: Iterable[Method] = METHODS,
    k: int = 20,
    damping: float | None = None,
    progress: bool = True,
) -> Rankings:
    """Rank the training examples for every query, once for all that is measured of rankings.

    Goes through queries and training set in blocks and keeps k rows per query, so that 10,000 queries
    and 50,000 examples need no 10,000 × 50,000 scores. Influence is computed once for all its methods.

    Args:
        explainer: A fitted explainer.
        queries, labels, damping: As in `Explainer.scores`.
        methods: Any of "influence", "theta_relative", "loss_relative" and "nearest".
        k: How long each ranking is; at most the number of training examples.
        progress: Show a progress bar.

    Raises:
        RelatifError: One of its kinds, as in `Explainer.top_k`.
    """
    chosen = as_methods(methods)
    total = as_inputs(queries, "queries", explainer._collate).length * len(chosen)
    with tqdm(total=total, unit=" rankings", desc="ranking", disable=not progress) as bar:

        def show(done: float) -> None:
            bar.update(round(done * total) - bar.n)

        found = explainer._top(queries, labels, k=k, methods=chosen, damping=damping, progress=show)
    probability = explainer._ready().probability
    return Rankings(
        indices={method: top.indices.cpu().numpy() for method, top in found.items()},
        probability=None if probability is None else probability.double().cpu().numpy(),
        train_size=explainer.train_size,
        damping=explainer._damping(damping),
    )


def specificity(
    explainer: Explainer,
    queries: Any,
    labels: Any = None,
    *,
    methods: Iterable[Method] = SCORED,
    k: int | Iterable[int] = (1, 5),
    damping: float | None = None,
    progress: bool = True,
) -> Specificity:
    """Cardinality and probability of the sets of influential examples: Table 1.

    For each method and k the top k training examples of every query go into one set, duplicates
    removed. Its cardinality says how specific the examples are: at most k × queries (and n), less
    where the same examples are returned again and again. The mean probability that the model gives
    its elements' own training labels, each element once, says how typical they are.

    Args:
        explainer: A fitted explainer.
        queries, labels, damping: As in `Explainer.scores`.
        methods: As in `rank`.
        k: One k or several; the rankings are made once, for the largest.
        progress: Show a progress bar.

    Raises:
        RelatifError: One of its kinds, as in `Explainer.top_k`.
    """
    wanted = _counts(k, explainer.train_size)
    return rank(
        explainer, queries, labels, methods=methods, k=max(wanted), damping=damping, progress=progress
    ).specificity(wanted)


def overlap(
    explainer: Explainer,
    queries: Any,
    labels: Any = None,
    *,
    methods: Iterable[Method] = SCORED,
    k: int | Iterable[int] = (1, 5, 10, 20),
    damping: float | None = None,
    progress: bool = True,
) -> Overlap:
    """How many percent of a method's top k are among the query's k nearest neighbours: Section 4.3.

    As in the paper the neighbours are the nearest of the whole training set, whatever their class, by
    Euclidean distance in input space (or in the explainer's `space="features"`).

    Args:
        explainer: A fitted explainer.
        queries, labels, damping: As in `Explainer.scores`.
        methods: Those to compare with "nearest".
        k: One k or several.
        progress: Show a progress bar.

    Raises:
        RelatifError: One of its kinds, as in `Explainer.top_k`; a DataError where inputs have no distance.
    """
    wanted = _counts(k, explainer.train_size)
    chosen = as_methods(methods)
    if "nearest" in chosen:
        raise ChoiceError(
            'methods= names "nearest", which the others are compared with; expected some of '
            f"{', '.join(map(repr, SCORED))}."
        )
    return rank(
        explainer,
        queries,
        labels,
        methods=(*chosen, "nearest"),
        k=max(wanted),
        damping=damping,
        progress=progress,
    ).overlap(wanted)


def _counts(k: Any, most: int) -> tuple[int, ...]:
    """The k's asked for, ascending, each once."""
    asked = list(k) if isinstance(k, Iterable) and not isinstance(k, str) else [k]
    for one in asked:
        whole = isinstance(one, (int, np.integer)) and not isinstance(one, bool)
        if not whole or not 1 <= one <= most:
            raise ChoiceError(f"k={one!r}; expected whole numbers from 1 to {most}.")
    if not asked:
        raise ChoiceError("k=() holds no number; expected one or several, such as (1, 5).")
    return tuple(sorted({int(one) for one in asked}))


def _shared(one: Int[np.ndarray, "query k"], other: Int[np.ndarray, "query k"]) -> Int[np.ndarray, "query"]:
    """How many rows both name for each query; within a ranking a row stands once."""
    together = np.sort(np.concatenate([one, other], axis=1), axis=1)
    found: np.ndarray = (together[:, 1:] == together[:, :-1]).sum(axis=1)
    return found
