"""Matrix products of tall matrices, by whichever of torch's libraries is quick at them.

On CPUs torch gives float32 products to MKL, which wants many columns: with eleven, one for each
stop of the damping slider, it came to a quarter of its rate at 64. oneDNN, which torch uses for
convolutions, does not mind; a product of matrices is a convolution by kernels of 1 × 1. With
AVX-512 MKL came to two thirds of oneDNN's rate with thousands of rows and columns as well. With
AVX2 alone oneDNN had half of MKL's from some tens of columns on; for fewer it is asked to take
rows in stripes (a convolution in groups), which it went through in two thirds of the time. MKL came
to two thirds of its rate where rows of the result are no multiple of 32 bytes.
`python benchmarks/products.py` compares them all.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_SMALL = 1 << 22
"""Multiplications below which a convolution's preparation costs more than it saves."""

_FEW = 64
"""Vectors that are laid out anew in no time, however few the rows."""

_SHORT = 256
"""Rows below which MKL is as quick, since the vectors have to be laid out for a convolution first."""

_LONG = 4096
"""Rows from which on the vectors are laid out anew in no time beside the product, however many."""

_LANES = 16
"""float32 numbers that a core with AVX-512 multiplies at once, which columns are padded to."""

_HALF = 8
"""The same without AVX-512."""

_STRIPE = 1152
"""Numbers of a row at least that make a stripe; what goes with it stays in a core's own cache."""


def product(
    rows: Float[Tensor, "row dim"], vectors: Float[Tensor, "vector dim"]
) -> Float[Tensor, "row vector"]:
    """rows · vectorsᵀ, summed in the rows' precision.

    Args:
        rows: Many of them, each next to the other in memory.
        vectors: As many as there are.

    >>> product(torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[1.0, 1.0]]))
    tensor([[3.],
            [3.]])
    """
    count = len(vectors)
    small = len(rows) * rows.shape[1] * count < _SMALL
    short = len(rows) < _SHORT
    many = count > _FEW and _LANES * count > len(rows) and len(rows) < _LONG
    stripes = 1 if _by_avx512() else _stripes(rows.shape[1])
    wide = many if _by_avx512() else count > _FEW or (stripes == 1 and count >= _LANES)
    if count == 1 or small or short:
        return rows @ vectors.T
    if wide or not _by_onednn(rows, vectors):
        return (rows @ padded(vectors).T)[:, :count]
    if stripes > 1:
        return _striped(rows, vectors, stripes)
    if _LANES < count <= _FEW:
        vectors = padded(vectors, _LANES)
    return _convolved(rows, vectors)[:, :count]


def padded(vectors: Float[Tensor, "vector dim"], lanes: int = _HALF) -> Float[Tensor, "padded dim"]:
    """As many as fill all lanes, by zeros, so that `product` need not lay them out for that."""
    return functional.pad(vectors, (0, 0, 0, -len(vectors) % lanes)) if len(vectors) % lanes else vectors


def _stripes(width: int) -> int:
    """Into how many stripes of equal width rows are divided; one if they can't be."""
    stripes = max(width // _STRIPE, 1)
    while width % stripes:
        stripes -= 1
    return stripes


def _striped(
    rows: Float[Tensor, "row dim"], vectors: Float[Tensor, "vector dim"], stripes: int
) -> Float[Tensor, "row vector"]:
    """The products of each stripe with its own part of the vectors, and their sum."""
    count = len(vectors)
    full = padded(vectors)
    kernels = full.reshape(len(full), stripes, -1).transpose(0, 1).flatten(0, 1)
    return _convolved(rows, kernels, stripes).view(len(rows), stripes, -1).sum(1)[:, :count]


def _convolved(
    rows: Float[Tensor, "row dim"], kernels: Float[Tensor, "kernel stripe"], stripes: int = 1
) -> Float[Tensor, "row kernel"]:
    picture = rows[None, :, None].permute(0, 3, 1, 2)  # one picture, a row a pixel, its numbers the channels
    return functional.conv2d(picture, kernels[:, :, None, None], groups=stripes)[0, :, :, 0].T


def exact_convolutions(device: torch.device) -> bool:
    """Whether convolutions of float32 are computed in float32 there; elsewhere they may be rounded to fewer digits."""
    mkldnn: Any = torch.backends.mkldnn  # without types
    precision = getattr(getattr(mkldnn, "conv", None), "fp32_precision", "none")
    return device.type == "cpu" and precision in ("none", "ieee")


@cache
def _by_avx512() -> bool:
    """Whether torch multiplies sixteen numbers at once here."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


def _by_onednn(rows: Tensor, vectors: Tensor) -> bool:
    mkl: Any = torch.backends.mkl  # without types, as the next
    mkldnn: Any = torch.backends.mkldnn
    return (
        exact_convolutions(rows.device)
        and vectors.device.type == "cpu"
        and rows.dtype == vectors.dtype == torch.float32
        and rows.is_contiguous()
        and bool(mkl.is_available())  # elsewhere torch has another library, quick at other shapes
        and bool(mkldnn.is_available() and mkldnn.enabled)
        and not (rows.requires_grad or vectors.requires_grad)
    )
