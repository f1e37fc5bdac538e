"""Pictures out of a document: cells cut from its sprite sheet, as PIL images."""

from __future__ import annotations

import base64
import io
import struct

from PIL import Image

from ..explanation import Cell, Explanation, Media, Picture, Sprite

PIXELS = 64_000_000
"""A sheet of more pixels is refused: a document is somebody else's file."""


class Album:
    """The pictures of one document; the sheet is decoded once, when first asked for."""

    def __init__(self, explanation: Explanation) -> None:
        self._sprite = explanation.sprite
        self._sheet: Image.Image | None = None
        self._opened = False

    def picture(self, media: Media) -> Image.Image | None:
        """The picture of an example; None for text, rows, and pictures that cannot be read."""
        if isinstance(media, Picture):
            return _decoded(media)
        if not isinstance(media, Cell) or self._sprite is None:
            return None
        if not self._opened:
            self._sheet = _decoded(self._sprite)
            self._opened = True
        if self._sheet is None:
            return None
        width, height = self._sprite.width, self._sprite.height
        left = (media.cell % self._sprite.columns) * width
        top = (media.cell // self._sprite.columns) * height
        if left + width > self._sheet.width or top + height > self._sheet.height:
            return None
        return self._sheet.crop((left, top, left + width, top + height))


def data_uri(image: Image.Image) -> str:
    """The picture as a data URI; WebP where it is smaller than PNG, as it is for photographs."""
    if image.mode == "RGB":
        red, green, blue = image.split()
        if red.tobytes() == green.tobytes() == blue.tobytes():  # WebP has no grey, and decodes to RGB
            image = red
    encoded = {}
    for kind in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        if kind == "PNG":
            image.save(buffer, kind, optimize=True)
        else:
            image.save(buffer, kind, quality=88, lossless=image.mode == "L", method=4)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(encoded[kind]).decode()}"


def on_white(image: Image.Image) -> Image.Image:
    """The picture as opaque RGB."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def _decoded(source: Picture | Sprite) -> Image.Image | None:
    try:
        image = Image.open(io.BytesIO(base64.b64decode(source.data)), formats=("PNG", "WEBP"))
        if image.width * image.height > PIXELS:
            return None
        image.load()
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError):
        return None  # what Pillow raises for damaged files
    if image.mode not in ("L", "RGB", "RGBA"):
        transparent = image.mode in ("LA", "PA") or "transparency" in image.info
        return image.convert("RGBA" if transparent else "RGB")
    return image
