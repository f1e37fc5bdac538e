"""Measurements drawn for print: dots with whiskers, curves and scatters, a colour for each method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ..explanation import method_title
from .figure import PrintFigure

# Apart for colour-blind eyes too (after Okabe and Ito), and in grey by their markers.
_COLORS = {
    "influence": "#d55e00",
    "theta_relative": "#56b4e9",
    "loss_relative": "#0072b2",
    "nearest": "#7a7a7a",
}
_MARKERS = {"influence": "o", "theta_relative": "^", "loss_relative": "s", "nearest": "D"}
_OTHERS = ("#009e73", "#cc79a7", "#b8a200", "#000000")
_GREY = "0.4"
_SIZE = 8


@dataclass(frozen=True)
class Panel:
    """One quantity of several methods.

    Attributes:
        title: The quantity; may hold formulas.
        values: One per method.
        errors: Half a whisker per method; none if empty.
        limit: Where the axis ends, if the quantity has a largest value.
        note: Beneath the axis.
    """

    title: str
    values: Sequence[float]
    errors: Sequence[float] = field(default=())
    limit: float | None = None
    note: str = ""


def dots(methods: Sequence[str], panels: Sequence[Panel], *, columns: int, width: float) -> Figure:
    """A panel per quantity, in which every method has a line, a dot and its value."""
    columns = max(1, min(columns, len(panels)))
    lines = math.ceil(len(panels) / columns)
    tall = 0.72 + 0.24 * len(methods)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    figure = PrintFigure(figsize=(width, lines * tall), layout=layout, facecolor="white")
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(lines, columns, place + 1)
        _dots(axes, methods, panel, named=place % columns == 0)
    return figure


def _dots(axes: Axes, methods: Sequence[str], panel: Panel, *, named: bool) -> None:
    places = np.arange(len(methods))
    errors = np.asarray(panel.errors) if len(panel.errors) else np.zeros(len(methods))
    for place, method, value, error in zip(places, methods, panel.values, errors, strict=True):
        color = _color(method, methods)
        axes.plot([0, value], [place, place], color=color, linewidth=1, alpha=0.35, zorder=1)
        if error:
            axes.errorbar(value, place, xerr=error, color=color, linewidth=1, capsize=2, zorder=2)
        axes.plot(value, place, _MARKERS.get(method, "o"), color=color, markersize=4.5, zorder=3)
        axes.annotate(
            _short(value, zeros=True),
            (value, place),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=_SIZE - 1.5,
            color="0.25",
        )
    low = min(0.0, *(np.asarray(panel.values) - errors))
    high = max(0.0, *(np.asarray(panel.values) + errors)) if panel.limit is None else panel.limit
    room = 0.06 * ((high - low) or 1)
    axes.set_xlim(low - (room if low < 0 else 0), high + room)
    axes.set_ylim(len(methods) - 0.6, -0.75)
    axes.set_yticks(places, [method_title(method) for method in methods] if named else [""] * len(methods))
    for label in axes.get_yticklabels():
        label.set_parse_math(False)  # the name of a baseline is no formula
    axes.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    axes.xaxis.set_major_formatter(lambda value, place: _short(value))
    axes.set_title(panel.title, fontsize=_SIZE + 0.5, loc="left")
    if panel.note:
        axes.set_xlabel(panel.note, fontsize=_SIZE - 1, color=_GREY, labelpad=2)
    _plain(axes, left=False)
    if low < 0:
        axes.axvline(0, color="0.75", linewidth=0.7, zorder=0)


def frequencies(curves: Mapping[str, np.ndarray], k: int, queries: int, *, width: float) -> Figure:
    """For how many queries each training example is returned, most returned first, both axes logarithmic."""
    figure = PrintFigure(figsize=(width, 0.5 * width), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    for method, counts in curves.items():
        places = np.arange(1, len(counts) + 1)
        color = _color(method, list(curves))
        axes.step(places, counts, where="post", color=color, linewidth=1.6)
        axes.plot(
            places[-1], counts[-1], _MARKERS.get(method, "o"), color=color, markersize=5, clip_on=False,
            label=f"{method_title(method)}: {len(counts):,} distinct, the first for {counts[0]:,} queries",
        )  # fmt: skip
    axes.set_ylim(bottom=0.9)
    axes.set_xlim(left=0.95)
    axes.set_xlabel("training examples, most returned first", fontsize=_SIZE)
    axes.set_ylabel(f"for how many of {queries:,} queries\nit is in the top {k}", fontsize=_SIZE)
    axes.grid(True, color="0.92", linewidth=0.6)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)))
        axis.set_major_formatter(lambda value, place: f"{value:,.0f}" if value >= 1 else "")
        axis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=_SIZE, frameon=False, loc="upper right")
    _plain(axes)
    return figure


def overlap(k: Sequence[int], curves: Mapping[str, np.ndarray], *, width: float) -> Figure:
    """Percent of each method's top k among the k nearest, over k."""
    figure = PrintFigure(figsize=(width, 0.62 * width), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    for method, percent in curves.items():
        axes.plot(
            k, percent, color=_color(method, list(curves)), marker=_MARKERS.get(method, "o"), markersize=4.5,
            linewidth=1.4, label=method_title(method), clip_on=False,
        )  # fmt: skip
    top = max(float(percent.max()) for percent in curves.values())
    axes.set_ylim(0, min(100.0, 1.15 * top) if top > 0 else 1)
    axes.set_xticks(list(k))
    axes.set_xlabel("k", fontsize=_SIZE)
    axes.set_ylabel("% of the top k among\nthe k nearest neighbours", fontsize=_SIZE)
    axes.grid(True, axis="y", color="0.92", linewidth=0.6)
    axes.legend(fontsize=_SIZE, frameon=False, loc="best")
    _plain(axes)
    return figure


def agreement(predicted: np.ndarray, actual: np.ndarray, note: str, *, width: float) -> Figure:
    """Predicted against actual change, a point per pair, with the line where they are equal."""
    figure = PrintFigure(figsize=(width, width), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    low = float(min(predicted.min(), actual.min()))
    high = float(max(predicted.max(), actual.max()))
    room = 0.05 * ((high - low) or 1)
    ends = (low - room, high + room)
    axes.plot(ends, ends, color="0.7", linewidth=0.8, zorder=1)
    axes.scatter(
        predicted, actual, s=9, color=_COLORS["loss_relative"], alpha=max(0.35, min(0.8, 200 / len(actual))),
        linewidths=0, rasterized=len(actual) > 2000, zorder=2,
    )  # fmt: skip
    axes.set_xlim(ends)
    axes.set_ylim(ends)
    axes.set_aspect("equal")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("predicted change of the test loss, I / n", fontsize=_SIZE)
    axes.set_ylabel("actual change, after retraining", fontsize=_SIZE)
    axes.text(
        0.04, 0.96, note, transform=axes.transAxes, va="top", ha="left", fontsize=_SIZE + 0.5, linespacing=1.5
    )  # fmt: skip
    axes.annotate(
        "equal",
        (ends[0] + 0.1 * (ends[1] - ends[0]),) * 2,
        xytext=(3, -3),
        textcoords="offset points",
        va="top",
        fontsize=_SIZE - 1,
        color=_GREY,
    )
    axes.grid(True, color="0.94", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    _plain(axes)
    return figure


def _plain(axes: Axes, *, left: bool = True) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom" or (left and side == "left"))
        spine.set(linewidth=0.7, color="0.6")
    axes.tick_params(labelsize=_SIZE - 0.5, length=2.5, width=0.7, color="0.6", which="major")
    axes.tick_params(length=0, which="minor")
    if not left:
        axes.tick_params(axis="y", length=0, labelsize=_SIZE + 0.5)


def _color(method: str, methods: Sequence[str]) -> str:
    others = [name for name in methods if name not in _COLORS]
    return _COLORS[method] if method in _COLORS else _OTHERS[others.index(method) % len(_OTHERS)]


def _short(value: float, *, zeros: bool = False) -> str:
    """A number as short as its size allows, with a minus sign that is none of hyphens.

    Args:
        value: The number.
        zeros: Three digits even where the last are zeros, as numbers under each other want.
    """
    if value == int(value) and (abs(value) >= 1 or not value):
        text = f"{value:,.0f}"
    elif abs(value) < 1e-3:
        text = f"{value:.2g}"
    else:
        text = f"{value:#.3g}".rstrip(".") if zeros else f"{value:.3g}"
    return text.replace("-", "−")
