"""A notebook with an explanation, converted: HTML, LaTeX (for PDF), and what GitHub shows."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any

import documents
import nbformat
import pytest
import torch
from nbconvert import HTMLExporter, LatexExporter
from torch import nn

from relatif_widgets import Explainer, Explanation, ExplanationWidget, Report

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def notebook(data: dict[str, Any]) -> nbformat.NotebookNode:
    output = nbformat.v4.new_output("execute_result", data=data, execution_count=1)
    cell = nbformat.v4.new_code_cell("explanation", outputs=[output], execution_count=1)
    return nbformat.v4.new_notebook(cells=[cell])


def holds(body: str, fragment: str) -> bool:
    """Whether a page shows a fragment: nbconvert writes its markup anew."""
    page, part = Markup(body), Markup(fragment)
    assert len(part.text) > 50
    return part.text in page.text and part.pictures <= page.pictures


class Markup(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.pictures = "", set[str]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.pictures |= {str(value) for name, value in attrs if name == "src" and tag == "img"}

    def handle_data(self, data: str) -> None:
        self.text += data


def saved_widget() -> dict[str, Any]:
    """What the extension leaves in a notebook in place of a live widget."""
    torch.manual_seed(0)
    data = torch.randn(12, 2), torch.arange(12) % 2
    widget = ExplanationWidget(Explainer(nn.Linear(2, 2), data).fit(progress=False), data)
    widget.wait()
    bundle, _ = widget._repr_mimebundle_()
    return dict(bundle)


@pytest.mark.parametrize("name", sorted(documents.DOCUMENTS))
def test_nbconvert_to_html_shows_the_static_explanation(name: str) -> None:
    explanation = documents.DOCUMENTS[name]()
    bundle = explanation._repr_mimebundle_()
    body, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook(bundle))
    assert holds(body, bundle["text/html"])
    # Once: not the text or the document beside it.
    assert body.count(explanation.provenance.model_fingerprint) == 0
    assert "schema_version" not in body


def test_nbconvert_shows_a_saved_widget_as_html_too() -> None:
    bundle = saved_widget()
    assert WIDGET_VIEW in bundle
    body, _ = HTMLExporter().from_notebook_node(notebook(bundle))
    assert holds(body, bundle["text/html"])


def test_nbconvert_to_html_shows_a_report() -> None:
    report = Report([documents.images(), documents.regression()], "Two")
    body, _ = HTMLExporter().from_notebook_node(notebook(report._repr_mimebundle_()))
    assert all(holds(body, one._repr_mimebundle_()["text/html"]) for one in report)


def test_nbconvert_to_latex_shows_the_table_and_the_figure_where_it_was_asked_for() -> None:
    explanation = documents.names()
    body, _ = LatexExporter().from_notebook_node(notebook(explanation._repr_mimebundle_()))
    _, card, *_ = repr(explanation).split("\n")[3:]
    assert "Sakovich" in body
    assert "rank" in body
    assert "<table" not in body
    assert card.split()[-1] in body
    shown = explanation._repr_mimebundle_(include={"image/png", "text/plain"})
    assert set(shown) == {"image/png", "text/plain"}
    body, resources = LatexExporter().from_notebook_node(notebook(shown))
    assert "includegraphics" in body
    (picture,) = [data for file, data in resources["outputs"].items() if file.endswith(".png")]
    assert picture.startswith(b"\x89PNG")


def test_a_png_is_made_only_on_request_and_at_the_documents_settings() -> None:
    explanation = documents.images()
    assert "image/png" not in explanation._repr_mimebundle_()
    assert "image/png" not in explanation._repr_mimebundle_(exclude={"text/html"})
    assert "text/html" not in explanation._repr_mimebundle_(exclude={"text/html"})
    one = explanation._repr_mimebundle_(include={"image/png"})["image/png"]
    other = explanation.with_settings(method="influence")._repr_mimebundle_(include={"image/png"})[
        "image/png"
    ]
    assert one != other


def test_a_widget_that_has_nothing_yet_leaves_a_place_for_its_explanation() -> None:
    torch.manual_seed(0)
    data = torch.randn(12, 2), torch.arange(12) % 2
    widget = ExplanationWidget(Explainer(nn.Linear(2, 2), data).fit(progress=False), data)
    bundle, _ = widget._repr_mimebundle_()
    assert bundle["application/vnd.relatif.explanation.v1+json"] == {"schema_version": "1.1", "pending": True}
    widget.wait()
    widget.k = 2
    bundle, _ = widget._repr_mimebundle_()
    kept = json.dumps(bundle["application/vnd.relatif.explanation.v1+json"])
    assert Explanation.from_json(kept) == widget.explanation
    assert Explanation.from_json(kept).settings.k == 2
    assert bundle["text/plain"] == repr(widget.explanation)
    widget.close()
