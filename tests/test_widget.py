"""The widget's Python half: traits, validation, background preparation, messages."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
import weakref
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
from relatif_widgets.scoring import Scorer
from relatif_widgets.views import cells

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
        """What was sent, but for counts and panels that only follow from it."""
        return [message["kind"] for message in self if message["kind"] not in ("returned", "similar")]

    def last(self, kind: str) -> dict[str, Any]:
        return next(message for message in reversed(self) if message["kind"] == kind)


def never_ready(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """From now on every preparation goes on until it is stopped; the event says that one has begun."""
    started = threading.Event()

    def endless(self: QuerySet, *args: Any, progress: Any = None, **options: Any) -> Explanation:
        started.set()
        while True:
            time.sleep(0.005)
            progress(0.1)

    monkeypatch.setattr(QuerySet, "explain", endless)
    return started


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
    document = sent.last("explanation")["document"]
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
    started = never_ready(monkeypatch)
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


# Comparing, selecting, tagging


def test_methods_are_compared_in_the_papers_order(widget: ExplanationWidget) -> None:
    widget.compare = ["nearest", "influence", "nearest"]
    assert widget.compare == ["nearest", "influence"]
    widget.k = 3
    frame = widget.to_frame()
    panels = list(widget.labels)
    assert frame["method"].drop_duplicates().tolist() == ["influence", "loss_relative", "nearest"]
    assert len(frame) == 3 * 3 * len(panels)
    first = frame[(frame["panel"] == panels[0]) & (frame["method"] == "influence")]
    right = widget.explanation.top(panels[0], method="influence", k=3)
    assert first["index"].tolist() == [example.index for example, _ in right]
    assert first["rank_influence"].tolist() == first["rank"].tolist() == [1, 2, 3]
    by_loss = [e.index for e, _ in widget.explanation.top(panels[0], method="loss_relative", k=20)]
    assert first["rank_loss_relative"].tolist() == [by_loss.index(index) + 1 for index in first["index"]]
    assert "compare=['nearest', 'influence']" in repr(widget)
    with pytest.raises(ChoiceError, match="Did you mean 'influence'"):
        widget.compare = ["influnce"]


def test_the_frame_has_one_row_for_each_card_with_selection_and_tags(
    widget: ExplanationWidget, explainer: Explainer
) -> None:
    widget.k = 2
    first = widget.to_frame()
    index = int(first["index"][0])
    widget.selection = [index]
    explainer.tags.add(index, "outlier")
    frame = widget.to_frame()
    assert frame["query"].unique().tolist() == ["test #0"]
    assert frame["index"].tolist() == first["index"].tolist()
    assert frame["selected"].tolist() == [i == index for i in frame["index"]]
    assert frame["tags"].tolist() == [("outlier",) if i == index else () for i in frame["index"]]
    assert "rank_loss_relative" not in frame
    explainer.tags.clear()


def test_selection_goes_both_ways_and_outlives_the_query(
    widget: ExplanationWidget, explainer: Explainer
) -> None:
    seen: list[list[int]] = []
    widget.observe(lambda change: seen.append(change["new"]), "selection")
    widget.set_state({"selection": [7, 3]})  # as the browser does
    assert seen == [[7, 3]]
    widget.query = 4
    selected = widget.selected()
    assert selected["index"].tolist() == [7, 3]
    assert selected["label"].tolist() == explainer.examples([7, 3])["label"].tolist()
    assert selected.columns[-1] == "tags"
    with pytest.raises(ChoiceError, match="Training example 40 does not exist; expected 0 to 39"):
        widget.selection = [40]
    assert widget.selection == [7, 3]


def test_tags_are_the_explainers_and_reach_every_widget(
    widget: ExplanationWidget, explainer: Explainer
) -> None:
    other = ExplanationWidget(explainer, (X, Y))
    widget.set_state({"tags": {"7": ["mislabelled", " new one "]}})  # as the browser does
    assert explainer.tags.value == other.tags == widget.tags == {7: ["mislabelled", "new one"]}
    assert widget.tagged()["index"].tolist() == [7]
    explainer.tags.add(2, "fine")
    assert widget.tags == {2: ["fine"], 7: ["mislabelled", "new one"]}
    again = ExplanationWidget(explainer, (X, Y))  # the cell, run again
    assert again.tags == widget.tags
    other.close()
    explainer.tags.clear()
    assert widget.tags == again.tags == {}
    with pytest.raises(ChoiceError, match="Training example 99 does not exist"):
        widget.tags = {99: ["fine"]}


def test_more_like_this_is_a_panel_of_its_own(widget: ExplanationWidget, explainer: Explainer) -> None:
    widget.wait()
    sent = Sent(widget)
    widget.like = 7
    widget.wait()
    assert sent.last("similar")["index"] == 7
    right = explainer.more_like(7)
    assert sent.last("similar")["document"]["panels"] == right.to_dict()["panels"]
    frame = widget.to_frame()
    found = frame[frame["panel"] == "more like #7"]
    assert found["index"].tolist() == [example.index for example, _ in right.top(right.labels[0])]
    assert found["query"].unique().tolist() == ["training example #7"]
    widget.like = None
    assert "more like #7" not in widget.to_frame()["panel"].tolist()
    assert widget.explanation.query.index == 0


def test_cards_are_counted_over_the_prepared_queries(widget: ExplanationWidget, explainer: Explainer) -> None:
    sent = Sent(widget)
    found: list[set[int]] = []
    for row in range(4):
        widget.query = row
        shown = widget.explanation
        found.append({example.index for label in shown.labels for example, _ in shown.top(label, k=5)})
    returned = sent.last("returned")
    assert returned["of"] == 4
    right = {index: sum(index in cards for cards in found) for index in found[3]}
    counts = returned["counts"]["loss_relative"]
    assert {index: counts[index] for index in found[3]} == right
    widget.k = 1
    assert sent.last("returned")["counts"]["loss_relative"] != counts


def test_going_back_to_a_query_prepares_nothing_and_finds_its_panels(
    widget: ExplanationWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget.labels = ["frog", "plane"]
    widget.wait()
    widget.query = 5
    widget.wait()
    monkeypatch.setattr(QuerySet, "explain", None)
    sent = Sent(widget)
    widget.query = 0
    assert (widget.labels, widget.status) == (["frog", "plane"], "ready")
    assert sent.last("explanation")["document"]["query"]["index"] == 0


def test_a_larger_picture_comes_on_request(widget: ExplanationWidget, explainer: Explainer) -> None:
    sent = Sent(widget)
    widget._send_detail({"kind": "detail", "index": 3})
    assert (sent[0]["kind"], sent[0]["index"]) == ("detail", 3)
    assert sent[0]["media"]["values"] == explainer.show(3).values  # type: ignore[union-attr]
    widget._send_detail({"kind": "detail", "index": 99})
    assert "Training example 99 does not exist" in sent[1]["message"]


# Cancelling


def test_cancel_before_anything_is_ranked_goes_back_to_what_was_there(
    widget: ExplanationWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    widget.wait()
    labels = widget.labels
    started = never_ready(monkeypatch)
    widget.query = 9
    assert started.wait(5)
    widget._on_message(widget, {"kind": "cancel"}, [])
    assert widget._settled.wait(5)
    assert str(widget._failure) == "The preparation of test #9 was cancelled."
    assert (widget.query, widget.labels, widget.status, widget.message) == (0, labels, "ready", "Cancelled.")
    monkeypatch.undo()
    assert widget.explanation.query.index == 0
    widget.query = 9
    assert widget.explanation.query.index == 9


def test_cancel_on_the_way_keeps_what_is_ranked_and_marks_it(
    widget: ExplanationWidget, explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Scorer.influence

    def in_parts(self: Scorer, gradients: Any, dampings: Any, progress: Any) -> Any:
        for whole, scores in plain(self, gradients, dampings, lambda done: None):
            for start in range(whole.start, whole.stop, 8):
                stop = min(start + 8, whole.stop)
                yield slice(start, stop), scores[..., start - whole.start : stop - whole.start]
                if start == 16:
                    widget.cancel()
                progress(stop / self.index.count)

    monkeypatch.setattr(Scorer, "influence", in_parts)
    widget.wait()
    found = widget.explanation
    assert found.provenance.examined == 24
    assert widget.message == "Cancelled: ranks the first 24 of 40 training examples."
    scores = explainer.scores(X[:1], [found.labels[0]])[0, :24]
    assert [e.index for e, _ in found.top(found.labels[0], k=5)] == scores.topk(5).indices.tolist()
    monkeypatch.undo()
    widget._on_message(widget, {"kind": "resume"}, [])
    whole = widget.explanation
    assert whole.provenance.examined is None
    right = explainer.top_k(X[:1], [whole.labels[0]], k=5)
    assert [e.index for e, _ in whole.top(whole.labels[0], k=5)] == right.indices[0].tolist()
    assert (widget.status, widget.message) == ("ready", "")


# Letting go


def test_a_closed_widget_holds_on_to_nothing(explainer: Explainer) -> None:
    test_set = torch.utils.data.TensorDataset(X, Y)
    widget = ExplanationWidget(explainer, test_set)
    widget.wait()
    widget.close()
    held = weakref.ref(test_set)
    del test_set
    gc.collect()
    assert held() is None
    for ask in (widget.selected, widget.tagged, widget.to_frame, widget.wait, widget.check):
        with pytest.raises(RelatifError, match="This widget is closed"):
            ask()
    widget.close()  # twice is once


def test_running_a_cell_again_closes_what_its_last_run_made(
    explainer: Explainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = ["cell a", "run 1", ()]
    monkeypatch.setattr(cells, "_running", lambda: tuple(now))
    first, second = ExplanationWidget(explainer, (X, Y)), ExplanationWidget(explainer, (X, Y))
    now[:2] = ["cell b", "run 2"]
    elsewhere = ExplanationWidget(explainer, (X, Y))
    assert [first._closed, second._closed] == [False, False]
    now[:2] = ["cell a", "run 3"]
    again = ExplanationWidget(explainer, (X, Y))
    assert (first._closed, second._closed, elsewhere._closed, again._closed) == (True, True, False, False)
    now[:] = ["cell c", "run 4", ("cell b",)]  # its cell was deleted
    ExplanationWidget(explainer, (X, Y))
    assert elsewhere._closed


def test_twenty_runs_leave_no_model_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[weakref.ref[Any]] = []
    before = threading.active_count()
    output = []  # a notebook's history
    for run in range(20):
        monkeypatch.setattr(cells, "_running", lambda run=run: ("cell", f"run {run}", ()))
        model = mlp()
        models.append(weakref.ref(model))
        widget = ExplanationWidget(Explainer(model, blobs(), class_names=NAMES).fit(progress=False), (X, Y))
        widget.wait()
        output.append(widget)
    del model
    gc.collect()
    assert sum(model() is not None for model in models) <= 1
    assert threading.active_count() <= before + 1


# Checking by retraining


def test_a_check_compares_the_change_with_what_influence_predicts(
    widget: ExplanationWidget, explainer: Explainer
) -> None:
    linear = Explainer(mlp(), blobs(), parameters=["2.weight", "2.bias"], class_names=NAMES, damping=0.1).fit(
        progress=False
    )
    widget = ExplanationWidget(linear, (X, Y), labels=["bird", "frog"])
    assert widget.can_check
    widget.wait()
    sent = Sent(widget)
    widget._send_check({"indices": [4, 9]})
    check = sent.last("check")["check"]
    right = linear.scores(X[:1].repeat(2, 1), ["bird", "frog"], method="influence")[:, [4, 9]].sum(1) / 40
    assert check["predicted"] == pytest.approx(right.tolist(), rel=1e-9)
    assert check["actual"] == pytest.approx(check["predicted"], rel=0.3)
    widget.selection = [4]
    found = widget.check()
    assert found.removed == (4,)
    frame = widget.checks()
    assert frame["query"].tolist() == ["test #0"] * 4
    assert frame["actual"].tolist() == [*check["actual"], *found.actual]
    widget.selection = []
    with pytest.raises(ChoiceError, match="Nothing is selected"):
        widget.check()
    with pytest.raises(ChoiceError, match="Training example 40 does not exist"):
        widget.check(40)


def test_without_an_exact_refit_a_check_needs_a_retraining(explainer: Explainer) -> None:
    widget = ExplanationWidget(explainer, (X, Y))
    assert not widget.can_check  # all parameters of an MLP
    with pytest.raises(ChoiceError, match=r"pass ExplanationWidget\(..., retrain=callable"):
        widget.check(3)
    with pytest.raises(ChoiceError, match="retrain='again'; expected a callable"):
        ExplanationWidget(explainer, (X, Y), retrain="again")  # type: ignore[arg-type]
    asked: list[list[int]] = []

    def retrain(removed: list[int]) -> torch.nn.Module:
        asked.append(removed)
        return mlp()

    own = ExplanationWidget(explainer, (X, Y), retrain=retrain)
    check = own.check([3, 5])
    assert asked == [[3, 5]]
    assert check.actual == pytest.approx([0.0] * len(own.labels), abs=1e-12)  # the same model again


def test_a_slow_check_belongs_to_the_query_it_was_made_for(explainer: Explainer) -> None:
    started, go_on = threading.Event(), threading.Event()
    running: list[int] = []

    def retrain(removed: list[int]) -> torch.nn.Module:
        running.append(1)
        assert len(running) == 1  # never two trainings at once
        started.set()
        assert go_on.wait(10)
        running.pop()
        return mlp()

    widget = ExplanationWidget(explainer, (X, Y), retrain=retrain)
    widget.wait()
    labels = list(widget.labels)
    sent = Sent(widget)
    threads = [threading.Thread(target=widget._send_check, args=({"indices": [row]},)) for row in (3, 5)]
    threads[0].start()
    assert started.wait(5)
    threads[1].start()
    widget.query, widget.damping = 4, 0.1
    widget.wait()
    go_on.set()
    for thread in threads:
        thread.join(10)
    frame = widget.checks()
    assert frame["query"].tolist()[: len(labels)] == ["test #0"] * len(labels)
    assert frame["label"].tolist()[: len(labels)] == labels
    assert frame["removed"][0] == (3,)
    assert frame["damping"][0] == 1e-3
    assert sent.last("check")["query"] in (0, 4)
    assert next(message["query"] for message in sent if message["kind"] == "check") == 0


def test_checks_are_cancelled(explainer: Explainer) -> None:
    started, go_on = threading.Event(), threading.Event()
    asked: list[list[int]] = []

    def retrain(removed: list[int]) -> torch.nn.Module:
        asked.append(removed)
        started.set()
        assert go_on.wait(10)
        return mlp()

    widget = ExplanationWidget(explainer, (X, Y), retrain=retrain)
    widget.wait()
    sent = Sent(widget)
    threads = [threading.Thread(target=widget._send_check, args=({"indices": [row]},)) for row in (3, 5)]
    threads[0].start()
    assert started.wait(5)
    threads[1].start()
    while widget._checks.asked < 2:
        time.sleep(0.01)
    widget._on_message(widget, {"kind": "cancel_checks"}, [])
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert [message["error"] for message in sent if message["kind"] == "check"] == [
        "The check was cancelled."
    ] * 2
    assert asked == [[3]]  # the one that waited never began
    assert len(widget.checks()) == 0


def test_what_a_callable_of_the_user_raises_names_the_callable(explainer: Explainer) -> None:
    def fails(*args: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    widget = ExplanationWidget(explainer, (X, Y), retrain=fails)
    widget.wait()
    sent = Sent(widget)
    widget._send_check({"indices": [3]})
    assert sent.last("check")["error"] == (
        "ZeroDivisionError: division by zero. It was raised by the callable that was passed as retrain=."
    )
    with pytest.raises(ZeroDivisionError):
        widget.check([3])
    for rule, message in [
        (fails, r"default_labels\(0\) raised ZeroDivisionError: division by zero"),
        (lambda row: ["plain"], r"default_labels\(0\): label='plain' is not known.*Did you mean 'plane'"),
        (lambda row: None, r"default_labels\(0\): labels=None"),
    ]:
        with pytest.raises(ChoiceError, match=message):
            ExplanationWidget(explainer, (X, Y), default_labels=rule).wait()


def test_a_widget_without_labels_goes_back_to_its_own(widget: ExplanationWidget) -> None:
    widget.wait()
    labels = list(widget.labels)
    widget.labels = []
    assert widget.labels == labels
    assert widget.explanation.labels == tuple(labels)
    assert ExplanationWidget(widget._explainer, (X, Y), labels=2).labels == ["frog"]
    widget.labels = [1, "frog", 2]
    assert widget.labels == ["plane", "frog"]


def test_a_closed_widget_says_so_whatever_is_asked(explainer: Explainer) -> None:
    widget = ExplanationWidget(explainer, (X, Y))
    widget.close()
    for change in ({"query": 3}, {"labels": ["frog"]}, {"selection": [3]}, {"like": 3}):
        with pytest.raises(RelatifError, match="This widget is closed"):
            widget.set_trait(*next(iter(change.items())))
    with pytest.raises(RelatifError, match="This widget is closed"):
        widget.checks()


# A regression: panels are named by their targets in words


@pytest.fixture(scope="module")
def regression() -> Explainer:
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1).double()
    targets = X @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]], dtype=torch.float64) + 0.1
    return Explainer(model, (X, targets), loss="mse", damping=0.01).fit(progress=False)


def test_a_regression_reads_its_own_labels_back(regression: Explainer) -> None:
    targets = torch.linspace(-1.23456789, 2.5, len(X), dtype=torch.float64)[:, None]
    widget = ExplanationWidget(regression, (X, targets))
    widget.wait()
    assert widget.labels == ["-1.23457"]
    widget.damping = 0.0123  # no stop yet: prepared anew, at the exact target
    shown = widget.explanation
    right = regression.scores(X[:1], targets[:1], damping=0.0123)[0]
    assert [e.index for e, _ in shown.top("-1.23457", k=3)] == right.topk(3).indices.tolist()
    assert shown.top("-1.23457", k=1)[0][1] == pytest.approx(float(right.max()), rel=1e-8)
    check = widget.check([5])
    influence = regression.scores(X[:1], targets[:1], method="influence", damping=0.0123)[0, 5]
    assert check.predicted[0] == pytest.approx(float(influence) / len(X), rel=1e-8)
    widget.labels = ["1.50"]
    widget.wait()
    assert widget.labels == ["1.5"]
    assert widget.explanation.labels == ("1.5",)
    widget.resume()
    widget.wait()
    assert ExplanationWidget(regression, (X, targets), labels=["true"]).explanation.labels == ("-1.23457",)
    assert ExplanationWidget(regression, (X, targets), labels=1.5).explanation.labels == ("1.5",)


def test_a_regression_without_targets_says_what_it_needs(regression: Explainer) -> None:
    with pytest.raises(ChoiceError, match="A regression is explained at target values, and this test set"):
        ExplanationWidget(regression, X).wait()
    assert ExplanationWidget(regression, X, labels=[0.5]).explanation.labels == ("0.5",)


def test_python_ends_while_a_preparation_runs() -> None:
    """A daemon thread that is stopped within torch would take the process down with SIGABRT."""
    program = """
import torch
from torch import nn
from relatif_widgets import Explainer, ExplanationWidget

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(200, 100), nn.Tanh(), nn.Linear(100, 10))
x, y = torch.randn(4000, 200), torch.randint(10, (4000,))
explainer = Explainer(model, (x, y), curvature="ekfac").fit(progress=False)
widget = ExplanationWidget(explainer, (x, y))
widget.wait()
widget.damping = 0.037
print(widget.status)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "preparing\n"), ended.stderr
