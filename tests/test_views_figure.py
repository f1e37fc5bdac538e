"""The figure for print."""

import io
import warnings
from dataclasses import replace

import documents
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from relatif_widgets.errors import ChoiceError


def texts(figure):
    found = [text.get_text() for text in figure.texts]
    return [*found, *(text.get_text() for axes in figure.axes for text in axes.texts if text.get_text())]


def pictures(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images]


def cell(number):
    return np.array([[documents.pixel(number, x, y) for x in range(8)] for y in range(8)])


def test_a_row_for_each_label_and_method_and_the_query_at_the_left():
    explanation = documents.images()
    figure = explanation.figure(methods=("influence", "loss_relative"), k=2)
    shown = [array[:, :, 0] for array in pictures(figure)]
    expected = [8]
    for label in ("9", "4"):
        for method in ("influence", "loss_relative"):
            expected += [example.media.cell for example, _ in explanation.top(label, method=method, k=2)]
    assert len(shown) == len(expected) == 9
    for array, number in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(array, cell(number))


def test_true_and_predicted_labels_stand_beneath_and_a_miss_has_a_mark():
    figure = documents.images().figure(methods=("loss_relative",), labels=["9"], k=2)
    assert texts(figure) == [
        "true: 4", "pred: 9 ✗", "test #375",
        "ℓ-RelatIF",
        "true: 9", "pred: 9",
        "true: 9", "pred: 4 ✗",
    ]  # fmt: skip


def test_rows_go_down_the_page_and_cards_to_the_right():
    figure = documents.images().figure(k=3)
    boxes = [axes.get_position() for axes in figure.axes]
    rows = [boxes[1 + 3 * row : 4 + 3 * row] for row in range(4)]
    assert [len({round(box.y0, 6) for box in row}) for row in rows] == [1, 1, 1, 1]
    assert [row[0].y0 for row in rows] == sorted((row[0].y0 for row in rows), reverse=True)
    assert boxes[0].y0 == pytest.approx(rows[0][0].y0)
    assert boxes[0].x1 < rows[0][0].x0 < rows[0][1].x0
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)


@pytest.mark.parametrize("name", sorted(set(documents.DOCUMENTS) - {"hostile"}))
@pytest.mark.parametrize("width", [3.4, 7.0])
def test_no_text_leaves_the_paper(name, width):
    figure = documents.DOCUMENTS[name]().figure(width=width)
    figure.draw_without_rendering()
    for text in figure.texts:
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height


def test_a_figure_needs_no_global_state():
    figure = documents.images().figure()
    assert isinstance(figure, Figure)
    assert pyplot.get_fignums() == []
    png, size = figure._repr_png_()
    assert png.startswith(b"\x89PNG")
    assert size["width"] == 672


def test_text_stays_text_in_a_vector_file():
    buffer = io.BytesIO()
    documents.names().figure().savefig(buffer, format="pdf")
    assert b"/Font" in buffer.getvalue()


def test_texts_and_rows_are_drawn_as_text():
    assert "Vasyukov" in texts(documents.names().figure())
    shown = texts(documents.rows().with_settings(sign="positive").figure())
    assert {"sepal length", "5.0"} <= set(shown)
    assert not [text for text in shown if "more" in text]


def test_a_row_without_examples_says_so():
    assert texts(documents.rows().figure()).count("no such training example") == 2


def test_formulas_and_markup_in_labels_are_drawn_as_they_are_written():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = documents.hostile().figure(k=10)
        figure.savefig(io.BytesIO(), format="png")
    assert any("$\\frac" in text for text in texts(figure))


def test_an_unreadable_picture_costs_only_itself():
    explanation = documents.images()
    broken = replace(explanation, sprite=replace(explanation.sprite, data="AAAA"))
    assert texts(broken.figure(k=1)).count("unreadable") == 5


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"methods": ["infuence"]}, "Did you mean 'influence'"),
        ({"labels": ["7"]}, "is not known"),
        ({"methods": []}, "at least one method"),
        ({"labels": []}, "at least one method and one label"),
        ({"k": 0}, "k=0"),
        ({"damping": 0.5}, "damping=0.5 is not a stop"),
        ({"width": 0.5}, "width=0.5"),
    ],
)
def test_options_that_name_nothing_are_refused(options, sentence):
    with pytest.raises(ChoiceError, match=sentence):
        documents.images().figure(**options)
