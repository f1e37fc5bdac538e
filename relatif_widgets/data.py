"""Any user's data set -> batches of (inputs, targets), class names, and the raw example to show."""

from __future__ import annotations

import copy
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from numbers import Number
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, default_collate

from .errors import SHOWN, ChoiceError, DataError, RelatifError

TARGET_COLUMNS = ("label", "labels", "target", "targets", "y")
INPUT_COLUMNS = ("pixel_values", "image", "img", "input", "inputs", "x", "features", "text")
PROBE_SIZE = 32

Collate = Callable[[list[Any]], Any]

T = TypeVar("T")

Batch = tuple[int, Any, Tensor]
"""The first row, inputs, targets."""


@dataclass(frozen=True)
class Source:
    """A data set read by row number.

    Attributes:
        dataset: What the user gave.
        length: Number of examples.
        name: "train_set" or the like, for messages.
        class_names: Names found in the data set, or None.
    """

    dataset: Any
    length: int
    name: str
    collate: Collate | None = None
    class_names: tuple[str, ...] | None = None
    _raw: Any = field(default=None, repr=False)

    def batch(self, rows: Sequence[int]) -> tuple[Any, Tensor | None]:
        """Inputs and targets of some rows, as the data set gives them, collated.

        Raises:
            DataError: A row cannot be read or collated, or is not (input, target).
        """
        if isinstance(self.dataset, _Arrays):
            index = torch.as_tensor(rows, dtype=torch.int64)
            inputs = map_tensors(lambda x: x[index], self.dataset.inputs)
            targets = None if self.dataset.targets is None else self.dataset.targets[index]
            return inputs, targets
        items = [self._item(row) for row in rows]
        collate = self.collate or default_collate
        if self.collate is None:
            items = [_split(item, self.name, row) for item, row in zip(items, rows, strict=True)]
        try:
            batch = collate(items)
        except (TypeError, RuntimeError, ValueError) as error:
            raise DataError(
                f"{self.name}: examples {rows[0]} to {rows[-1]} do not stack into one batch ({error}). "
                "Give the data set its evaluation transform (tensors of one shape), or pass collate_fn=."
            ) from error
        inputs, targets = _split(batch, self.name, rows[0])
        return map_tensors(torch.Tensor.detach, inputs), _as_tensor(targets, self.name)

    def in_memory(self) -> tuple[Any, Tensor] | None:
        """All inputs and targets where they are arrays already, so that checking them costs little."""
        if isinstance(self.dataset, _Arrays) and self.dataset.targets is not None:
            return self.dataset.inputs, self.dataset.targets
        return None

    def batches(self, size: int) -> Iterator[tuple[int, Any, Tensor | None]]:
        """(first row, inputs, targets) in the data set's order."""
        for start in range(0, self.length, size):
            inputs, targets = self.batch(range(start, min(start + size, self.length)))
            yield start, inputs, targets

    def raw(self, row: int) -> Any:
        """The example as a person would look at it: before transforms, where there is a before."""
        source = self.dataset if self._raw is None else self._raw
        if isinstance(source, _Arrays):
            if source.columns is not None:
                return {name: values[row] for name, values in source.columns.items()}
            return map_tensors(lambda x: x[row], source.inputs)
        return _split(source[row], self.name, row)[0]

    def probe(self) -> None:
        """Read a few examples twice, before the long work.

        Raises:
            DataError: The two passes disagree, as under random augmentation.
        """
        rows = sorted({int(row) for row in np.linspace(0, self.length - 1, PROBE_SIZE)})
        for row in rows:
            first, second = self.batch([row]), self.batch([row])
            if not (_same(first[0], second[0]) and _same(first[1], second[1])):
                raise DataError(
                    f"{self.name}: example {row} differs between two passes over the data. Scores belong to "
                    "fixed examples; pass the data set with its evaluation transform (no random augmentation)."
                )

    def _item(self, row: int) -> Any:
        try:
            return self.dataset[row]
        except (IndexError, KeyError) as error:
            raise DataError(
                f"{self.name}: example {row} cannot be read ({type(error).__name__}: {error}) although its length "
                f"is {self.length}. Expected a data set whose rows 0 to {self.length - 1} can be indexed."
            ) from error
        except RelatifError:
            raise
        except Exception as error:
            raise DataError(
                f"{self.name}: example {row} cannot be read ({type(error).__name__}: {error}). "
                "Mend that example, or leave it out: torch.utils.data.Subset(data_set, rows)."
            ) from error


