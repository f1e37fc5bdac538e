"""The k-NN baseline."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relatif_widgets import ChoiceError, DataError, Explainer, ModelError, scores
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


@pytest.mark.parametrize("kind", ["mlp", "convolutions", "two inputs"])
def test_in_features_distance_is_between_what_the_last_layer_sees(kind: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.hidden(ids * mask)))

    torch.manual_seed(0)
    y = torch.arange(12) % 3
    if kind == "convolutions":
        x = torch.randn(12, 1, 5, 5, dtype=torch.float64)
        body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten())
        model: nn.Module = nn.Sequential(body, nn.Linear(18, 3)).double()
    else:
        x = torch.randn(12, 4, dtype=torch.float64)
        body = nn.Sequential(nn.Linear(4, 5), nn.Tanh())
        model = nn.Sequential(body, nn.Linear(5, 3)).double()
    train: object = (x, y)
    queries: object = x[:4]
    if kind == "two inputs":
        model = Named().double()
        body = nn.Sequential(model.hidden, nn.Tanh())
        train = [((x[i], torch.ones(4)), i % 3) for i in range(12)]
        queries = [((x[i], torch.ones(4)), i % 3) for i in range(4)]
    explainer = Explainer(model, train, space="features").fit(progress=False)
    with torch.no_grad():
        right = -torch.cdist(body(x[:4]), body(x)).square()
    torch.testing.assert_close(explainer.scores(queries, method="nearest"), right, rtol=1e-9, atol=1e-12)
    first = queries[0] if isinstance(queries, torch.Tensor) else queries[0][0]  # type: ignore[index]
    shown = explainer.explain(first)
    assert shown.provenance.nearest_space == "features"
    table = shown.panels[0].ranking("nearest", "positive").examples[0]
    assert [shown.examples[i].index for i in table[:5]] == right[0].topk(5).indices.tolist()
    text = repr(shown.with_settings(method="nearest")._repr_mimebundle_()["text/plain"])
    assert "nearest examples to the model's last layer, whatever the label" in text
    assert "k-NN in the features of the last layer" in text


def test_a_model_without_a_last_layer_has_no_features() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3).double())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    data = (torch.randn(6, 4).double(), torch.arange(6) % 3)
    with pytest.raises(ModelError, match='space="features" compares what the last Linear.*runs none'):
        Explainer(Plain(), data, space="features")
    with pytest.raises(ChoiceError, match="space='feature' is not known.*Did you mean 'features'"):
        Explainer(Plain(), data, space="feature")
    assert Explainer(Plain(), data).fit(progress=False).scores(data[0], method="nearest").shape == (6, 6)


def test_a_last_layer_that_sees_no_row_per_example_has_no_features() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(x.reshape(-1, 2)).reshape(len(x), 2, 3).mean(1)

    data = (torch.randn(6, 4), torch.arange(6) % 3)
    with pytest.raises(ModelError, match="the last layer, 'out', sees; that has .* rows for . examples"):
        Explainer(Folded(), data, space="features")


@pytest.mark.parametrize("spread", [1.0, 1e-4])
def test_the_nearest_are_those_of_the_exact_distances(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where float32 tells them apart, by a shortlist; where it does not, by comparing all."""
    dice = torch.Generator().manual_seed(0)
    train = 5 + spread * torch.randn(3000, 40, generator=dice)
    train[7] = train[2000]  # equal distances, by ascending index
    queries = 5 + spread * torch.randn(20, 40, generator=dice)
    queries[3] = train[7]
    known = Neighbors(train)
    right = scores.top_k(known.score(queries), 6)
    compared = []
    plain = Neighbors._compared

    def counted(self: Neighbors, some: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        compared.append(len(some))
        return plain(self, some, k)

    monkeypatch.setattr(Neighbors, "_compared", counted)
    indices, value = known.top(queries, 6)
    assert (sum(compared) > 0) == (spread < 1)
    assert torch.equal(indices, right[0])
    torch.testing.assert_close(value, right[1], rtol=1e-9, atol=1e-12)
    assert indices[3, :2].tolist() == [7, 2000]
