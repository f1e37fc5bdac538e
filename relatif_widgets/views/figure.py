"""A figure for print in the layout of the paper's Figures 10 and 11."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ..errors import ChoiceError
from ..explanation import METHOD_TITLES, Explanation, Media, Method, Panel, Row, Sign, Text, TrainingExample
from . import words
from .pictures import Album, on_white

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = 18
LINES = 7
_GREY = "0.35"
_WRONG = "#b02a1c"
# Labels come from data: a $ in them is no formula.
_PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}


class PrintFigure(Figure):
    """A Figure that shows itself in a notebook without pyplot, whose global state is not thread-safe."""

    def savefig(self, fname: Any, **options: Any) -> None:
        """As matplotlib's, with the text of PDF, PS and SVG files as text."""
        # It can be searched and edited, and journals that refuse Type 3 fonts take it.
        with matplotlib.rc_context({"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none"}):
            super().savefig(fname, **options)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=192)
        width, height = (round(96 * inches) for inches in self.get_size_inches())
        return buffer.getvalue(), {"width": width, "height": height}


def png(explanation: Explanation) -> str:
    """`figure` at the document's settings as a PNG, base64."""
    drawn = figure(explanation, methods=[explanation.settings.method], k=min(10, explanation.settings.k))
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="png", dpi=192)
    return base64.b64encode(buffer.getvalue()).decode()


def figure(
    explanation: Explanation,
    *,
    methods: Sequence[Method] = ("influence", "loss_relative"),
    labels: Sequence[str | int] | None = None,
    k: int = 5,
    damping: float | None = None,
    sign: Sign | None = None,
    width: float = 7.0,
) -> Figure:
    """The query at the left, then one row of training examples for each label and method: `Explanation.figure`."""
    panels = explanation.panels if labels is None else [explanation.panel(label) for label in labels]
    if not methods or not panels:
        raise ChoiceError("A figure needs at least one method and one label.")
    rows = [
        (panel, method, explanation.ranked(panel, method=method, damping=damping, sign=sign, k=k))
        for panel in panels
        for method in methods
    ]
    sign = explanation.settings.sign if sign is None else sign
    return _Sheet(explanation, width, rows, is_titled=len(panels) > 1 or sign != "positive").draw(sign)


Cards = list[tuple[TrainingExample, float]]


