"""An example -> what a person looks at: a thumbnail, text, or a row of values."""

from __future__ import annotations

import base64
import io
import itertools
import math
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from PIL import Image

from .errors import DataError
from .explanation import Cell, Picture, Row, Sprite, Text

Render = Callable[[Any], Any]
Shown = Image.Image | Text | Row
Small = Cell | Text | Row
Alone = Picture | Text | Row

THUMBNAIL = 64
PICTURE = 256
COLUMNS_SHOWN = 12
NAMED_SHOWN = 64
"""Columns of a mapping that a row keeps; each has a name, so more of them mean something to a reader."""

# The strip and an explanation are made on two threads, and a hook that plots shares pyplot's one current figure.
_RENDERING = threading.RLock()

FIGURE_DPI = 100
FIGURE_PIXELS = 1024
"""Most pixels along a figure's longer side, before it is shrunk like any picture."""


def show(raw: Any, render: Render | None = None) -> Shown:
    """A PIL picture, `Text` or `Row` for one example.

    Pictures are PIL images of any mode, at most 256 pixels each way afterwards, and
    arrays [H, W] (of at least 4 each), [H, W, 1|3|4] or [1|3|4, H, W]; where an array
    could be both, a tensor is taken as channels first, anything else as channels last.
    uint8 and integers within 0 to 255 are taken as they are, floats within 0 to 1 times 255.
    Any other range is stretched from the smallest to the largest value, and NaN and
    infinity count as the smallest finite one. matplotlib figures (anything with
    `savefig`) are drawn, and closed. Strings are text; mappings, numbers and vectors
    are rows.

    Args:
        raw: The example, before transforms where the data set has them.
        render: The user's hook: gets `raw`, returns any of the above.

    Raises:
        DataError: The hook failed, or what is to be shown cannot be read or drawn.
    """
    with _RENDERING:
        if render is not None:
            try:
                raw = render(raw)
            except Exception as error:
                raise DataError(f"render= failed on an example: {type(error).__name__}: {error}") from error
        if callable(getattr(raw, "savefig", None)):
            raw = _drawn(raw)
    if isinstance(raw, Image.Image):
        if 0 in raw.size:
            return Text(text=f"an empty picture, {raw.width} × {raw.height}")
        return _fitted(raw, PICTURE)
    if isinstance(raw, (Text, Row)):
        return raw
    if isinstance(raw, str):
        return Text(text=raw)
    if hasattr(raw, "to_dict") and hasattr(raw, "index") and getattr(raw, "ndim", 0) == 1:
        raw = raw.to_dict()  # a row of a data frame
    if isinstance(raw, Mapping):
        kept = dict(itertools.islice(raw.items(), NAMED_SHOWN))
        return Row(
            columns=tuple(map(str, kept)),
            values=tuple(map(_number, kept.values())),
            more=len(raw) - len(kept),
        )
    array = _array(raw)
    if array is None:
        return Text(text=repr(raw))
    picture = _picture(array, channels_first=hasattr(raw, "detach"))
    return _row(array) if picture is None else _fitted(picture, PICTURE)


def standalone(shown: Shown) -> Alone:
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


def _drawn(figure: Any) -> Image.Image:
    """A figure as a picture, without the margins around what is drawn.

    Works on any thread: saving as PNG draws with Agg, whatever the figure's own backend.

    Raises:
        DataError: It cannot be drawn.
    """
    buffer = io.BytesIO()
    try:
        size = getattr(getattr(figure, "figure", figure), "get_size_inches", lambda: (6.4, 4.8))()
        dpi = min(FIGURE_DPI, FIGURE_PIXELS / max(size))
        figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
        image = Image.open(buffer)
        image.load()
    except Exception as error:
        raise DataError(f"A figure cannot be drawn: {type(error).__name__}: {error}") from error
    finally:
        # pyplot keeps every figure it made. One that it did not make cannot be in there unless it is loaded.
        pyplot = sys.modules.get("matplotlib.pyplot")
        made = getattr(figure, "figure", figure)
        if pyplot is not None and hasattr(made, "canvas"):
            pyplot.close(made)
    opaque = image.mode != "RGBA" or image.getchannel("A").getextrema() == (255, 255)
    return image.convert("RGB") if opaque else image


