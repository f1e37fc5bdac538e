"""What both kinds of measurement are asked for, and the tables they print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ChoiceError, one_of
from ..explanation import METHODS, Method


def as_methods(methods: Any) -> tuple[Method, ...]:
    if isinstance(methods, str):
        methods = [methods]
    chosen = tuple(dict.fromkeys(one_of("method", method, METHODS) for method in methods))
    if not chosen:
        raise ChoiceError(f"methods=() names none; expected some of {', '.join(map(repr, METHODS))}.")
    return chosen


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns, the first to the left and the others to the right."""
    widths = [max(len(line[at]) for line in (head, *rows)) for at in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, *rows)
    ]
    return "\n".join([title, *lines])
