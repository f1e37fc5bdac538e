"""The k-NN baseline."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relatif_widgets import DataError, Explainer
from relatif_widgets.neighbors import Neighbors, flatten_inputs


def test_nearness_is_minus_the_squared_distance_of_flattened_inputs() -> None:
    train = torch.randn(50, 2, 3, dtype=torch.float64)
    query = torch.randn(4, 2, 3, dtype=torch.float64)
    found = Neighbors(flatten_inputs(train)).score(query)
    right = -torch.cdist(query.flatten(1), train.flatten(1)).square()
    torch.testing.assert_close(found, right)


def test_float32_inputs_that_nearly_coincide_keep_their_order() -> None:
    base = 100 * torch.ones(1, 64)
    train = torch.cat([base, base + 1e-3, base + 2e-3])
    found = Neighbors(train).score(base)
    assert found.argsort(descending=True).tolist() == [[0, 1, 2]]
    assert float(found[0, 0]) == 0.0


def test_integer_inputs_have_distances_too() -> None:
    train = Neighbors(flatten_inputs(torch.tensor([[1, 2], [5, 5]])))
    assert train.score(torch.tensor([[1, 2]])).tolist() == [[0, -25]]


def test_inputs_of_several_tensors_have_no_distance_but_everything_else() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 3).double()

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return self.linear(a + b)

    torch.manual_seed(0)
    a = torch.randn(6, 2, dtype=torch.float64)
    items = [((a[i], 2 * a[i]), i % 3) for i in range(6)]
    explainer = Explainer(Two(), torch.utils.data.Subset(items, range(6))).fit(progress=False)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="nearest needs inputs that are one tensor each"):
        explainer.scores(items, method="nearest")
    assert explainer.scores(items).shape == (6, 6)
    explanation = explainer.explain(items[0][0])
    assert explanation.top(explanation.labels[0], method="nearest") == []
    assert len(explanation.top(explanation.labels[0])) > 0
