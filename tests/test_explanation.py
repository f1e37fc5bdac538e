"""The document: what it holds, what it refuses, how it travels."""

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import documents
import jsonschema
import pytest

from relatif_widgets.errors import ChoiceError, DocumentError
from relatif_widgets.explanation import (
    Explanation,
    Ranking,
    Row,
    Settings,
    json_schema,
)
from relatif_widgets.saved import SCHEMA_VERSION, write_atomically

NAMES = sorted(documents.DOCUMENTS)


@pytest.fixture(params=NAMES)
def golden(request):
    return documents.DOCUMENTS[request.param]()


def indices(found):
    return [example.index for example, _ in found]


# Golden files


@pytest.mark.parametrize("name", NAMES)
def test_golden_documents_are_what_their_script_writes(name):
    path = documents.GOLDEN / f"{name}.relatif.json"
    assert path.read_bytes().decode() == documents.golden_text(name)


def test_no_golden_document_is_left_over():
    assert sorted(path.name for path in documents.GOLDEN.iterdir()) == [
        f"{name}.relatif.json" for name in NAMES
    ]


def test_the_schema_file_is_the_schema_of_the_dataclasses():
    assert documents.SCHEMA.read_bytes().decode() == documents.schema_text()


def test_the_schema_is_one_of_draft_2020_12():
    jsonschema.Draft202012Validator.check_schema(json_schema())


@pytest.mark.parametrize("name", NAMES)
def test_golden_documents_meet_the_schema(name):
    document = json.loads((documents.GOLDEN / f"{name}.relatif.json").read_bytes())
    jsonschema.Draft202012Validator(json_schema()).validate(document)


@pytest.mark.parametrize("name", NAMES)
def test_golden_documents_open(name):
    assert Explanation.load(documents.GOLDEN / f"{name}.relatif.json") == documents.DOCUMENTS[name]()


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda d: d.pop("schema_version"), []),
        (lambda d: d["query"]["media"].pop("kind"), ["query", "media"]),
        (lambda d: d["examples"][0].update(index=-1), ["examples", 0, "index"]),
        (lambda d: d["dampings"].clear(), ["dampings"]),
        (lambda d: d["query"]["probabilities"].append(1.5), ["query", "probabilities", 10]),
        (lambda d: d["sprite"].update(data="<svg>"), ["sprite", "data"]),
    ],
)
def test_the_schema_refuses_what_the_guard_refuses(change, where):
    document = documents.images().to_dict()
    change(document)
    error = jsonschema.exceptions.best_match(
        jsonschema.Draft202012Validator(json_schema()).iter_errors(document)
    )
    assert list(error.absolute_path)[: len(where)] == where
    with pytest.raises(DocumentError):
        Explanation.from_json(json.dumps(document))


# Round trips


def test_a_document_survives_json(golden):
    assert Explanation.from_json(golden.to_json()) == golden
    assert Explanation.from_json(golden.to_json().encode()) == golden
    assert json.loads(golden.to_json()) == golden.to_dict()


def test_a_document_survives_a_file(golden, tmp_path):
    path = golden.save(tmp_path / "why.relatif.json")
    assert path == tmp_path / "why.relatif.json"
    assert Explanation.load(path) == golden


def test_a_byte_order_mark_is_no_damage():
    assert Explanation.from_json(b"\xef\xbb\xbf" + documents.rows().to_json().encode()) == documents.rows()


# Look-ups


def test_top_reads_the_table_at_the_documents_settings():
    found = documents.images().top("9")
    assert [(example.index, score) for example, score in found] == [(24446, 4.5), (22708, 2.25), (48409, 1.5)]


def test_top_reads_the_table_at_other_settings():
    explanation = documents.images()
    found = explanation.top(4, method="influence", damping=0.001, sign="negative", k=2)
    assert [(example.index, score) for example, score in found] == [(22708, -3.0), (48409, -1.5)]


def test_both_signs_rank_by_the_size_of_the_score():
    found = documents.names().top("Russian", method="influence", damping=0.001, sign="both", k=3)
    assert [(example.index, score) for example, score in found] == [(0, 3.0), (30, -3.0), (10, 1.5)]


@pytest.mark.parametrize("sign", ["positive", "negative", "both"])
@pytest.mark.parametrize("damping", documents.DAMPINGS)
def test_nearest_has_neither_sign_nor_damping(sign, damping):
    found = documents.images().top("9", method="nearest", sign=sign, damping=damping)
    assert [(example.index, score) for example, score in found] == [
        (24446, -0.25),
        (11422, -1.0),
        (20562, -2.25),
    ]


