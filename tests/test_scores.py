"""The formulas, on values known by hand and properties that hold for all."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from relatif_widgets import ModelError, scores


def rows(count: int, dim: int, seed: int) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_of(dampings: list[float], dim: int, seed: int) -> Tensor:
    eigenvalues = rows(1, dim, seed)[0].square()
    return 1 / (eigenvalues + torch.tensor(dampings, dtype=torch.float64)[:, None])


seeds = st.integers(0, 10_000)


def test_influence_by_hand() -> None:
    weights = torch.tensor([[1.0, 1.0], [0.5, 0.25]])
    found = scores.influence(
        scores.preconditioned(torch.tensor([[1.0, 2.0]]), weights), torch.tensor([[3.0, 4.0], [0.0, -1.0]])
    )
    assert found.tolist() == [[[11.0, -2.0], [3.5, -0.5]]]  # [query, stop, train]


def test_normalizers_by_hand() -> None:
    one = torch.tensor([[3.0, 4.0]])
    weights = torch.tensor([[1.0, 1.0], [2.0, 0.5]])
    assert scores.preconditioned_norm(one, weights)[:, 0].tolist() == [5.0, pytest.approx(40**0.5)]
    assert scores.self_influence(one, weights)[:, 0].tolist() == [25.0, 26.0]


@given(seed=seeds, factor=st.floats(1e-3, 1e3))
@settings(max_examples=30, deadline=None)
def test_relative_influence_does_not_change_when_a_gradient_is_scaled(seed: int, factor: float) -> None:
    query, train, weights = rows(1, 6, seed), rows(5, 6, seed + 1), weights_of([0.1], 6, seed + 2)

    def both(train: Tensor) -> tuple[Tensor, Tensor]:
        influence = scores.influence(scores.preconditioned(query, weights), train)[0]
        return (
            scores.theta_relative(influence, scores.preconditioned_norm(train, weights)),
            scores.loss_relative(influence, scores.self_influence(train, weights)),
        )

    for plain, scaled in zip(both(train), both(train * factor), strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-9, atol=1e-12)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_theta_relative_is_the_cosine_with_the_change_in_parameters(seed: int) -> None:
    """Section 3.3: I/‖H⁻¹g_i‖ = cos(g_test, H⁻¹g_i) ‖g_test‖."""
    query, train, weights = rows(1, 6, seed), rows(5, 6, seed + 1), weights_of([0.1], 6, seed + 2)
    found = scores.theta_relative(
        scores.influence(scores.preconditioned(query, weights), train)[0, 0],
        scores.preconditioned_norm(train, weights)[0],
    )
    change = train * weights
    right = torch.cosine_similarity(query, change) * query.norm()
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-12)


@given(seed=seeds)
@settings(max_examples=30, deadline=None)
def test_loss_relative_never_exceeds_the_queries_own(seed: int) -> None:
    """A cosine in the metric (H+λI)⁻¹: |I_test,i| / √I_i,i ≤ √I_test,test, with equality for itself."""
    train, weights = rows(8, 6, seed), weights_of([0.3], 6, seed + 1)
    own = scores.self_influence(train, weights)[0]
    found = scores.loss_relative(scores.influence(scores.preconditioned(train, weights), train)[:, 0], own)
    assert (found.abs() <= own.sqrt()[:, None] * (1 + 1e-12)).all()
    torch.testing.assert_close(found.diagonal(), own.sqrt())


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_all_damping_stops_at_once_equal_each_alone(seed: int) -> None:
    query, train, weights = rows(3, 6, seed), rows(5, 6, seed + 1), weights_of([0.01, 0.1, 1.0], 6, seed + 2)
    together = scores.influence(scores.preconditioned(query, weights), train)
    for stop in range(3):
        torch.testing.assert_close(
            together[:, stop],
            scores.influence(scores.preconditioned(query, weights[stop : stop + 1]), train)[:, 0],
        )


def test_large_damping_tends_to_the_identity() -> None:
    query, train = rows(2, 6, 0), rows(5, 6, 1)
    damping = 1e9
    found = scores.influence(scores.preconditioned(query, weights_of([damping], 6, 2)), train)[:, 0] * damping
    torch.testing.assert_close(found, query @ train.T, rtol=1e-7, atol=1e-7)


def test_a_zero_gradient_scores_zero_not_nan() -> None:
    zero = torch.zeros(1)
    assert scores.theta_relative(zero, zero).tolist() == [0.0]
    assert scores.loss_relative(zero, zero).tolist() == [0.0]


def test_relative_influence_survives_gradients_whose_square_underflows() -> None:
    tiny = torch.full((1, 4), 1e-25)  # its square is 0 in float32
    ordinary = torch.ones(1, 4)
    weights = torch.ones(1, 4)
    influence = scores.influence(scores.preconditioned(ordinary, weights), torch.cat([tiny, ordinary]))[0, 0]
    found = scores.loss_relative(influence, scores.self_influence(torch.cat([tiny, ordinary]), weights)[0])
    assert found.tolist() == pytest.approx([2.0, 2.0], rel=1e-6)


def test_a_negative_self_influence_names_the_example() -> None:
    with pytest.raises(
        ModelError, match=r"training example 1 is -3; loss_relative needs a positive-definite"
    ):
        scores.loss_relative(torch.ones(3), torch.tensor([1.0, -3.0, 2.0]))


@pytest.mark.parametrize(
    ("sign", "indices", "values"),
    [
        ("positive", [3, 0, 4], [5.0, 2.0, 2.0]),
        ("negative", [1, 2, 0], [-7.0, -1.0, 2.0]),
        ("both", [1, 3, 0], [-7.0, 5.0, 2.0]),
    ],
)
def test_top_k_by_hand(sign: str, indices: list[int], values: list[float]) -> None:
    found = scores.top_k(torch.tensor([[2.0, -7.0, -1.0, 5.0, 2.0]]), 3, sign)
    assert found[0].tolist() == [indices]
    assert found[1].tolist() == [values]


@given(
    values=st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    data=st.data(),
    sign=st.sampled_from(["positive", "negative", "both"]),
)
@settings(max_examples=80, deadline=None)
def test_top_k_equals_a_stable_sort(values: list[int], data: st.DataObject, sign: str) -> None:
    k = data.draw(st.integers(1, len(values)))
    key = {"positive": lambda v: -v, "negative": lambda v: v, "both": lambda v: -abs(v)}[sign]
    right = sorted(range(len(values)), key=lambda i: (key(values[i]), i))[:k]
    assert scores.top_k(torch.tensor([values], dtype=torch.float64), k, sign)[0][0].tolist() == right


def test_squared_distance_by_hand() -> None:
    found = scores.squared_distance(
        torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 1.0]])
    )
    assert found.tolist() == [[25.0, 2.0], [13.0, 0.0]]


def test_squares_of_float32_rows_are_those_of_float64() -> None:
    torch.manual_seed(0)
    rows = torch.randn(300, 3000) * torch.logspace(-30, 15, 300)[:, None] * torch.rand(3000) ** 6
    rows[7] = 0
    weights = 1 / (torch.rand(3000, dtype=torch.float64) ** 9 + torch.logspace(-5, 1, 4).double()[:, None])
    weights = torch.cat([weights.square(), weights, -weights])
    found = scores.weighted_squares(rows, weights)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, weights @ rows.double().square().T, rtol=1e-6, atol=0)
    assert scores.weighted_squares(rows[:0], weights).shape == (12, 0)
