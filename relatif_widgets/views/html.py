"""HTML of an explanation: a static fragment for any notebook, and a live page of its own."""

from __future__ import annotations

import math
import re
from html import escape
from importlib.resources import files

from ..errors import RelatifError
from ..explanation import Explanation, Media, Panel, Picture, Row, Text, TrainingExample
from ..report import Report
from . import words
from .pictures import Album, data_uri

NAME = 60
PICTURE = 96
QUERY = 160
BARS = 5

# No text colour reaches 4.5:1 on white and on #111 alike, so text inherits the host's and steps back
# by opacity. Tables lay out: they hold where a host strips styles. Bars need 3:1 on either ground.
_QUIET = "opacity:0.72"
_HAIRLINE = "rgba(128,128,128,0.4)"
_TRACK = "rgba(128,128,128,0.22)"
_BLUE, _TEAL, _ORANGE, _GREY = "#2f78c8", "#128a82", "#c4621a", "#80868f"
_TABLE = (
    "border:0;border-spacing:0;border-collapse:separate;table-layout:auto;"
    "margin:0;font-size:13px;line-height:20px"
)
_ROW = "background:none"
_CELL = "border:0;background:none;text-align:left;vertical-align:top;max-width:none"


def static_html(document: Explanation | Report) -> str:
    """The document at its settings: inline styles only, no script, nothing fetched."""
    if isinstance(document, Explanation):
        return _one(document)
    heading = "font-size:20px;line-height:28px;font-weight:600;padding:8px 0"
    title = f'<div style="{heading}">{escape(document.title)}</div>' if document.title else ""
    return title + "".join(f'<div style="padding:12px 0">{_one(one)}</div>' for one in document)


def _one(explanation: Explanation) -> str:
    album = Album(explanation)
    settings = explanation.settings
    panels = [(panel, explanation.ranked(panel)) for panel in explanation.panels]
    longest = max(
        (words.extent(settings.method, score) for _, cards in panels for _, score in cards), default=0
    )
    return (
        f'<div style="font-size:13px;line-height:20px;overflow-x:auto">'
        f'<table role="presentation" style="{_TABLE}"><tr style="{_ROW}">'
        f'<td width="{QUERY}" style="{_CELL};padding:4px 24px 4px 0">{_query(explanation, album)}</td>'
        f'<td style="{_CELL};padding:0">'
        + "".join(_panel(explanation, album, panel, cards, longest) for panel, cards in panels)
        + f"</td></tr></table>"
        f'<div style="{_QUIET};font-size:12px;padding:4px 0">{escape(words.caption(explanation))}</div></div>'
    )


def page(document: Explanation | Report) -> str:
    """A page of its own, sliders alive; its content security policy forbids the network.

    Raises:
        RelatifError: The front end is not built.
    """
    if isinstance(document, Report):
        first, title = document[0], words.shortened(document.title, 2 * NAME)
    else:
        first, title = document, ""
    title = title or f"{words.question(first, NAME)} {words.shortened(first.query.name, NAME)}"
    parts = {"title": escape(title), "still": static_html(document), "document": _inert(document.to_json())}
    # One pass over the template: what data puts in is not looked at again.
    return re.sub(r"\{\{(title|still|document)\}\}", lambda mark: parts[mark[1]], _template())


def _template() -> str:
    file = files("relatif_widgets") / "static" / "page.html"
    if not file.is_file():
        raise RelatifError(
            "relatif_widgets/static/page.html is missing: the front end is not built. Run `make setup`."
        )
    return file.read_text(encoding="utf-8")


def _inert(json: str) -> str:
    """JSON that no HTML parser can take for markup, nor a script for a line end."""
    return json.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _query(explanation: Explanation, album: Album) -> str:
    query = explanation.query
    facts = (words.shortened(query.name, NAME), words.truth(explanation, NAME))
    return (
        _media(query.media, album, query.name, QUERY, height=None, rows=12)
        + f'<div style="font-size:17px;line-height:24px;font-weight:600;padding-top:8px">'
        f"{escape(words.question(explanation, NAME))}</div>"
        + "".join(f'<div style="{_QUIET}">{escape(fact)}</div>' for fact in facts if fact)
        + _bars(explanation)
    )


def _bars(explanation: Explanation) -> str:
    likely = words.likeliest(explanation, BARS)
    if not likely:
        return ""
    with_panel = {panel.label for panel in explanation.panels}
    rows = "".join(
        f'<tr style="{_ROW}"><td style="{_CELL};padding:0;{_weight(label in with_panel)}">'
        f"{_name(explanation.class_names[label], 72)}</td>"
        f'<td width="44" style="{_CELL};padding:8px 4px 0 8px">{_bar(probability, _BLUE)}</td>'
        f'<td width="32" style="{_CELL};padding:0;text-align:right;{_weight(label in with_panel)}">'
        f"{words.share(probability)}</td></tr>"
        for label, probability in likely
    )
    return f'<table style="{_TABLE};width:{QUERY}px;margin-top:8px">{rows}</table>'


