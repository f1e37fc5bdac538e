"""Small explanations made by hand: the golden documents that pytest and vitest both read.

`python tests/documents.py` writes them to tests/golden/documents/, and the
JSON schema beside the module that it describes.
"""

import base64
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

from relatif_widgets.explanation import (
    METHODS,
    Cell,
    Explanation,
    Panel,
    Provenance,
    Query,
    Ranking,
    Row,
    Settings,
    Sprite,
    Text,
    TrainingExample,
    json_schema,
)
from relatif_widgets.report import Report, report_schema
from relatif_widgets.saved import write_atomically

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden" / "documents"
SCHEMA = ROOT / "relatif_widgets" / "explanation.schema.json"
REPORT = ROOT / "tests" / "golden" / "reports" / "three.relatif.json"
REPORT_SCHEMA = ROOT / "relatif_widgets" / "report.schema.json"

SIDE = 8
DAMPINGS = (0.001, 0.01, 0.1)
PROVENANCE = Provenance(
    package_version="0.1.0",
    created="2026-01-02T03:04:05+00:00",
    curvature="fisher",
    curvature_detail="exact Fisher",
    loss="cross_entropy",
    parameters=7850,
    train_size=55000,
    mean_eigenvalue=0.004,
    model_fingerprint="a" * 64,
    data_fingerprint="b" * 64,
    prepare_seconds=0.9,
)


def images() -> Explanation:
    """A misclassified digit, 9 beside 4, in 8 x 8 grey pictures."""
    facts = [  # index, label, predicted, probability, loss
        (22708, 9, 4, 0.38, 0.968),
        (48409, 9, 9, 0.65, 0.431),
        (11422, 9, 9, 0.73, 0.315),
        (24446, 9, 9, 0.9, 0.105),
        (26657, 4, 4, 0.9, 0.105),
        (20562, 4, 4, 0.51, 0.673),
        (39004, 4, 4, 1.0, 0.0),
        (1995, 4, 9, 0.24, 1.427),
    ]
    examples = tuple(
        TrainingExample(
            index=index,
            label=label,
            target=None,
            predicted=predicted,
            probability=probability,
            loss=loss,
            media=Cell(cell=position),
            self_influence=tuple(round(6 * (8 - position) / (stop + 1), 3) for stop in range(len(DAMPINGS))),
            self_influence_rank=tuple(300 * position + 10 * stop for stop in range(len(DAMPINGS))),
        )
        for position, (index, label, predicted, probability, loss) in enumerate(facts)
    )
    probabilities = [0.0, 0.0, 0.0, 0.01, 0.47, 0.0, 0.0, 0.0, 0.0, 0.52]
    return Explanation(
        query=Query(
            name="test #375",
            index=375,
            label=4,
            target=None,
            predicted=9,
            output=None,
            probabilities=tuple(probabilities),
            media=Cell(cell=8),
        ),
        class_names=tuple("0123456789"),
        dampings=DAMPINGS,
        panels=(
            Panel(label=9, name="9", rankings=tables((0, 1, 2, 3), (4, 5, 7), (3, 2, 5))),
            Panel(label=4, name="4", rankings=tables((4, 5, 6, 7), (0, 1, 3), (3, 2, 5))),
        ),
        examples=examples,
        sprite=sprite(9),
        settings=Settings(k=3, damping=0.01),
        provenance=PROVENANCE,
    )


def identity() -> Explanation:
    """The same question under the identity, which damping does not change: one stop."""
    whole = images()
    first = [
        replace(ranking, examples=ranking.examples[:1], scores=ranking.scores[:1])
        for ranking in whole.panels[0].rankings
    ]
    return replace(
        whole,
        dampings=(0.001,),
        panels=(replace(whole.panels[0], rankings=tuple(first)),),
        examples=tuple(
            replace(
                example,
                self_influence=example.self_influence[:1],
                self_influence_rank=example.self_influence_rank[:1],
            )
            for example in whole.examples
        ),
        settings=Settings(damping=0.001),
        provenance=replace(
            PROVENANCE, curvature="identity", curvature_detail="identity", mean_eigenvalue=None
        ),
    )


