"""What is shown of an example."""

from __future__ import annotations

import base64
import io
import threading
import warnings

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from cases import blobs, mlp, pictures
from matplotlib.figure import Figure
from PIL import Image

from relatif_widgets import DataError, Explainer, media
from relatif_widgets.explanation import Cell, Picture, Row, Text


def pixels(shown: object) -> np.ndarray:
    assert isinstance(shown, Image.Image)
    return np.asarray(shown)


RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8)


@pytest.mark.parametrize(
    ("raw", "mode", "corner"),
    [
        (RAMP, "L", 63),
        (torch.from_numpy(RAMP), "L", 63),
        (torch.from_numpy(RAMP)[None].float() / 255, "L", 63),
        (torch.from_numpy(RAMP).long(), "L", 63),
        (np.stack([RAMP] * 3), "RGB", 63),
        (np.stack([RAMP] * 3, axis=2), "RGB", 63),
        (np.stack([RAMP] * 4, axis=2), "RGBA", 63),
        (RAMP[:, :, None], "L", 63),
        (torch.from_numpy(RAMP).float() / 63 * 4 - 2, "L", 255),  # normalised: stretched
        (RAMP.astype(np.float16) / 255, "L", 63),
        (RAMP > 31, "L", 255),
        (torch.zeros(8, 8), "L", 0),
    ],
)
def test_arrays_become_pictures(raw: object, mode: str, corner: int) -> None:
    shown = media.show(raw)
    assert isinstance(shown, Image.Image)
    assert shown.mode == mode
    assert int(np.asarray(pixels(shown)[-1, -1]).reshape(-1)[0]) == corner


def test_other_things_become_text_or_rows() -> None:
    assert media.show("Vasyukov") == Text(text="Vasyukov")
    assert media.show({"age": 3, "height": 1.23456}) == Row(
        columns=("age", "height"), values=("3", "1.23456")
    )
    assert media.show(torch.tensor([1.5, 2.0])) == Row(columns=("x0", "x1"), values=("1.5", "2"))
    long = media.show(np.zeros(784))
    assert isinstance(long, Row)
    assert (len(long.columns), long.columns[-1], long.more) == (12, "x11", 772)
    assert media.show(object).text == "<class 'object'>"


def test_render_may_return_anything_that_can_be_shown() -> None:
    assert media.show(3, lambda raw: f"number {raw}") == Text(text="number 3")
    assert pixels(media.show(0, lambda raw: RAMP)).shape == (8, 8)
    with pytest.raises(DataError, match="render= failed on an example: ZeroDivisionError"):
        media.show(0, lambda raw: 1 / raw)


