"""Cards as a DataFrame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..explanation import Explanation, Method

if TYPE_CHECKING:
    import pandas as pd


def cards(shown: Sequence[Explanation], methods: Sequence[Method]) -> pd.DataFrame:
    """One row per card of some explanations at their settings, each method in turn.

    Returns:
        query, the columns of `Explanation.to_frame`, and where there are several methods
        rank_<method> for each: the card's place by it, <NA> where the table has ended.
    """
    import pandas as pd

    frames = []
    for explanation in shown:
        for method in methods:
            frame = explanation.to_frame(method=method)
            frame.insert(0, "query", explanation.query.name)
            for other in methods if len(methods) > 1 else ():
                places = [
                    explanation.rank_of(explanation.panel(panel), index, method=other)
                    for panel, index in zip(frame["panel"], frame["index"], strict=True)
                ]
                frame[f"rank_{other}"] = pd.array(places, dtype="Int64")
            frames.append(frame)
    # Empty frames have no dtypes to keep.
    return pd.concat([frame for frame in frames if len(frame)] or frames[:1], ignore_index=True)