def names() -> Explanation:
    """Surnames by language; the query is given by itself and has no known label."""
    shown = [("Pyrkov", 0, 0.97), ("Ruskov", 0, 0.93), ("Sakovich", 0, 0.88), ("Sato", 1, 0.99)]
    return Explanation(
        query=Query(
            name="query",
            index=None,
            label=None,
            target=None,
            predicted=0,
            output=None,
            probabilities=(0.95, 0.05),
            media=Text(text="Vasyukov"),
        ),
        class_names=("Russian", "Japanese"),
        dampings=DAMPINGS,
        panels=(Panel(label=0, name="Russian", rankings=tables((0, 1, 2), (3,), ())),),
        examples=tuple(
            TrainingExample(
                index=10 * position,
                label=label,
                target=None,
                predicted=label,
                probability=probability,
                loss=0.05,
                media=Text(text=text),
            )
            for position, (text, label, probability) in enumerate(shown)
        ),
        sprite=None,
        settings=Settings(method="influence", sign="both", damping=0.1),
        provenance=replace(PROVENANCE, parameters=4626, train_size=20000),
    )


def rows() -> Explanation:
    """Table rows; nothing argues against the label."""
    columns = ("sepal length", "sepal width", "petal length", "petal width")
    shown = [("5.1", "3.5", "1.4", "0.2"), ("4.9", "3.0", "1.4", "0.2"), ("7.0", "3.2", "4.7", "1.4")]
    labels = (0, 0, 1)
    return Explanation(
        query=Query(
            name="test #0",
            index=0,
            label=0,
            target=None,
            predicted=0,
            output=None,
            probabilities=(0.98, 0.02),
            media=Row(columns=columns, values=("5.0", "3.4", "1.5", "0.2")),
        ),
        class_names=("setosa", "versicolor"),
        dampings=DAMPINGS,
        panels=(Panel(label=0, name="setosa", rankings=tables((0, 1), (), (1, 0, 2))),),
        examples=tuple(
            TrainingExample(
                index=position,
                label=label,
                target=None,
                predicted=label,
                probability=0.96,
                loss=0.04,
                media=Row(columns=columns, values=values),
            )
            for position, (values, label) in enumerate(zip(shown, labels, strict=True))
        ),
        sprite=None,
        settings=Settings(sign="negative", damping=0.001),
        provenance=replace(PROVENANCE, parameters=10, train_size=100),
    )


def regression() -> Explanation:
    """A regression: targets and outputs are text, and there are no probabilities."""
    return Explanation(
        query=Query(
            name="test #3",
            index=3,
            label=None,
            target="151",
            predicted=None,
            output="148.2",
            probabilities=(),
            media=Row(columns=("age", "bmi"), values=("59", "32.1")),
        ),
        class_names=(),
        dampings=DAMPINGS,
        panels=(Panel(label=None, name="151", rankings=tables((0, 1), (2,), (1, 2))),),
        examples=tuple(
            TrainingExample(
                index=index,
                label=None,
                target=target,
                predicted=None,
                probability=None,
                loss=loss,
                media=Row(columns=("age", "bmi"), values=values),
            )
            for index, target, loss, values in (
                (7, "155.5", 0.5, ("60", "31.0")),
                (11, "141", 2.25, ("48", "21.6")),
                (2, "75", 8.0, ("72", "30.5")),
            )
        ),
        sprite=None,
        settings=Settings(damping=0.001),
        provenance=replace(PROVENANCE, loss="mse", parameters=3, train_size=442),
    )


HOSTILE = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(2)'>",
    "</noscript></script><!--<script>",
    "\u202egnp.exe\u202c",
    "שלום עולם",
    "👩‍🔬 science",
    "two\nlines\tand\x1b[31m red",
    "$\\frac{1}{0$ &amp; {{braces}} %s",
    "line\u2028separator",
    "long " * 2000,
)


