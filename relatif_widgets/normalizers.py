"""Σ w² c² and Σ w c², the squares of both normalizers, where w = 1/(Λ+λ).

Every damping has a weight for every coordinate. For a model of eleven million
parameters they are the largest thing here: they are laid out once for all the batches of a
pass where that is reasonable, and otherwise made part by part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .curvature import Eigenbasis
from .products import product
from .rows import Outer, Part
from .scores import COLUMNS, ROWS, largest, scaled_squares

_NUMBERS = 1 << 27
"""Weights that are laid out for a whole pass, at the most."""

_AT_ONCE = 1 << 24
"""Those of one part where they are not."""

_OUTER = 1024
"""Outer products that are weighted at once."""

_READY = 1 << 22
"""Weights that are laid out with their squares."""


class DampedSquares:
    """Both sums for rows at several dampings, or one of them.

    Rows in float32 are divided by their largest number and squared in float32, so that nothing
    underflows; sums are short ones, added up in float64: right to about 3e-7 of themselves.

    Args:
        basis: With eigenvalues.
        dampings: The stops, float64.
        sizes: Coordinates of each part of a row.
        dtype: Of the rows.
        powers: 2 for Σ w² c², 1 for Σ w c².

    Raises:
        ModelError: H+λI is singular at one of these dampings.
    """

    def __init__(
        self,
        basis: Eigenbasis,
        dampings: Float[Tensor, "stop"],
        sizes: Sequence[int],
        dtype: torch.dtype,
        powers: Sequence[int] = (2, 1),
    ) -> None:
        assert basis.eigenvalues is not None
        self._values, self._dampings, self._powers = basis.eigenvalues, dampings, powers
        self._starts = [sum(sizes[:at]) for at in range(len(sizes) + 1)]
        size = self._starts[-1]
        self._dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._whole: Tensor | None = None
        if len(dampings) * size <= _NUMBERS:
            self._whole = torch.empty(len(dampings), size, dtype=self._dtype, device=self._values.device)
        most = []
        for stop in range(len(dampings)):
            weights = basis.weights(dampings[stop : stop + 1], size)[0]
            most.append(weights.abs().max())
            if self._whole is not None:
                self._whole[stop] = weights.div_(most[-1])
        self._largest = torch.stack(most)[:, None]
        self._scales = torch.stack([self._largest**power for power in powers])
        self._both: Tensor | None = None
        if self._whole is not None and self._whole.numel() <= _READY:
            self._both = self._raised(self._whole)

    def total(self, parts: Iterable[Part]) -> Float[Tensor, "power stop row"]:
        """The sums over all parts of some rows, in float64."""
        found = [self.of(position, part) for position, part in enumerate(parts)]
        return torch.stack(found).sum(0)

    def of(self, position: int, part: Part) -> Float[Tensor, "power stop row"]:
        """The sums over one part of some rows, in float64.

        Args:
            position: Which part.
            part: Its columns of each row.
        """
        first, last = self._starts[position], self._starts[position + 1]
        shape = len(self._powers), len(self._dampings), len(part)
        found = torch.zeros(shape, dtype=torch.float64, device=self._largest.device)
        at_once = len(self._dampings) if self._whole is not None else max(1, _AT_ONCE // max(1, last - first))
        for start in range(0, len(self._dampings), at_once):
            stops = slice(start, start + at_once)
            if isinstance(part, Outer):
                weights = self._weights(stops, first, last)
                for row in range(0, len(part), _OUTER):
                    rows = slice(row, row + _OUTER)
                    some = Outer(part.left[rows], part.right[rows])
                    found[:, stops, rows] = self._of_outer(some, weights)
            else:
                found[:, stops] = self._of_dense(part, stops, first, last)
        return found.mul_(self._scales)

    def _raised(self, weights: Float[Tensor, "stop some"]) -> Float[Tensor, "powers some"]:
        return torch.cat([weights.square() if power == 2 else weights for power in self._powers])

    def _weights(self, stops: slice, first: int, last: int) -> Float[Tensor, "stop dim"]:
        """w, divided by the largest of each stop."""
        if self._whole is not None:
            return self._whole[stops, first:last]
        damped = self._values[first:last] + self._dampings[stops, None]
        return damped.mul_(self._largest[stops]).reciprocal_().to(self._dtype)

    def _of_dense(
        self, part: Float[Tensor, "row dim"], stops: slice, first: int, last: int
    ) -> Float[Tensor, "power stop row"]:
        weights = None if self._both is not None else self._weights(stops, first, last)
        count = len(self._dampings[stops])
        found = torch.zeros(len(part), len(self._powers) * count, dtype=torch.float64, device=part.device)
        step = ROWS if part.device.type == "cpu" else 64 * ROWS
        for start in range(0, len(part), step):
            block = part[start : start + step].to(self._dtype)
            most = largest(block)
            total = found[start : start + step]
            columns = COLUMNS * min(4, max(1, ROWS // len(block)))  # few rows leave room for more
            for at in range(0, last - first, columns):
                some = slice(at, min(at + columns, last - first))
                if self._both is not None:
                    both = self._both[:, first + some.start : first + some.stop]
                else:
                    assert weights is not None
                    both = self._raised(weights[:, some])
                total += product(scaled_squares(block[:, some], most), both)
            total *= most.double().square()
        return found.T.reshape(-1, count, len(part))

    def _of_outer(self, part: Outer, weights: Float[Tensor, "stop dim"]) -> Float[Tensor, "power stop row"]:
        sides, scale = [], torch.ones(len(part), dtype=torch.float64, device=part.left.device)
        for side in (part.left.to(self._dtype), part.right.to(self._dtype)):
            most = largest(side)
            sides.append(scaled_squares(side, most))
            scale *= most[:, 0].double().square()
        left, right = sides
        shape = len(self._powers), len(weights), len(part)
        found = torch.zeros(shape, dtype=torch.float64, device=left.device)
        for stop, weight in enumerate(weights):
            matrix = weight.reshape(left.shape[1], right.shape[1])
            for power, one in enumerate(torch.split(self._raised(matrix), len(matrix))):
                found[power, stop] = (left @ one).mul_(right).sum(1, dtype=torch.float64)
        return found * scale


def weights_bytes(stops: int, size: int, dtype: torch.dtype) -> int:
    """Bytes that the weights take at the most."""
    return min(stops * size, _NUMBERS) * dtype.itemsize
