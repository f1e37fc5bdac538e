"""What the kernel of a convolution sees: a patch of its input at every position.

A patch is `kernel size` times as large as the input that it was cut from. Their second moment,
which K-FAC needs, depends almost only on how far two pixels lie apart, and is read off the input's
correlation with itself: a convolution's weight gradient with the input for a slope. What differs
at the edges, where the kernel would stand outside, is taken off again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .products import exact_convolutions

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

_TERMS = 1 << 15
"""Products that oneDNN adds up in float32; what comes of them is added in float64."""

_SMALL = 8
"""Pixels of a side below which oneDNN computes more zeros than anything else."""


def unfold(
    module: Convolution, value: Tensor, *, ones: bool = False
) -> Float[Tensor, "row group column position"]:
    """Every patch of some inputs [row, channel, *size]; `ones`: with a 1 as its last number."""
    dims, rows = len(module.kernel_size), len(value)
    padding = [side for axis in reversed(_padding(module)) for side in axis]
    if any(padding):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        value = functional.pad(value, padding, mode=mode)
    for axis, (size, dilation, stride) in enumerate(
        zip(module.kernel_size, module.dilation, module.stride, strict=True), start=2
    ):
        value = value.unfold(axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    # [row, channel, *position, *kernel] → [row, channel, *kernel, *position]
    axes = range(2, 2 + dims)
    value = value.permute(0, 1, *(axis + dims for axis in axes), *axes)
    groups, positions = module.groups, value.shape[-dims:]
    columns = math.prod(value.shape[1:-dims]) // groups
    found = value.new_empty(rows, groups, columns + ones, math.prod(positions))
    found[:, :, :columns].view(rows, groups, -1, *value.shape[2:]).copy_(
        value.view(rows, groups, -1, *value.shape[2:])
    )
    found[:, :, columns:] = 1
    return found


def applied(
    module: Convolution,
    value: Tensor,
    matrices: Float[Tensor, "vector group out column"],
    *,
    ones: bool = False,
) -> Float[Tensor, "row group vector out position"]:
    """M a of every patch a and every matrix M: the convolution with other weights; `ones` as in `unfold`."""
    vectors, groups, out, _ = matrices.shape
    weights = matrices.transpose(0, 1)  # channels come group by group
    kernels = weights[..., : weights.shape[3] - ones].reshape(
        groups * vectors * out, *module.weight.shape[1:]
    )
    bias = weights[..., -1].reshape(-1) if ones else None
    found: Tensor = module._conv_forward(value, kernels, bias)
    return found.reshape(len(found), groups, vectors, out, -1)


def by_correlation(module: nn.Conv2d, value: Tensor) -> bool:
    """Whether `second_moment` may be asked, and is less work than a product of all patches."""
    padding = _padding(module)
    plain = (
        module.groups == 1
        and module.padding_mode == "zeros"
        and {*module.stride, *module.dilation} == {1}
        and all(before == after for before, after in padding)
    )
    if not plain or not exact_convolutions(value.device) or min(value.shape[2:]) < _SMALL:
        return False
    (height, width), (tall, wide) = value.shape[2:], module.kernel_size
    (above, _), (left, _) = padding
    work = (2 * tall - 1) * (2 * wide - 1) * height * width
    work += sum((_pixels(rows) * wide) ** 2 * width for rows, _ in _outside(height, tall, above))
    work += sum((_pixels(columns) * tall) ** 2 * height for columns, _ in _outside(width, wide, left))
    return 2 * work <= (tall * wide) ** 2 * height * width


def second_moment(
    module: nn.Conv2d, value: Float[Tensor, "row channel height width"], *, ones: bool = False
) -> Float[Tensor, "column column"]:
    """Σ a aᵀ over the patches of all positions, in float64; see `by_correlation` and `unfold`."""
    (channels, height, width), (tall, wide) = value.shape[1:], module.kernel_size
    (above, _), (left, _) = _padding(module)
    step = max(1, _TERMS // (height * width))
    shifts = sum(_shifted(part, (tall, wide)).double() for part in torch.split(value, step))
    assert isinstance(shifts, Tensor)
    down, along = _differences(tall), _differences(wide)
    # As if the kernel stood everywhere where it sees anything: [channel, y, x, channel, y, x]
    found = (
        shifts[:, :, down[:, None, :, None], along[None, :, None, :]].permute(0, 2, 3, 1, 4, 5).contiguous()
    )
    for rows, seen in _outside(height, tall, above):
        strip = functional.pad(value[:, :, rows], (wide - 1, wide - 1)).unfold(3, wide, 1)
        found[:, seen, :, :, seen, :] -= _moment(strip.permute(1, 2, 4, 0, 3))
    for columns, seen in _outside(width, wide, left):
        strip = functional.pad(value[:, :, :, columns], (0, 0, above, above)).unfold(2, tall, 1)
        found[:, :, seen, :, :, seen] -= _moment(strip.permute(1, 4, 3, 0, 2))
    moment = found.reshape(channels * tall * wide, -1)
    if not ones:
        return moment
    sums = unfold(module, value.sum(0, keepdim=True, dtype=torch.float64))[0, 0]
    whole = functional.pad(moment, (0, 1, 0, 1), value=float(len(value) * sums.shape[1]))
    whole[:-1, -1] = whole[-1, :-1] = sums.sum(1)
    return whole


def _shifted(value: Float[Tensor, "row channel height width"], kernel: tuple[int, int]) -> Tensor:
    """Σ_s x(s) x(s + d) for every two channels and every d that lies within a kernel, d from -(size - 1) on."""
    tall, wide = kernel
    _, weight, _ = torch.ops.aten.convolution_backward(
        value, value, value.new_empty(*[value.shape[1]] * 2, 2 * tall - 1, 2 * wide - 1), None,
        [1, 1], [tall - 1, wide - 1], [1, 1], False, [0, 0], 1, [False, True, False],
    )  # fmt: skip
    assert isinstance(weight, Tensor)
    return weight


def _differences(size: int) -> Tensor:
    """Where in `_shifted` the second of two places in a kernel lies from the first, [first, second]."""
    places = torch.arange(size)
    return places[None] - places[:, None] + size - 1


def _outside(length: int, size: int, padding: int) -> Iterator[tuple[slice, slice]]:
    """What a kernel beyond either end would still see: pixels, and their places in the kernel."""
    positions = length + 2 * padding - size + 1
    for position in (*range(padding - size + 1, 0), *range(positions, padding + length)):
        first, last = max(0, position - padding), min(length, position - padding + size)
        yield slice(first, last), slice(first - position + padding, last - position + padding)


def _pixels(some: slice) -> int:
    return int(some.stop - some.start)


def _moment(values: Float[Tensor, "channel y x row position"]) -> Float[Tensor, "channel y x channel y x"]:
    """Σ over rows and positions of the outer products, in float64."""
    sizes = values.shape[:3]
    flat = values.flatten(3).flatten(0, 2)
    return (flat @ flat.T).double().view(*sizes, *sizes)


def _padding(module: Convolution) -> Sequence[tuple[int, int]]:
    """Padding of each axis at either end."""
    if not isinstance(module.padding, str):
        return [(pad, pad) for pad in module.padding]
    if module.padding == "valid":
        return [(0, 0)] * len(module.kernel_size)
    totals = [d * (size - 1) for size, d in zip(module.kernel_size, module.dilation, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]
