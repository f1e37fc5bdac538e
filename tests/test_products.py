"""Products by either library are the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from relatif_widgets import products
from relatif_widgets.products import product


@pytest.mark.parametrize(
    ("rows", "dim", "vectors"),
    [
        (3, 2, 1),
        (700, 900, 1),
        (700, 900, 11),  # a convolution
        (700, 900, 16),
        (700, 900, 22),  # padded to 32
        (700, 3456, 11),  # in three stripes without AVX-512
        (700, 2305, 11),  # in none: its divisors are too small
        (700, 900, 65),  # too many for so few rows
        (5000, 40, 70),  # many rows
        (4096, 60, 300),  # many of both
        (300, 500, 67),  # padded to 72
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("avx512", [True, False])
def test_a_product_is_what_float64_gives(
    rows: int, dim: int, vectors: int, dtype: torch.dtype, avx512: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_by_avx512", lambda: avx512)
    torch.manual_seed(0)
    left, right = torch.randn(rows, dim, dtype=dtype), torch.randn(vectors, dim, dtype=dtype)
    found = product(left, right)
    assert found.shape == (rows, vectors)
    assert found.dtype == dtype
    exact = left.double() @ right.double().T
    # Whatever the order of the sum, which differs with the number of threads.
    lengths = left.double().norm(dim=1)[:, None] * right.double().norm(dim=1)
    assert bool(((found.double() - exact).abs() <= 4 * torch.finfo(dtype).eps * lengths).all())


@pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()),  # type: ignore[no-untyped-call]
    reason="there are not both libraries",
)
def test_which_library_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    plain = torch.nn.functional.conv2d

    def counted(picture: torch.Tensor, kernels: torch.Tensor, groups: int) -> torch.Tensor:
        asked.append((picture.shape[2], picture.shape[1], len(kernels)))
        return plain(picture, kernels, groups=groups)

    monkeypatch.setattr(products.functional, "conv2d", counted)
    rows, vectors = torch.randn(700, 900), torch.randn(22, 900)
    monkeypatch.setattr(products, "_by_avx512", lambda: False)
    whole = product(rows, vectors)
    assert asked == []
    torch.testing.assert_close(product(rows, vectors[:11]), whole[:, :11], rtol=0, atol=1e-3)
    assert asked.pop() == (700, 900, 11)
    long, few = torch.randn(700, 3 * 1152), torch.randn(19, 3 * 1152)
    torch.testing.assert_close(product(long, few), long @ few.T, rtol=0, atol=1e-3)
    assert asked.pop() == (700, 3 * 1152, 3 * 24)
    monkeypatch.setattr(products, "_by_avx512", lambda: True)
    torch.testing.assert_close(product(rows, vectors), whole, rtol=0, atol=1e-3)
    assert asked == [(700, 900, 32)]
    wide = torch.randn(700, 1800)[:, ::2]  # not next to each other in memory
    torch.testing.assert_close(product(wide, vectors), wide @ vectors.T, rtol=0, atol=1e-3)
    product(rows, vectors[:1])
    product(rows.double(), vectors.double())
    product(rows[:9], vectors)
    assert len(asked) == 1
    precision: Any = torch.backends.mkldnn.conv  # type: ignore[attr-defined]
    before = precision.fp32_precision
    try:
        precision.fp32_precision = "bf16"  # less than what is asked for here
        # bfloat16 would be off by a tenth.
        torch.testing.assert_close(product(rows, vectors), whole, rtol=0, atol=1e-3)
    finally:
        precision.fp32_precision = before
    assert len(asked) == 1


def test_gradients_pass_through() -> None:
    rows, vectors = torch.randn(700, 900), torch.randn(22, 900, requires_grad=True)
    product(rows, vectors).sum().backward()
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad, rows.sum(0).expand_as(vectors), rtol=0, atol=1e-3)
