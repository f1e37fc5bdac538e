"""Normalizers of rows that come part by part equal the formulas on whole rows, however the weights are laid out."""

from __future__ import annotations

import pytest
import torch
from cases import blobs
from torch import Tensor, nn

from relatif_widgets import Explainer, normalizers, scoring
from relatif_widgets.curvature import EKFAC, Eigenbasis, Identity, Lissa
from relatif_widgets.curvature.base import NoRotation
from relatif_widgets.errors import ModelError
from relatif_widgets.normalizers import DampedSquares
from relatif_widgets.rows import Outer, Part


def basis(count: int) -> Eigenbasis:
    torch.manual_seed(1)
    return Eigenbasis("test", NoRotation(), torch.rand(count, dtype=torch.float64) ** 9 * 10)


def written_out(part: Part) -> Tensor:
    if isinstance(part, Outer):
        return Outer(part.left.double(), part.right.double()).dense()
    return part.double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("laid_out", ["with squares", "whole", "part by part"])
@pytest.mark.parametrize("count", [3, 300])
def test_both_sums_are_those_of_float64(
    dtype: torch.dtype, laid_out: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if laid_out != "with squares":
        monkeypatch.setattr(normalizers, "_READY", 0)
        monkeypatch.setattr(normalizers, "_OUTER", 128)
    if laid_out == "part by part":
        monkeypatch.setattr(normalizers, "_NUMBERS", 0)
        monkeypatch.setattr(normalizers, "_AT_ONCE", 2 * 1500)  # two stops of the first part at once
    torch.manual_seed(0)
    size = torch.logspace(-12, 6, count)[:, None]  # the squares of the least underflow in float32
    parts: list[Part] = [
        (torch.randn(count, 1500) * size).to(dtype),
        Outer((torch.randn(count, 70) * size).to(dtype), torch.randn(count, 30).to(dtype)),
        (torch.randn(count, 7) * size).to(dtype),
    ]
    stops = torch.tensor([1e-5, 1e-2, 0.3, 10], dtype=torch.float64)
    whole = torch.cat([written_out(part) for part in parts], dim=1)
    weights = 1 / (basis(3607).eigenvalues + stops[:, None])
    squares = whole.square().T
    close = {"rtol": 1e-12 if dtype == torch.float64 else 1e-6, "atol": 0}
    sums = DampedSquares(basis(3607), stops, [1500, 2100, 7], dtype)
    torch.testing.assert_close(
        sums.total(parts), torch.stack([weights**2 @ squares, weights @ squares]), **close
    )
    own = DampedSquares(basis(3607), stops, [1500, 2100, 7], dtype, powers=(1,))
    torch.testing.assert_close(own.total(parts)[0], weights @ squares, **close)


def test_an_indefinite_matrix_keeps_its_signs_and_a_singular_one_is_refused() -> None:
    values = torch.tensor([-0.5, 2.0], dtype=torch.float64)
    one = Eigenbasis("test", NoRotation(), values)
    rows = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    stops = torch.tensor([0.25, 1.0], dtype=torch.float64)
    found = DampedSquares(one, stops, [2], rows.dtype).of(0, rows)
    right = [[16 + 4 / 2.25**2, 4 + 4 / 9], [-4 + 4 / 2.25, 2 + 4 / 3]]
    torch.testing.assert_close(found[:, :, 0], torch.tensor(right, dtype=torch.float64))
    with pytest.raises(ModelError, match="singular at damping 0.5"):
        DampedSquares(one, torch.tensor([0.5], dtype=torch.float64), [2], rows.dtype)


class Deep(nn.Module):
    """A convolution at several positions, one at a single position, a norm, and a Linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 6, 4)
        self.norm, self.last = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.second(self.first(x).tanh()).tanh().flatten(1)))


@pytest.mark.parametrize(
    "curvature",
    [EKFAC(), Identity(), Lissa(normalizers=EKFAC(), steps=2, scale=100.0)],
    ids=["ekfac", "identity", "lissa"],
)
def test_normalizers_of_a_pass_are_those_of_stored_rows(
    curvature: EKFAC | Identity | Lissa, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outer products of seven batches of five wait for each other, eleven at a time."""
    monkeypatch.setattr(scoring, "TOGETHER", 11)
    monkeypatch.setattr(EKFAC, "TOGETHER", 11)
    x, y = blobs(34, 3, 36)
    x = x.reshape(-1, 1, 6, 6)
    stored = Explainer(Deep().double(), (x, y), curvature=curvature, damping=0.1, batch_size=34).fit(
        progress=False
    )
    right = stored._ready().index
    monkeypatch.setattr("relatif_widgets.fitting._row_bytes", lambda task, rotation, storage: 1 << 60)
    passed = Explainer(
        Deep().double(), (x, y), curvature=curvature, damping=0.1, batch_size=5, memory_limit="200kB"
    ).fit(progress=False)
    index = passed._ready().index
    if right.basis.eigenvalues is not None:
        torch.testing.assert_close(index.basis.eigenvalues, right.basis.eigenvalues)
    stops = [0.1] if right.basis.solver else list(passed.dampings)
    assert index.missing(stops) == []
    for stop in stops:
        for mine, theirs in zip(index._norms[index._key(stop)], right._norms[right._key(stop)], strict=True):
            assert bool((theirs > 0).all())
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=0)