def opened(data: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_grey_thumbnails_are_lossless_cells_of_one_sheet() -> None:
    images = [Image.fromarray(RAMP + i) for i in range(5)]
    shown, sprite = media.sheet([*images, Text(text="t")])
    assert shown == [Cell(cell=i) for i in range(5)] + [Text(text="t")]
    assert sprite is not None
    assert (sprite.width, sprite.height, sprite.columns, sprite.count) == (8, 8, 3, 5)
    sheet = np.asarray(opened(sprite.data).convert("L"))
    for i in range(5):
        top, left = i // 3 * 8, i % 3 * 8
        assert np.array_equal(sheet[top : top + 8, left : left + 8], RAMP + i)


def test_no_pictures_no_sheet() -> None:
    assert media.sheet([Text(text="a")]) == ([Text(text="a")], None)
    assert media.sheet([]) == ([], None)


def test_large_and_mixed_pictures_fit_their_cells() -> None:
    _, sprite = media.sheet([Image.new("RGB", (300, 150), "red"), Image.new("L", (10, 20), 9)])
    assert sprite is not None
    assert (sprite.width, sprite.height) == (64, 32)
    assert opened(sprite.data).mode == "RGBA"


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK", "I", "F"])
def test_rare_picture_modes_are_shown(mode: str) -> None:
    media_of = media.standalone(
        Image.new("RGB", (8, 8), "white").convert("L").convert(mode)
        if mode != "CMYK"
        else Image.new("CMYK", (8, 8))
    )
    assert isinstance(media_of, Picture)
    assert opened(media_of.data).size == (8, 8)


def test_the_query_keeps_its_size_up_to_256_pixels() -> None:
    small = media.standalone(Image.fromarray(RAMP))
    assert isinstance(small, Picture)
    assert (small.width, small.height) == (8, 8)
    large = media.standalone(Image.new("RGB", (1000, 500)))
    assert isinstance(large, Picture)
    assert (large.width, large.height) == (256, 128)


# Every kind of picture, by its pixels

CHANNELS = np.stack([RAMP, RAMP + 64, RAMP + 128], axis=2)  # [8, 8, 3]
WITH_ALPHA = np.concatenate([CHANNELS, RAMP[:, :, None] + 190], axis=2)


def palette() -> Image.Image:
    image = Image.fromarray(RAMP % 3, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)


def transparent() -> Image.Image:
    image = palette()
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("raw", "right"),
    [
        (Image.fromarray(RAMP), RAMP),
        (Image.fromarray(CHANNELS), CHANNELS),
        (Image.fromarray(WITH_ALPHA), WITH_ALPHA),
        (Image.fromarray(np.stack([RAMP, RAMP + 9], axis=2), "LA"), np.stack([RAMP] * 3 + [RAMP + 9], axis=2)),
        (palette(), COLOURS[RAMP % 3]),
        (transparent(), np.dstack([COLOURS[RAMP % 3], np.where(RAMP % 3 == 1, 0, 255).astype(np.uint8)])),
        (Image.fromarray(RAMP > 31), np.where(RAMP > 31, 255, 0)),
        (Image.fromarray(RAMP.astype(np.uint16) * 1000), np.round(RAMP / 63 * 255)),
        (Image.fromarray(RAMP.astype(np.int32)), RAMP),
        (Image.fromarray(RAMP.astype(np.float32) / 255), RAMP),
        (Image.fromarray(RAMP.astype(np.float32) * 7 - 3), np.round(RAMP / 63 * 255)),
        (WITH_ALPHA, WITH_ALPHA),
        (CHANNELS.transpose(2, 0, 1), CHANNELS),
        (CHANNELS.astype(np.float32) / 255, CHANNELS),
        (torch.from_numpy(CHANNELS.transpose(2, 0, 1).astype(np.float64) / 255), CHANNELS),
        (torch.from_numpy(CHANNELS).permute(2, 0, 1), CHANNELS),
        (RAMP[::-1, ::-1], RAMP[::-1, ::-1]),
        (RAMP.astype(np.int64), RAMP),
        (RAMP.astype(np.int64) * -3, np.round((63 - RAMP) / 63 * 255)),
        (torch.from_numpy(RAMP > 31), np.where(RAMP > 31, 255, 0)),
        (torch.from_numpy(RAMP).bfloat16() / 64, np.round(RAMP / 64 * 255)),
    ],
    ids=[
        "grey", "RGB", "RGBA", "LA", "palette", "transparent palette", "1 bit", "16 bit", "32 bit", "float",
        "float of any range", "RGBA array", "channels first", "float channels last", "float64 tensor",
        "uint8 tensor", "turned around", "integers", "negative integers", "mask", "bfloat16",
    ],
)  # fmt: skip
def test_pictures_are_shown_by_their_own_pixels(raw: object, right: np.ndarray) -> None:
    assert np.array_equal(pixels(media.show(raw)), right)


def test_a_normalised_tensor_is_stretched_over_all_its_channels() -> None:
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    tensor = (torch.from_numpy(CHANNELS).permute(2, 0, 1) / 255 - mean[:, None, None]) / deviation[
        :, None, None
    ]
    low, high = float(tensor.min()), float(tensor.max())
    assert low < 0
    right = ((tensor - low) / (high - low) * 255).round().permute(1, 2, 0)
    assert np.abs(pixels(media.show(tensor)).astype(int) - right.numpy()).max() <= 1


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0, 0), (0.5, 128), (1.0, 255), (-1.0, 0), (7.5, 0), (np.nan, 0), (np.inf, 0)]
)
def test_constant_pictures(value: float, shown: int) -> None:
    assert (pixels(media.show(np.full((6, 5), value))) == shown).all()


