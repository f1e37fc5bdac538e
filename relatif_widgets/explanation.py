"""The explanation document: what Python makes once and every host draws.

An `Explanation` is plain data. It holds one query, a panel for each label
under consideration, and in each panel a *ranking table*: for every method,
sign and damping stop the best training examples and their scores. A slider
position is a look-up in that table, so a document stays alive in a browser
with no kernel.

Scores follow Definition 2.1 of the paper: positive means helpful.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter, ValidationError

from .errors import ChoiceError, DocumentError, unknown_name

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = "1.0"
MIME_TYPE = "application/vnd.relatif.explanation.v1+json"

Method = Literal["influence", "theta_relative", "loss_relative", "nearest"]
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

Count = Annotated[int, Field(ge=0)]
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
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    kind: Literal["picture"] = "picture"


@dataclass(frozen=True, kw_only=True)
class Text:
    """What to show of an example: text."""

    text: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What to show of an example: a table row, one (column, value) pair a column."""

    columns: tuple[str, ...]
    values: tuple[str, ...]
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
    width: Annotated[int, Field(ge=1)]
    height: Annotated[int, Field(ge=1)]
    columns: Annotated[int, Field(ge=1)]
    count: Annotated[int, Field(ge=1)]


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
        media: What to show of it.
    """

    index: Count
    label: Count | None
    target: str | None
    predicted: Count | None
    probability: Probability | None
    loss: Finite
    media: Media


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


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where a host's controls stand when the document opens."""

    method: Method = "loss_relative"
    sign: Sign = "positive"
    k: Annotated[int, Field(ge=1)] = 5
    damping: Positive = 1e-3


@dataclass(frozen=True, kw_only=True)
class Explanation:
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
        cells = 0 if self.sprite is None else self.sprite.count
        everything: tuple[Query | TrainingExample, ...] = (self.query, *self.examples)
        for shown in everything:
            if isinstance(shown.media, Cell) and shown.media.cell >= cells:
                raise ValueError(f"cell {shown.media.cell} is not one of the {cells} in the sprite sheet")
            for label in (shown.label, shown.predicted):
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

        Raises:
            ChoiceError: The label has no panel, the method or sign is unknown,
                or the damping is no stop.
        """
        method = self.settings.method if method is None else _choice("method", method, METHODS)
        sign = self.settings.sign if sign is None else _choice("sign", sign, SIGNS)
        k = self.settings.k if k is None else k
        panel = self._panel(label)
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
            label), loss, method, damping. `label` holds names of classes, or the
            target in a regression.
        """
        import pandas as pd

        method = method or self.settings.method
        damping = self.settings.damping if damping is None else damping
        rows = [
            {
                "panel": panel.name,
                "rank": rank,
                "index": example.index,
                "score": score,
                "label": self.class_name(example.label) or example.target,
                "predicted": self.class_name(example.predicted),
                "probability": example.probability,
                "loss": example.loss,
                "method": method,
                "damping": damping,
            }
            for position, panel in enumerate(self.panels)
            for rank, (example, score) in enumerate(
                self._top_of(position, method=method, damping=damping, sign=sign, k=k), start=1
            )
        ]
        columns = "panel rank index score label predicted probability loss method damping".split()
        return pd.DataFrame(rows, columns=columns)

    def class_name(self, label: int | None) -> str | None:
        """The name of a class, None for None."""
        return None if label is None else self.class_names[label]

    def with_settings(self, **changes: Any) -> Explanation:
        """The same document with its controls elsewhere."""
        return replace(self, settings=replace(self.settings, **changes))

    def to_json(self) -> str:
        """The document as JSON text."""
        return _adapter().dump_json(self).decode()

    def to_dict(self) -> dict[str, Any]:
        """The document as plain JSON values."""
        value: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return value

    @classmethod
    def from_json(cls, text: str | bytes) -> Explanation:
        """Read a document.

        Raises:
            DocumentError: The text is no explanation, is damaged, or was written
                by a newer major version.
        """
        try:
            head = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DocumentError(f"Not a complete JSON document ({error}). Was the file cut short?") from None
        version = head.get("schema_version") if isinstance(head, Mapping) else None
        if not isinstance(version, str):
            raise DocumentError("No schema_version: this JSON is not a relatif_widgets explanation.")
        major = version.split(".")[0]
        if major != SCHEMA_VERSION.split(".")[0]:
            raise DocumentError(
                f"The explanation has schema version {version}; this relatif_widgets reads "
                f"{SCHEMA_VERSION.split('.')[0]}.x. Open it with the release that wrote it, or a newer one."
            )
        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise DocumentError(
                f"Damaged explanation at {where}: {first['msg']} ({error.error_count()} faults in all)."
            ) from None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the document, by custom named `*.relatif.json`, in one atomic step."""
        return write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation:
        """Read a document that `save` wrote; errors as in `from_json`, or OSError."""
        return cls.from_json(Path(path).read_bytes())

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """A page of its own, sliders alive, that needs neither kernel nor network.

        Args:
            path: Where to write it too, if anywhere.

        Returns:
            The page's HTML.
        """
        page = _VIEWS["page"](self)
        if path is not None:
            write_atomically(path, page)
        return page

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": _VIEWS["text/html"](self)}

    def __repr__(self) -> str:
        return _VIEWS["text/plain"](self)

    def _panel(self, label: str | int) -> Panel:
        for panel in self.panels:
            if label == panel.name or (label == panel.label and not isinstance(label, bool)):
                return panel
        raise unknown_name("label", label, self.labels)

    def _top_of(self, position: int, **settings: Any) -> list[tuple[TrainingExample, float]]:
        return replace(self, panels=(self.panels[position],)).top(self.panels[position].name, **settings)

    def _stop(self, damping: float) -> int:
        for stop, value in enumerate(self.dampings):
            if abs(value - damping) <= 1e-9 * value:
                return stop
        raise ChoiceError(
            f"damping={damping:g} is not a stop of this explanation; it has "
            f"{', '.join(f'{value:g}' for value in self.dampings)}. "
            "Ask the explainer for another: explainer.explain(..., damping=...)."
        )


_TABLES: tuple[tuple[Method, TableSign], ...] = (
    *((method, sign) for method in METHODS[:3] for sign in ("positive", "negative")),
    ("nearest", "positive"),
)

# Views know explanations, not the other way round; they sign up here.
_VIEWS: dict[str, Callable[[Explanation], str]] = {}


def register_view(name: str, draw: Callable[[Explanation], str]) -> None:
    """Let `draw` make the "page", "text/html" or "text/plain" of every explanation."""
    _VIEWS[name] = draw


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the document, generated from the dataclasses."""
    schema = _adapter().json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"relatif-explanation-{SCHEMA_VERSION}",
        **schema,
    }


def write_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """Write a text file so that readers see the old one or the new one, never half."""
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@cache
def _adapter() -> TypeAdapter[Explanation]:
    return TypeAdapter(Explanation)


def _choice(option: str, value: Any, known: tuple[Any, ...]) -> Any:
    if value not in known:
        raise unknown_name(option, value, [str(name) for name in known])
    return value
