"""Text from data stays text in every view, and a damaged document is one sentence: the browser reads the same lists."""

from __future__ import annotations

import io
import json
import re
import unicodedata
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import documents
import pytest
from IPython.utils.capture import capture_output

from relatif_widgets import DocumentError, Explanation, Report
from relatif_widgets.explanation import Row, Text
from relatif_widgets.saved import MIME_TYPE, pack

GOLDEN = Path(__file__).parent / "golden"
HOSTILE: dict[str, str] = json.loads((GOLDEN / "hostile.json").read_text(encoding="utf-8"))
DAMAGE: list[dict[str, Any]] = json.loads((GOLDEN / "damage.json").read_text(encoding="utf-8"))
each_text = pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())


class Markup(HTMLParser):
    """What a parser makes of HTML: its tags, its attributes, its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.sources: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.sources |= {str(value).partition(",")[0] for name, value in attrs if name in {"src", "href"}}

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.tags.add("comment")


def every_field(text: str) -> Explanation:
    """A document that holds the text wherever text can come from data."""
    base = documents.images()
    names = tuple(f"{text}{at}" for at in range(len(base.class_names)))
    examples = [
        replace(example, media=Row(columns=(text, "b"), values=("1", text)) if at % 2 else Text(text=text))
        for at, example in enumerate(base.examples)
    ]
    return replace(
        base,
        query=replace(base.query, name=text, media=Text(text=text)),
        class_names=names,
        panels=tuple(
            replace(panel, name=names[panel.label]) for panel in base.panels if panel.label is not None
        ),
        examples=tuple(examples),
        provenance=replace(
            base.provenance, curvature_detail=text, package_version=text, created=text, loss=text
        ),
    )


@each_text
def test_it_is_text_in_static_html_and_in_the_page(text: str) -> None:
    explanation = every_field(text)
    shown = explanation._repr_mimebundle_()["text/html"]
    assert Markup(shown).tags <= {"div", "table", "tr", "td", "b", "bdi", "span", "img"}
    assert Markup(shown).attributes <= {"style", "role", "width", "height", "alt", "src"}
    assert Markup(shown).sources <= {"data:image/png;base64", "data:image/webp;base64"}
    assert len(shown) < 60_000
    for page in (explanation.to_html(), Report([explanation], text).to_html()):
        found = Markup(page)
        assert "comment" not in found.tags
        assert not {"iframe", "object", "svg", "link", "form"} & found.tags
        assert not any(name.startswith("on") for name in found.attributes)
        scripts = re.findall(r"<script[^>]*>", page)
        assert scripts == ['<script type="application/json" id="relatif-explanation">', "<script>"]
        data = page.partition(scripts[0])[2].partition("</script>")[0]
        assert not set("<\u2028\u2029") & set(data)
        assert Report.from_json(data)[0] == explanation


@each_text
def test_it_is_text_in_plain_text(text: str) -> None:
    shown = repr(every_field(text))
    assert not {sign for sign in shown if unicodedata.category(sign) == "Cc"} - {"\n"}
    assert not re.search("[\u202a-\u202e\u2028\u2029]", shown)
    calm = repr(every_field("calm"))
    assert len(shown.split("\n")) == len(calm.split("\n"))
    assert max(map(len, shown.split("\n"))) < 500


@each_text
def test_it_is_text_in_a_figure(text: str) -> None:
    with warnings.catch_warnings():
        # Letters that matplotlib's font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = every_field(text).figure(k=2)
        for kind in ("png", "svg", "pdf"):
            file = io.BytesIO()
            figure.savefig(file, format=kind)
            assert len(file.getvalue()) > 5_000
            if kind == "svg":
                tags = set(re.findall(r"<([A-Za-z:]+)", file.getvalue().decode()))
                assert not {"script", "img", "image", "iframe"} & tags


@each_text
def test_it_is_text_in_ipyplots_gallery(text: str) -> None:
    base = documents.images()
    names = tuple(f"{text}{at}" for at in range(len(base.class_names)))
    explanation = replace(
        base,
        class_names=names,
        panels=tuple(
            replace(panel, name=names[panel.label]) for panel in base.panels if panel.label is not None
        ),
    )
    with capture_output() as captured:
        shown = explanation.gallery().data
    assert captured.stdout == ""
    assert captured.outputs == []
    calm = Markup(base.gallery().data)
    found = Markup(shown)
    assert found.tags == calm.tags
    assert found.attributes == calm.attributes


def edited(document: dict[str, Any], edit: dict[str, Any]) -> dict[str, Any]:
    """One place of a document replaced, or taken away where the edit has no value."""
    *way, last = edit["path"]
    place: Any = document
    for step in way:
        place = place[step]
    if "value" in edit:
        place[last] = edit["value"]
    else:
        del place[last]
    return document


@pytest.mark.parametrize("edit", DAMAGE, ids=[edit["name"] for edit in DAMAGE])
def test_a_hand_edited_document_is_one_sentence_that_names_the_place(edit: dict[str, Any]) -> None:
    text = json.dumps(edited(documents.images().to_dict(), edit))
    with pytest.raises(DocumentError) as caught:
        Explanation.from_json(text)
    assert re.fullmatch(r"Damaged explanation at [\w.]+: [^\n]{1,260}\.", str(caught.value))


def test_what_notebooks_keep_is_compressed_and_comes_back() -> None:
    explanation = documents.images()
    kept = explanation._repr_mimebundle_()[MIME_TYPE]
    assert list(kept) == ["schema_version", "packed"]
    assert Explanation.from_json(json.dumps(kept)) == explanation
    assert Explanation.from_json(json.dumps(kept).encode()) == explanation


@pytest.mark.parametrize(
    ("packed", "fault"),
    [
        ("no base64!", "at packed: "),
        ("AAAA", "at packed: Error -3"),
        (pack("x" * 1000)["packed"][:20], "at packed: "),
        (pack('{"schema_version": "1.1", "packed": "AAAA"}')["packed"], "it is packed twice"),
        (pack("[" * 65_000_000)["packed"], "it holds more than 64,000,000 bytes"),
        (pack('{"schema_version": "1.1"')["packed"], "Was the file cut short"),
        (pack('{"schema_version": "2.0"}')["packed"], "schema version 2.0"),
    ],
    ids=["no base64", "no deflate", "cut short", "twice", "a bomb", "half a document", "newer"],
)
def test_a_damaged_package_is_one_sentence(packed: str, fault: str) -> None:
    with pytest.raises(DocumentError, match=fault):
        Explanation.from_json(json.dumps({"schema_version": "1.1", "packed": packed}))


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_a_truncated_document_says_that_it_was_cut_short(part: float) -> None:
    text = documents.images().to_json()
    with pytest.raises(DocumentError, match="Was the file cut short"):
        Explanation.from_json(text[: int(part * len(text))])


@pytest.mark.parametrize("version", [99, 2.0, "2.0"])
def test_a_newer_version_is_said_however_it_is_written(version: object) -> None:
    with pytest.raises(DocumentError, match=f"schema version {version}"):
        Explanation.from_json(json.dumps({"schema_version": version}))