class _Sheet:
    """Places everything in inches from the top left corner."""

    GAP = 0.12
    METHOD = 0.62
    TITLE = 0.34
    MARGIN = 0.06

    def __init__(
        self,
        explanation: Explanation,
        width: float,
        rows: list[tuple[Panel, Method, Cards]],
        is_titled: bool,
    ) -> None:
        self.explanation = explanation
        self.album = Album(explanation)
        self.rows = rows
        self.is_titled = is_titled
        self.width = width
        shown = [explanation.query.media, *(example.media for _, _, cards in rows for example, _ in cards)]
        # The query and the examples share what the method's name leaves.
        columns = 1 + max(3, *(len(cards) for _, _, cards in rows))
        self.cell = (width - 2 * self.MARGIN - self.METHOD - columns * self.GAP) / columns
        if self.cell < 0.25:
            raise ChoiceError(f"width={width:g} inches leaves no room for {columns - 1} examples in a row.")
        self.size = max(4.5, min(7.5, self.cell * 8.2))
        self.line = self.size * 1.3 / 72
        self.letters = max(6, int(self.cell * 72 / (self.size * 0.6)))
        is_picture = any(not isinstance(media, (Text, Row)) for media in shown)
        lines = max(len(self._words(media)) for media in shown)
        self.tall = self.cell if is_picture else lines * self.line + 0.08
        self.row = self.tall + 2 * self.line + 0.16

    def draw(self, sign: Sign) -> Figure:
        methods = len(self.rows) // len({id(panel) for panel, _, _ in self.rows})
        titles = len(self.rows) // methods if self.is_titled else 0
        self.height = 2 * self.MARGIN + len(self.rows) * self.row + titles * self.TITLE
        self.figure = PrintFigure(figsize=(self.width, self.height), facecolor="white")
        top = self.MARGIN
        left = self.MARGIN + self.cell + self.GAP
        first = top + (self.TITLE if self.is_titled else 0)
        self._query(self.MARGIN, first)
        for place, (panel, method, cards) in enumerate(self.rows):
            if self.is_titled and place % methods == 0:
                self._title(left, top, panel, sign)
                top += self.TITLE
            self._text(
                left + self.METHOD / 2,
                top + self.tall / 2,
                METHOD_TITLES[method],
                size=self.size + 1,
                weight="bold",
                va="center",
            )
            if not cards:
                self._text(
                    left + self.METHOD + self.GAP,
                    top + self.tall / 2,
                    "no such training example",
                    color=_GREY,
                    ha="left",
                    va="center",
                )
            for column, (example, _) in enumerate(cards):
                x = left + self.METHOD + self.GAP + column * (self.cell + self.GAP)
                self._media(example.media, x, top)
                self._labels(
                    x,
                    top,
                    words.label_of(self.explanation, example),
                    None if example.predicted is None else self.explanation.class_names[example.predicted],
                    is_right=words.says(self.explanation, example) is None,
                )
            top += self.row
        return self.figure

    def _title(self, left: float, top: float, panel: Panel, sign: Sign) -> None:
        y = top + self.TITLE - 0.12
        note = words.note(panel, "influence", sign, NAME + 12)
        self._text(left + 0.02, y, note, size=self.size + 1, ha="left", va="baseline")

    def _query(self, left: float, top: float) -> None:
        query = self.explanation.query
        names = self.explanation.class_names
        self._media(query.media, left, top)
        truth = query.target if query.label is None else names[query.label]
        predicted = query.output if query.predicted is None else names[query.predicted]
        is_right = query.label is None or query.label == query.predicted
        self._labels(left, top, truth, predicted, is_right=is_right)
        y = top + self.tall + self.line * ((truth is not None) + (predicted is not None)) + 0.1
        self._text(left + self.cell / 2, y, words.shortened(query.name, NAME), color=_GREY)

    def _labels(
        self, left: float, top: float, truth: str | None, predicted: str | None, *, is_right: bool
    ) -> None:
        y = top + self.tall + 0.05
        for word, name in (("true", truth), ("pred", predicted)):
            if name is None:
                continue
            color = _WRONG if word == "pred" and not is_right else "black"
            mark = "" if is_right or word == "true" else " ✗"
            room = max(3, int(self.cell * 72 / (self.size * 0.56)) - len(word) - 2 - len(mark))
            text = f"{word}: {words.shortened(name, min(NAME, room))}{mark}"
            self._text(left + self.cell / 2, y, text, color=color)
            y += self.line

    def _media(self, media: Media, left: float, top: float) -> None:
        axes = self._axes(left, top)
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set(linewidth=0.5, color="0.75")
        if isinstance(media, (Text, Row)):
            self._lines(axes, self._words(media))
            return
        image = self.album.picture(media)
        if image is None:
            self._lines(axes, [("unreadable", ""), ("picture", "")])
            return
        axes.imshow(
            np.asarray(on_white(image)),
            interpolation="nearest" if max(image.size) < 32 else "antialiased",
            aspect="equal",
        )
        axes.set_anchor("N")

    def _words(self, media: Media) -> list[tuple[str, str]]:
        """Text or a row as lines, each with what stands at its left and at its right."""
        if isinstance(media, Text):
            text = words.shortened(media.text, 400)
            lines = textwrap.wrap(text, self.letters, max_lines=LINES, placeholder="…")
            return [(line, "") for line in lines or [""]]
        if not isinstance(media, Row):
            return []
        pairs = list(zip(media.columns, media.values, strict=True))
        most = LINES if len(pairs) <= LINES else LINES - 1
        lines_of_pairs = []
        for column, value in pairs[:most]:
            right = words.shortened(value, self.letters - 4)
            lines_of_pairs.append((words.shortened(column, self.letters - 1 - len(right)), right))
        rest = len(pairs) - len(lines_of_pairs)
        return lines_of_pairs if rest == 0 else [*lines_of_pairs, (f"+ {rest} more", "")]

    def _lines(self, axes: Axes, lines: list[tuple[str, str]]) -> None:
        for place, (left, right) in enumerate(lines):
            y = 1 - (0.05 + place * self.line) / self.tall
            for x, text, ha in ((0.05, left, "left"), (0.95, right, "right")):
                axes.text(
                    x,
                    y,
                    text,
                    fontsize=self.size,
                    va="top",
                    ha=ha,
                    transform=axes.transAxes,
                    color=_GREY if right and ha == "left" else "black",
                    **_PLAIN,
                )

    def _axes(self, left: float, top: float) -> Axes:
        bottom = self.height - top - self.tall
        return self.figure.add_axes(
            (left / self.width, bottom / self.height, self.cell / self.width, self.tall / self.height)
        )

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float | None = None,
        ha: str = "center",
        va: str = "top",
        color: str = "black",
        weight: str = "normal",
    ) -> None:
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            fontsize=size or self.size,
            ha=ha,
            va=va,
            color=color,
            fontweight=weight,
            **_PLAIN,
        )
