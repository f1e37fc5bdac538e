"""A test set seen through the model."""

from __future__ import annotations

import pytest
import torch
from cases import blobs, mlp
from torch import nn

from relatif_widgets import ChoiceError, Explainer
from relatif_widgets.queries import CLOSE_MARGIN, QuerySet

X, Y = blobs(60, seed=3)
with torch.no_grad():
    P = mlp()(X).softmax(1)
TOP = P.topk(2, dim=1)
MARGIN = TOP.values[:, 0] - TOP.values[:, 1]
WRONG = TOP.indices[:, 0] != Y


@pytest.fixture(scope="module")
def queries() -> QuerySet:
    names = ["bird", "plane", "frog"]
    return Explainer(mlp(), blobs(), class_names=names).fit(progress=False).queries((X, Y))


def test_filters_keep_what_they_say(queries: QuerySet) -> None:
    assert queries.rows("all") == list(range(60))
    assert queries.rows("misclassified") == torch.nonzero(WRONG).reshape(-1).tolist()
    close = queries.rows("close")
    assert sorted(close) == torch.nonzero(MARGIN < CLOSE_MARGIN).reshape(-1).tolist()
    assert MARGIN[close].tolist() == sorted(MARGIN[close].tolist())
    with pytest.raises(ChoiceError, match="Did you mean 'misclassified'"):
        queries.rows("missclassified")  # type: ignore[arg-type]


def test_bird_beside_plane_where_the_call_is_close_or_wrong(queries: QuerySet) -> None:
    names = queries.class_names
    for row in range(60):
        doubtful = bool(WRONG[row]) or float(MARGIN[row]) < CLOSE_MARGIN
        right = [names[label] for label in TOP.indices[row].tolist()][: 2 if doubtful else 1]
        assert queries.default_labels(row) == right


def test_an_explained_row_knows_its_place(queries: QuerySet) -> None:
    explanation = queries.explain(7)
    assert (explanation.query.name, explanation.query.index, explanation.query.label) == (
        "test #7",
        7,
        int(Y[7]),
    )
    assert list(explanation.labels) == queries.default_labels(7)
    assert queries.explain(7, ["frog"], damping=0.5).settings.damping == 0.5
    with pytest.raises(ChoiceError, match="query=60 is outside the test set; expected 0 to 59"):
        queries.explain(60)


def test_pages_are_slices_of_a_filter(queries: QuerySet) -> None:
    page = queries.page("misclassified", 2, 3)
    rows = torch.nonzero(WRONG).reshape(-1).tolist()
    assert [card.index for card in page.items] == rows[2:5]
    assert page.total == len(rows)
    assert page.counts == {"all": 60, "misclassified": len(rows), "close": int((MARGIN < CLOSE_MARGIN).sum())}
    for card in page.items:
        assert card.label == queries.class_names[int(Y[card.index])]
        assert card.predicted == queries.class_names[int(TOP.indices[card.index, 0])]
        assert card.probability == pytest.approx(float(TOP.values[card.index, 0]), abs=1e-6)
    assert queries.page("all", 58, 10).items[-1].index == 59
    assert queries.page("all", 100, 10).items == ()


def test_inputs_alone_have_no_true_label_and_no_mistakes() -> None:
    queries = Explainer(mlp(), blobs(), class_names=["bird", "plane", "frog"]).fit(progress=False).queries(X)
    page = queries.page("all", 0, 3)
    assert [card.label for card in page.items] == [None, None, None]
    assert [card.predicted for card in page.items] == [
        queries.class_names[int(c)] for c in TOP.indices[:3, 0]
    ]
    assert page.counts["misclassified"] == 0
    assert queries.explain(3).query.label is None


def test_a_regressions_queries_show_their_values() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    target = X.sum(1)
    queries = Explainer(model, (X, target), loss="mse").fit(progress=False).queries((X, target))
    page = queries.page("all", 0, 2)
    assert page.items[0].caption == f"{float(model(X[:1]).detach()):.4g}"
    assert page.counts == {"all": 60, "misclassified": 0, "close": 0}
    assert queries.explain(0).labels == (f"{float(target[0]):.6g}",)
