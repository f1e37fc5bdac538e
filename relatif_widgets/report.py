"""Several explanations in one document: a small report that opens wherever an explanation does."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, overload

from pydantic import Field, TypeAdapter

from .errors import ChoiceError
from .explanation import (
    SCHEMA_VERSION,
    Explanation,
    Method,
    Sign,
    json_schema,
    mime_bundle,
    read_document,
    read_head,
    view,
    write_atomically,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Report:
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

    def to_json(self) -> str:
        """The document as JSON text."""
        return _adapter().dump_json(self).decode()

    def to_dict(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        value: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return value

    @classmethod
    def from_json(cls, text: str | bytes) -> Report:
        """Read a document; that of a single explanation is a report of one.

        Raises:
            DocumentError: As in `Explanation.from_json`.
        """
        text, head = read_head(text)
        if "explanations" not in head:
            return cls([Explanation.from_json(text)])
        return read_document(_adapter(), text)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the document, by custom named `*.relatif.json`, in one atomic step."""
        return write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Read a document that `save` wrote; errors as in `from_json`, or OSError."""
        return cls.from_json(Path(path).read_bytes())

    @overload
    def to_html(self, path: None = None) -> str: ...

    @overload
    def to_html(self, path: str | os.PathLike[str]) -> Path: ...

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """A page of its own with an index, as `Explanation.to_html`."""
        page: str = view("page")(self)
        return page if path is None else write_atomically(path, page)

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, Any]:
        return mime_bundle(self, include, exclude)

    def __repr__(self) -> str:
        text: str = view("text/plain")(self)
        return text


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def report_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a report."""
    return json_schema(_adapter())
