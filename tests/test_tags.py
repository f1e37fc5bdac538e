"""Tags: what a person notes down, kept on the explainer, written to files that name the examples."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path

import pandas as pd
import pytest
from cases import blobs, mlp

from relatif_widgets import ChoiceError, DataError, DocumentError, Explainer, RelatifError

NAMES = ["bird", "plane", "frog"]


@pytest.fixture(scope="module")
def fitted() -> Explainer:
    return Explainer(mlp(), blobs(), class_names=NAMES).fit(progress=False)


@pytest.fixture
def explainer(fitted: Explainer) -> Explainer:
    fitted.tags.clear()
    return fitted


def test_tags_are_given_and_taken(explainer: Explainer) -> None:
    tags = explainer.tags
    tags.add([7, 3], "mislabelled")
    tags.add(3, " two birds ")
    tags.add(3, "mislabelled")  # once is enough
    assert tags.value == {3: ["mislabelled", "two birds"], 7: ["mislabelled"]}
    assert (tags[3], tags[8], list(tags), len(tags)) == (("mislabelled", "two birds"), (), [3, 7], 2)
    assert repr(tags) == "Tags(mislabelled: 2, two birds: 1)"
    tags.remove(3, "mislabelled")
    tags.remove(7)
    assert tags.value == {3: ["two birds"]}


@pytest.mark.parametrize(
    ("index", "tag", "message"),
    [
        (40, "fine", "Training example 40 does not exist; expected 0 to 39"),
        (-1, "fine", "Training example -1 does not exist"),
        (True, "fine", "Training example True does not exist"),
        ([2, 1.5], "fine", "Training example 1.5 does not exist"),
        (2, "  ", "tag='  '; expected text of 1 to 60 characters"),
        (2, "x" * 61, "expected text of 1 to 60 characters"),
        (2, None, "tag=None; expected text"),
    ],
)
def test_wrong_tags_are_refused_and_change_nothing(
    explainer: Explainer, index: object, tag: object, message: str
) -> None:
    explainer.tags.add(1, "fine")
    with pytest.raises(ChoiceError, match=message):
        explainer.tags.add(index, tag)  # type: ignore[arg-type]
    assert explainer.tags.value == {1: ["fine"]}


def test_the_frame_says_what_the_examples_are(explainer: Explainer) -> None:
    explainer.tags.add([5, 2], "outlier")
    frame = explainer.tags.to_frame()
    right = explainer.examples([2, 5])
    assert frame["index"].tolist() == [2, 5]
    assert frame["tags"].tolist() == [("outlier",), ("outlier",)]
    pd.testing.assert_frame_equal(frame.drop(columns="tags"), right)
    assert frame["label"].tolist() == [NAMES[int(label)] for label in blobs()[1][[2, 5]]]


def test_files_name_the_examples_and_come_back(explainer: Explainer, tmp_path: Path) -> None:
    explainer.tags.add([5, 2], "outlier")
    explainer.tags.add(5, "a; b, “c”")
    csv = pd.read_csv(explainer.tags.to_csv(tmp_path / "tags.csv"))
    assert csv["index"].tolist() == [2, 5]
    assert csv["tags"].tolist() == ["outlier", "outlier; a; b, “c”"]
    assert csv["label"].tolist() == explainer.examples([2, 5])["label"].tolist()
    path = explainer.tags.to_json(tmp_path / "tags.json")
    assert [one["index"] for one in json.loads(path.read_text())["examples"]] == [2, 5]
    explainer.tags.clear()
    explainer.tags.add(2, "fine")
    explainer.tags.load(path)
    assert explainer.tags.value == {2: ["fine", "outlier"], 5: ["outlier", "a; b, “c”"]}


def test_tags_of_other_data_are_refused(explainer: Explainer, tmp_path: Path) -> None:
    explainer.tags.add(2, "fine")
    path = explainer.tags.to_json(tmp_path / "tags.json")
    other = Explainer(mlp(), blobs(seed=5), class_names=NAMES).fit(progress=False)
    with pytest.raises(DataError, match=r"tags\.json holds tags of other training data"):
        other.tags.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(DocumentError, match=r"tags\.json is no file that tags\.to_json wrote"):
        explainer.tags.load(path)


def test_examples_are_described_by_what_the_fit_knows(explainer: Explainer) -> None:
    frame = explainer.examples([3, 1])
    scores = explainer.self_influence()
    assert frame["index"].tolist() == [3, 1]
    assert frame["self_influence"].tolist() == pytest.approx([float(scores[3]), float(scores[1])])
    with pytest.raises(ChoiceError, match="Training example 40 does not exist"):
        explainer.examples([40])
    assert len(explainer.examples([])) == 0
    assert explainer.examples([3, 3])["index"].tolist() == [3, 3]


def test_more_like_this_leaves_the_example_itself_out(explainer: Explainer) -> None:
    inputs, labels = blobs()
    found = explainer.more_like(3, top=10)
    assert found.query.name == "training example #3"
    assert found.labels == (NAMES[int(labels[3])],)
    for method in ("influence", "loss_relative", "nearest"):
        top = explainer.top_k(inputs[3:4], labels[3:4], k=11, method=method)  # type: ignore[arg-type]
        right = [index for index in top.indices[0].tolist() if index != 3][:10]
        listed = [example.index for example, _ in found.top(found.labels[0], method=method, k=10)]  # type: ignore[arg-type]
        assert listed == right[: len(listed)]
        assert len(listed) >= 5


@pytest.mark.parametrize("curvature", ["fisher", "block_fisher", "ekfac", "kfac", "low_rank", "identity"])
def test_an_explainer_that_nobody_holds_is_gone_at_once(curvature: str, tmp_path: Path) -> None:
    """An index has gigabytes: it must not wait for the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        explainer = Explainer(mlp(), blobs(), curvature=curvature, class_names=NAMES).fit(progress=False)
        tags, owner = explainer.tags, weakref.ref(explainer)
        explainer.explain(blobs()[0][0]).save(tmp_path / "x.relatif.json")
        rows = weakref.ref(explainer._ready().index.rows)
        explainer.fit(progress=False)
        assert rows() is None
        rows = weakref.ref(explainer._ready().index.rows)
        del explainer
        assert (owner(), rows()) == (None, None)
    finally:
        gc.enable()
    tags.add(3, "fine")
    assert tags.value == {3: ["fine"]}
    with pytest.raises(RelatifError, match="The explainer that these tags belong to is gone"):
        tags.to_frame()