def hostile() -> Explanation:
    """Names and texts that try to be markup, to break lines, to reverse or to fill the page."""
    count = len(HOSTILE)
    positions = tuple(range(count))
    return Explanation(
        query=Query(
            name=HOSTILE[0],
            index=None,
            label=1,
            target=None,
            predicted=0,
            output=None,
            probabilities=tuple([0.1] * count),
            media=Text(text=HOSTILE[2]),
        ),
        class_names=HOSTILE,
        dampings=DAMPINGS,
        panels=tuple(
            Panel(label=label, name=HOSTILE[label], rankings=tables(positions, (), ())) for label in (0, 9)
        ),
        examples=tuple(
            TrainingExample(
                index=position,
                label=position,
                target=None,
                predicted=(position + 1) % count,
                probability=0.1,
                loss=2.3,
                media=Text(text=HOSTILE[position])
                if position % 2
                else Row(columns=(HOSTILE[position],), values=(HOSTILE[position],)),
            )
            for position in positions
        ),
        sprite=None,
        settings=Settings(k=20, damping=0.001),
        provenance=replace(PROVENANCE, curvature_detail=HOSTILE[1], package_version=HOSTILE[1]),
    )


DOCUMENTS = {make.__name__: make for make in (images, identity, names, rows, regression, hostile)}


def tables(
    positive: tuple[int, ...], negative: tuple[int, ...], nearest: tuple[int, ...]
) -> tuple[Ranking, ...]:
    """Rankings with numbers that a head can follow.

    Method number m (1 IF, 2 θ, 3 ℓ) scores ±3m / rank at the first stop, half
    of that at the second, a third at the third. Each further stop, and each
    further method, rotates the order by one. k-NN's distances are rank / 2.
    """
    found = [
        Ranking(
            method=method,
            sign=sign,
            examples=tuple(_rotated(listed, number + stop) for stop in range(len(DAMPINGS))),
            scores=tuple(
                tuple(
                    round(direction * 3 * (number + 1) / rank / (stop + 1), 4)
                    for rank in range(1, len(listed) + 1)
                )
                for stop in range(len(DAMPINGS))
            ),
        )
        for number, method in enumerate(METHODS[:3])
        for sign, direction, listed in (("positive", 1, positive), ("negative", -1, negative))
    ]
    distances = tuple(-(rank**2) / 4 for rank in range(1, len(nearest) + 1))
    return (*found, Ranking(method="nearest", sign="positive", examples=(nearest,), scores=(distances,)))


def _rotated(listed: tuple[int, ...], by: int) -> tuple[int, ...]:
    start = by % len(listed) if listed else 0
    return (*listed[start:], *listed[:start])


def sprite(count: int, columns: int = 3) -> Sprite:
    """A sheet of grey pictures: cell c is a diagonal stripe pattern of period c + 2, every pixel known."""
    rows = -(-count // columns)
    lines = [
        bytes(pixel((y // SIDE) * columns + x // SIDE, x % SIDE, y % SIDE) for x in range(columns * SIDE))
        for y in range(rows * SIDE)
    ]
    return Sprite(mime="image/png", data=png(lines), width=SIDE, height=SIDE, columns=columns, count=count)


def pixel(cell: int, x: int, y: int) -> int:
    """The grey value at (x, y) of a cell."""
    return 255 * ((x + y) % (cell + 2)) // (cell + 1)


def png(lines: list[bytes]) -> str:
    """Grey lines as a PNG, base64. Stored, not deflated: the same bytes with every zlib there is."""
    header = struct.pack(">IIBBBBB", len(lines[0]), len(lines), 8, 0, 0, 0, 0)
    parts = [
        (b"IHDR", header),
        (b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines), 0)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def golden_text(name: str) -> str:
    """A golden document as its file holds it: indented, so that changes can be read."""
    return json.dumps(DOCUMENTS[name]().to_dict(), indent=1, ensure_ascii=False) + "\n"


def schema_text() -> str:
    """The schema as its file holds it."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def report() -> Report:
    """Two queries of different kinds, one of them hostile."""
    return Report([images(), hostile(), regression()], title="<b>Why</b> these three?")


def report_text() -> str:
    """The golden report as its file holds it."""
    return json.dumps(report().to_dict(), indent=1, ensure_ascii=False) + "\n"


def report_schema_text() -> str:
    """The report's schema as its file holds it."""
    return json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    for folder in (GOLDEN, REPORT.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for name in DOCUMENTS:
        write_atomically(GOLDEN / f"{name}.relatif.json", golden_text(name))
    write_atomically(SCHEMA, schema_text())
    write_atomically(REPORT, report_text())
    write_atomically(REPORT_SCHEMA, report_schema_text())


if __name__ == "__main__":
    main()