def _array(raw: Any) -> np.ndarray[Any, Any] | None:
    if hasattr(raw, "detach"):
        raw = raw.detach().cpu()
        try:
            raw = raw.numpy()
        except (TypeError, RuntimeError):
            try:
                raw = raw.float().numpy()  # numpy has no bfloat16
            except (TypeError, RuntimeError):
                return None
    try:
        array = np.asarray(raw)
    except ValueError:
        return None
    return array if array.dtype.kind in "biuf" else None


def _picture(array: np.ndarray[Any, Any], *, channels_first: bool) -> Image.Image | None:
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 3, 4), array.shape[2] in (1, 3, 4)
        if first and (channels_first or not last):
            array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    is_picture = (array.ndim == 2 and min(array.shape) >= 4) or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_picture or array.size == 0:
        return None
    return _stretched(array)


def _stretched(array: np.ndarray[Any, Any]) -> Image.Image:
    """An array [H, W] or [H, W, 3|4] of any numbers as 8 bits a channel."""
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    finite = np.isfinite(array)
    low = float(array.min(where=finite, initial=np.inf)) if array.dtype.kind == "f" else float(array.min())
    high = float(array.max(where=finite, initial=-np.inf)) if array.dtype.kind == "f" else float(array.max())
    if low > high:  # nothing is finite
        low = high = 0.0
    # A huge picture is shrunk anyway: four times as fine as that is fine enough to begin with.
    step = max(1, min(array.shape[:2]) // (4 * PICTURE))
    array, finite = array[::step, ::step], finite[::step, ::step]
    values = np.where(finite, array.astype(np.float64), low)
    if array.dtype.kind in "iu" and low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    width = high - low
    # Divided first, since the difference of two huge numbers is infinite.
    spread = values / width - low / width if width > 0 else np.zeros_like(values)
    return Image.fromarray(np.ascontiguousarray((spread * 255).round().clip(0, 255).astype(np.uint8)))


def _row(array: np.ndarray[Any, Any]) -> Row:
    flat = array.reshape(-1)
    values = tuple(_number(value) for value in flat[:COLUMNS_SHOWN])
    columns = tuple(f"x{position}" for position in range(len(values)))
    return Row(columns=columns, values=values, more=len(flat) - len(values))


def _number(value: Any) -> str:
    if hasattr(value, "item"):
        array = _array(value)
        if array is not None and array.size != 1:  # several values in one column
            more = ", …" if array.size > COLUMNS_SHOWN else ""
            return ", ".join(map(_number, array.reshape(-1)[:COLUMNS_SHOWN].tolist())) + more
        value = value.item() if array is not None or np.ndim(value) == 0 else value
    if not isinstance(value, float):
        return str(value)
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if size >= 1e5 else f"{value:,.6g}"


def _fitted(image: Image.Image, limit: int) -> Image.Image:
    """A picture in one of the modes L, RGB and RGBA, at most `limit` pixels each way.

    Raises:
        DataError: It cannot be read.
    """
    try:
        image.load()
        if image.mode[0] in "IF":  # 16 and 32 bits: PIL itself would cut off what exceeds 255
            image = _stretched(np.asarray(image))
        if image.mode not in ("L", "RGB", "RGBA"):
            has_alpha = image.mode in ("LA", "PA") or "transparency" in image.info
            image = image.convert("RGBA" if has_alpha else "L" if image.mode == "1" else "RGB")
        if max(image.size) > limit:
            image = image.copy()
            image.thumbnail((limit, limit), Image.Resampling.LANCZOS)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"A picture of mode {image.mode} cannot be read: {error}") from error
    return image


def _encode(image: Image.Image) -> tuple[Literal["image/png", "image/webp"], str]:
    buffer = io.BytesIO()
    # Grey pictures are digits and scans, small without loss; photographs are not.
    if image.mode == "L":
        image.save(buffer, "WEBP", lossless=True, method=4)
    else:
        image.save(buffer, "WEBP", quality=88, method=2)  # half the time of 4, a fiftieth more bytes
    return "image/webp", base64.b64encode(buffer.getvalue()).decode()
