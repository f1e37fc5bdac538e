"""What the views say: numbers, names and notes as people read them, the same as in the browser."""

from __future__ import annotations

import math
import unicodedata
from decimal import Decimal

from ..explanation import METHOD_TITLES, Explanation, Method, Panel, Sign, Space, TrainingExample

SIGN_WORDS: dict[Sign, str] = {
    "positive": "helpful",
    "negative": "harmful",
    "both": "helpful and harmful",
}
# Joiners hold emoji together and shape Persian; they neither move nor hide their neighbours.
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    r"""Data as one line: what would break or reorder a layout shows as its escape.

    >>> visible("tab\there, \u202ereversed")
    'tab\\there, \\u202ereversed'
    """
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in _JOINERS
        else character
        for character in text
    )


def shortened(text: str, limit: int) -> str:
    """Data as one line of at most `limit` characters, with an ellipsis where it goes on.

    >>> shortened("airplane", 5)
    'airp…'
    """
    line = visible(text[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1].rstrip(_JOINERS + " ") + "…"


def digits(size: float) -> str:
    """Three significant digits of a size.

    >>> [digits(value) for value in (0.0, 9.2961, 99.96, 1234.5, 2.5e-7)]
    ['0', '9.30', '100', '1234', '2.50e−7']
    """
    if size == 0:
        return "0"
    if size >= 1e5 or size < 1e-3:
        mantissa, exponent = f"{size:.2e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{size:.0f}" if size >= 100 else f"{size:#.3g}".rstrip(".")


def signed(score: float) -> str:
    """A score with its sign; the minus is as wide as the plus.

    >>> signed(-0.04567)
    '−0.0457'
    """
    return "0" if score == 0 else f"{'+' if score > 0 else '−'}{digits(abs(score))}"


def share(probability: float) -> str:
    """A probability."""
    return f"{probability:.2f}"


def damping(value: float) -> str:
    """A damping stop, three significant digits, without idle zeros.

    >>> damping(1000.0), damping(0.0100000), damping(1e-7)
    ('1000', '0.01', '1e-7')
    """
    if 1e-6 <= value < 1e6:
        return f"{Decimal(f'{value:.3g}'):f}"
    mantissa, exponent = f"{value:.3g}".split("e")
    return f"{mantissa}e{int(exponent)}"


def extent(method: Method, score: float) -> float:
    """How far a score reaches: its size, or the distance for k-NN."""
    return math.sqrt(max(0.0, -score)) if method == "nearest" else abs(score)


def score_words(method: Method, score: float) -> str:
    """A score on a card; for k-NN the distance."""
    return digits(extent(method, score)) if method == "nearest" else signed(score)


def label_of(explanation: Explanation, example: TrainingExample) -> str:
    """The training label by name, or the training target of a regression."""
    if example.label is None:
        return example.target or ""
    return explanation.class_names[example.label]


def says(explanation: Explanation, example: TrainingExample) -> str | None:
    """What the model says where that is not the training label, else None."""
    if example.label is None or example.predicted is None or example.label == example.predicted:
        return None
    return explanation.class_names[example.predicted]


def question(explanation: Explanation, limit: int) -> str:
    """The question that the document answers."""
    query = explanation.query
    answer = query.output if query.predicted is None else explanation.class_names[query.predicted]
    return "Why?" if answer is None else f"Why “{shortened(answer, limit)}”?"


def truth(explanation: Explanation, limit: int) -> str | None:
    """The query's true label and whether the model hit it, or its true value; None where unknown."""
    query = explanation.query
    if query.label is None:
        return None if query.target is None else f"true value {shortened(query.target, limit)}"
    mark = "✓" if query.label == query.predicted else "✗"
    return f"true label {shortened(explanation.class_names[query.label], limit)} {mark}"


def likeliest(explanation: Explanation, count: int) -> list[tuple[int, float]]:
    """The most likely classes with their probabilities, and every class that has a panel."""
    ranked = sorted(enumerate(explanation.query.probabilities), key=lambda pair: -pair[1])
    with_panel = {panel.label for panel in explanation.panels}
    return [pair for place, pair in enumerate(ranked) if place < count or pair[0] in with_panel]


def note(panel: Panel, method: Method, sign: Sign, limit: int, space: Space = "inputs") -> str:
    """What the examples of a panel have in common."""
    if method == "nearest":
        where = " to the model's last layer" if space == "features" else ""
        return f"nearest examples{where}, whatever the label"
    name = shortened(panel.name, limit)
    if panel.label is None:
        if sign == "both":
            return f"pulled towards {name} or away, strongest first"
        return f"pulled the model towards {name}" if sign == "positive" else f"pulled it away from {name}"
    if sign == "both":
        return f"argued for {name} or against, strongest first"
    return f"taught the model to say {name}" if sign == "positive" else f"argued against {name}"


def nothing(panel: Panel, sign: Sign, limit: int) -> str:
    """The note of an empty panel."""
    did = {"positive": "helped", "negative": "argued against", "both": "moved"}[sign]
    return f"No training example {did} {shortened(panel.name, limit)} at this setting."


def caption(explanation: Explanation) -> str:
    """What was computed, in one line: method, damping, sign, k, and over what."""
    now, source = explanation.settings, explanation.provenance
    parts = [METHOD_TITLES[now.method]]
    if now.method == "nearest" and source.nearest_space == "features":
        parts[0] += " in the features of the last layer"
    if now.method != "nearest":
        if source.mean_eigenvalue is not None:  # else damping changes nothing
            parts.append(f"damping {damping(now.damping)}")
            if source.mean_eigenvalue > 0:
                parts[-1] += f" ({now.damping / source.mean_eigenvalue:.2g} × mean eigenvalue)"
        parts.append(SIGN_WORDS[now.sign])
    parts += [
        f"k = {now.k}",
        f"{source.train_size:,} training examples",
        f"{source.parameters:,} parameters",
    ]
    if now.method != "nearest":
        parts.append(shortened(source.curvature_detail, 80))
    return " · ".join(parts)