def test_a_table_gives_all_it_has_where_k_is_larger():
    assert indices(documents.images().top("9", k=50, damping=0.001)) == [11422, 24446, 22708, 48409]


def test_a_label_is_found_by_name_and_by_class():
    explanation = documents.names()
    assert explanation.top("Russian") == explanation.top(0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "influnce"}, "Did you mean 'influence'?"),
        ({"sign": "postive"}, "Did you mean 'positive'?"),
        ({"damping": 0.02}, "damping=0.02 is not a stop of this explanation; it has 0.001, 0.01, 0.1."),
        ({"k": 0}, "k=0 asks for no example; give 1 or more."),
        ({"k": -1}, "k=-1 asks for no example; give 1 or more."),
    ],
)
@pytest.mark.parametrize("ask", ["top", "to_frame", "with_settings"])
def test_unknown_settings_are_refused_with_what_would_do(ask, options, sentence):
    explanation = documents.images()
    arguments = ("9",) if ask == "top" else ()
    with pytest.raises(ChoiceError) as caught:
        getattr(explanation, ask)(*arguments, **options)
    assert sentence in str(caught.value)


def test_an_unknown_label_is_refused_with_the_nearest():
    with pytest.raises(ChoiceError, match="Did you mean 'Russian'"):
        documents.names().top("russan")


@pytest.mark.parametrize("label", [True, 7, None])
def test_only_a_panels_class_is_a_label(label):
    with pytest.raises(ChoiceError, match="is not known"):
        documents.identity().top(label)


def test_a_stop_is_met_within_rounding():
    explanation = documents.images()
    assert explanation.top("9", damping=0.1 * (1 + 1e-12)) == explanation.top("9", damping=0.1)


def test_a_method_that_damping_does_not_change_has_one_row_for_every_stop():
    explanation = documents.identity()
    assert indices(explanation.top("9", method="influence", damping=0.001)) == [22708, 48409, 11422, 24446]


def test_the_frame_has_a_row_for_every_card():
    frame = documents.images().to_frame(k=2)
    assert frame.to_dict("list") == {
        "panel": ["9", "9", "4", "4"],
        "rank": [1, 2, 1, 2],
        "index": [24446, 22708, 1995, 26657],
        "score": [4.5, 2.25, 4.5, 2.25],
        "label": ["9", "9", "4", "4"],
        "predicted": ["9", "4", "9", "4"],
        "probability": [0.9, 0.38, 0.24, 0.9],
        "loss": [0.105, 0.968, 1.427, 0.105],
        "self_influence": [15.0, 24.0, 3.0, 12.0],
        "method": ["loss_relative"] * 4,
        "damping": [0.01] * 4,
    }


def test_a_document_of_version_1_0_still_opens():
    old = documents.images().to_dict()
    old["schema_version"] = "1.0"
    del old["provenance"]["examined"]
    for example in old["examples"]:
        del example["self_influence"], example["self_influence_rank"]
    found = Explanation.from_json(json.dumps(old))
    assert found.examples == _without_self_influence()
    assert found.provenance.examined is None
    assert found.to_frame(k=1)["self_influence"].tolist() == [None, None]
    assert not found.examples[0].is_global(0, 55000)


def test_the_top_percentile_of_self_influence_is_global():
    found = documents.images().examples
    assert [example.is_global(0, 55000) for example in found[:4]] == [True, True, False, False]
    assert not found[1].is_global(0, 30000)  # rank 300 of 30,000 is the first outside


def test_a_rank_is_looked_up_in_the_whole_table():
    found = documents.images()
    panel = found.panel("9")
    listed = found.top("9", method="influence", damping=0.01, k=20)
    assert [
        found.rank_of(panel, example.index, method="influence", damping=0.01) for example, _ in listed
    ] == [1, 2, 3, 4]
    assert found.rank_of(panel, 1995, method="influence", damping=0.01) is None


def test_an_example_left_out_makes_room_for_the_next():
    found = documents.images()
    rest = found.without(24446, 3)
    assert [example.index for example, _ in found.top("9", k=4)] == [24446, 22708, 48409, 11422]
    assert [example.index for example, _ in rest.top("9", k=4)] == [22708, 48409, 11422]
    assert [score for _, score in rest.top("9", k=4)] == [score for _, score in found.top("9", k=4)[1:]]


def test_the_frame_of_a_regression_holds_targets():
    assert list(documents.regression().to_frame()["label"]) == ["155.5", "141"]


def test_a_frame_without_rows_keeps_its_columns():
    frame = documents.rows().to_frame()
    assert len(frame) == 0
    assert list(frame.columns[:4]) == ["panel", "rank", "index", "score"]