def test_constant_integers() -> None:
    assert (pixels(media.show(np.full((6, 5), 200))) == 200).all()
    assert (pixels(media.show(Image.new("I;16", (5, 6), 40_000))) == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_what_is_not_finite_counts_as_the_smallest_finite_value(bad: float, scale: float) -> None:
    values = (RAMP / 63 * 0.5 + 0.25) * scale
    values[3, 3] = bad
    right = values.copy()
    right[3, 3] = 0.25 * scale
    for raw in (values, torch.from_numpy(values), Image.fromarray(values.astype(np.float32))):
        assert np.abs(pixels(media.show(raw)).astype(int) - pixels(media.show(right))).max() <= 1
        assert media.show(raw).getpixel((3, 3)) == (64 if scale == 1.0 else 0)


def test_numbers_near_the_end_of_their_range_are_shown() -> None:
    wide = np.where(RAMP > 31, 1e308, -1e308)
    assert (pixels(media.show(wide)) == 0).all()  # their difference is infinite
    assert np.array_equal(
        pixels(media.show(np.where(RAMP > 31, 6e4, -6e4).astype(np.float16))), (RAMP > 31) * 255
    )


HALVES = np.repeat(np.array([[0], [255]], dtype=np.uint8), 4000, axis=1)


@pytest.mark.parametrize(
    "raw",
    [
        Image.fromarray(np.repeat(HALVES, 2500, axis=0)),
        np.repeat(HALVES, 2500, axis=0),
        (np.repeat(HALVES, 2500, axis=0) / 255).astype(np.float32),
        torch.from_numpy(np.repeat(HALVES, 2500, axis=0)[None].astype(np.float32)) * 0.1 - 3,
        np.repeat(np.repeat(HALVES, 2500, axis=0)[:, :, None], 3, axis=2),
    ],
    ids=["PIL", "uint8", "float", "normalised", "RGB"],
)
def test_huge_pictures_are_shrunk_at_once(raw: object) -> None:
    shown = media.show(raw)
    assert isinstance(shown, Image.Image)
    assert (shown.width, shown.height) in {(205, 256), (204, 256)}
    seen = pixels(shown)
    assert (seen[:125] == 0).all()
    assert (seen[132:] == 255).all()
    alone = media.standalone(shown)
    assert isinstance(alone, Picture)
    assert opened(alone.data).size == shown.size
    _, sprite = media.sheet([shown])
    assert sprite is not None
    assert (sprite.width, sprite.height) in {(51, 64), (52, 64)}


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (Image.new("RGB", (1, 1), (10, 20, 30)), (1, 1)),
        (Image.new("L", (200, 3), 10), (200, 3)),
        (Image.new("L", (3, 200), 10), (3, 200)),
        (np.full((3, 200, 3), 10, dtype=np.uint8), (200, 3)),
        (torch.full((3, 1, 1), 10, dtype=torch.uint8), (1, 1)),
        (torch.full((3, 3, 200), 10, dtype=torch.uint8), (200, 3)),
        (torch.full((3, 200, 3), 10, dtype=torch.uint8), (3, 200)),
        (torch.full((1, 4, 4), 10, dtype=torch.uint8), (4, 4)),
        (Image.new("L", (2000, 2), 10), (256, 1)),
    ],
)
def test_tiny_and_narrow_pictures_keep_their_shape(raw: object, size: tuple[int, int]) -> None:
    shown = media.show(raw)
    assert isinstance(shown, Image.Image)
    assert shown.size == size
    assert pixels(shown).reshape(-1)[0] == 10
    alone = media.standalone(shown)
    assert isinstance(alone, Picture)
    assert (alone.width, alone.height) == size
    assert opened(alone.data).size == size
    _, sprite = media.sheet([shown])
    assert sprite is not None
    scale = min(1, 64 / max(size))
    assert opened(sprite.data).size == tuple(max(1, round(side * scale)) for side in size)


def test_what_is_no_picture_becomes_a_row_or_words() -> None:
    for raw in (
        np.zeros((8, 8, 2)),
        np.zeros((2, 8, 8)),
        torch.zeros(2, 8, 8),
        np.zeros((2, 3, 8, 8)),
        np.zeros((3, 200)),
    ):
        shown = media.show(raw)
        assert isinstance(shown, Row)
        assert shown.values == ("0",) * 12
        assert shown.more == raw.size - 12 if isinstance(raw, np.ndarray) else shown.more == 116
    assert media.show(np.zeros((0, 5, 3))) == Row(columns=(), values=())
    assert media.show(np.float32(1.5)) == Row(columns=("x0",), values=("1.5",))
    assert media.show(Image.new("L", (0, 5))) == Text(text="an empty picture, 0 × 5")
    assert media.show(np.array([np.nan, 1.0])) == Row(columns=("x0", "x1"), values=("nan", "1"))
    assert isinstance(media.show(np.zeros((8, 8), dtype=complex)), Text)
    assert isinstance(media.show(torch.zeros(8, 8).to_sparse()), Text)


def test_a_picture_that_cannot_be_read_says_so() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(buffer, "PNG")
    broken = Image.open(io.BytesIO(buffer.getvalue()[:900]))
    with pytest.raises(DataError, match="A picture of mode L cannot be read: .*truncated"):
        media.show(broken)


def test_a_mapping_keeps_its_first_columns_and_counts_the_rest() -> None:
    shown = media.show({f"column {i}": i for i in range(100)})
    assert isinstance(shown, Row)
    assert shown.columns[-1] == "column 63"
    assert shown.values[-1] == "63"
    assert shown.more == 36


# Figures


def half_blue(figure: Figure) -> Figure:
    """A figure that is blue on its left and red on its right, without axes."""
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow([[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]], aspect="auto", interpolation="nearest")
    return figure


