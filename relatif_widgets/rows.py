"""Rotated gradients, part by part: a dense block, or the two factors of an outer product.

A Linear layer that is applied once an example has the gradient δ aᵀ; rotated
by a Kronecker basis it is still an outer product, and out + into numbers stand
for out · into.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import scores
from .products import product

_FEW = 8
"""Vectors whose products with all rows cost no more than picking pairs."""


_DOTTED = 1 << 16
"""Coordinates of a query that are summed up in float64 at once."""


@dataclass(frozen=True)
class Outer:
    """Rows left ⊗ right, flattened with `right` fastest.

    Attributes:
        left: [row, out].
        right: [row, into].
    """

    left: Float[Tensor, "row out"]
    right: Float[Tensor, "row into"]

    def __len__(self) -> int:
        return len(self.left)

    def dense(self) -> Float[Tensor, "row dim"]:
        return (self.left[:, :, None] * self.right[:, None, :]).flatten(1)


Part = Tensor | Outer


@dataclass(frozen=True)
class Rows:
    """Rotated gradients c = Qᵀ g, a row per example.

    Attributes:
        parts: Consecutive columns of c.
        squares: ‖g‖² in float64 where c does not tell it: Q has fewer columns than g has numbers.
        gradients: g itself, where c does not tell it and there was room for it.
    """

    parts: tuple[Part, ...]
    squares: Float[Tensor, "row"] | None = None
    gradients: Float[Tensor, "row param"] | None = None

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, rows: slice | Tensor) -> Rows:
        return self._map(lambda tensor: tensor[rows])

    @property
    def tensors(self) -> list[Tensor]:
        """All that is stored."""
        tensors = [
            tensor
            for part in self.parts
            for tensor in ((part.left, part.right) if isinstance(part, Outer) else (part,))
        ]
        return tensors + [tensor for tensor in (self.squares, self.gradients) if tensor is not None]

    @property
    def mapped(self) -> bool:
        """Whether they lie in a file."""
        return any(tensor.untyped_storage().filename is not None for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def sizes(self) -> list[int]:
        """Columns of each part."""
        return [
            part.left.shape[1] * part.right.shape[1] if isinstance(part, Outer) else part.shape[1]
            for part in self.parts
        ]

    @property
    def anything(self) -> bool:
        """Whether any of the gradients has a number other than zero."""
        moving = [
            part.left.any(1) & part.right.any(1) if isinstance(part, Outer) else part for part in self.parts
        ]
        return any(bool(some.any()) for some in (*moving, self.squares) if some is not None)

    def to(self, dtype: torch.dtype) -> Rows:
        """The same in another precision; `squares` stay in float64."""
        return replace(self._map(lambda tensor: tensor.to(dtype)), squares=self.squares)

    def dense(self) -> Float[Tensor, "row dim"]:
        """c, written out."""
        return torch.cat([part.dense() if isinstance(part, Outer) else part for part in self.parts], dim=1)

    def room(self, count: int, folder: Path | None = None) -> Rows:
        """Room for `count` rows like these.

        Args:
            count: How many.
            folder: Where to keep them in files, mapped into memory; None for memory itself.
        """
        return self._map(lambda tensor: _room(tensor, (count, *tensor.shape[1:]), folder))

    def put(self, place: slice | Tensor, rows: Rows) -> None:
        """Write some rows."""
        for mine, theirs in zip(self.tensors, rows.tensors, strict=True):
            mine[place] = theirs

    def _map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        return Rows(
            tuple(
                Outer(function(part.left), function(part.right))
                if isinstance(part, Outer)
                else function(part)
                for part in self.parts
            ),
            None if self.squares is None else function(self.squares),
            None if self.gradients is None else function(self.gradients),
        )


class Waiting:
    """Tensors of several batches, until they are worth one product.

    Args:
        enough: What the sizes of those that wait have to come to.
    """

    def __init__(self, enough: int) -> None:
        self._enough, self._size = enough, 0
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, size: int, *tensors: Tensor) -> tuple[Tensor, ...] | None:
        """These with those before them, one after the other in dimension 0; None while it is not enough."""
        self._parts.append(tensors)
        self._size += size
        return self.take() if self._size >= self._enough else None

    def take(self) -> tuple[Tensor, ...] | None:
        """All that wait, if any do."""
        parts, self._parts, self._size = self._parts, [], 0
        return tuple(torch.cat(same) for same in zip(*parts, strict=True)) or None


def _room(like: Tensor, shape: tuple[int, ...], folder: Path | None) -> Tensor:
    """Numbers in memory, or in a file without a name that goes when they do."""
    size = math.prod(shape)
    if folder is None or not size:
        return like.new_empty(shape)
    handle, name = tempfile.mkstemp(prefix="relatif-index-", dir=folder)
    os.close(handle)
    numbers = torch.from_file(name, shared=True, size=size, dtype=like.dtype)
    with contextlib.suppress(PermissionError):  # Windows keeps the name of a file that is open
        os.unlink(name)  # the mapping outlives it
    return numbers.reshape(shape)


@dataclass(frozen=True)
class Kept:
    """Which coordinates of rotated gradients are stored where there is no room for all.

    Attributes:
        columns: Of each part those that are, ascending; None where all of it is.
        sizes: Coordinates of each part.
        energy: What is kept of each part's Σ Λ, its gradients' mean square, as a share.
    """

    columns: tuple[Tensor | None, ...]
    sizes: tuple[int, ...]
    energy: tuple[float, ...]

    @property
    def count(self) -> int:
        """Coordinates that are kept."""
        pairs = zip(self.columns, self.sizes, strict=True)
        return sum(size if columns is None else len(columns) for columns, size in pairs)

    def select(self, rows: Rows) -> Rows:
        """What is kept of complete rows."""
        pairs = zip(rows.parts, self.columns, strict=True)
        return Rows(tuple(kept for part, columns in pairs for kept in kept_part(part, columns)))

    def of(self, values: Float[Tensor, "dim"]) -> Float[Tensor, "kept"]:
        """The same of one number for each coordinate."""
        parts = zip(torch.split(values, list(self.sizes)), self.columns, strict=True)
        return torch.cat([part if columns is None else part[columns] for part, columns in parts])


def choose(rows: Rows, energies: Float[Tensor, "dim"], numbers: int) -> Kept | None:
    """The coordinates with the most energy that a row of so many numbers can hold; None where it holds none.

    An outer product is kept whole, by its factors, where these hold more energy for each
    number than single coordinates would.

    Args:
        rows: Complete rows, for their parts.
        energies: Mean square of each coordinate.
        numbers: Room for one row.
    """
    energies = energies.clamp(min=0)
    parts = torch.split(energies, rows.sizes)
    whole: set[int] = set()
    outers = {
        at: part.left.shape[1] + part.right.shape[1]
        for at, part in enumerate(rows.parts)
        if isinstance(part, Outer)
    }
    room = numbers
    for at in sorted(outers, key=lambda at: float(parts[at].sum()) / outers[at], reverse=True):
        rate = float(parts[at].sum()) / outers[at]
        better = sum(int((part > rate).sum()) for other, part in enumerate(parts) if other not in outers)
        if better + outers[at] <= room:
            whole.add(at)
            room -= outers[at]
    single = [at for at in range(len(parts)) if at not in whole]
    room = min(room, sum(rows.sizes[at] for at in single))
    if not whole and not room:
        return None
    columns: list[Tensor | None] = [None] * len(parts)
    if single:
        chosen = torch.zeros(sum(rows.sizes[at] for at in single), dtype=torch.bool, device=energies.device)
        chosen[torch.cat([parts[at] for at in single]).topk(room).indices] = True
        for at, marks in zip(single, torch.split(chosen, [rows.sizes[at] for at in single]), strict=True):
            columns[at] = None if bool(marks.all()) else torch.nonzero(marks)[:, 0]
    energy = [
        1.0 if kept is None else float(part[kept].sum() / part.sum().clamp(min=1e-300))
        for part, kept in zip(parts, columns, strict=True)
    ]
    return Kept(tuple(columns), tuple(rows.sizes), tuple(energy))


def kept_part(part: Part, columns: Int[Tensor, "kept"] | None) -> list[Part]:
    """What is kept of one part: all of it, some columns, or nothing."""
    if columns is None:
        return [part]
    if not len(columns):
        return []
    if not isinstance(part, Outer):
        return [part[:, columns]]
    into = part.right.shape[1]
    return [part.left[:, columns // into] * part.right[:, columns % into]]


def preconditioned(
    queries: Rows, weights: Iterable[Float[Tensor, "stop _"]], dtype: torch.dtype
) -> Iterator[Float[Tensor, "query stop _"]]:
    """w c_test part by part, in the precision that it is multiplied in; see `scores.preconditioned`."""
    for part, weight in zip(queries.parts, weights, strict=True):
        query = part.dense() if isinstance(part, Outer) else part
        yield scores.preconditioned(query, weight.to(query.dtype)).to(dtype)


def numbers(rows: Rows, columns: int, dtype: torch.dtype) -> int:
    """Numbers that `products` of one row with so many columns in `dtype` makes, for a single part at the most."""

    def of(part: Part, size: int) -> int:
        if isinstance(part, Outer):
            return columns * part.left.shape[1] if columns < part.right.shape[1] else size
        return 0 if part.dtype == dtype else size

    return max(map(of, rows.parts, rows.sizes))


class Room:
    """Memory for numbers in another precision, which is written to again and again.

    Rows of tens of megabytes in memory of their own each time took three times as long: the system hands
    it out page by page, filled with zeros.
    """

    def __init__(self) -> None:
        self._numbers: dict[torch.dtype, Tensor] = {}

    def cast(self, values: Tensor, dtype: torch.dtype) -> Tensor:
        """These in that precision, until the next; themselves if they are in it."""
        if values.dtype == dtype:
            return values
        room = self._numbers.get(dtype)
        if room is None or room.numel() < values.numel():
            room = self._numbers[dtype] = values.new_empty(values.numel(), dtype=dtype)
        return room[: values.numel()].view(values.shape).copy_(values)


def products(
    queries: Iterable[Float[Tensor, "query stop _"]],
    train: Rows,
    dtype: torch.dtype,
    room: Room | None = None,
) -> Float[Tensor, "query stop row"]:
    """Σ w c_test c_i over all parts, summed in the given precision; see `scores.influence`.

    Args:
        queries: w c_test, part by part.
        train: c_i.
        dtype: Of the scores.
        room: For rows in the precision of the queries; by default they get their own.
    """
    total: Tensor | None = None
    room = room or Room()
    for query, part in zip(queries, train.parts, strict=True):
        if isinstance(part, Outer) and query.shape[0] * query.shape[1] < part.right.shape[1]:
            left, right = part.left.to(dtype), part.right.to(dtype)
            middle = query.to(dtype).reshape(-1, right.shape[1])
            turned = product(right, middle).reshape(len(train), -1, left.shape[1])
            flat = (turned @ left[:, :, None])[:, :, 0].T
            score = flat.reshape(*query.shape[:2], len(train))
        else:
            dense = part.dense() if isinstance(part, Outer) else part
            score = scores.influence(query, room.cast(dense, query.dtype)).to(dtype)
        total = score if total is None else total.add_(score)
    assert total is not None
    return total


def part_products(
    vectors: Sequence[Float[Tensor, "vector _"]], parts: Iterable[Part]
) -> Float[Tensor, "vector row"]:
    """v · c_i for each vector, while the parts of the rows c come one after the other."""
    total: Tensor | None = None
    for own, part in zip(vectors, parts, strict=True):
        found = products([own[:, None]], Rows((part,)), own.dtype)[:, 0]
        total = found if total is None else total.add_(found)
    assert total is not None
    return total


def dots(ready: Iterable[Float[Tensor, "query stop _"]], queries: Rows) -> Float[Tensor, "stop query"]:
    """Σ w c² of queries, of whose w c the parts come one after the other, in float64."""
    total: Tensor | None = None
    for part, weighted in zip(queries.parts, ready, strict=True):
        dense = part.dense() if isinstance(part, Outer) else part
        for own, of in zip(
            torch.split(dense, _DOTTED, dim=1), torch.split(weighted, _DOTTED, dim=2), strict=True
        ):
            found = (of.double() * own.double()[:, None]).sum(2)
            total = found if total is None else total.add_(found)
    assert total is not None
    return total.T


def influence(
    queries: Rows, train: Rows, weights: Float[Tensor, "stop dim"]
) -> Float[Tensor, "query stop row"]:
    """Both at once, for one part of the training set."""
    parts = torch.split(weights, queries.sizes, dim=1)
    return products(preconditioned(queries, parts, weights.dtype), train, weights.dtype)


def squares(rows: Rows) -> Float[Tensor, "row"]:
    """‖c‖² in float64."""
    of = scores.squared_lengths
    parts = [of(part.left) * of(part.right) if isinstance(part, Outer) else of(part) for part in rows.parts]
    return torch.stack(parts).sum(0)


def plain_products(queries: Rows, train: Rows) -> Float[Tensor, "query row"]:
    """c_test · c_i."""
    ones = queries.tensors[0].new_ones(1, sum(queries.sizes))
    return influence(queries, train, ones)[:, 0]


def pair_products(
    vectors: Sequence[Float[Tensor, "vector _"]],
    parts: Iterable[Part],
    counts: Int[Tensor, "row"],
    at: Int[Tensor, "pair"],
) -> Float[Tensor, "pair"]:
    """The product of each row with its own few vectors, while the parts of the rows come one after the other.

    Args:
        vectors: All of them, part by part.
        parts: Of the rows, in the precision of the vectors.
        counts: How many vectors are each row's own.
        at: Which, row after row; ascending in each.
    """
    if len(vectors[0]) <= _FEW:
        rows = torch.repeat_interleave(counts)
        return part_products(vectors, parts)[at, rows]
    total = vectors[0].new_zeros(len(at))
    for part, own in zip(parts, vectors, strict=True):
        total += sampled(Rows((part,)), counts, at, [own])
    return total


def sampled(
    rows: Rows, counts: Int[Tensor, "row"], at: Int[Tensor, "pair"], vectors: list[Float[Tensor, "vector _"]]
) -> Float[Tensor, "pair"]:
    """The product of each row with its own few vectors.

    Args:
        rows: In the precision of the vectors.
        counts: How many vectors are each row's own.
        at: Which, row after row; ascending in each.
        vectors: All of them, part by part.
    """
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = vectors[0].new_zeros(len(at))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse (CSR tensor support|invariant checks)")
        for part, vector in zip(rows.parts, vectors, strict=True):
            dense = part.dense() if isinstance(part, Outer) else part
            pattern = torch.sparse_csr_tensor(
                starts, at, torch.zeros_like(total), (len(dense), len(vector)), check_invariants=False
            )
            total += torch.sparse.sampled_addmm(pattern, dense, vector.T, beta=0.0).values()
    return total
