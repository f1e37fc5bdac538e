"""What is shown of an example."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from relatif_widgets import DataError, media
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
    assert media.show({"age": 3, "height": 1.23456}) == Row(columns=("age", "height"), values=("3", "1.235"))
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
