"""What the tutorials say is so: each is run at its small size, and its numbers are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tutorials import run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def values(name: str, expressions: dict[str, str]) -> dict[str, Any]:
    """The values that some expressions have at a notebook's end."""
    return run(NOTEBOOKS / f"{name}.ipynb", expressions).values


@pytest.fixture(scope="module")
def plane() -> dict[str, Any]:
    names = ("distinct", "shares", "kept", "answers", "by_if", "by_relatif", "pull_ratio", "arrow_ratio",
             "same_in_the_end", "OUTLIER")  # fmt: skip
    return values("02-two-dimensions", {name: name for name in names})


def test_in_the_plane_influence_names_a_handful_and_relatif_every_example(plane: dict[str, Any]) -> None:
    assert plane["distinct"]["influence"] <= 6
    assert plane["distinct"]["theta_relative"] == plane["distinct"]["loss_relative"] == 81


def test_influence_names_the_outlier_for_most_of_the_plane_and_relatif_does_not(
    plane: dict[str, Any],
) -> None:
    assert plane["shares"]["influence"] > 0.75
    assert max(plane["shares"]["theta_relative"], plane["shares"]["loss_relative"]) < 0.06
    assert plane["answers"]["influence"] == plane["OUTLIER"]
    assert plane["pull_ratio"] > 1000


def test_correcting_the_outliers_label_changes_influence_and_neither_relative_score(
    plane: dict[str, Any],
) -> None:
    # A logistic gradient is (p − y) x: with the other label p/(1 − p) as much of it, in this case 1/441.
    assert plane["kept"]["influence"] < 0.003
    assert plane["kept"]["theta_relative"] == pytest.approx(1, rel=1e-9)
    assert plane["kept"]["loss_relative"] == pytest.approx(1, rel=1e-9)


def test_the_longest_arrow_casts_the_longest_shadow_on_both_questions(plane: dict[str, Any]) -> None:
    assert plane["by_if"] == [plane["OUTLIER"]] * 2
    assert plane["OUTLIER"] not in plane["by_relatif"]
    assert plane["by_relatif"][0] != plane["by_relatif"][1]
    assert plane["arrow_ratio"] > 50


def test_at_a_large_damping_both_relative_scores_name_the_same_example(plane: dict[str, Any]) -> None:
    assert plane["same_in_the_end"] == pytest.approx(1, abs=0.005)


@pytest.fixture(scope="module")
def machine() -> dict[str, Any]:
    names = ("same_support", "deviation_plane", "deviation_digits", "deviation_features", "same_order",
             "correlation", "top")  # fmt: skip
    return values("10-support-vectors", {name: name for name in names})


def test_only_support_vectors_have_influence(machine: dict[str, Any]) -> None:
    assert machine["same_support"]


@pytest.mark.parametrize("where", ["plane", "digits", "features"])
def test_an_svms_influence_is_the_closed_form_of_appendix_d(machine: dict[str, Any], where: str) -> None:
    assert machine[f"deviation_{where}"] < 1e-12


def test_on_unit_vectors_influence_and_relatif_order_alike(machine: dict[str, Any]) -> None:
    assert machine["same_order"] == 1
    assert machine["top"]["influence"] != machine["top"]["loss_relative"]  # where lengths differ, they do not


def test_influence_forecasts_retraining_where_the_hinge_is_rounded(machine: dict[str, Any]) -> None:
    assert machine["correlation"]["rounded hinge, H ≠ 0"] > 0.99
    assert machine["correlation"]["hinge, H = 0"] < 0.8


@pytest.fixture(scope="module")
def own() -> dict[str, Any]:
    return run(
        "08-your-own-model",
        {
            "refusals": "refusals",
            "names": "list(by_last_layer.class_names)",
            "parameters": "by_last_layer.parameter_count",
            "query": "found.query.media.text",
            "asked": "test_words[unsure][0]",
            "columns": "list(told.query.media.columns)",
            "best": "int(told.to_frame()['index'][0])",
            "scored": "int(regression.scores(test_table.iloc[[patient]], [test_course.iloc[patient]])[0].argmax())",
            "error": "error",
            "guess": "guess",
        },
    )


def test_a_data_set_of_ones_own_keeps_its_names_texts_and_columns(own: dict[str, Any]) -> None:
    assert own["names"][:3] == ["zero", "one", "two"]
    assert own["parameters"] == 32 * 10 + 10
    assert own["query"] == own["asked"]
    assert own["columns"][3] == "blood pressure"


def test_the_card_that_a_regression_shows_first_has_the_highest_score(own: dict[str, Any]) -> None:
    assert own["best"] == own["scored"]
    assert own["error"] < 0.8 * own["guess"]


def test_all_six_mistakes_of_the_tutorial_are_refused(own: dict[str, Any]) -> None:
    assert own["refusals"] == ["DataError", "DataError", "DataError", "ModelError", "ModelError", "DataError"]
