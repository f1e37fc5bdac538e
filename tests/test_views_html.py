"""The static HTML, the page of its own, and the plain text."""

import base64
import hashlib
import html as markup
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import documents
import pytest
from PIL import Image

from relatif_widgets.errors import RelatifError
from relatif_widgets.explanation import Cell, Explanation, Picture
from relatif_widgets.saved import MIME_TYPE
from relatif_widgets.views import html, words
from relatif_widgets.views.html import page, static_html
from relatif_widgets.views.text import plain_text

NAMES = sorted(documents.DOCUMENTS)
VOID = {"img", "meta", "br"}


class Parsed(HTMLParser):
    """Elements, attributes and text of a fragment, as an HTML parser takes it."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.strings, self.unbalanced = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.strings.append(data)

    @property
    def text(self):
        return "".join(self.strings)

    def attributes(self, tag, name):
        return [attrs.get(name) for found, attrs in self.tags if found == tag]


def picture(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


@pytest.fixture(params=NAMES)
def golden(request):
    return documents.DOCUMENTS[request.param]()


def test_the_static_html_holds_only_inert_elements_and_inline_styles(golden):
    parsed = Parsed(static_html(golden))
    assert {tag for tag, _ in parsed.tags} <= {"div", "span", "table", "tr", "td", "img", "b", "bdi"}
    names = {name for _, attrs in parsed.tags for name in attrs}
    assert names <= {"style", "src", "alt", "width", "height", "role"}
    assert all(source.startswith("data:image/") for source in parsed.attributes("img", "src"))
    assert parsed.open == parsed.unbalanced == []


def test_the_static_html_sets_no_text_colour_as_none_is_legible_on_white_and_black(golden):
    styles = [attrs["style"] for _, attrs in Parsed(static_html(golden)).tags if "style" in attrs]
    assert not [style for style in styles if re.search(r"(^|;)color:", style)]


def test_the_static_html_says_what_the_document_says():
    text = Parsed(static_html(documents.images())).text
    for part in (
        "Why “9”?",
        "test #375",
        "true label 4 ✗",
        "9 taught the model to say 9",
        "4 taught the model to say 4",
        "ℓ-RelatIF · damping 0.01 (2.5 × mean eigenvalue) · helpful · k = 3",
        "55,000 training examples · 7,850 parameters · exact Fisher",
    ):
        assert part in text
    cards = re.findall(r"([49]) (\d\.\d\d)#(\d+) ([+−]\d\.\d\d)(▲ says [49])?", text)
    assert cards == [
        ("9", "0.90", "24446", "+4.50", ""),
        ("9", "0.38", "22708", "+2.25", "▲ says 4"),
        ("9", "0.65", "48409", "+1.50", ""),
        ("4", "0.24", "1995", "+4.50", "▲ says 9"),
        ("4", "0.90", "26657", "+2.25", ""),
        ("4", "0.51", "20562", "+1.50", ""),
    ]


def test_a_correct_prediction_gets_a_tick():
    assert "true label setosa ✓" in Parsed(static_html(documents.rows())).text


def test_only_the_cells_that_are_shown_are_cut_out():
    parsed = Parsed(static_html(documents.images()))
    alts = parsed.attributes("img", "alt")
    assert alts == [
        "test #375",
        "9, training example 24446",
        "9, training example 22708",
        "9, training example 48409",
        "4, training example 1995",
        "4, training example 26657",
        "4, training example 20562",
    ]
    for cell, uri in zip((8, 3, 0, 1, 7, 4, 5), parsed.attributes("img", "src"), strict=True):
        image = picture(uri).convert("L")
        assert image.size == (8, 8)
        assert [image.getpixel((x, y)) for y in range(8) for x in range(8)] == [
            documents.pixel(cell, x, y) for y in range(8) for x in range(8)
        ]


def test_score_bars_share_one_scale_over_the_panels():
    explanation = documents.images()
    small = replace(explanation.panels[1], rankings=tuple(
        replace(r, scores=tuple(tuple(score / 2 for score in row) for row in r.scores))
        for r in explanation.panels[1].rankings
    ))  # fmt: skip
    shown = static_html(replace(explanation, panels=(explanation.panels[0], small)))
    assert re.findall(r"width:([\d.]+)%;background:#128a82", shown) == [
        "100.0",
        "50.0",
        "33.3",
        "50.0",
        "25.0",
        "16.7",
    ]


def test_harmful_scores_have_their_own_colour_and_a_minus():
    shown = static_html(documents.images().with_settings(sign="negative"))
    assert "#128a82" not in shown
    assert shown.count("#c4621a") == 6
    assert "−4.50" in shown


def test_nearest_shows_distances_and_no_damping():
    text = Parsed(static_html(documents.images().with_settings(method="nearest"))).text
    assert "0.500" in text
    assert "nearest examples, whatever the label" in text
    assert "k-NN · k = 3" in text
    assert "damping" not in text


def test_the_identity_names_no_damping():
    assert "damping" not in static_html(documents.identity())


def test_a_panel_without_examples_says_so():
    assert "No training example argued against setosa at this setting." in static_html(documents.rows())


def test_nothing_typed_by_data_is_markup():
    shown = static_html(documents.hostile())
    parsed = Parsed(shown)
    for name in documents.HOSTILE[:3]:
        assert name in parsed.text
    assert "<script" not in shown
    assert "<!--" not in shown
    assert "onerror" not in {name for _, attrs in parsed.tags for name in attrs}


def test_marks_that_reorder_or_break_lines_are_shown_not_obeyed():
    shown = static_html(documents.hostile())
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00-\x1f]", shown)
    assert r"\u202egnp.exe\u202c" in shown
    assert r"two\nlines\tand\x1b[31m red" in shown


def test_a_name_of_ten_thousand_letters_does_not_fill_the_notebook():
    assert len(static_html(documents.hostile())) < 60_000


def test_names_go_into_alt_texts_escaped():
    explanation = documents.images()
    hostile = replace(explanation, query=replace(explanation.query, name="\"><script>x</script>'"))
    parsed = Parsed(static_html(hostile))
    assert parsed.attributes("img", "alt")[0] == "\"><script>x</script>'"
    assert "script" not in {tag for tag, _ in parsed.tags}


def two_panels_of_five(side):
    """Two panels with five different pictures each, as noisy as pictures get."""
    count = 10
    noise = [bytes((17 * x * y + 31 * x + 7 * y) % 256 for x in range(count * side)) for y in range(side)]
    explanation = documents.images()
    sheet = replace(
        explanation.sprite, data=documents.png(noise), width=side, height=side, columns=count, count=count
    )
    examples = tuple(
        replace(explanation.examples[0], index=50_000 + cell, media=Cell(cell=cell)) for cell in range(count)
    )
    panels = (
        replace(explanation.panels[0], rankings=documents.tables((0, 1, 2, 3, 4), (), ())),
        replace(explanation.panels[1], rankings=documents.tables((5, 6, 7, 8, 9), (), ())),
    )
    return replace(explanation, sprite=sheet, examples=examples, panels=panels).with_settings(k=5)


def test_two_panels_of_five_pictures_stay_within_forty_kilobytes():
    assert len(static_html(two_panels_of_five(28)).encode()) <= 40_000


def test_a_page_of_two_panels_stays_within_five_hundred_kilobytes(built):
    assert len(page(two_panels_of_five(32)).encode()) <= 500_000


@pytest.mark.parametrize("data", ["AAAA", "A", documents.sprite(9).data[:200]])
def test_a_picture_that_cannot_be_read_costs_only_itself(data):
    explanation = documents.images()
    broken = replace(explanation, sprite=replace(explanation.sprite, data=data))
    assert static_html(broken).count("This picture cannot be read.") == 7


def test_a_sheet_smaller_than_it_says_costs_only_the_missing_cells():
    explanation = documents.images()
    broken = replace(explanation, sprite=replace(explanation.sprite, count=20))
    broken = replace(broken, query=replace(broken.query, media=Cell(cell=15)))
    assert static_html(broken).count("This picture cannot be read.") == 1


def test_grey_cells_of_a_webp_sheet_come_out_as_they_were():
    explanation = documents.images()
    sheet, buffer = picture(f"data:,{explanation.sprite.data}"), io.BytesIO()
    sheet.save(buffer, "WEBP", lossless=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    webp = replace(explanation, sprite=replace(explanation.sprite, mime="image/webp", data=data))
    assert static_html(webp) == static_html(explanation)


def test_a_picture_of_its_own_is_embedded_as_it_came():
    explanation = documents.images()
    own = Picture(mime="image/png", data=documents.sprite(9).data, width=24, height=24)
    shown = static_html(replace(explanation, query=replace(explanation.query, media=own)))
    assert f'<img src="data:image/png;base64,{own.data}" alt="test #375"' in shown


def test_a_picture_of_its_own_keeps_its_proportions():
    explanation = documents.images()
    own = Picture(mime="image/png", data=documents.sprite(9).data, width=24, height=24)
    wide = Picture(mime="image/png", data=documents.png([bytes(80)] * 20), width=80, height=20)
    for media, size in ((own, ("160", "160")), (wide, ("160", "40"))):
        parsed = Parsed(static_html(replace(explanation, query=replace(explanation.query, media=media))))
        assert (parsed.attributes("img", "width")[0], parsed.attributes("img", "height")[0]) == size


# The page


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A front end, whether or not it is built here."""
    static = tmp_path / "static"
    static.mkdir()
    template = (documents.ROOT / "js" / "src" / "page.template").read_text(encoding="utf-8")
    script = "(()=>{var a='<\\/script>';console.log(a)})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {"digest": digest, "style": ".rw-root{color:red}\n", "script": script, "version": "1"}
    for name, part in parts.items():
        template = template.replace(f"{{{{{name}}}}}", part)
    (static / "page.html").write_text(template, encoding="utf-8")
    monkeypatch.setattr(html, "files", lambda _: tmp_path)
    return tmp_path


