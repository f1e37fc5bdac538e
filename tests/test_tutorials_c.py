"""What the tutorial on a large model says, at its small size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tutorials import run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def large() -> dict[str, Any]:
    return run(
        NOTEBOOKS / "09-a-large-model.ipynb",
        {
            "weights": "by_all_weights.parameter_count",
            "last": "by_last_layer.parameter_count",
            "accuracy": "accuracy",
            "asked": "[int(test_set[1][query]), int(probabilities[query].argmax())]",
            "agreement": "agreement",
            "distance": "float((estimated - exact).norm() / exact.norm())",
            "tolerance": "lissa.tolerance",
            "converged": "[lissa.convergence.converged, lissa_all.convergence.converged]",
            "together": "together",
            "helpful": "[CLASSES[train_set[1][row]] for rows in tops.values() for row in rows]",
            "dense": DENSE,
        },
    ).values


# The influences of the last layer once more, from its features and nothing of ours: with two classes
# the Fisher is that of a logistic regression, p (1 − p) (x, 1)(x, 1)ᵀ for the difference of the outputs.
DENSE = """(lambda x, asked, with_one: (lambda a, q, p, pq: (lambda h: float(torch.corrcoef(torch.stack([
    (2 * (pq - (pq > 0.5).double())[:, None] * q
     @ torch.linalg.inv(2 * h + DAMPING * torch.eye(len(h), dtype=torch.float64))
     @ ((p - train_set[1])[:, None] * a).T).flatten(),
    exact.double().flatten()]))[0, 1]))((a * (p * (1 - p))[:, None]).T @ a / len(a)))(
        with_one(x), with_one(asked), model[-1](x).softmax(1)[:, 1].double().detach(),
        model[-1](asked).softmax(1)[:, 1].double().detach()))(
    features(train_set[0]), features(questions),
    lambda x: torch.cat([x, torch.ones(len(x), 1)], 1).double())"""


def test_the_large_model_is_large_and_its_last_layer_is_not(large: dict[str, Any]) -> None:
    assert large["weights"] > 1_000_000
    assert large["last"] == 2 * 1024 + 2


def test_the_bird_asked_about_is_taken_for_a_plane(large: dict[str, Any]) -> None:
    assert large["asked"] == [0, 1]
    assert large["accuracy"] > 0.65  # guessing has half


def test_the_last_layers_influences_are_those_of_a_logistic_regression_on_its_features(
    large: dict[str, Any],
) -> None:
    assert large["dense"] == pytest.approx(1, abs=1e-5)


def test_lissa_agrees_with_the_exact_influences_of_the_last_layer(large: dict[str, Any]) -> None:
    assert large["converged"] == [True, True]
    assert large["agreement"] > 0.999
    assert large["distance"] < large["tolerance"]


def test_both_roads_name_planes_and_agree_in_part(large: dict[str, Any]) -> None:
    assert 0.3 < large["together"] < 1
    assert large["helpful"].count("plane") >= 8
