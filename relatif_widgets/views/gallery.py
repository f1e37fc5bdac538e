"""A static gallery by ipyplot, which the paper's readers may know: a tab for each label."""

from __future__ import annotations

import re
import threading
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import ChoiceError, DataError
from ..explanation import METHOD_TITLES, Explanation, Method, Sign, TrainingExample
from . import words
from .pictures import Album, on_white

if TYPE_CHECKING:
    from IPython.display import HTML

NAME = 40

# ipyplot 1.1.2 heads the pictures of every tab 0, 1, 2 ...; ranks start at 1 and are in our captions.
_COUNTER = re.compile(r'<h4 style="font-size: 12px; word-wrap: break-word;">\d+</h4>')
_one_at_a_time = threading.Lock()


def gallery(
    explanation: Explanation,
    *,
    method: Method | None = None,
    damping: float | None = None,
    sign: Sign | None = None,
    k: int | None = None,
    width: int = 150,
) -> HTML:
    """One tab for each panel; above each picture its rank, label, index and score: `Explanation.gallery`."""
    if width < 1:
        raise ChoiceError(f"width={width} shows no picture; give the pixels of one, such as 150.")
    method = explanation.settings.method if method is None else method
    pictures: list[Image.Image] = []
    tabs: list[str] = []
    captions: list[str] = []
    names = _tab_names(explanation)
    album = Album(explanation)
    for panel, name in zip(explanation.panels, names, strict=True):
        cards = explanation.ranked(panel, method=method, damping=damping, sign=sign, k=k)
        for rank, (example, score) in enumerate(cards, start=1):
            pictures.append(_picture(album, example))
            tabs.append(name)
            captions.append(_caption(explanation, method, example, score, rank))
    if not pictures:
        raise DataError(f"{METHOD_TITLES[method]} lists no training example at this setting.")
    return _drawn(
        _same_size(pictures),
        labels=tabs,
        custom_texts=captions,
        tabs_order=[name for name in names if name in tabs],
        max_imgs_per_tab=len(pictures),
        img_width=width,
        show_url=False,
    )


def _tab_names(explanation: Explanation) -> list[str]:
    """Escaped panel names, all different: ipyplot sorts pictures into tabs by name."""
    names = [words.shortened(panel.name, NAME) or "(no name)" for panel in explanation.panels]
    numbered = [
        f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, start=1)
    ]
    return [escape(name) for name in numbered]


def _picture(album: Album, example: TrainingExample) -> Image.Image:
    if example.media.kind not in ("cell", "picture"):
        raise DataError(
            f"Training example {example.index} is shown as {example.media.kind}, and ipyplot shows pictures only. "
            "Use the explanation itself, to_html() or figure()."
        )
    image = album.picture(example.media)
    if image is None:
        raise DataError(f"The picture of training example {example.index} cannot be read from this document.")
    return on_white(image)


def _caption(
    explanation: Explanation, method: Method, example: TrainingExample, score: float, rank: int
) -> str:
    lines = [
        f"{rank}. {words.shortened(words.label_of(explanation, example), NAME)}",
        f"#{example.index} · {words.score_words(method, score)}",
    ]
    says = words.says(explanation, example)
    lines.append("" if says is None else f"▲ says {words.shortened(says, NAME)}")
    # The empty line keeps pictures of a row level.
    return "<br>".join(escape(line) or "&nbsp;" for line in lines)


def _same_size(pictures: list[Image.Image]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB pictures [picture, height, width, 3], the smaller ones centred on white."""
    width = max(image.width for image in pictures)
    height = max(image.height for image in pictures)
    sheet = np.full((len(pictures), height, width, 3), 255, np.uint8)
    for paper, image in zip(sheet, pictures, strict=True):
        top, left = (height - image.height) // 2, (width - image.width) // 2
        paper[top : top + image.height, left : left + image.width] = np.asarray(image)
    return sheet


def _drawn(images: np.ndarray[Any, np.dtype[np.uint8]], **options: Any) -> HTML:
    """The gallery that ipyplot displays, without the copy of its source that it displays first."""
    import ipyplot  # type: ignore[import-untyped]  # it ships no types
    from ipyplot import _html_helpers
    from IPython.display import HTML

    shown: list[HTML] = []
    # Outside a notebook ipyplot's display would print; IPython's own capture works only inside one.
    with _one_at_a_time:
        display, _html_helpers.display = _html_helpers.display, shown.append
        try:
            ipyplot.plot_class_tabs(images, **options)
        finally:
            _html_helpers.display = display
    html = _COUNTER.sub("", str(shown[-1].data)).replace("<img ", '<img alt="" ')
    # ipyplot paints white cards but inherits the text colour, which a dark notebook makes white too.
    return HTML(f'<div style="color:#1a1a1a;background:#ffffff;padding:8px">{html}</div>')  # type: ignore[no-untyped-call]
