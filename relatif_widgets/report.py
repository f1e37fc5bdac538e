"""Several explanations in one document: a small report that opens wherever an explanation does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from .errors import ChoiceError
from .explanation import Explanation, Method, Sign, json_schema
from .saved import SCHEMA_VERSION, Saved, read_document, read_head

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Report(Saved):
    """Explanations of several queries, with an index.

    Attributes:
        explanations: In this order, one or more.
        title: What stands above the index; may be empty.
        schema_version: "major.minor" of the layout, that of `Explanation`.

    Raises:
        ChoiceError: There is no explanation, or one is none.
    """

    explanations: Annotated[tuple[Explanation, ...], Field(min_length=1)]
    title: str = ""
    schema_version: str = SCHEMA_VERSION

    def __init__(
        self, explanations: Sequence[Explanation], title: str = "", schema_version: str = SCHEMA_VERSION
    ) -> None:
        chosen = (explanations,) if isinstance(explanations, Explanation) else tuple(explanations)
        if not chosen:
            raise ChoiceError("A report needs at least one explanation: Report([explanation, ...]).")
        for one in chosen:
            if not isinstance(one, Explanation):
                raise ChoiceError(f"A report holds explanations, not {type(one).__name__}.")
        object.__setattr__(self, "explanations", chosen)
        object.__setattr__(self, "title", title)
        object.__setattr__(self, "schema_version", schema_version)

    def __len__(self) -> int:
        return len(self.explanations)

    def __iter__(self) -> Iterator[Explanation]:
        return iter(self.explanations)

    def __getitem__(self, position: int) -> Explanation:
        return self.explanations[position]

    def to_frame(
        self,
        *,
        method: Method | None = None,
        damping: float | None = None,
        sign: Sign | None = None,
        k: int | None = None,
    ) -> pd.DataFrame:
        """One row per card: the query's name, then the columns of `Explanation.to_frame`.

        Args:
            method, damping, sign, k: As there; each explanation's own settings where not given.
        """
        import pandas as pd

        frames = []
        for one in self.explanations:
            frame = one.to_frame(method=method, damping=damping, sign=sign, k=k)
            frame.insert(0, "query", one.query.name)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def with_settings(
        self,
        *,
        method: str | None = None,
        sign: str | None = None,
        k: int | None = None,
        damping: float | None = None,
    ) -> Report:
        """The same report with the controls of every explanation elsewhere; see `Explanation.with_settings`."""
        moved = [
            one.with_settings(method=method, sign=sign, k=k, damping=damping) for one in self.explanations
        ]
        return Report(moved, self.title)

    @classmethod
    def _adapter(cls) -> TypeAdapter[Any]:
        return _adapter()

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read a document; that of a single explanation is a report of one.

        Raises:
            DocumentError: As in `Explanation.from_json`.
        """
        text, head = read_head(text)
        if "explanations" not in head:
            return cls([read_document(Explanation._adapter(), text)])
        return read_document(_adapter(), text)


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a report."""
    return json_schema(_adapter())
