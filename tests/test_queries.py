"""A test set seen through the model."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import pytest
import torch
from cases import blobs, mlp, pictures
from torch import Tensor, nn

from relatif_widgets import ChoiceError, Explainer
from relatif_widgets.queries import CLOSE_MARGIN, Filter, QuerySet

NAMES = ["bird", "plane", "frog"]

X, Y = blobs(60, seed=3)
with torch.no_grad():
    P = mlp()(X).softmax(1)
TOP = P.topk(2, dim=1)
MARGIN = TOP.values[:, 0] - TOP.values[:, 1]
WRONG = TOP.indices[:, 0] != Y

# Five predictions whose filters, orders and labels are known by hand.
PROBABILITIES = [
    ([0.70, 0.20, 0.10], "bird"),
    ([0.50, 0.40, 0.10], "bird"),  # close
    ([0.10, 0.80, 0.10], "frog"),  # wrong
    ([0.20, 0.35, 0.45], "plane"),  # wrong, and close
    ([0.05, 0.05, 0.90], "frog"),
]
FIVE = torch.tensor([row for row, _ in PROBABILITIES], dtype=torch.float64).log()
TRUE = torch.tensor([NAMES.index(name) for _, name in PROBABILITIES])
WORDS = ["A bird in the hand", "two BIRDS", "straße", "the <b>hand</b>", ""]


def explainer(render: Any = None, weight: Tensor | None = None, **options: Any) -> Explainer:
    """Its model says softmax(x)."""
    model = nn.Linear(3, 3, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
    loss = nn.CrossEntropyLoss(weight=weight)
    train = blobs(12, features=3)
    return Explainer(model, train, class_names=NAMES, loss=loss, render=render, **options).fit(progress=False)


@pytest.fixture(scope="module")
def fitted() -> Explainer:
    return explainer()


@pytest.fixture(scope="module")
def five(fitted: Explainer) -> QuerySet:
    return fitted.queries((FIVE, TRUE))


@pytest.fixture(scope="module")
def queries() -> QuerySet:
    return Explainer(mlp(), blobs(), class_names=NAMES).fit(progress=False).queries((X, Y))


def test_presets_keep_what_they_say(queries: QuerySet) -> None:
    assert queries.rows("all") == list(range(60))
    assert queries.rows("misclassified") == torch.nonzero(WRONG).reshape(-1).tolist()
    assert queries.rows("close") == torch.nonzero(MARGIN < CLOSE_MARGIN).reshape(-1).tolist()
    with pytest.raises(ChoiceError, match="Did you mean 'misclassified'"):
        queries.rows("missclassified")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("conditions", "rows"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"which": "misclassified"}, [2, 3]),
        ({"which": "close"}, [1, 3]),
        ({"label": "frog"}, [2, 4]),
        ({"predicted": "frog"}, [3, 4]),
        ({"predicted": "frog", "label": "plane"}, [3]),
        ({"predicted": "plane", "label": "plane"}, []),
        ({"which": "misclassified", "predicted": "plane"}, [2]),
        ({"confidence": (0.6, 1.0)}, [0, 2, 4]),
        ({"confidence": (0.0, 0.6)}, [1, 3]),
        ({"confidence": (0.6, 0.75), "label": "bird"}, [0]),
        ({"descending": True}, [4, 3, 2, 1, 0]),
        ({"sort": "confidence"}, [3, 1, 0, 2, 4]),
        ({"sort": "confidence", "descending": True}, [4, 2, 0, 1, 3]),
        ({"sort": "loss"}, [4, 0, 1, 3, 2]),  # −log 0.9, 0.7, 0.5, 0.35, 0.1
        ({"sort": "loss", "descending": True, "label": "bird"}, [1, 0]),
        ({"sort": "margin", "confidence": (0, 0.89)}, [1, 3, 0, 2]),  # 0.1, 0.1, 0.5, 0.7
    ],
)
def test_rows_known_by_hand(five: QuerySet, conditions: dict[str, Any], rows: list[int]) -> None:
    if conditions.get("sort") == "margin":  # 0.1 twice: which is nearer is a matter of rounding
        assert sorted(five.rows(**conditions)[:2]) == rows[:2]
        assert five.rows(**conditions)[2:] == rows[2:]
    else:
        assert five.rows(**conditions) == rows
    page = five.page({"which": "all", **conditions}, 0, 10)
    assert [card.index for card in page.items] == five.rows(**conditions)
    assert page.total == len(rows)


def test_the_loss_is_the_tasks_own() -> None:
    weight = torch.tensor([1.0, 1.0, 0.1], dtype=torch.float64)
    weighted = explainer(weight=weight).queries((FIVE, TRUE))
    right = [-math.log(p[NAMES.index(y)]) * float(weight[NAMES.index(y)]) for p, y in PROBABILITIES]
    assert [card.loss for card in weighted.page(Filter(), 0, 5).items] == pytest.approx(right)
    assert weighted.rows(sort="loss") == sorted(range(5), key=right.__getitem__)
    assert weighted.rows(sort="loss")[-1] == 3  # unweighted it is 2


def test_ties_stay_in_the_test_sets_order(fitted: Explainer) -> None:
    twice = fitted.queries((torch.cat([FIVE, FIVE]), torch.cat([TRUE, TRUE])))
    assert twice.rows(sort="loss") == [4, 9, 0, 5, 1, 6, 3, 8, 2, 7]
    assert twice.rows(sort="loss", descending=True) == [2, 7, 3, 8, 1, 6, 0, 5, 4, 9]


def test_a_search_reads_texts_and_values_whatever_their_case() -> None:
    words = {tuple(x.tolist()): text for x, text in zip(FIVE, WORDS, strict=True)}
    texts = explainer(render=lambda x: words[tuple(x.tolist())]).queries((FIVE, TRUE))
    assert texts.rows(search="bird") == [0, 1]
    assert texts.rows(search="HAND") == [0, 3]
    assert texts.rows(search="STRASSE") == [2]
    assert texts.rows(search="<b>") == [3]
    assert texts.rows(search="bird", which="close") == [1]
    assert texts.rows(search="plane") == []  # names of classes are no text
    assert texts.page({"search": "bird"}, 0, 5).searchable

    rows = explainer(render=lambda x: {"age": 41 if float(x[0]) > -1 else 7, "city": "Łódź"})
    table = rows.queries((FIVE, TRUE))
    assert table.rows(search="41") == [0, 1]
    assert table.rows(search="łódź") == [0, 1, 2, 3, 4]
    assert table.rows(search="41łódź") == []  # each value for itself
    assert table.rows(search="age") == []

    images = Explainer(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), pictures()).fit(progress=False)
    drawn = images.queries(pictures())
    assert not drawn.page(Filter(), 0, 1).searchable
    with pytest.raises(ChoiceError, match="search='x' finds nothing in pictures"):
        drawn.rows(search="x")


def test_texts_are_read_once_by_whoever_is_first() -> None:
    read: list[int] = []

    def render(x: Tensor) -> str:
        read.append(1)
        time.sleep(0.001)
        return "text"

    texts = explainer(render=render).queries((FIVE, TRUE))
    threads = [threading.Thread(target=lambda: texts.rows(search="t")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) <= 5 + 4  # each once, and a look at the first row per thread
    read.clear()
    assert texts.rows(search="text") == [0, 1, 2, 3, 4]
    assert read == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": "brid"}, "label='brid' is not known; .* Did you mean 'bird'"),
        ({"predicted": "plan"}, "Did you mean 'plane'"),
        ({"label": 2}, "label=2; expected a class name or None"),
        ({"sort": "los"}, "Did you mean 'loss'"),
        ({"confidence": (0.9, 0.2)}, r"confidence=\(0.9, 0.2\); expected \(least, largest\)"),
        ({"confidence": [0.9]}, "expected .least, largest."),
        ({"confidence": (0, float("nan"))}, "expected .least, largest."),
        ({"confidence": "high"}, "confidence='high'"),
        ({"search": None}, "search=None; expected text"),
        ({"descending": "yes"}, "descending='yes'; expected True or False"),
        ({"lable": "bird"}, "filter='lable' is not known; .* Did you mean 'label'"),
    ],
)
def test_a_bad_request_is_answered_in_words(five: QuerySet, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        five.page(wrong, 0, 5)
    with pytest.raises(ChoiceError, match="offset=-1, count=5; expected at least 0 and 1"):
        five.page({}, -1, 5)
    with pytest.raises(ChoiceError, match="query=5 is outside the test set; expected 0 to 4"):
        five.page({}, 0, 5, around=5)


def test_pages_are_slices_of_a_selection(queries: QuerySet) -> None:
    page = queries.page({"which": "misclassified"}, 2, 3)
    rows = torch.nonzero(WRONG).reshape(-1).tolist()
    assert [card.index for card in page.items] == rows[2:5]
    assert (page.offset, page.total, page.position) == (2, len(rows), None)
    assert page.filter == Filter(which="misclassified")
    assert page.counts == {"all": 60, "misclassified": len(rows), "close": int((MARGIN < CLOSE_MARGIN).sum())}
    assert page.labels == tuple(NAMES)
    assert page.predictions == tuple(NAMES[c] for c in sorted(set(TOP.indices[:, 0].tolist())))
    assert page.sorts == ("index", "confidence", "loss", "margin")
    for card in page.items:
        assert card.label == NAMES[int(Y[card.index])]
        assert card.predicted == NAMES[int(TOP.indices[card.index, 0])]
        assert card.probability == pytest.approx(float(TOP.values[card.index, 0]), abs=1e-6)
        assert card.loss == pytest.approx(-math.log(float(P[card.index, Y[card.index]])))
    assert queries.page({}, 58, 10).items[-1].index == 59
    assert queries.page({}, 100, 10).items == ()


def test_a_page_around_a_row_is_the_chunk_it_stands_in(queries: QuerySet) -> None:
    page = queries.page({}, 0, 24, around=30)
    assert (page.offset, page.around, page.position) == (24, 30, 30)
    assert [card.index for card in page.items] == list(range(24, 48))
    order = queries.rows(sort="loss", descending=True)
    page = queries.page({"sort": "loss", "descending": True}, 0, 8, around=17)
    assert order[page.position or 0] == 17
    assert page.offset % 8 == 0
    assert page.items[(page.position or 0) - page.offset].index == 17
    right = next(row for row in range(60) if not WRONG[row])
    page = queries.page({"which": "misclassified"}, 3, 3, around=right)
    assert (page.offset, page.position) == (3, None)  # the filter leaves it out


def test_only_classes_that_occur_are_offered(fitted: Explainer) -> None:
    page = fitted.queries((FIVE[:2], TRUE[:2])).page({}, 0, 1)
    assert (page.labels, page.predictions) == (("bird",), ("bird",))


def test_inputs_alone_have_no_true_label_and_no_mistakes(fitted: Explainer) -> None:
    alone = fitted.queries(FIVE)
    page = alone.page({"sort": "margin", "descending": True}, 0, 3)
    assert [card.label for card in page.items] == [None, None, None]
    assert [card.loss for card in page.items] == [None, None, None]
    assert [card.predicted for card in page.items] == ["frog", "plane", "bird"]
    assert page.counts == {"all": 5, "close": 2}
    assert (page.labels, page.predictions) == ((), ("bird", "plane", "frog"))
    assert page.sorts == ("index", "confidence", "margin")
    assert alone.explain(3).query.label is None
    for wrong in ({"which": "misclassified"}, {"label": "bird"}, {"sort": "loss"}):
        with pytest.raises(ChoiceError, match="true labels, and this test set is inputs alone"):
            alone.rows(**wrong)  # type: ignore[arg-type]


def test_a_regressions_queries_show_their_values_and_sort_by_loss() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1).double()
    target = X.sum(1)
    fitted = Explainer(model, (X, target), loss="mse").fit(progress=False)
    queries = fitted.queries((X, target))
    page = queries.page({}, 0, 2)
    assert page.items[0].caption == f"{float(model(X[:1]).detach()):.4g}"
    assert page.counts == {"all": 60}
    assert (page.labels, page.predictions, page.sorts) == ((), (), ("index", "loss"))
    losses = (0.5 * (model(X)[:, 0] - target) ** 2).tolist()
    assert queries.rows(sort="loss") == sorted(range(60), key=losses.__getitem__)
    assert [card.loss for card in page.items] == pytest.approx(losses[:2])
    assert queries.default_labels(0) == ["true"]
    assert queries.explain(0).labels == (f"{float(target[0]):.6g}",)
    for wrong in (
        {"which": "close"},
        {"which": "misclassified"},
        {"predicted": "a"},
        {"confidence": (0, 0.5)},
    ):
        with pytest.raises(ChoiceError, match="classes.*, and this model has no classes"):
            queries.rows(**wrong)  # type: ignore[arg-type]
    assert fitted.queries(X).page({}, 0, 1).sorts == ("index",)
    with pytest.raises(ChoiceError, match='default_labels="top2" needs classes'):
        fitted.queries((X, target), default_labels="top2")


def test_ten_thousand_rows_are_filtered_and_sorted(fitted: Explainer) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(10_000, 3, generator=generator, dtype=torch.float64)
    targets = torch.randint(3, (10_000,), generator=generator)
    many = fitted.queries((inputs, targets))
    probabilities = inputs.softmax(1)
    confidence, predicted = probabilities.max(1)
    losses = nn.functional.cross_entropy(inputs, targets, reduction="none").tolist()
    right = sorted(
        (
            row
            for row in range(10_000)
            if predicted[row] == 2 and targets[row] != 2 and 0.5 <= confidence[row] <= 0.9
        ),
        key=lambda row: -losses[row],
    )
    wanted: dict[str, Any] = {
        "which": "misclassified",
        "predicted": "frog",
        "confidence": (0.5, 0.9),
        "sort": "loss",
        "descending": True,
    }
    assert many.rows(**wanted) == right
    assert len(right) > 500
    assert many.rows(search="1.5") == [
        row for row in range(10_000) if any("1.5" in f"{value:.6g}" for value in inputs[row].tolist())
    ]
    page = many.page(wanted, 0, 24, around=right[500])
    assert (page.position, page.offset, page.total) == (500, 480, len(right))


# The labels that a query opens with


def test_bird_beside_plane_where_the_call_is_wrong_or_close(five: QuerySet) -> None:
    assert [five.default_labels(row) for row in range(5)] == [
        ["bird"],
        ["bird", "plane"],  # close: the runner-up
        ["plane", "frog"],  # wrong: the true label, whatever its probability
        ["frog", "plane"],
        ["frog"],
    ]


def test_how_close_is_close_can_be_said(fitted: Explainer) -> None:
    wide = fitted.queries((FIVE, TRUE), close_margin=0.6)
    assert wide.rows("close") == [0, 1, 3]
    assert wide.default_labels(0) == ["bird", "plane"]
    never = fitted.queries((FIVE, TRUE), close_margin=0)
    assert never.rows("close") == []
    assert never.default_labels(1) == ["bird"]
    for wrong in (-0.1, 1.5, float("nan"), "wide"):
        with pytest.raises(ChoiceError, match=f"close_margin={wrong!r}; expected a difference"):
            fitted.queries((FIVE, TRUE), close_margin=wrong)  # type: ignore[arg-type]


def test_the_rule_can_be_another(fitted: Explainer) -> None:
    def labels(rule: Any) -> list[Any]:
        chosen = fitted.queries((FIVE, TRUE), default_labels=rule)
        return [chosen.default_labels(row) for row in (0, 2)]

    assert labels("predicted") == [["bird"], ["plane"]]
    assert labels("top2")[0] == ["bird", "plane"]
    assert labels("true") == [["true"], ["true"]]
    assert labels(lambda row: [row, "plane"]) == [[0, "plane"], [2, "plane"]]
    assert labels(lambda row: "frog") == [["frog"], ["frog"]]
    true = fitted.queries((FIVE, TRUE), default_labels="true")
    assert true.explain(2).labels == ("frog",)
    asked = fitted.queries((FIVE, TRUE), default_labels=lambda row: [2 - row, "plane"])
    assert asked.explain(0).labels == ("frog", "plane")
    nothing = fitted.queries((FIVE, TRUE), default_labels=lambda row: [])
    with pytest.raises(ChoiceError, match=r"labels=\[\] asks for no panel"):
        nothing.explain(0)


def test_a_rule_that_cannot_hold_is_refused_at_once(fitted: Explainer) -> None:
    with pytest.raises(ChoiceError, match="Did you mean 'predicted'"):
        fitted.queries((FIVE, TRUE), default_labels="prediction")  # type: ignore[arg-type]
    with pytest.raises(ChoiceError, match='default_labels="true" needs true labels'):
        fitted.queries(FIVE, default_labels="true")


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


def test_a_page_of_a_preset_is_asked_for_by_its_name(fitted: Explainer) -> None:
    queries = fitted.queries((torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 0])))
    assert [item.index for item in queries.page("misclassified", 0, 5).items] == queries.rows("misclassified")
    with pytest.raises(ChoiceError, match="filter='wrong' is not known"):
        queries.page("wrong", 0, 5)  # type: ignore[arg-type]
