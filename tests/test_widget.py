"""The widget's Python half: traits, validation, background preparation, messages."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
import torch
from cases import blobs, mlp

from relatif_widgets import (
    ChoiceError,
    DataError,
    Explainer,
    Explanation,
    ExplanationWidget,
    ModelError,
    RelatifError,
)
from relatif_widgets.queries import QuerySet

X, Y = blobs(30, seed=3)
NAMES = ["bird", "plane", "frog"]


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(mlp(), blobs(), class_names=NAMES).fit(progress=False)


@pytest.fixture
def widget(explainer: Explainer) -> ExplanationWidget:
    return ExplanationWidget(explainer, (X, Y))


class Sent(list[dict[str, Any]]):
    """Messages that a widget sends to the browser."""

    def __init__(self, widget: ExplanationWidget) -> None:
        widget.send = lambda content, buffers=None: self.append(content)  # type: ignore[method-assign]

    def kinds(self) -> list[str]:
        return [message["kind"] for message in self]


def test_it_opens_on_the_first_row_with_the_explainers_damping(widget: ExplanationWidget) -> None:
    assert (widget.query, widget.method, widget.k, widget.damping, widget.sign) == (
        0, "loss_relative", 5, 1e-3, "positive",
    )  # fmt: skip
    assert widget.status == "idle"


def test_the_explanation_is_what_the_explainer_says(widget: ExplanationWidget, explainer: Explainer) -> None:
    explanation = widget.explanation
    assert widget.status == "ready"
    assert widget.labels == list(explanation.labels) == explainer.queries((X, Y)).default_labels(0)
    right = explainer.top_k(X[:1], [explanation.labels[0]], k=5)
    assert [example.index for example, _ in explanation.top(explanation.labels[0])] == right.indices[
        0
    ].tolist()


def test_it_says_where_it_stands(widget: ExplanationWidget) -> None:
    widget.labels = ["frog"]
    assert repr(widget) == (
        "ExplanationWidget(query=0, labels=['frog'], method='loss_relative', k=5, damping=0.001, sign='positive')"
    )


def test_a_new_query_brings_its_own_labels(widget: ExplanationWidget, explainer: Explainer) -> None:
    widget.wait()
    widget.query = 7
    assert widget.explanation.query.index == 7
    assert widget.labels == explainer.queries((X, Y)).default_labels(7)


def test_controls_within_the_prepared_document_prepare_nothing(widget: ExplanationWidget) -> None:
    widget.wait()
    sent = Sent(widget)
    widget.method, widget.k, widget.damping, widget.sign = "influence", 9, 0.1, "negative"
    assert widget.status == "ready"
    assert sent.kinds() == []
    settings = widget.explanation.settings
    assert (settings.method, settings.k, settings.damping, settings.sign) == ("influence", 9, 0.1, "negative")


def test_a_damping_between_the_stops_becomes_one(widget: ExplanationWidget, explainer: Explainer) -> None:
    widget.wait()
    widget.damping = 0.05
    explanation = widget.explanation
    assert 0.05 in explanation.dampings
    right = explainer.top_k(X[:1], [explanation.labels[0]], k=3, damping=0.05)
    found = explanation.top(explanation.labels[0], k=3)
    assert [example.index for example, _ in found] == right.indices[0].tolist()


def test_adding_a_label_keeps_the_panels_that_were_there(widget: ExplanationWidget) -> None:
    widget.wait()
    before = widget.explanation.labels
    missing = next(name for name in NAMES if name not in before)
    widget.labels = [missing]
    assert widget.explanation.labels == (missing,)  # what is on display
    sent = Sent(widget)
    widget.labels = [before[0]]  # still at hand
    widget.wait()
    assert sent.kinds() == []


def test_the_front_end_gets_the_document_when_it_asks(widget: ExplanationWidget) -> None:
    sent = Sent(widget)
    widget._on_message(widget, {"kind": "ready"}, [])
    widget.wait()
    assert sent.kinds() == ["explanation"]
    widget._on_message(widget, {"kind": "ready"}, [])  # a second view
    assert sent.kinds() == ["explanation", "explanation"]
    document = sent[-1]["document"]
    assert Explanation.from_json(widget.explanation.to_json()).to_dict()["panels"] == document["panels"]


def test_the_strip_answers_with_its_id(widget: ExplanationWidget) -> None:
    sent = Sent(widget)
    everything = {
        "which": "all",
        "label": None,
        "predicted": None,
        "confidence": [0, 1],
        "search": "",
        "sort": "index",
        "descending": False,
    }
    question = {"kind": "strip", "filter": everything, "offset": 0, "count": 3, "around": None}
    widget._send_strip({**question, "id": 4})
    assert sent[0]["id"] == 4
    assert [item["index"] for item in sent[0]["items"]] == [0, 1, 2]
    assert {**sent[0]["filter"], "confidence": [0, 1]} == everything
    widget._send_strip({**question, "id": 6, "around": 7})
    assert (sent[1]["offset"], sent[1]["position"]) == (6, 7)
    json.dumps(sent)  # which the comm needs
    widget._send_strip({**question, "id": 5, "filter": {"which": "nonsense"}})
    assert sent[2]["kind"] == "error"
    assert sent[2]["id"] == 5
    assert "which='nonsense' is not known" in sent[2]["message"]


@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("query", 30, "query=30 is outside the test set; expected 0 to 29"),
        ("query", -1, "query=-1 is outside"),
        ("method", "influnce", "Did you mean 'influence'"),
        ("sign", "positiv", "Did you mean 'positive'"),
        ("k", 0, "k=0; the gallery shows 1 to 20 examples a panel"),
        ("k", 21, r"k=21; .*explainer.top_k"),
        ("damping", 0.0, "expected a finite λ > 0"),
        ("labels", ["brid"], "Did you mean 'bird'"),
    ],
)
def test_wrong_values_are_refused_and_leave_the_widget_as_it_was(
    widget: ExplanationWidget, explainer: Explainer, trait: str, value: object, message: str
) -> None:
    before = getattr(widget, trait)
    with pytest.raises(ChoiceError, match=message):
        setattr(widget, trait, value)
    assert getattr(widget, trait) == before
    with pytest.raises(ChoiceError, match=message):
        ExplanationWidget(explainer, (X, Y), **{trait: value})


def test_the_newest_request_wins(widget: ExplanationWidget, monkeypatch: pytest.MonkeyPatch) -> None:
    finished: list[int] = []
    plain = QuerySet.explain

    def slow(self: QuerySet, row: int, *args: Any, progress: Any = None, **options: Any) -> Explanation:
        for step in range(20):
            time.sleep(0.01)
            progress(step / 40)
        finished.append(row)
        return plain(self, row, *args, progress=progress, **options)

    monkeypatch.setattr(QuerySet, "explain", slow)
    sent = Sent(widget)
    for row in range(1, 8):
        widget.query = row
    assert widget.explanation.query.index == 7
    assert finished == [7]  # the others stopped at their next progress call
    assert sent.kinds() == ["explanation"]


def test_progress_and_errors_are_told_in_traits(
    widget: ExplanationWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    widget.observe(lambda change: seen.append(change["new"]), "progress")
    states: list[str] = []
    widget.observe(lambda change: states.append(change["new"]), "status")
    widget.wait()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert states == ["preparing", "ready"]

    def fails(self: QuerySet, *args: Any, **options: Any) -> Explanation:
        raise ModelError("the gradient for example 3 is NaN")

    monkeypatch.setattr(QuerySet, "explain", fails)
    widget.query = 9
    with pytest.raises(ModelError, match="the gradient for example 3 is NaN"):
        widget.wait()  # the same kind of error as outside the widget
    assert widget.message == "the gradient for example 3 is NaN"
    monkeypatch.undo()
    assert widget.explanation.query.index == 9  # asking again recovers
    assert (widget.status, widget.message) == ("ready", "")


def test_closing_stops_a_preparation(widget: ExplanationWidget, monkeypatch: pytest.MonkeyPatch) -> None:
    started = threading.Event()

    def endless(self: QuerySet, *args: Any, progress: Any = None, **options: Any) -> Explanation:
        started.set()
        while True:
            time.sleep(0.005)
            progress(0.1)

    monkeypatch.setattr(QuerySet, "explain", endless)
    widget._on_message(widget, {"kind": "ready"}, [])
    assert started.wait(5)
    with pytest.raises(TimeoutError, match="Test example 0 was not prepared within"):
        widget.wait(0.01)
    worker = widget._worker
    assert worker is not None
    widget.close()
    worker.join(5)
    assert not worker.is_alive()


def test_a_test_set_that_the_model_does_not_take_is_said_in_the_widget(explainer: Explainer) -> None:
    narrow = ExplanationWidget(explainer, (X[:, :3], Y))
    with pytest.raises(DataError, match=r"The model does not take inputs of shape \[30, 3\]"):
        narrow.wait()
    assert narrow.message.startswith("The model does not take inputs")
    shifted = ExplanationWidget(explainer, (X, Y + 5))
    with pytest.raises(DataError, match="test_set: Label 5 of example 0 is outside the model's 3 outputs"):
        shifted.wait()


def test_labels_may_be_given_by_index(explainer: Explainer) -> None:
    assert ExplanationWidget(explainer, (X, Y), labels=[2, "bird"]).labels == ["frog", "bird"]
    assert ExplanationWidget(explainer, (X, Y), labels="plane").labels == ["plane"]
    with pytest.raises(ChoiceError, match="label='7' is not known"):
        ExplanationWidget(explainer, (X, Y), labels=[7])


def test_the_widget_needs_a_fitted_explainer() -> None:
    with pytest.raises(RelatifError, match=r"call explainer.fit\(\) first"):
        ExplanationWidget(Explainer(mlp(), blobs()), (X, Y))


def test_traits_link_with_standard_widgets(widget: ExplanationWidget) -> None:
    ipywidgets = pytest.importorskip("ipywidgets")
    slider = ipywidgets.IntSlider(value=5, min=1, max=20)
    ipywidgets.link((slider, "value"), (widget, "k"))
    slider.value = 8
    assert widget.k == 8
    widget.k = 3
    assert slider.value == 3


def test_a_widget_of_a_data_set_explains_raw_rows(explainer: Explainer) -> None:
    data = torch.utils.data.TensorDataset(X, Y)
    assert ExplanationWidget(explainer, data, query=2).explanation.query.label == int(Y[2])
