"""The gallery by ipyplot."""

import base64
import io
import re
from dataclasses import replace

import documents
import pytest
from IPython.display import HTML
from PIL import Image

from relatif_widgets.errors import ChoiceError, DataError
from relatif_widgets.explanation import Picture


def tabs(shown):
    return re.findall(r'<label class="ipyplot-tab-label[^>]*>(.*?)</label>', shown.data)


def captions(shown):
    return re.findall(r"<h4[^>]*>(.*?)</h4>", shown.data, re.S)


def pictures(shown):
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', shown.data)
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def named(names):
    explanation = documents.images()
    class_names = tuple(names.get(label, name) for label, name in enumerate(explanation.class_names))
    panels = tuple(replace(panel, name=class_names[panel.label]) for panel in explanation.panels)
    return replace(explanation, class_names=class_names, panels=panels)


def test_a_tab_for_each_panel_in_the_documents_order():
    assert tabs(documents.images().gallery()) == ["9", "4"]


def test_captions_give_rank_label_index_score_and_what_the_model_says():
    assert captions(documents.images().gallery(k=2)) == [
        "1. 9<br>#24446 · +4.50<br>&nbsp;",
        "2. 9<br>#22708 · +2.25<br>▲ says 4",
        "1. 4<br>#1995 · +4.50<br>▲ says 9",
        "2. 4<br>#26657 · +2.25<br>&nbsp;",
    ]


def test_the_pictures_are_those_of_the_ranking():
    shown = pictures(documents.images().gallery(k=2))
    for image, cell in zip(shown, (3, 0, 7, 4), strict=True):
        assert image.size == (8, 8)
        assert image.convert("L").getpixel((5, 3)) == documents.pixel(cell, 5, 3)


def test_more_than_thirty_pictures_a_tab_are_all_shown():
    explanation = documents.images()
    many = tuple(replace(explanation.examples[0], index=index) for index in range(40))
    panel = replace(explanation.panels[0], rankings=documents.tables(tuple(range(40)), (), ()))
    shown = replace(explanation, examples=many, panels=(panel,)).gallery(k=40)
    assert len(pictures(shown)) == 40


def test_one_object_comes_back_and_nothing_is_displayed_or_printed(capsys):
    shown = documents.images().gallery()
    assert isinstance(shown, HTML)
    assert capsys.readouterr().out == ""
    assert "html-viewer" not in shown.data
    assert len(pictures(shown)) == 6


def test_ipyplot_displays_as_before_afterwards(capsys):
    from ipyplot import _html_helpers

    before = _html_helpers.display
    documents.images().gallery()
    assert _html_helpers.display is before


@pytest.mark.parametrize("name", documents.HOSTILE)
def test_names_of_labels_stay_text(name):
    shown = named({9: name}).gallery()
    plain = documents.images().gallery()
    found = re.findall(r"<([a-z][a-z0-9]*)", shown.data)
    assert found == re.findall(r"<([a-z][a-z0-9]*)", plain.data)
    assert "<script" not in shown.data
    assert "onerror='" not in shown.data
    assert len(shown.data) < 2 * len(plain.data)


def test_panels_of_one_name_keep_their_own_tabs():
    explanation = named({9: "digit", 4: "digit"})
    shown = explanation.gallery(k=1)
    assert tabs(shown) == ["digit (1)", "digit (2)"]
    assert [text.split("<br>")[1] for text in captions(shown)] == ["#24446 · +4.50", "#1995 · +4.50"]


def test_pictures_of_several_sizes_are_centred_on_one():
    explanation = documents.images()
    own = Picture(mime="image/png", data=documents.png([bytes(4)] * 2), width=4, height=2)
    examples = (
        *explanation.examples[:3],
        replace(explanation.examples[3], media=own),
        *explanation.examples[4:],
    )
    first = pictures(replace(explanation, examples=examples).gallery(k=1))[0].convert("L")
    assert first.size == (8, 8)
    assert [first.getpixel((x, y)) for x, y in ((0, 0), (1, 3), (2, 3), (5, 4), (6, 4))] == [
        255,
        255,
        0,
        0,
        255,
    ]


def test_black_on_white_also_in_a_dark_notebook():
    assert documents.images().gallery().data.startswith('<div style="color:#1a1a1a;background:#ffffff')


def test_examples_that_are_no_pictures_are_refused():
    with pytest.raises(
        DataError, match=r"Training example 20 is shown as text, and ipyplot shows pictures only"
    ):
        documents.names().gallery()


def test_a_setting_with_no_examples_is_refused():
    with pytest.raises(DataError, match="ℓ-RelatIF lists no training example"):
        documents.rows().gallery()


def test_a_picture_that_cannot_be_read_is_refused():
    explanation = documents.images()
    with pytest.raises(DataError, match="The picture of training example 24446 cannot be read"):
        replace(explanation, sprite=replace(explanation.sprite, data="AAAA")).gallery()


@pytest.mark.parametrize("options", [{"method": "influnce"}, {"k": 0}, {"width": 0}, {"damping": 3.0}])
def test_options_that_name_nothing_are_refused(options):
    with pytest.raises(ChoiceError):
        documents.images().gallery(**options)