def test_two_panels_of_one_name_keep_their_own_rows():
    explanation = documents.regression()
    near = replace(explanation.panels[0], rankings=documents.tables((2,), (), ()))
    twice = replace(explanation, panels=(explanation.panels[0], near))
    assert list(twice.to_frame()["index"]) == [7, 11, 2]


def test_with_settings_moves_only_what_is_given():
    moved = documents.images().with_settings(method="nearest", damping=0.1 * (1 + 1e-12))
    assert moved.settings == Settings(method="nearest", sign="positive", k=3, damping=0.1)
    assert moved.panels == documents.images().panels


# What a document cannot be


def _without_self_influence():
    return tuple(
        replace(example, self_influence=(), self_influence_rank=()) for example in documents.images().examples
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"dampings": (0.1, 0.01, 0.001)}, "ascend"),
        ({"dampings": (0.001, 0.01)}, "22708 has 3 self-influences for 2 damping stops"),
        (
            {"dampings": (0.001, 0.01), "examples": _without_self_influence()},
            "3 rows for 2 damping stops",
        ),
        ({"settings": Settings(damping=0.5)}, "settings.damping 0.5 is none of the stops"),
        ({"class_names": ("0", "1")}, "10 probabilities for 2 classes"),
        ({"sprite": None}, "cell 8 is not one of the 0"),
        ({"examples": ()}, "mentions example"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(change, fault):
    with pytest.raises(ValueError, match=fault):
        replace(documents.images(), **change)


def test_a_score_must_be_a_number():
    with pytest.raises(ValueError, match="influence has a score that is not a finite number"):
        Ranking(method="influence", sign="positive", examples=((0,),), scores=((float("nan"),),))


def test_a_row_needs_a_value_for_each_column():
    with pytest.raises(ValueError, match="2 columns but 1 values"):
        Row(columns=("a", "b"), values=("1",))


def _set(*path):
    *keys, last, value = path

    def change(document):
        for key in keys:
            document = document[key]
        document[last] = value

    return change


DAMAGE = {
    "a class is text": _set("query", "label", "4"),
    "a class is true": _set("query", "label", True),
    "a class has no name": _set("query", "label", 10),
    "a panel's class has no name": _set("panels", 0, "label", 10),
    "a count is negative": _set("examples", 0, "index", -1),
    "a count is huge": _set("examples", 0, "index", 10**400),
    "a count is broken": _set("examples", 0, "index", 1.5),
    "a probability is text": _set("examples", 0, "probability", "0.5"),
    "a probability is above one": _set("examples", 0, "probability", 1.01),
    "a probability is NaN": _set("examples", 0, "probability", float("nan")),
    "a probability is missing": _set("query", "probabilities", [1.0]),
    "a loss is infinite": _set("examples", 0, "loss", float("inf")),
    "a score is NaN": _set("panels", 0, "rankings", 0, "scores", 0, 0, float("nan")),
    "a score is null": _set("panels", 0, "rankings", 0, "scores", 0, 0, None),
    "a position is out of range": _set("panels", 0, "rankings", 0, "examples", 0, 0, 8),
    "a position is negative": _set("panels", 0, "rankings", 0, "examples", 0, 0, -1),
    "a table has a row too few": lambda d: d["panels"][0]["rankings"][0].update(
        examples=[[0], [0]], scores=[[1], [1]]
    ),
    "scores and positions differ": lambda d: d["panels"][0]["rankings"][0]["scores"][0].pop(),
    "a method is unknown": _set("panels", 0, "rankings", 0, "method", "gradcam"),
    "a ranking is missing": lambda d: d["panels"][0]["rankings"].pop(),
    "a ranking is twice there": lambda d: d["panels"][0]["rankings"].append(d["panels"][0]["rankings"][0]),
    "no panel": _set("panels", []),
    "no damping": _set("dampings", []),
    "dampings fall": _set("dampings", [0.1, 0.01, 0.001]),
    "a damping is zero": _set("dampings", 0, 0),
    "the slider stands between stops": _set("settings", "damping", 0.05),
    "k is zero": _set("settings", "k", 0),
    "a cell is off the sheet": _set("examples", 0, "media", "cell", 9),
    "media of no kind": _set("examples", 0, "media", {"cell": 0}),
    "media of an unknown kind": _set("examples", 0, "media", {"kind": "x" * 10000}),
    "a row's values are too few": _set("query", "media", {"kind": "row", "columns": ["a"], "values": []}),
    "a sprite is no base64": _set("sprite", "data", "../../etc/passwd\n"),
    "a sprite is markup": _set("sprite", "data", '"><script>'),
    "a sprite is a script": _set("sprite", "mime", "image/svg+xml"),
    "a sprite has no width": _set("sprite", "width", 0),
    "the query is missing": lambda d: d.pop("query"),
    "the query is a list": _set("query", []),
    "a name is too long to repeat": _set("panels", 0, {"label": 9, "name": "x" * 10000, "rankings": []}),
}


def refusal(text):
    with pytest.raises(DocumentError) as caught:
        Explanation.from_json(text)
    sentence = str(caught.value)
    assert sentence[-1] in ".?"
    assert len(sentence) < 350
    assert "\n" not in sentence
    assert "pydantic" not in sentence
    return sentence


@pytest.mark.parametrize("change", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_refused_in_a_sentence(change):
    document = documents.images().to_dict()
    change(document)
    assert refusal(json.dumps(document)).startswith("Damaged explanation at ")


def test_damage_is_named_by_its_place():
    document = documents.images().to_dict()
    document["examples"][2]["loss"] = None
    assert (
        refusal(json.dumps(document))
        == "Damaged explanation at examples.2.loss: Input should be a valid number."
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "hello",
        "<html></html>",
        documents.images().to_json()[:-1],
        documents.images().to_json()[: len(documents.images().to_json()) // 2],
        documents.images().to_json() + "}",
        "[" * 100_000,
        '{"a":' * 100_000,
        b"\x00\x01\x02",
        b"\xff\xfe{\x00}\x00",
        b"\x80\x04\x95pickle",
        "9" * 5000,
    ],
    ids=range(13),
)
def test_what_is_not_json_is_refused(text):
    assert refusal(text).startswith("Not a complete JSON document")


@pytest.mark.parametrize("text", ["null", "3", '"text"', "[]", "[{}]", "{}", '{"schema_version": 1}'])
def test_json_of_something_else_is_refused(text):
    assert refusal(text) == "No schema_version: this JSON is not a relatif_widgets explanation."


@pytest.mark.parametrize("version", ["2.0", "10.0", "0.9", "", "9" * 10000])
def test_another_major_version_is_refused_by_name(version):
    document = documents.images().to_dict() | {"schema_version": version}
    assert f"schema version {version[:20]}; this relatif_widgets reads 1.x" in refusal(json.dumps(document))


@pytest.mark.parametrize("version", ["1.0", "1.7"])
def test_a_newer_minor_version_opens_with_fields_that_are_not_known_yet(version):
    document = documents.images().to_dict() | {"schema_version": version, "mood": "good"}
    document["query"]["colour"] = {"hue": 3}
    document["examples"][0]["media"]["depth"] = 8
    opened = Explanation.from_json(json.dumps(document))
    assert opened == replace(documents.images(), schema_version=version)


def test_settings_left_out_stand_at_their_defaults():
    document = documents.images().to_dict()
    document["settings"] = {}
    assert Explanation.from_json(json.dumps(document)).settings == Settings(
        method="loss_relative", sign="positive", k=5, damping=0.001
    )


@pytest.mark.parametrize("half", ["\ud800", "\\ud800"])
def test_half_a_character_is_refused(half):
    document = documents.rows().to_dict()
    document["class_names"][0] = "HALF"
    refusal(json.dumps(document).replace("HALF", half))


def test_documents_say_their_version():
    assert documents.rows().to_dict()["schema_version"] == SCHEMA_VERSION == "1.1"


# Saving


@pytest.mark.parametrize("step", ["replace", "fdopen"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(step, tmp_path, monkeypatch):
    path = tmp_path / "why.relatif.json"
    path.write_text("old")

    class Full:
        def __init__(self, handle, *_, **__):
            os.close(handle)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, _):
            raise OSError(28, "No space left on device")

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, Full if step == "fdopen" else fails)
    with pytest.raises(OSError, match="No space"):
        documents.rows().save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["why.relatif.json"]
    assert path.read_text() == "old"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits of this kind")
def test_a_saved_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("x")
    saved = documents.rows().save(tmp_path / "saved")
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_saving_into_a_folder_that_is_not_there_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "why", "text")


def test_a_saved_document_opens_without_torch_and_draws_without_matplotlib():
    program = f"""
import sys
from relatif_widgets import Explanation
explanation = Explanation.load({str(documents.GOLDEN / "images.relatif.json")!r})
explanation._repr_mimebundle_()
explanation.top("9")
loaded = set(sys.modules)
print(sorted(loaded & {{"torch", "matplotlib", "ipyplot", "pandas", "IPython", "ipywidgets", "anywidget"}}))
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"There is no folder .*nowhere to write a\.relatif\.json into"
    ):
        documents.images().save(tmp_path / "nowhere" / "a.relatif.json")