@dataclass(frozen=True)
class _Arrays:
    inputs: Any
    targets: Tensor | None
    columns: dict[str, Any] | None = None  # of a data frame, as they were given


def as_source(data: Any, name: str, collate: Collate | None = None) -> Source:
    """Read a torch `Dataset`, a Hugging Face or torchvision data set, or a pair of arrays.

    Of inputs in a pandas DataFrame the raw examples are mappings, column → value as it was given.

    Raises:
        DataError: Empty, not indexable, a pair whose lengths differ, or a DataFrame with columns
            that hold no numbers.
    """
    if collate is not None and not callable(collate):
        raise ChoiceError(
            f"collate_fn={collate!r}; expected a function of a list of items, as in a DataLoader."
        )
    if isinstance(data, DataLoader):
        raise DataError(
            f"{name} is a DataLoader, whose order may change. Pass its data set: {name}=loader.dataset."
        )
    if isinstance(data, IterableDataset) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(
            f"{name} is {type(data).__name__}, which has no length or cannot be indexed. Explanations name examples "
            "by row: pass a map-style data set, or a pair (inputs, targets) of arrays."
        )
    if _is_frame(data):
        raise DataError(
            f"{name} is a DataFrame, with the columns {_listed(data.columns)}; expected inputs and targets apart: "
            f"{name}=(frame.drop(columns=[target]), frame[target])."
        )
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        data = data.tensors
    if _is_pair(data):
        inputs, targets = _as_tensor(data[0], name), _as_tensor(data[1], name)
        if len(inputs) != len(targets):
            raise DataError(
                f"{name} has {len(inputs)} inputs but {len(targets)} targets; expected as many of both."
            )
        data = _Arrays(inputs, targets, _columns(data[0]))
        length = len(inputs)
    else:
        length = len(data)
    if length == 0:
        raise DataError(f"{name} is empty; expected at least one example.")
    return Source(
        dataset=data,
        length=length,
        name=name,
        collate=collate,
        class_names=_class_names(data),
        _raw=_without_transform(data),
    )


def _is_pair(data: Any) -> bool:
    """Whether this is (inputs, targets), and not a data set of two examples."""
    if not (isinstance(data, (tuple, list)) and len(data) == 2):
        return False
    arrays = [hasattr(part, "shape") for part in data]
    lists = [isinstance(part, list) for part in data]
    return all(arrays) or (
        isinstance(data, tuple) and all(a or b for a, b in zip(arrays, lists, strict=True))
    )


def as_inputs(queries: Any, name: str, collate: Collate | None = None) -> Source:
    """Read a batch of inputs without targets, or anything that `as_source` reads."""
    columns = _columns(queries)
    if hasattr(queries, "__array__") and hasattr(queries, "shape") and not isinstance(queries, Tensor):
        queries = _as_tensor(queries, name)  # arrays and data frames
    if isinstance(queries, list) and queries and all(isinstance(row, list) for row in queries):
        queries = _as_tensor(queries, name)
    if isinstance(queries, (Tensor, Mapping)):
        inputs = map_tensors(lambda x: x, _tensors(queries, name))
        length = batch_length(inputs)
        if length == 0:
            raise DataError(f"{name} is empty; expected at least one example.")
        return Source(dataset=_Arrays(inputs, None, columns), length=length, name=name, collate=collate)
    if isinstance(queries, list) and queries and isinstance(queries[0], (Tensor, np.ndarray)):
        shapes = {tuple(query.shape) for query in queries}
        if len(shapes) > 1:
            raise DataError(
                f"{name}: examples have shapes {sorted(shapes)}; expected one shape, or pass collate_fn=."
            )
        return as_inputs(torch.stack([_as_tensor(query, name) for query in queries]), name, collate)
    return as_source(queries, name, collate)


def ahead(batches: Iterator[T]) -> Iterator[T]:
    """The same, each read by another thread while the one before is worked on."""
    with ThreadPoolExecutor(1, "relatif-reader") as reader:
        pending = reader.submit(next, batches, None)
        while (batch := pending.result()) is not None:
            pending = reader.submit(next, batches, None)
            yield batch


