"""The `text/plain` of an explanation: a table for terminals, e-mail and untrusted notebooks."""

from __future__ import annotations

import unicodedata

from ..explanation import Explanation, Row, Text, TrainingExample
from ..report import Report
from . import words

NAME = 24
TEXT = 60


def plain_text(document: Explanation | Report) -> str:
    """The document at its settings, one aligned table for each panel."""
    if isinstance(document, Explanation):
        return _one(document)
    title = [_name(document.title)] if document.title else []
    return "\n\n".join([*title, *map(_one, document)])


def _one(explanation: Explanation) -> str:
    lines = [_header(explanation), words.caption(explanation)]
    for panel in explanation.panels:
        cards = explanation.ranked(panel)
        settings = explanation.settings
        space = explanation.provenance.nearest_space
        lines += [
            "",
            f"{_name(panel.name)}: {words.note(panel, settings.method, settings.sign, NAME, space)}",
        ]
        lines += _table(explanation, cards) or [f"  {words.nothing(panel, settings.sign, NAME)}"]
    return "\n".join(lines)


def _header(explanation: Explanation) -> str:
    query = explanation.query
    parts = [words.shortened(query.name, NAME)]
    if query.predicted is not None:
        predicted = _name(explanation.class_names[query.predicted])
        if query.probabilities:
            predicted += f" ({words.share(query.probabilities[query.predicted])})"
        parts.append(f"predicted {predicted}")
    elif query.output is not None:
        parts.append(f"predicted {_name(query.output)}")
    parts.append(words.truth(explanation, NAME) or "")
    if isinstance(query.media, Text):
        parts.append(f"“{words.shortened(query.media.text, TEXT)}”")
    return f"{words.question(explanation, NAME)}  {' · '.join(filter(None, parts))}"


def _table(explanation: Explanation, cards: list[tuple[TrainingExample, float]]) -> list[str]:
    method = explanation.settings.method
    columns: dict[str, list[str]] = {
        "rank": [str(rank) for rank in range(1, len(cards) + 1)],
        "index": [f"#{example.index}" for example, _ in cards],
        "label": [_name(words.label_of(explanation, example)) for example, _ in cards],
        "says": [_name(words.says(explanation, example) or "") for example, _ in cards],
        "probability": [
            "" if example.probability is None else words.share(example.probability) for example, _ in cards
        ],
        "distance" if method == "nearest" else "score": [
            words.score_words(method, score) for _, score in cards
        ],
        "example": [_example(example) for example, _ in cards],
    }
    if any(example.label is None for example, _ in cards):
        columns = {"target" if name == "label" else name: cells for name, cells in columns.items()}
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    if not columns:
        return []
    lines = []
    for row in [tuple(columns), *zip(*columns.values(), strict=True)]:
        cells = [
            _padded(cell, name, max(map(_width, (name, *columns[name]))))
            for name, cell in zip(columns, row, strict=True)
        ]
        lines.append(f"  {'  '.join(cells)}".rstrip())
    return lines


def _example(example: TrainingExample) -> str:
    if isinstance(example.media, Text):
        return words.shortened(example.media.text, TEXT)
    if isinstance(example.media, Row):
        pairs = zip(example.media.columns[:6], example.media.values[:6], strict=True)
        return words.shortened(", ".join(f"{column}={value}" for column, value in pairs), TEXT)
    return ""


def _name(name: str) -> str:
    return words.shortened(name, NAME)


def _padded(cell: str, column: str, width: int) -> str:
    gap = " " * (width - _width(cell))
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in cell):
        # An isolate keeps right-to-left names from carrying the numbers beside them along.
        cell = f"\u2068{cell}\u2069"
    return cell + gap if column in ("label", "says", "target", "example") else gap + cell


def _width(text: str) -> int:
    """Columns of a terminal: wide characters take two, combining marks and joiners none."""
    return sum(
        0
        if unicodedata.category(character) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(character) in ("W", "F")
        else 1
        for character in text
    )