def _panel(
    explanation: Explanation,
    album: Album,
    panel: Panel,
    cards: list[tuple[TrainingExample, float]],
    longest: float,
) -> str:
    settings = explanation.settings
    note = words.note(panel, settings.method, settings.sign, NAME, explanation.provenance.nearest_space)
    heading = (
        f'<div style="padding:0 6px"><b>{_name(panel.name, 240)}</b> '
        f'<span style="{_QUIET}">{escape(note)}</span></div>'
    )
    if not cards:
        message = words.nothing(panel, settings.sign, NAME)
        return f'{heading}<div style="{_QUIET};padding:8px 6px 16px 6px">{escape(message)}</div>'
    is_wide = any(isinstance(example.media, (Text, Row)) for example, _ in cards)
    width, across = (176, 3) if is_wide else (PICTURE, 5)
    letters = max(
        (len(example.media.text) for example, _ in cards if isinstance(example.media, Text)), default=0
    )
    height = 20 * max(1, min(4, math.ceil(letters / 22)))  # one height keeps the labels of a row level
    rows = "".join(
        f'<tr style="{_ROW}">'
        + "".join(
            _card(explanation, album, card, width, height, longest) for card in cards[start : start + across]
        )
        + "</tr>"
        for start in range(0, len(cards), across)
    )
    return f'{heading}<table role="presentation" style="{_TABLE};border-spacing:6px;margin-bottom:8px">{rows}</table>'


def _card(
    explanation: Explanation,
    album: Album,
    card: tuple[TrainingExample, float],
    width: int,
    height: int,
    longest: float,
) -> str:
    example, score = card
    method = explanation.settings.method
    label = words.label_of(explanation, example)
    says = words.says(explanation, example)
    reach = words.extent(method, score) / longest if longest > 0 else 0
    colour = _GREY if method == "nearest" else _TEAL if score >= 0 else _ORANGE
    probability = "" if example.probability is None else words.share(example.probability)
    return (
        f'<td width="{width}" style="{_CELL};padding:6px;border:1px solid {_HAIRLINE};border-radius:6px">'
        + _media(example.media, album, f"{label}, training example {example.index}", width, height, rows=6)
        + f'<div style="padding-top:4px;white-space:nowrap"><b>{_name(label, width - 36)}</b> '
        f'<span style="float:right;{_QUIET}">{probability}</span></div>'
        f'<div style="padding:2px 0">{_bar(reach, colour)}</div>'
        f'<div style="font-size:12px;white-space:nowrap"><span style="{_QUIET}">#{example.index}</span> '
        f'<span style="float:right">{words.score_words(method, score)}</span></div>'
        + (
            f'<div style="font-size:12px"><b>▲ says {_name(says, width - 48)}</b></div>'
            if says is not None
            else ""
        )
        + "</td>"
    )


def _bar(part: float, colour: str) -> str:
    return (
        f'<div style="height:4px;border-radius:2px;background:{_TRACK}">'
        f'<div style="height:4px;border-radius:2px;width:{100 * min(1.0, part):.1f}%;background:{colour}"></div></div>'
    )


def _media(media: Media, album: Album, alt: str, width: int, height: int | None, rows: int) -> str:
    if isinstance(media, Text):
        size = f"max-height:{QUERY}px" if height is None else f"height:{height}px"
        return (
            f'<div style="width:{width}px;{size};overflow:hidden;overflow-wrap:anywhere">'
            f"<bdi>{escape(words.shortened(media.text, 240))}</bdi></div>"
        )
    if isinstance(media, Row):
        return _row(media, width, rows)
    image = album.picture(media)
    if image is None:
        return f'<div style="width:{width}px;height:{width}px;{_QUIET}">This picture cannot be read.</div>'
    # A picture of its own is small already; encoded anew it would lose twice.
    source = f"data:{media.mime};base64,{media.data}" if isinstance(media, Picture) else data_uri(image)
    longest = max(image.size)
    # Few pixels keep their edges, as digits should; larger pictures are smoothed.
    sharp = ";image-rendering:pixelated" if longest < 32 else ""
    wide, high = (max(1, round(side * width / longest)) for side in image.size)
    return (
        f'<img src="{source}" alt="{escape(words.shortened(alt, NAME + 40))}" '
        f'width="{wide}" height="{high}" style="display:block;margin:0 auto;border-radius:4px{sharp}">'
    )


def _row(media: Row, width: int, rows: int) -> str:
    lines = [
        (f"{_name(column, width * 5 // 8 - 8)}", f"{_name(value, width * 3 // 8)}")
        for column, value in list(zip(media.columns, media.values, strict=True))[:rows]
    ]
    hidden = max(0, len(media.columns) - rows) + media.more
    if hidden:
        lines.append((f"+ {hidden} more", "…"))
    body = "".join(
        f'<tr style="{_ROW}"><td style="{_CELL};padding:0 8px 0 0;{_QUIET}">{column}</td>'
        f'<td style="{_CELL};padding:0;text-align:right">{value}</td></tr>'
        for column, value in lines
    )
    return f'<table style="{_TABLE};width:{width}px;font-size:12px;line-height:18px">{body}</table>'


def _name(name: str, width: int) -> str:
    """A name from data, cut to a width in pixels; its direction stays its own."""
    return (
        f'<bdi style="display:inline-block;max-width:{width}px;overflow:hidden;text-overflow:ellipsis;'
        f'white-space:nowrap;vertical-align:bottom">{escape(words.shortened(name, NAME))}</bdi>'
    )


def _weight(is_bold: bool) -> str:
    return "font-weight:600" if is_bold else _QUIET