def transferred(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Batches moved to a GPU, from pinned memory on a stream of its own, while the one before is worked on."""
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def move(value: Tensor) -> Tensor:
        pinned = value.pin_memory() if value.device.type == "cpu" else value
        return pinned.to(device, non_blocking=True)

    def sent() -> Batch | None:
        batch = next(batches, None)
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            return batch[0], map_tensors(move, batch[1]), map_tensors(move, batch[2])

    def arrived(batch: Batch) -> Batch:
        here = torch.cuda.current_stream(device)
        here.wait_stream(stream)
        map_tensors(lambda value: value.record_stream(here), batch[1:])
        return batch

    following = sent()
    while following is not None:
        batch, following = arrived(following), sent()
        yield batch


def fit_inputs(inputs: Any, dtype: torch.dtype, device: torch.device | None, name: str, first: int) -> Any:
    """Move a batch to the model's floating dtype, and to its device or, without one, nowhere.

    Raises:
        DataError: A value is NaN or infinite (with the example's index), or there
            is nothing that a model could take.
    """

    def move(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value if device is None else value.to(device)
        finite = value.flatten(1).isfinite().all(dim=1) if value.dim() > 1 else value.isfinite()
        bad = torch.nonzero(~finite)
        if len(bad):
            raise DataError(
                f"{name}: example {first + int(bad[0, 0])} holds NaN or infinity. "
                "Clean the data, or leave that example out."
            )
        return value.to(device=device, dtype=dtype)

    if not isinstance(inputs, (Tensor, Mapping, tuple, list)):
        raise DataError(
            f"{name}: inputs are {type(inputs).__name__}; expected tensors. Give the data set its transform to "
            "tensors, or pass collate_fn=."
        )
    return map_tensors(move, inputs)


def batch_length(inputs: Any) -> int:
    """Number of examples in a batch of inputs.

    Raises:
        DataError: The tensors of a nested batch disagree, or there is none.
    """
    lengths: list[int] = []

    def note(value: Tensor) -> Tensor:
        lengths.append(len(value))
        return value

    map_tensors(note, inputs)
    if len(set(lengths)) != 1:
        raise DataError(
            f"The tensors of one batch have {lengths or 'no'} rows; expected the same number in all."
        )
    return lengths[0]


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """Apply `function` to every tensor of a nested tuple, list or dict; the rest stays."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return tuple(map_tensors(function, value) for value in tree)
    return tree


class Fingerprint:
    """SHA-256 of the data as read: of each of its tensors, whatever the batches they come in."""

    def __init__(self) -> None:
        self._leaves: list[Any] = []  # a digest for each tensor of a batch
        self._kinds: list[str] = []
        self._at = 0

    def add(self, *trees: Any) -> None:
        self._at = 0
        for tree in trees:
            map_tensors(self._add, tree)

    def _add(self, value: Tensor) -> Tensor:
        if self._at == len(self._leaves):
            self._leaves.append(hashlib.sha256())
            self._kinds.append("")
        digest, kind = self._leaves[self._at], f"{tuple(value.shape[1:])}{value.dtype}"
        if kind != self._kinds[self._at]:
            digest.update(kind.encode())
            self._kinds[self._at] = kind
        self._at += 1
        digest.update(
            value.detach().contiguous().cpu().view(torch.uint8).numpy().tobytes()
            if value.dim()
            else str(value.item()).encode()
        )
        return value

    def hexdigest(self) -> str:
        return hashlib.sha256(b"".join(leaf.digest() for leaf in self._leaves)).hexdigest()


def _split(item: Any, name: str, row: int) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        target = next((key for key in TARGET_COLUMNS if key in item), None)
        rest = [key for key in item if key != target]
        if target is None or not rest:
            raise DataError(
                f"{name}: example {row} has the columns {list(item)}; expected one of {list(TARGET_COLUMNS)} and an "
                "input. Rename the columns, or pass collate_fn= that returns (inputs, targets)."
            )
        known = [key for key in INPUT_COLUMNS if key in rest]
        if len(rest) == 1:
            return item[rest[0]], item[target]
        if "input_ids" in rest:  # a tokenizer's output goes to the model by name
            return {key: item[key] for key in rest if _is_numeric(item[key])}, item[target]
        if known:
            return item[known[0]], item[target]
        raise DataError(
            f"{name}: example {row} has several possible inputs {rest}. Keep one column, or pass collate_fn= that "
            "returns (inputs, targets)."
        )
    if isinstance(item, (tuple, list)) and len(item) == 2:
        return item[0], item[1]
    seen = f"{len(item)} parts" if isinstance(item, (tuple, list)) else type(item).__name__
    raise DataError(f"{name}: example {row} is {seen}; expected a pair (input, target).")


def _is_numeric(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray, int, float)) or (
        isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], (int, float))
    )


