"""What a widget has prepared: going back to a query costs nothing, and cards can be counted over queries."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence

from ..explanation import Explanation, Method, Sign

KEPT = 50
"""Explanations kept at hand, the last ones looked at."""


class Prepared:
    """Prepared explanations by row of the test set, and of training examples ("more like this")."""

    def __init__(self) -> None:
        self._queries: OrderedDict[int, Explanation] = OrderedDict()
        self._left: dict[int, tuple[str, ...]] = {}
        self._similar: OrderedDict[int, Explanation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._queries)

    def rows(self) -> list[int]:
        """The rows at hand, ascending."""
        return sorted(self._queries)

    def get(self, row: int) -> Explanation | None:
        """The explanation of a row of the test set, if it is at hand."""
        return _touched(self._queries, row)

    def similar(self, index: int | None) -> Explanation | None:
        """What is like a training example, if it is at hand."""
        return None if index is None else _touched(self._similar, index)

    def keep(self, row: int, explanation: Explanation) -> None:
        _put(self._queries, row, explanation)

    def keep_similar(self, index: int, explanation: Explanation) -> None:
        _put(self._similar, index, explanation)

    def forget(self, row: int) -> None:
        self._queries.pop(row, None)

    def leave(self, row: int, labels: Sequence[str]) -> None:
        """Remember which panels a query had."""
        self._left[row] = tuple(labels)

    def labels(self, row: int) -> list[str]:
        """The panels that a query had when it was last on display; [] for one that is not at hand."""
        return list(self._left.get(row, ())) if row in self._queries else []

    def returned(
        self,
        indices: Collection[int],
        methods: Sequence[Method],
        *,
        damping: float,
        sign: str,
        k: int,
    ) -> dict[Method, dict[int, int]]:
        """For how many of the queries at hand each example is among the k best of some panel.

        Args:
            indices: The training examples to count.
            methods: To count each for itself.
            damping, sign, k: Where the controls stand; a query without this damping stop
                counts at its nearest.
        """
        counts: dict[Method, dict[int, int]] = {}
        chosen: Sign = sign  # type: ignore[assignment]
        for method in methods:
            found: Counter[int] = Counter()
            for explanation in self._queries.values():
                stop = min(explanation.dampings, key=lambda value: abs(value / damping - 1))
                found.update(
                    {
                        example.index
                        for panel in explanation.panels
                        for example, _ in explanation.ranked(
                            panel, method=method, damping=stop, sign=chosen, k=k
                        )
                    }
                )
            counts[method] = {index: found[index] for index in indices if found[index]}
        return counts


def _touched(kept: OrderedDict[int, Explanation], key: int) -> Explanation | None:
    if key in kept:
        kept.move_to_end(key)
    return kept.get(key)


def _put(kept: OrderedDict[int, Explanation], key: int, explanation: Explanation) -> None:
    kept[key] = explanation
    kept.move_to_end(key)
    while len(kept) > KEPT:
        kept.popitem(last=False)