def assert_half_blue(shown: object) -> None:
    assert isinstance(shown, Image.Image)
    assert shown.mode == "RGB"
    assert max(shown.size) == 256
    assert abs(shown.width / shown.height - 2) < 0.1
    seen = pixels(shown).astype(int)
    middle = shown.height // 2
    assert np.abs(seen[middle, shown.width // 4] - [0, 0, 255]).max() < 12
    assert np.abs(seen[middle, 3 * shown.width // 4] - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("dpi", [30, 100, 400])
def test_a_figure_is_drawn_tight_at_a_size_of_its_own(dpi: int) -> None:
    assert_half_blue(media.show(3, lambda raw: half_blue(Figure(figsize=(6, 3), dpi=dpi))))


def test_a_huge_figure_is_drawn_small() -> None:
    assert_half_blue(media.show(3, lambda raw: half_blue(Figure(figsize=(200, 100)))))


def test_figures_of_pyplot_do_not_pile_up() -> None:
    mpl.use("agg")
    plt.close("all")
    kept = plt.figure()
    for _ in range(25):  # matplotlib warns of more than 20
        assert_half_blue(media.show(0, lambda raw: half_blue(plt.figure(figsize=(6, 3)))))
    assert plt.get_fignums() == [kept.number]

    def broken(raw: object) -> object:
        figure = plt.figure()
        figure.text(0.5, 0.5, r"$\frac{1$")
        return figure

    with pytest.raises(DataError, match="A figure cannot be drawn: ValueError"):
        media.show(0, broken)
    assert plt.get_fignums() == [kept.number]
    plt.close(kept)


def test_figures_are_drawn_on_other_threads_too_one_at_a_time() -> None:
    mpl.use("agg")

    def render(raw: object) -> object:
        plt.figure(figsize=(6, 3))  # by way of pyplot's one current figure
        half_blue(plt.gcf())
        return plt.gcf()

    shown: list[object] = []

    def work() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            shown.extend(media.show(i, render) for i in range(4))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(shown) == 12
    for one in shown:
        assert_half_blue(one)
    assert plt.get_fignums() == []


def test_anything_that_saves_itself_as_a_figure_is_shown() -> None:
    class Grid:
        """As seaborn has it: a figure inside, and savefig."""

        figure = half_blue(Figure(figsize=(6, 3)))

        def savefig(self, *args: object, **kwargs: object) -> None:
            self.figure.savefig(*args, **kwargs)

    assert_half_blue(media.show(Grid()))
    transparent = Figure(figsize=(2, 2))
    transparent.patch.set_alpha(0.0)
    transparent.text(0.5, 0.5, "x")
    shown = media.show(transparent)
    assert isinstance(shown, Image.Image)
    assert shown.mode == "RGBA"


# What render= is applied to


def numbered(raw: object) -> Text:
    assert not isinstance(raw, (str, Text)), "rendered twice"
    return Text(text=f"rendered {np.asarray(raw).reshape(-1)[0]:.3f}")


def test_render_is_applied_to_raw_examples_but_not_to_what_raw_gives() -> None:
    x, y = blobs()
    explainer = Explainer(mlp(), (x, y), render=numbered).fit(progress=False)
    own = Text(text=f"rendered {float(x[3, 0]):.3f}")
    assert explainer.explain(x[3]).query.media == own
    assert explainer.explain(x[3], raw="as it is").query.media == Text(text="as it is")
    assert explainer.queries((x, y)).explain(3).query.media == own
    for explanation in (explainer.explain(x[3]), explainer.explain(x[3], raw="as it is")):
        for example in explanation.examples:
            assert example.media == Text(text=f"rendered {float(x[example.index, 0]):.3f}")


def test_a_figure_may_stand_for_every_example() -> None:
    x, y = pictures()

    def render(raw: object) -> Figure:
        figure = Figure(figsize=(2, 2))
        figure.add_subplot().imshow(np.asarray(raw)[0], cmap="gray")
        return figure

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    explainer = Explainer(model, (x, y), render=render).fit(progress=False)
    explanation = explainer.queries((x, y)).explain(0)
    assert isinstance(explanation.query.media, Picture)
    assert explanation.sprite is not None
    assert opened(explanation.sprite.data).mode == "RGB"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (15749.32, "15,749.3"),
        (1234567.8, "1,234,568"),
        (0.1 + 0.2, "0.3"),
        (-2.5, "-2.5"),
        (0.0, "0"),
        (3e-7, "3e-07"),
        (6.02e23, "6.02e+23"),
        (float("nan"), "nan"),
        (12345678, "12345678"),
        (True, "True"),
    ],
)
def test_numbers_are_shown_as_people_read_them(value: object, shown: str) -> None:
    row = media.show({"value": value})
    assert isinstance(row, Row)
    assert row.values == (shown,)