def row_values(row: Any) -> np.ndarray[Any, Any]:
    """One row of a data frame, a pandas Series, as an array of numbers.

    Raises:
        DataError: Some of its values are no numbers (with their columns).
    """
    if _is_frame(row):
        return np.asarray(_numbers(row, "query"))
    values = row.to_numpy()
    if values.dtype.kind == "O":  # of columns with different types
        wrong = [str(key) for key, value in row.items() if not isinstance(value, (Number, np.bool_))]
        if wrong:
            raise DataError(f"query holds no numbers in the columns {_listed(wrong)}. Encode or drop them.")
        values = values.astype(np.float64)
    return np.array(values)  # a copy, since a row of a data frame may be read-only


def _is_frame(data: Any) -> bool:
    """Whether this is a pandas DataFrame; nothing is one where pandas was never imported."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(data, pandas.DataFrame)


def _columns(data: Any) -> dict[str, Any] | None:
    """The columns of a data frame in their own types, by names that are made to differ."""
    if not _is_frame(data):
        return None
    columns: dict[str, Any] = {}
    for position, given in enumerate(data.columns):
        name, times = str(given), 1
        while name in columns:
            times += 1
            name = f"{given} ({times})"
        columns[name] = data.iloc[:, position].array
    return columns


def _numbers(frame: Any, name: str) -> Any:
    """A data frame as one array, its smallest common type; missing values become NaN.

    Raises:
        DataError: Some columns hold no numbers (with their names).
    """
    wrong = [
        f"{column} ({dtype})"
        for column, dtype in zip(frame.columns, frame.dtypes, strict=True)
        if getattr(dtype, "kind", "O") not in "biuf"
    ]
    if wrong:
        raise DataError(
            f"{name}: the columns {_listed(wrong)} hold no numbers, which a model could take. Encode them as it "
            "does, or leave them out: frame.drop(columns=[...])."
        )
    array = frame.to_numpy()
    if array.dtype.kind in "biuf":
        return array
    # Types with missing values of their own, or booleans beside numbers, come as objects.
    return np.stack([_column(frame.iloc[:, position]) for position in range(frame.shape[1])], axis=1)


def _column(series: Any) -> np.ndarray[Any, Any]:
    array = series.to_numpy()
    if array.dtype.kind not in "biuf":
        array = series.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(array)


def _listed(names: Iterable[Any]) -> str:
    listed = [str(name) for name in names]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def _as_tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if _is_frame(value):
        value = _numbers(value, name)
    elif getattr(getattr(value, "dtype", None), "kind", "O") in "biuf" and hasattr(value, "iloc"):
        value = _column(value)  # a Series whose type has missing values of its own
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name}: {type(value).__name__} is no array of one shape ({error}).") from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"{name}: {type(value).__name__} holds {array.dtype}; expected numbers. Encode labels as integers from 0 "
            "and give their names as class_names=; encode text and categories as the model takes them."
        )
    return torch.as_tensor(
        array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy()
    )


def _tensors(tree: Any, name: str) -> Any:
    if isinstance(tree, Mapping):
        return {key: _tensors(value, name) for key, value in tree.items()}
    return _as_tensor(tree, name)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        if first.shape != second.shape:
            return False
        equal = first == second
        if first.is_floating_point():
            equal = equal | (first.isnan() & second.isnan())  # NaN has its own error, with its own words
        return bool(equal.all())
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, (tuple, list)) and isinstance(second, (tuple, list)):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second) if not isinstance(first, Tensor) else False


def _class_names(dataset: Any) -> tuple[str, ...] | None:
    if isinstance(dataset, Subset):
        return _class_names(dataset.dataset)
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):  # Hugging Face
        for key in TARGET_COLUMNS:
            names = getattr(features.get(key), "names", None)
            if names:
                return tuple(map(str, names))
    classes = getattr(dataset, "classes", None)  # torchvision
    if isinstance(classes, (list, tuple)):
        return tuple(map(str, classes))
    return None


def _without_transform(dataset: Any) -> Any:
    if isinstance(dataset, Subset):
        inner = _without_transform(dataset.dataset)
        return None if inner is None else Subset(inner, dataset.indices)
    if callable(getattr(dataset, "with_format", None)) and hasattr(dataset, "features"):  # Hugging Face
        return dataset.with_format(None)
    if getattr(dataset, "transform", None) is not None:  # torchvision
        bare = copy.copy(dataset)
        bare.transform = None
        if hasattr(bare, "transforms"):
            bare.transforms = None
        return bare
    return None
