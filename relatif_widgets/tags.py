"""What a person notes down about training examples: tags that outlive the widget they were given in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import traitlets

from .errors import ChoiceError, DataError, DocumentError
from .saved import write_atomically

if TYPE_CHECKING:
    import pandas as pd

SUGGESTED = ("mislabelled", "duplicate", "outlier", "fine")
"""What the widget offers first; any other text is a tag as well."""

LONGEST = 60
"""Characters of a tag."""


class Tags(traitlets.HasTraits):
    """Tags of training examples, kept on the explainer and shared by all its widgets.

    Args:
        count: Number of training examples.
        describe: Rows -> a DataFrame that says what they are, one line each, with a column "index".
        fingerprint: Of the training data, so that tags are not put on other data by mistake.
    """

    value: traitlets.Dict[int, list[str]] = traitlets.Dict(
        key_trait=traitlets.Int(),
        value_trait=traitlets.List(traitlets.Unicode()),
        help="Training index -> its tags, in the order they were given; dict of int to list of str.",
    )

    def __init__(
        self,
        count: int,
        describe: Callable[[Sequence[int]], pd.DataFrame],
        fingerprint: Callable[[], str],
    ) -> None:
        super().__init__()
        self._count, self._describe, self._fingerprint = count, describe, fingerprint

    def add(self, indices: int | Iterable[int], tag: str) -> None:
        """Give one or more training examples a tag.

        Raises:
            ChoiceError: An index is outside the training set, or the tag is empty or too long.
        """
        tag = as_tag(tag)
        self.value = {
            **self.value,
            **{
                index: [*dict.fromkeys([*self.value.get(index, []), tag])] for index in self._indices(indices)
            },
        }

    def remove(self, indices: int | Iterable[int], tag: str | None = None) -> None:
        """Take a tag, or with None every tag, off one or more training examples."""
        left = dict(self.value)
        for index in self._indices(indices):
            left[index] = [] if tag is None else [one for one in left.get(index, []) if one != tag]
        self.value = left

    def clear(self) -> None:
        """Take every tag off every example."""
        self.value = {}

    def __getitem__(self, index: int) -> tuple[str, ...]:
        """The tags of one training example; () where it has none."""
        return tuple(self.value.get(index, ()))

    def __iter__(self) -> Iterator[int]:
        return iter(sorted(self.value))

    def __len__(self) -> int:
        return len(self.value)

    def to_frame(self) -> pd.DataFrame:
        """The tagged examples by index: what they are, and the column `tags`, a tuple."""
        indices = sorted(self.value)
        frame = self._describe(indices)
        frame["tags"] = [self[index] for index in indices]
        return frame

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_frame` as CSV, tags joined by "; ", in one atomic step."""
        frame = self.to_frame()
        frame["tags"] = ["; ".join(tags) for tags in frame["tags"]]
        return write_atomically(path, frame.to_csv(index=False))

    def to_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_frame` as JSON with the fingerprint of the training data; `load` reads it."""
        records = json.loads(self.to_frame().to_json(orient="records"))
        text = json.dumps({"data_fingerprint": self._fingerprint(), "examples": records}, indent=1)
        return write_atomically(path, text + "\n")

    def load(self, path: str | os.PathLike[str]) -> None:
        """Add the tags of a file that `to_json` wrote.

        Raises:
            DocumentError: The file is no tag file.
            DataError: It belongs to other training data.
        """
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            fingerprint = found["data_fingerprint"]
            tags = {int(one["index"]): [as_tag(tag) for tag in one["tags"]] for one in found["examples"]}
        except (ValueError, KeyError, TypeError) as error:
            raise DocumentError(f"{Path(path).name} is no file that tags.to_json wrote ({error}).") from None
        if fingerprint != self._fingerprint():
            raise DataError(
                f"{Path(path).name} holds tags of other training data: its fingerprint begins with "
                f"{str(fingerprint)[:8]}, this data's with {self._fingerprint()[:8]}."
            )
        self.value = {
            **self.value,
            **{index: [*dict.fromkeys([*self[index], *more])] for index, more in tags.items()},
        }

    def __repr__(self) -> str:
        kinds: dict[str, int] = {}
        for tags in self.value.values():
            for tag in tags:
                kinds[tag] = kinds.get(tag, 0) + 1
        return f"Tags({', '.join(f'{tag}: {count}' for tag, count in kinds.items()) or 'none'})"

    @traitlets.validate("value")
    def _valid(self, proposal: dict[str, Any]) -> dict[int, list[str]]:
        return self.valid(proposal["value"])

    def valid(self, given: Mapping[int, Sequence[str]]) -> dict[int, list[str]]:
        """The same by ascending index, without white space around tags, empty lists or repetitions.

        Raises:
            ChoiceError: An index is outside the training set, or a tag is empty or too long.
        """
        self._indices(given)
        tags = {index: [*dict.fromkeys(as_tag(tag) for tag in given[index])] for index in sorted(given)}
        return {index: listed for index, listed in tags.items() if listed}

    def _indices(self, indices: int | Iterable[int]) -> list[int]:
        return as_indices(indices, self._count)


def as_tag(tag: Any) -> str:
    """A tag without white space around it."""
    text = tag.strip() if isinstance(tag, str) else ""
    if not text or len(text) > LONGEST:
        raise ChoiceError(
            f"tag={tag!r}; expected text of 1 to {LONGEST} characters, such as {SUGGESTED[0]!r}."
        )
    return text


def as_indices(indices: Any, count: int, what: str = "Training", *, once: bool = True) -> list[int]:
    """Rows of a data set of `count` examples in the order given, each once unless that is not wanted."""
    listed = list(indices) if isinstance(indices, Iterable) else [indices]
    for index in listed:
        if isinstance(index, bool) or not hasattr(index, "__index__") or not 0 <= index < count:
            raise ChoiceError(f"{what} example {index!r} does not exist; expected 0 to {count - 1}.")
    rows = [int(index) for index in listed]
    return list(dict.fromkeys(rows)) if once else rows
