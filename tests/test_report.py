"""Several explanations in one document."""

from __future__ import annotations

import json

import documents
import jsonschema
import pytest
import torch
from documents import REPORT, REPORT_SCHEMA
from torch import nn

from relatif_widgets import ChoiceError, DocumentError, Explainer, Explanation, ExplanationWidget, Report


def test_the_golden_report_and_its_schema_are_what_the_code_writes() -> None:
    assert REPORT.read_text(encoding="utf-8") == documents.report_text()
    assert REPORT_SCHEMA.read_text(encoding="utf-8") == documents.report_schema_text()
    schema = json.loads(REPORT_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(documents.report().to_dict(), schema)


@pytest.mark.parametrize("missing", ["explanations", "schema_version"])
def test_the_schema_asks_for_what_readers_need(missing: str) -> None:
    broken = documents.report().to_dict()
    del broken[missing]
    with pytest.raises(jsonschema.ValidationError, match=missing):
        jsonschema.validate(broken, documents.report_schema())


def test_a_report_comes_back_from_its_file_as_it_was(tmp_path) -> None:
    report = documents.report()
    path = report.save(tmp_path / "three.relatif.json")
    assert Report.load(path) == report
    assert [one.query.name for one in Report.load(path)] == [one.query.name for one in report.explanations]
    assert len(report) == 3
    assert report[2] == documents.regression()


def test_a_single_explanation_opens_as_a_report_of_one_but_not_the_other_way_round(tmp_path) -> None:
    single = documents.images().save(tmp_path / "one.relatif.json")
    assert Report.load(single) == Report([documents.images()])
    with pytest.raises(DocumentError, match=r"a report of several explanations: open it with Report\.load"):
        Explanation.load(documents.report().save(tmp_path / "three.relatif.json"))


def test_a_damaged_report_is_one_sentence_that_names_the_place() -> None:
    broken = documents.report().to_dict()
    broken["explanations"][1]["dampings"] = []
    with pytest.raises(DocumentError, match=r"^Damaged explanation at explanations\.1\.dampings: "):
        Report.from_json(json.dumps(broken))
    with pytest.raises(DocumentError, match=r"^Damaged explanation at explanations: "):
        Report.from_json('{"schema_version": "1.1", "explanations": []}')
    with pytest.raises(DocumentError, match="run its cell again"):
        Report.from_json('{"schema_version": "1.1", "pending": true}')


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "at least one explanation"), (["no"], "holds explanations, not str")],
)
def test_a_report_of_nothing_is_refused(given: list[object], message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        Report(given)


def test_its_frame_is_the_frames_of_its_explanations() -> None:
    report = Report([documents.images(), documents.names()])
    frame = report.to_frame(k=2, method="influence")
    first = documents.images().to_frame(k=2, method="influence")
    assert list(frame.columns) == ["query", *first.columns]
    assert frame["index"].tolist() == [
        *first["index"],
        *documents.names().to_frame(k=2, method="influence")["index"],
    ]
    assert frame["query"].unique().tolist() == [one.query.name for one in report]


def test_settings_reach_every_explanation() -> None:
    moved = Report([documents.images(), documents.regression()], "two").with_settings(method="influence", k=2)
    assert [one.settings.method for one in moved] == ["influence"] * 2
    assert [one.settings.k for one in moved] == [2, 2]
    assert moved.title == "two"


def test_a_notebook_gets_the_document_static_html_and_text() -> None:
    report = documents.report()
    bundle = report._repr_mimebundle_()
    assert list(bundle) == ["text/plain", "text/html", "application/vnd.relatif.explanation.v1+json"]
    kept = json.dumps(bundle["application/vnd.relatif.explanation.v1+json"])
    assert Report.from_json(kept) == report
    assert "&lt;b&gt;Why&lt;/b&gt; these three?" in bundle["text/html"]
    assert "<b>Why" not in bundle["text/html"]
    assert bundle["text/html"].count('alt="test #375"') == 1
    assert bundle["text/plain"].startswith("<b>Why</b> these three?")
    assert set(report._repr_mimebundle_(include={"text/plain"})) == {"text/plain"}


def test_its_page_is_titled_and_holds_every_explanation() -> None:
    report = documents.report()
    page = report.to_html()
    assert "<title>&lt;b&gt;Why&lt;/b&gt; these three?</title>" in page
    data = page.partition('id="relatif-explanation">')[2].partition("</script>")[0]
    assert Report.from_json(data) == report


@pytest.fixture(scope="module")
def fitted() -> tuple[Explainer, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    model = nn.Linear(3, 3)
    inputs = torch.randn(30, 3)
    explainer = Explainer(model, (inputs, torch.arange(30) % 3)).fit(progress=False)
    return explainer, (torch.randn(6, 3), torch.arange(6) % 3)


def test_a_test_set_makes_a_report_of_rows(fitted) -> None:
    explainer, test_set = fitted
    queries = explainer.queries(test_set)
    report = queries.report([4, 1], labels=["0", "2"], title="Two")
    assert [one.query.index for one in report] == [4, 1]
    assert [one.labels for one in report] == [("0", "2")] * 2
    assert report[0].panels == queries.explain(4, ["0", "2"]).panels
    with pytest.raises(ChoiceError, match="Test example 6 does not exist; expected 0 to 5"):
        queries.report([6])
    with pytest.raises(ChoiceError, match="at least one"):
        queries.report([])


def test_a_widget_reports_what_it_prepared_with_its_controls_and_panels(fitted) -> None:
    explainer, test_set = fitted
    widget = ExplanationWidget(explainer, test_set, labels=["1"])
    widget.wait()
    widget.query = 3
    widget.wait()
    widget.method, widget.k = "influence", 2
    report = widget.report(title="Looked at")
    assert [one.query.index for one in report] == [0, 3]
    assert report[0].labels == ("1",)
    assert [(one.settings.method, one.settings.k) for one in report] == [("influence", 2)] * 2
    assert [one.query.index for one in widget.report([5, 3])] == [5, 3]
    assert widget.report([3])[0].panels == widget.explanation.panels
    with pytest.raises(ChoiceError, match="Test example -1"):
        widget.report([-1])
