"""The explanation document: what Python makes once and every host draws.

An `Explanation` is plain data. It holds one query, a panel for each label
under consideration, and in each panel a *ranking table*: for every method,
sign and damping stop the best training examples and their scores. A slider
position is a look-up in that table, so a document stays alive in a browser
with no kernel.

Scores follow Definition 2.1 of the paper: positive means helpful.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter

from .errors import ChoiceError, DocumentError, one_of, unknown_name
from .saved import SCHEMA_VERSION, Saved, read_document, read_head, view

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import HTML
    from matplotlib.figure import Figure

TOP = 20
"""Training examples that a ranking keeps per damping stop, unless more are asked for."""

Method = Literal["influence", "theta_relative", "loss_relative", "nearest"]
Space = Literal["inputs", "features"]
Sign = Literal["positive", "negative", "both"]
TableSign = Literal["positive", "negative"]
METHODS: tuple[Method, ...] = get_args(Method)
SIGNS: tuple[Sign, ...] = get_args(Sign)
METHOD_TITLES: dict[Method, str] = {
    "influence": "IF",
    "theta_relative": "θ-RelatIF",
    "loss_relative": "ℓ-RelatIF",
    "nearest": "k-NN",
}


def method_title(name: str) -> str:
    """A method's title; any other name as it is."""
    return next((title for method, title in METHOD_TITLES.items() if method == name), name)