def test_the_page_carries_the_document_where_no_parser_takes_it_for_markup(built, golden):
    shown = page(golden)
    block = re.search(
        r'<script type="application/json" id="relatif-explanation">(.*?)</script>', shown, re.S
    )[1]
    assert "<" not in block
    assert "\u2028" not in block
    assert "\u2029" not in block
    assert Explanation.from_json(block) == golden
    assert json.loads(block) == golden.to_dict()


def test_the_page_may_run_its_own_script_and_nothing_else(built):
    shown = page(documents.hostile())
    script = re.search(r"<script>(.*?)</script>", shown, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policies = [
        attrs["content"]
        for tag, attrs in Parsed(shown).tags
        if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    ]


def test_the_policy_stands_before_anything_it_must_govern(built):
    shown = page(documents.hostile())
    assert shown.index("Content-Security-Policy") < min(shown.index("<title"), shown.index("<style"))


def test_the_page_fetches_nothing(built, golden):
    shown = page(golden)
    assert not re.search(
        r"https?:|//[a-z]|url\(|@import|<link|<iframe", shown.split('id="relatif-explanation">')[0]
    )
    assert [attrs for tag, attrs in Parsed(shown).tags if tag == "script"] == [
        {"type": "application/json", "id": "relatif-explanation"},
        {},
    ]


def test_the_page_has_a_root_a_title_and_words_for_readers_without_script(built):
    shown = page(documents.images())
    assert '<main id="relatif-root" class="rw-standalone"></main>' in shown
    assert "<title>Why “9”? test #375</title>" in shown
    assert '<html lang="en">' in shown
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in shown
    assert f"<noscript>{static_html(documents.images())}</noscript>" in shown


def test_a_hostile_name_cannot_leave_the_title_or_the_noscript(built):
    shown = page(documents.hostile())
    assert shown.count("</noscript>") == shown.count("</title>") == 1
    assert markup.escape("<script>alert(1)</script>") in re.search("<title>(.*)</title>", shown)[1]


def test_a_front_end_that_is_not_built_is_named(built):
    (built / "static" / "page.html").unlink()
    with pytest.raises(RelatifError, match=r"static/page\.html is missing: .* Run `make setup`"):
        page(documents.images())


def test_to_html_writes_the_page_or_returns_it(built, tmp_path):
    path = tmp_path / "why.html"
    assert documents.images().to_html(path) == path
    assert path.read_bytes().decode() == documents.images().to_html() == page(documents.images())


# Plain text


def test_the_plain_text_is_this_table():
    assert (
        plain_text(documents.images())
        == """\
Why “9”?  test #375 · predicted 9 (0.52) · true label 4 ✗
ℓ-RelatIF · damping 0.01 (2.5 × mean eigenvalue) · helpful · k = 3 · 55,000 training examples \
· 7,850 parameters · exact Fisher

9: taught the model to say 9
  rank   index  label  says  probability  score
     1  #24446  9                   0.90  +4.50
     2  #22708  9      4            0.38  +2.25
     3  #48409  9                   0.65  +1.50

4: taught the model to say 4
  rank   index  label  says  probability  score
     1   #1995  4      9            0.24  +4.50
     2  #26657  4                   0.90  +2.25
     3  #20562  4                   0.51  +1.50"""
    )


def test_columns_that_say_nothing_are_left_out():
    assert (
        plain_text(documents.regression())
        == """\
Why “148.2”?  test #3 · predicted 148.2 · true value 151
ℓ-RelatIF · damping 0.001 (0.25 × mean eigenvalue) · helpful · k = 5 · 442 training examples \
· 3 parameters · exact Fisher

151: pulled the model towards 151
  rank  index  target  score  example
     1     #7  155.5   +9.00  age=60, bmi=31.0
     2    #11  141     +4.50  age=48, bmi=21.6"""
    )


def test_texts_stand_beside_their_scores():
    lines = plain_text(documents.names()).split("\n")
    assert lines[0] == "Why “Russian”?  query · predicted Russian (0.95) · “Vasyukov”"
    assert lines[5] == "     1    #20  Russian          0.88   +1.00  Sakovich"


def test_an_empty_panel_says_so_in_text():
    assert plain_text(documents.rows()).endswith(
        "\n  No training example argued against setosa at this setting."
    )


def test_hostile_names_keep_the_table_a_table():
    shown = plain_text(documents.hostile())
    assert len(shown.split("\n")) == 2 + 2 * (3 + 10)
    assert not re.search("[\u202a-\u202e\u2028\u2029\x00-\x09\x0b-\x1f]", shown)
    assert max(map(len, shown.split("\n"))) < 400
    # Right-to-left names are isolated, so that the numbers beside them stay where they are.
    assert "\u2068שלום עולם\u2069" in shown


def test_wide_characters_take_two_columns():
    explanation = documents.names()
    japanese = replace(explanation, class_names=("ロシア", "Japanese"), panels=(
        replace(explanation.panels[0], name="ロシア"),
    ))  # fmt: skip
    lines = plain_text(japanese).split("\n")
    assert lines[5] == "     1    #20  ロシア           0.88   +1.00  Sakovich"
    assert lines[6] == "     2    #30  Japanese         0.99   −1.00  Sato"


def test_an_explanation_shows_itself_as_html_and_as_text():
    explanation = documents.images()
    bundle = explanation._repr_mimebundle_()
    assert bundle["text/html"] == static_html(explanation)
    assert bundle["text/plain"] == repr(explanation) == plain_text(explanation)
    assert Explanation.from_json(json.dumps(bundle[MIME_TYPE])) == explanation


# Words


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (9.2961, "+9.30"),
        (-9.2961, "−9.30"),
        (0.0, "0"),
        (0.001, "+0.00100"),
        (0.00099, "+9.90e−4"),
        (99.96, "+100"),
        (412.4, "+412"),
        (99999.0, "+99999"),
        (123456.0, "+1.23e5"),
        (-1e-300, "−1.00e−300"),
    ],
)
def test_scores_have_three_significant_digits(score, text):
    assert words.signed(score) == text


@pytest.mark.parametrize(
    ("stop", "text"), [(1e-5, "0.00001"), (0.1, "0.1"), (1000.0, "1000"), (3.16e-8, "3.16e-8")]
)
def test_damping_has_no_idle_zeros(stop, text):
    assert words.damping(stop) == text
