"""An example -> what a person looks at: a thumbnail, text, or a row of values."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from .errors import DataError
from .explanation import Cell, Picture, Row, Sprite, Text

Render = Callable[[Any], Any]
Shown = Image.Image | Text | Row
Small = Cell | Text | Row

THUMBNAIL = 64
PICTURE = 256
COLUMNS_SHOWN = 12


def show(raw: Any, render: Render | None = None) -> Shown:
    """A PIL picture, `Text` or `Row` for one example.

    Pictures are PIL images and arrays [H, W], [H, W, 1|3|4] or [1|3|4, H, W];
    floats outside 0 to 1 are stretched from their smallest to their largest
    value. Strings are text, numbers and vectors are rows.

    Args:
        raw: The example, before transforms where the data set has them.
        render: The user's hook: gets `raw`, returns any of the above.

    Raises:
        DataError: The hook failed or returned nothing that can be shown.
    """
    if render is not None:
        try:
            raw = render(raw)
        except Exception as error:
            raise DataError(f"render= failed on an example: {type(error).__name__}: {error}") from error
    if isinstance(raw, Image.Image):
        return raw
    if isinstance(raw, (Text, Row)):
        return raw
    if isinstance(raw, str):
        return Text(text=raw)
    if isinstance(raw, Mapping):
        return Row(columns=tuple(map(str, raw)), values=tuple(_number(value) for value in raw.values()))
    array = _array(raw)
    if array is None:
        return Text(text=repr(raw))
    picture = _picture(array)
    return picture if picture is not None else _row(array)


def standalone(shown: Shown) -> Picture | Text | Row:
    """One example's media on its own, as for the query: at most 256 pixels wide and high."""
    if not isinstance(shown, Image.Image):
        return shown
    image = _fitted(shown, PICTURE)
    mime, data = _encode(image)
    return Picture(mime=mime, data=data, width=image.width, height=image.height)


def sheet(shown: Sequence[Shown]) -> tuple[list[Small], Sprite | None]:
    """Media of many examples: pictures become cells of one sprite sheet, at most 64 pixels each way."""
    images = [_fitted(one, THUMBNAIL) for one in shown if isinstance(one, Image.Image)]
    media: list[Small] = []
    cells = itertools.count()
    for one in shown:
        media.append(Cell(cell=next(cells)) if isinstance(one, Image.Image) else one)
    if not images:
        return media, None
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    columns = max(1, math.isqrt(len(images) - 1) + 1)
    modes = {image.mode for image in images}
    mode = next(mode for mode in ("RGBA", "RGB", "L") if mode in modes)
    if any(image.size != (width, height) for image in images):
        mode = "RGBA"  # what a smaller picture leaves of its cell is transparent
    canvas = Image.new(mode, (columns * width, math.ceil(len(images) / columns) * height))
    for position, image in enumerate(images):
        left = (position % columns) * width + (width - image.width) // 2
        top = (position // columns) * height + (height - image.height) // 2
        canvas.paste(image.convert(mode), (left, top))
    mime, data = _encode(canvas)
    return media, Sprite(mime=mime, data=data, width=width, height=height, columns=columns, count=len(images))


def _array(raw: Any) -> np.ndarray[Any, Any] | None:
    if hasattr(raw, "detach"):
        raw = raw.detach().cpu()
        raw = raw.float().numpy() if raw.is_floating_point() else raw.numpy()
    try:
        array = np.asarray(raw)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None


def _picture(array: np.ndarray[Any, Any]) -> Image.Image | None:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_picture = (array.ndim == 2 and min(array.shape) >= 4) or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_picture:
        return None
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    values = array.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if array.dtype.kind in "iu" and low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    spread = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return Image.fromarray(np.ascontiguousarray((spread * 255).round().astype(np.uint8)))


def _row(array: np.ndarray[Any, Any]) -> Row:
    flat = array.reshape(-1)
    values = tuple(_number(value) for value in flat[:COLUMNS_SHOWN])
    columns = tuple(f"x{position}" for position in range(len(values)))
    return Row(columns=columns, values=values, more=len(flat) - len(values))


def _number(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fitted(image: Image.Image, limit: int) -> Image.Image:
    if image.mode not in ("L", "RGB", "RGBA"):
        has_alpha = image.mode in ("LA", "PA") or "transparency" in image.info
        image = image.convert(
            "RGBA" if has_alpha else "L" if image.mode in ("1", "I", "I;16", "F") else "RGB"
        )
    if max(image.size) > limit:
        image = image.copy()
        image.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    return image


def _encode(image: Image.Image) -> tuple[Literal["image/png", "image/webp"], str]:
    buffer = io.BytesIO()
    # Grey pictures are digits and scans, small without loss; photographs are not.
    if image.mode == "L":
        image.save(buffer, "WEBP", lossless=True, method=4)
    else:
        image.save(buffer, "WEBP", quality=88, method=4)
    return "image/webp", base64.b64encode(buffer.getvalue()).decode()