# What JavaScript counts exactly.
LARGEST = 2**53 - 1
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Size = Annotated[int, Field(ge=1, le=LARGEST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What to show of an example: one cell of the document's sprite sheet."""

    cell: Count
    kind: Literal["cell"] = "cell"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What to show of an example: a picture of its own, base64, sizes in pixels."""

    mime: Literal["image/png", "image/webp"]
    data: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+=*$")]
    width: Size
    height: Size
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True, kw_only=True)
class Text:
    """What to show of an example: text."""

    text: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What to show of an example: a table row, one (column, value) pair a column.

    `more` columns follow that the document does not hold.
    """

    columns: tuple[str, ...]
    values: tuple[str, ...]
    more: Count = 0
    kind: Literal["row"] = "row"

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.values):
            raise ValueError(f"{len(self.columns)} columns but {len(self.values)} values")


Media = Annotated[Cell | Picture | Text | Row, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """Thumbnails in one sheet: `count` cells of `width` x `height` pixels, row by row."""

    mime: Literal["image/png", "image/webp"]
    data: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+=*$")]
    width: Size
    height: Size
    columns: Size
    count: Size


@dataclass(frozen=True, kw_only=True)
class Query:
    """The test example that is explained.

    Attributes:
        name: What to call it, such as "test #375".
        index: Its row in the test set; None for an example given by itself.
        label: Its true class; None where it is unknown or not a class.
        target: Its true value in a regression, as text.
        predicted: The class the model predicts; None in a regression.
        output: What the model predicts in a regression, as text.
        probabilities: The model's probability of every class; empty in a regression.
        media: What to show of it.
    """

    name: str
    index: Count | None
    label: Count | None
    target: str | None
    predicted: Count | None
    output: str | None
    probabilities: tuple[Probability, ...]
    media: Media


@dataclass(frozen=True, kw_only=True)
class TrainingExample:
    """A training example that some ranking mentions.

    Attributes:
        index: Its row in the training set.
        label: Its training label (a class), None in a regression.
        target: Its training target in a regression, as text.
        predicted: The class the model predicts for it, None in a regression.
        probability: The model's probability of its training label.
        loss: Its training loss.
        self_influence: I_i,i at every damping stop: how much the model leans on this one example;
            empty in documents older than 1.1.
        self_influence_rank: Its place among all training examples by self-influence, 0 the
            largest, at every damping stop; empty as above.
        media: What to show of it.
    """

    index: Count
    label: Count | None
    target: str | None
    predicted: Count | None
    probability: Probability | None
    loss: Finite
    media: Media
    self_influence: tuple[Finite, ...] = ()
    self_influence_rank: tuple[Count, ...] = ()

    def is_global(self, stop: int, train_size: int) -> bool:
        """Whether it is in the top percentile of self-influence, likely to come back for any query."""
        return bool(self.self_influence_rank) and self.self_influence_rank[stop] < train_size / 100


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The best examples of one method and sign, best first, a row per damping stop.

    A method that damping does not change has a single row for every stop.

    Attributes:
        method: The score that ranks.
        sign: "positive": largest scores first (helpful); "negative": smallest
            first (harmful). Only scores of that sign are listed, except for
            "nearest", whose scores are minus the squared distance.
        examples: Positions in the document's `examples`, [stops, at most K].
        scores: Their scores, same shape.
    """

    method: Method
    sign: TableSign
    examples: tuple[tuple[Count, ...], ...]
    scores: tuple[tuple[Finite, ...], ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.examples] != [len(row) for row in self.scores]:
            raise ValueError("examples and scores differ in shape")
        if not all(math.isfinite(score) for row in self.scores for score in row):
            raise ValueError(f"{self.method} has a score that is not a finite number")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The rankings for one label: the query's loss is taken at this label.

    Attributes:
        label: The class, or None in a regression.
        name: Its name, or the target value as text.
        rankings: One for every method and sign.
    """

    label: Count | None
    name: str
    rankings: tuple[Ranking, ...]

    def ranking(self, method: Method, sign: TableSign) -> Ranking:
        """The ranking of one method and sign; "nearest" has no sign, only nearness."""
        wanted = "positive" if method == "nearest" else sign
        return next(r for r in self.rankings if r.method == method and r.sign == wanted)


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where the numbers come from, so that a reader can judge and repeat them.

    Attributes:
        package_version: The relatif_widgets that made the document.
        created: UTC time, ISO 8601.
        curvature: Its name, such as "fisher".
        curvature_detail: The same in words.
        loss: The loss that is differentiated.
        parameters: Number of parameters P.
        train_size: Number of training examples n.
        mean_eigenvalue: Of the curvature; None where damping has no meaning.
        model_fingerprint: SHA-256 of the scored parameters' values.
        data_fingerprint: SHA-256 of the training inputs and targets.
        prepare_seconds: Wall time that the rankings took.
        nearest_space: Where k-NN measured: "inputs", or "features", what the model's last layer sees.
        examined: The preparation was cut short after so many training examples, and ranks only
            those; None where it ranks all.
    """

    package_version: str
    created: str
    curvature: str
    curvature_detail: str
    loss: str
    parameters: Count
    train_size: Count
    mean_eigenvalue: Finite | None
    model_fingerprint: str
    data_fingerprint: str
    prepare_seconds: Finite
    nearest_space: Space = "inputs"
    examined: Count | None = None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where a host's controls stand when the document opens."""

    method: Method = "loss_relative"
    sign: Sign = "positive"
    k: Size = 5
    damping: Positive = 1e-3


@dataclass(frozen=True, kw_only=True, repr=False)
class Explanation(Saved):
    """One query explained: rankings for every slider position, and what they mention.

    Attributes:
        query: The test example.
        class_names: Names of the model's outputs; empty in a regression.
        dampings: The damping stops λ, ascending, absolute as in the paper.
        panels: One per label under consideration.
        examples: Every training example that a ranking mentions, once.
        sprite: Their thumbnails; None where nothing is a picture.
        settings: Where the controls stand at first.
        provenance: How the numbers were made.
        schema_version: "major.minor" of this layout.
    """

    query: Query
    class_names: tuple[str, ...]
    dampings: Annotated[tuple[Positive, ...], Field(min_length=1)]
    panels: Annotated[tuple[Panel, ...], Field(min_length=1)]
    examples: tuple[TrainingExample, ...]
    sprite: Sprite | None
    settings: Settings
    provenance: Provenance
    schema_version: str = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if list(self.dampings) != sorted(set(self.dampings)):
            raise ValueError("dampings must ascend")
        if self.stop_at(self.settings.damping) is None:
            raise ValueError(f"settings.damping {self.settings.damping:g} is none of the stops")
        if len(self.query.probabilities) not in (0, len(self.class_names)):
            raise ValueError(
                f"{len(self.query.probabilities)} probabilities for {len(self.class_names)} classes"
            )
        cells = 0 if self.sprite is None else self.sprite.count
        everything: tuple[Query | TrainingExample, ...] = (self.query, *self.examples)
        for shown in everything:
            if isinstance(shown.media, Cell) and shown.media.cell >= cells:
                raise ValueError(f"cell {shown.media.cell} is not one of the {cells} in the sprite sheet")
        for example in self.examples:
            for values in (example.self_influence, example.self_influence_rank):
                if len(values) not in (0, len(self.dampings)):
                    stops = f"{len(self.dampings)} damping stops"
                    raise ValueError(f"example {example.index} has {len(values)} self-influences for {stops}")
        labels = [label for shown in everything for label in (shown.label, shown.predicted)]
        for label in (*labels, *(panel.label for panel in self.panels)):
            if label is not None and label >= len(self.class_names):
                raise ValueError(f"class {label} has no name; there are {len(self.class_names)}")
        for panel in self.panels:
            present = [(r.method, r.sign) for r in panel.rankings]
            if sorted(present) != sorted(_TABLES):
                raise ValueError(f"panel {panel.name!r} holds rankings {present}, expected {list(_TABLES)}")
            for ranking in panel.rankings:
                if len(ranking.examples) not in (1, len(self.dampings)):
                    raise ValueError(
                        f"{ranking.method} has {len(ranking.examples)} rows for {len(self.dampings)} damping stops"
                    )
                largest = max((p for row in ranking.examples for p in row), default=-1)
                if largest >= len(self.examples):
                    raise ValueError(f"{ranking.method} mentions example {largest} of {len(self.examples)}")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels that have a panel."""
        return tuple(panel.name for panel in self.panels)

    def top(
        self,
        label: str | int,
        *,
        method: Method | None = None,
        damping: float | None = None,
        sign: Sign | None = None,
        k: int | None = None,
    ) -> list[tuple[TrainingExample, float]]:
        """The best examples of one panel with their scores, best first.

        Args:
            label: A panel's label, by name or by class index.
            method, damping, sign, k: Where the controls stand; the document's
                settings where not given. `damping` must be one of the stops.
                "both" ranks by the absolute score, as Eq. (11) of the paper does.
                Tables are finite: fewer than `k` come back where they end.

        Raises:
            ChoiceError: The label has no panel, the method or sign is unknown,
                the damping is no stop, or k is below 1.
        """
        return self.ranked(self.panel(label), method=method, damping=damping, sign=sign, k=k)

    def ranked(
        self,
        panel: Panel,
        *,
        method: Method | None = None,
        damping: float | None = None,
        sign: Sign | None = None,
        k: int | None = None,
    ) -> list[tuple[TrainingExample, float]]:
        """`top` for one of the document's panels, as two regression targets may share a name."""
        method = self.settings.method if method is None else one_of("method", method, METHODS)
        sign = self.settings.sign if sign is None else one_of("sign", sign, SIGNS)
        k = self.settings.k if k is None else _at_least_one(k)
        stop = self._stop(self.settings.damping if damping is None else damping)
        signs: tuple[TableSign, ...] = ("positive", "negative") if sign == "both" else (sign,)
        if method == "nearest":
            signs = ("positive",)
        found: list[tuple[TrainingExample, float]] = []
        for one in signs:
            ranking = panel.ranking(method, one)
            row = min(stop, len(ranking.examples) - 1)
            found += [
                (self.examples[position], score)
                for position, score in zip(ranking.examples[row], ranking.scores[row], strict=True)
            ]
        if len(signs) > 1:
            found.sort(key=lambda pair: -abs(pair[1]))
        return found[:k]

    def to_frame(
        self,
        *,
        method: Method | None = None,
        damping: float | None = None,
        sign: Sign | None = None,
        k: int | None = None,
    ) -> pd.DataFrame:
        """One row per card: what the gallery shows at these settings.

        Args:
            method, damping, sign, k: As in `top`.

        Returns:
            DataFrame with the columns panel, rank (from 1), index (row in the
            training set), score, label, predicted, probability (of the training
            label), loss, self_influence, method, damping. `label` holds names of classes, or the
            target in a regression.
        """
        import pandas as pd

        method = self.settings.method if method is None else method
        damping = self.settings.damping if damping is None else damping
        stop = self._stop(damping)
        rows = [
            {
                "panel": panel.name,
                "rank": rank,
                "index": example.index,
                "score": score,
                "label": example.target if example.label is None else self.class_name(example.label),
                "predicted": self.class_name(example.predicted),
                "probability": example.probability,
                "loss": example.loss,
                "self_influence": example.self_influence[stop] if example.self_influence else None,
                "method": method,
                "damping": damping,
            }
            for panel in self.panels
            for rank, (example, score) in enumerate(
                self.ranked(panel, method=method, damping=damping, sign=sign, k=k), start=1
            )
        ]
        columns = ["panel", "rank", "index", "score", "label", "predicted", "probability", "loss"]
        return pd.DataFrame(rows, columns=[*columns, "self_influence", "method", "damping"])

    def rank_of(
        self,
        panel: Panel,
        index: int,
        *,
        method: Method,
        damping: float | None = None,
        sign: Sign | None = None,
    ) -> int | None:
        """The place, from 1, of a training example in one panel by one method; None where its table has ended."""
        table = self.ranked(panel, method=method, damping=damping, sign=sign, k=LARGEST)
        places = (place for place, (example, _) in enumerate(table, start=1) if example.index == index)
        return next(places, None)

    def class_name(self, label: int | None) -> str | None:
        """The name of a class, None for None."""
        return None if label is None else self.class_names[label]

    def with_panels(self, labels: Sequence[str | int]) -> Explanation:
        """The same document with only these labels' panels, in this order.

        Raises:
            ChoiceError: A label has no panel, or none is left.
        """
        if not labels:
            raise ChoiceError(f"labels=[] leaves no panel; the explanation has {', '.join(self.labels)}.")
        return replace(self, panels=tuple(self.panel(label) for label in labels))

    def without(self, index: int, top: int) -> Explanation:
        """The same document with one training example left out of every ranking, `top` of the others kept."""

        def row(table: Ranking, stop: int) -> list[int]:
            listed = table.examples[stop]
            return [at for at, place in enumerate(listed) if self.examples[place].index != index][:top]

        def left(table: Ranking) -> Ranking:
            kept = [row(table, stop) for stop in range(len(table.examples))]
            return replace(
                table,
                examples=tuple(tuple(table.examples[s][at] for at in row) for s, row in enumerate(kept)),
                scores=tuple(tuple(table.scores[s][at] for at in row) for s, row in enumerate(kept)),
            )

        panels = tuple(replace(panel, rankings=tuple(map(left, panel.rankings))) for panel in self.panels)
        return replace(self, panels=panels)

    def with_settings(
        self,
        *,
        method: str | None = None,
        sign: str | None = None,
        k: int | None = None,
        damping: float | None = None,
    ) -> Explanation:
        """The same document with its controls elsewhere; those not given stay.

        Raises:
            ChoiceError: As in `top`.
        """
        now = self.settings
        settings = Settings(
            method=now.method if method is None else one_of("method", method, METHODS),
            sign=now.sign if sign is None else one_of("sign", sign, SIGNS),
            k=now.k if k is None else _at_least_one(k),
            damping=now.damping if damping is None else self.dampings[self._stop(damping)],
        )
        return replace(self, settings=settings)

    @classmethod
    def from_json(cls, text: str | bytes) -> Explanation:
        """Read a document.

        Raises:
            DocumentError: The text is no explanation, is damaged, or was written
                by a newer major version.
        """
        text, head = read_head(text)
        if "explanations" in head:
            raise DocumentError(
                "This document is a report of several explanations: open it with Report.load."
            )
        return read_document(_adapter(), text)

    @classmethod
    def _adapter(cls) -> TypeAdapter[Any]:
        return _adapter()

    def _on_request(self) -> Mapping[str, Callable[[], Any]]:
        return {"image/png": lambda: view("image/png")(self)}

    def figure(
        self,
        *,
        methods: Sequence[Method] = ("influence", "loss_relative"),
        labels: Sequence[str | int] | None = None,
        k: int = 5,
        damping: float | None = None,
        sign: Sign | None = None,
        width: float = 7.0,
    ) -> Figure:
        """A figure for print, laid out as the paper's Figures 10 and 11: a row for each label and method.

        Args:
            methods: One row each, in this order.
            labels: The panels to draw, by name or class index; all where not given.
            k: Training examples in a row.
            damping, sign: As in `top`.
            width: In inches.

        Returns:
            A matplotlib Figure that shows itself in a notebook; `savefig` writes it.

        Raises:
            ChoiceError: As in `top`, or no methods or labels are given.
        """
        drawn: Figure = view("figure")(
            self, methods=methods, labels=labels, k=k, damping=damping, sign=sign, width=width
        )
        return drawn

    def gallery(
        self,
        *,
        method: Method | None = None,
        damping: float | None = None,
        sign: Sign | None = None,
        k: int | None = None,
        width: int = 150,
    ) -> HTML:
        """A static gallery by ipyplot with a tab for each panel.

        Args:
            method, damping, sign, k: As in `top`.
            width: Of a picture, in pixels.

        Returns:
            An object that a notebook displays.

        Raises:
            ChoiceError: As in `top`, or the width is below 1.
            DataError: The training examples are not pictures, or there is none to show.
        """
        shown: HTML = view("gallery")(self, method=method, damping=damping, sign=sign, k=k, width=width)
        return shown

    def panel(self, label: str | int) -> Panel:
        """The panel of a label, by name or by class index.

        Raises:
            ChoiceError: The label has no panel.
        """
        for panel in self.panels:
            if label == panel.name or (label == panel.label and not isinstance(label, bool)):
                return panel
        raise unknown_name("label", label, self.labels)

    def _stop(self, damping: float) -> int:
        stop = self.stop_at(damping)
        if stop is not None:
            return stop
        raise ChoiceError(
            f"damping={damping:g} is not a stop of this explanation; it has "
            f"{', '.join(f'{value:g}' for value in self.dampings)}. "
            "Ask the explainer for another: explainer.explain(..., damping=...)."
        )

    def stop_at(self, damping: float) -> int | None:
        """Position of the damping stop that equals `damping` to 1e-9, or None."""
        stops = enumerate(self.dampings)
        return next((stop for stop, value in stops if abs(value - damping) <= 1e-9 * value), None)


_TABLES: tuple[tuple[Method, TableSign], ...] = (
    *((method, sign) for method in METHODS[:3] for sign in ("positive", "negative")),
    ("nearest", "positive"),
)


def json_schema(adapter: TypeAdapter[Any] | None = None) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a document, generated from its dataclasses; the explanation's by default."""
    schema = (adapter or _adapter()).json_schema()
    # Readers tell layouts and media apart by these: a default is for Python's constructors only.
    schema["required"].append("schema_version")
    for definition in schema["$defs"].values():
        told = [name for name in ("kind", "schema_version") if name in definition["properties"]]
        if told:
            definition["required"] += told
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"relatif-{schema['title'].lower()}-{SCHEMA_VERSION}",
        **schema,
    }


@cache
def _adapter() -> TypeAdapter[Explanation]:
    return TypeAdapter(Explanation)


def _at_least_one(k: int) -> int:
    if k < 1:
        raise ChoiceError(f"k={k} asks for no example; give 1 or more.")
    return k
