"""The tutorials, each run once at its small size: what they say is so, and Binder's memory is enough."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from tutorials import Run, over, run

from relatif_widgets.evaluation.rankings import SCORED

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.notebook

ASKED: dict[str, dict[str, str]] = {}
"""What the tests ask of a tutorial that ran: expressions by name, by the tutorial's."""


CORES = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
"""A tutorial runs in a process of its own, on one thread (`binder/start`)."""


@cache
def started(tutorial: str) -> Future[Run]:
    path = next(path for path in NOTEBOOKS if path.stem == tutorial)
    return CORES.submit(run, path, ASKED.get(tutorial), timeout=900)


def ran(tutorial: str) -> Run:
    return started(tutorial).result()


@pytest.fixture(scope="module", autouse=True)
def together(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where all are wanted, as many run at once as there are cores."""
    for item in request.session.items:
        wanted = (
            item.callspec.params.get("path")
            if isinstance(item, pytest.Function) and hasattr(item, "callspec")
            else None
        )
        if wanted in NOTEBOOKS and not item.get_closest_marker("skip"):
            started(wanted.stem)
    yield
    CORES.shutdown(cancel_futures=True)


def values_of(tutorial: str, expressions: dict[str, str]) -> Any:
    """A fixture: the values that expressions have at a tutorial's end."""
    ASKED[tutorial] = expressions

    @pytest.fixture(scope="module")
    def values() -> dict[str, Any]:
        return ran(tutorial).values

    return values


def marked(path: Path) -> Any:
    """Tutorials on data that do not come with a package wait for those, as tests do."""
    code = "\n".join(
        cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"
    )
    fetches = re.search(r"\b(cifar10|names)\(|\bmnist\(full=True", code)
    return pytest.param(path, id=path.stem, marks=[pytest.mark.data] if fetches else [])


@pytest.mark.parametrize("path", [marked(path) for path in NOTEBOOKS])
def test_a_tutorial_runs_to_its_end_in_the_memory_that_binder_leaves_it(path: Path) -> None:
    found = ran(path.stem)
    print(f"{path.stem}: {found.peak:.0f} MB, {found.seconds:.0f} s")
    assert not over(path, found), over(path, found)


plane = values_of(
    "02-two-dimensions",
    {
        name: name
        for name in (
            "distinct",
            "shares",
            "kept",
            "answers",
            "by_if",
            "by_relatif",
            "pull_ratio",
            "arrow_ratio",
            "same_in_the_end",
            "OUTLIER",
        )
    },
)


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


SETS = """{f"{method} {k}": [one.cardinality, one.probability, one.returned_for]
    for (method, k), one in specificity.sets.items()}"""
CORRELATIONS = "{name: [one.pearson, one.slope] for name, one in correlations.items()}"


mnist = values_of(
    "03-mnist",
    {
        "slope": "setting.slope",
        "accuracy": "setting.accuracy",
        "sets": SETS,
        "overlap": """{method: list(ranked.overlap().percent(method))
            for method in ("influence", "theta_relative", "loss_relative")}""",
        "means": """{method: {name: float(effects.summary().loc[method, (name, "mean")])
            for name in ("test_loss", "parameters", "train_losses", "test_loss_per_parameters")}
            for method in effects.chosen}""",
        "correlations": CORRELATIONS,
        "opened": "widget.explanation.query.index",
        "misread": "paper.first(setting, 9, right=False)",
    },
)


def test_the_regression_is_at_its_optimum(mnist: dict[str, Any]) -> None:
    assert mnist["slope"] < 1e-8
    assert mnist["accuracy"] > 0.88


def test_relatif_has_several_times_as_many_answers_as_influence_and_typical_ones(
    mnist: dict[str, Any],
) -> None:
    sets = mnist["sets"]
    for method in SCORED[1:]:
        assert sets[f"{method} 1"][0] > 1.8 * sets["influence 1"][0]
        assert sets[f"{method} 5"][0] > 2.5 * sets["influence 5"][0]
        assert sets[f"{method} 1"][1] > sets["influence 1"][1] + 0.4  # mean probability
        assert sets[f"{method} 1"][2] < sets["influence 1"][2]  # for how many the commonest is returned


def test_relatif_is_nearer_than_influence_and_no_nearest_neighbour(mnist: dict[str, Any]) -> None:
    overlap = mnist["overlap"]
    for method in SCORED[1:]:
        assert all(
            3 * few < many < 75 for few, many in zip(overlap["influence"], overlap[method], strict=True)
        )


def test_influences_first_answer_moves_the_whole_model(mnist: dict[str, Any]) -> None:
    means = mnist["means"]
    for method in SCORED[1:]:
        for name in ("parameters", "train_losses"):
            assert means["influence"][name] > 3 * means[method][name]
        assert means["influence"]["test_loss"] >= means[method]["test_loss"]
        assert means[method]["test_loss_per_parameters"] > means["influence"]["test_loss_per_parameters"]


def test_the_exact_curvature_foretells_removals_and_plain_gradients_do_not(mnist: dict[str, Any]) -> None:
    found = mnist["correlations"]
    assert found["exact"][0] > 0.99
    assert found["exact"][1] == pytest.approx(1, abs=0.25)
    assert found["LiSSA"][0] > 0.97
    assert found["gradient"][0] < found["LiSSA"][0]


def test_the_gallery_opens_with_the_misread_nine(mnist: dict[str, Any]) -> None:
    assert mnist["opened"] == mnist["misread"]


convnet = values_of(
    "04-cifar",
    {
        "parameters": "explainer.parameter_count",
        "sets": SETS,
        "overlap": 'list(ranked.overlap().percent("loss_relative"))',
        "shown": """[paper.explain(setting, query).panels[0].name == CLASSES[setting.predicted()[query]]
            for query in (dog, truck)]""",
        "slope": "small.slope",
        "correlations": CORRELATIONS,
    },
)


@pytest.mark.data
def test_the_convnets_answers_are_specific_too_and_its_neighbours_are_others(convnet: dict[str, Any]) -> None:
    assert convnet["parameters"] == 24_234
    assert convnet["shown"] == [True, True]
    sets = convnet["sets"]
    for method in SCORED[1:]:
        assert sets[f"{method} 5"][0] > 1.2 * sets["influence 5"][0]
        assert sets[f"{method} 5"][1] > sets["influence 5"][1] + 0.1
    assert max(convnet["overlap"]) < 25
    assert convnet["slope"] < 1e-8
    # One of 120 is no infinitesimal step of a network: 0.90, and changes about twice as large as predicted.
    assert convnet["correlations"]["exact"][0] > 0.8
    assert 1 < convnet["correlations"]["exact"][1] < 3


birds = values_of(
    "05-bird-or-plane",
    {
        "truth": "CLASSES[test_labels[query]]",
        "top2": "sorted(CLASSES[c] for c in probabilities[query].topk(2).indices.tolist())",
        "panels": """{method: explanation.to_frame(method=method, k=5)[["panel", "label"]].values.tolist()
            for method in METHODS}""",
        "opened": "sorted(panel.name for panel in widget.explanation.panels)",
        "can_check": "widget.can_check",
        "without": "retrain([0, 1])[0].weight.shape[0]",
    },
)


@pytest.mark.data
def test_evidence_for_bird_is_birds_and_for_plane_planes(birds: dict[str, Any]) -> None:
    assert birds["truth"] in {"bird", "plane"}
    assert birds["top2"] == ["bird", "plane"]
    assert birds["opened"] == ["bird", "plane"]
    for method, cards in birds["panels"].items():
        assert sorted(panel for panel, _ in cards) == ["bird"] * 5 + ["plane"] * 5
        own = sum(panel == label for panel, label in cards)
        assert own >= 9, method
    assert birds["can_check"]
    assert birds["without"] == 16


names = values_of(
    "06-names",
    {
        "shares": "shares",
        "six": "{title: [texts[train_rows[card.index]] for card in six] for title, six in cards.items()}",
        "panel": "explanation.panels[0].name",
        "shown": "[explainer.show(row).text for row in range(50)]",
        "names": "[texts[row] for row in train_rows[:50]]",
        "seen": "QUERY in {texts[row] for row in train_rows}",
        "parameters": "explainer.parameter_count",
    },
)


@pytest.mark.data
def test_names_that_taught_a_name_in_kov_end_in_kov_by_relatif_and_not_by_if(names: dict[str, Any]) -> None:
    assert names["panel"] == "Russian"
    assert not names["seen"]
    assert names["parameters"] == 18 * (48 + 1)
    assert names["shown"] == names["names"]
    shares = names["shares"]
    assert shares["any training name"] < 0.05
    assert shares["IF"] < 0.2
    assert shares["θ-RelatIF"] > 0.6
    assert shares["ℓ-RelatIF"] > 0.7
    assert sum(name.endswith("kov") for name in names["six"]["ℓ-RelatIF"]) >= 4
    assert sum(name.endswith("kov") for name in names["six"]["IF"]) <= 1


mislabelled = values_of(
    "07-find-the-mislabelled",
    {
        "precision": "average_precision",
        "flipped": "torch.nonzero(flipped).flatten().tolist()",
        "first": "order[:look].tolist()",
        "tagged": "explainer.tags.value",
        "own": "int((first == suspects).sum()) / len(suspects)",
        "left": 'gain["wrong labels left"].to_dict()',
        "accuracy": 'gain["test accuracy"].to_dict()',
        "same": "bool((labels[~flipped] == true_labels[~flipped]).all())",
        "changed": "bool((labels[flipped] != true_labels[flipped]).all())",
    },
)


def test_one_label_in_twenty_is_wrong_and_no_other(mislabelled: dict[str, Any]) -> None:
    assert len(mislabelled["flipped"]) == 200  # of 4,000
    assert mislabelled["same"]
    assert mislabelled["changed"]


def test_self_influence_puts_wrong_labels_first(mislabelled: dict[str, Any]) -> None:
    precision = mislabelled["precision"]
    assert precision["chance"] == pytest.approx(0.05, abs=0.02)
    assert precision["self-influence"] > 0.75
    assert precision["harm to checked examples"] > 0.4
    found = set(mislabelled["first"]) & set(mislabelled["flipped"])
    assert len(found) >= 170  # 85 % of them, in a tenth of the data


def test_the_tagged_are_the_wrong_ones_among_those_looked_at(mislabelled: dict[str, Any]) -> None:
    wrong = sorted(set(mislabelled["first"]) & set(mislabelled["flipped"]))
    assert mislabelled["tagged"] == {str(row): ["mislabelled"] for row in wrong}


def test_a_suspect_is_its_own_best_teacher(mislabelled: dict[str, Any]) -> None:
    assert mislabelled["own"] > 0.9


def test_fixing_what_was_tagged_raises_the_accuracy_and_chance_does_not(mislabelled: dict[str, Any]) -> None:
    left, accuracy = mislabelled["left"], mislabelled["accuracy"]
    assert left["as they were"] == 200
    assert left["every label right"] == 0
    assert left["400 looked at, by self-influence"] == 200 - len(mislabelled["tagged"])
    assert left["400 looked at, by chance"] > 160
    gained = accuracy["400 looked at, by self-influence"] - accuracy["as they were"]
    assert gained > 0.003
    assert gained > accuracy["400 looked at, by chance"] - accuracy["as they were"]


own = values_of(
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


large = values_of(
    "09-a-large-model",
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
        "exact": "exact.tolist()",
        "damping": "DAMPING",
        "labels": "train_set[1].tolist()",
        "features": "features(train_set[0]).tolist()",
        "questions": "features(questions).tolist()",
        "layer": "[parameter.tolist() for parameter in model[-1].parameters()]",
    },
)


@pytest.mark.data
def test_the_large_model_is_large_and_its_last_layer_is_not(large: dict[str, Any]) -> None:
    assert large["weights"] > 1_000_000
    assert large["last"] == 2 * 896 + 2


@pytest.mark.data
def test_the_bird_asked_about_is_taken_for_a_plane(large: dict[str, Any]) -> None:
    assert large["asked"] == [0, 1]
    assert large["accuracy"] > 0.65  # guessing has half


@pytest.mark.data
def test_the_last_layers_influences_are_those_of_a_logistic_regression_on_its_features(
    large: dict[str, Any],
) -> None:
    weight, bias = map(np.array, large["layer"])
    plane, asked = (
        1 / (1 + np.exp(-(np.array(large[name]) @ (weight[1] - weight[0]) + bias[1] - bias[0])))
        for name in ("features", "questions")
    )
    seen, question = (
        np.column_stack([large[name], np.ones(len(large[name]))]) for name in ("features", "questions")
    )
    # With two classes every gradient and the Fisher act on the difference of the two weight vectors,
    # u = w₁ − w₀: (p − y) x by u, half of it and of its square length by each vector.
    fisher = (seen.T * (plane * (1 - plane))) @ seen / len(seen)
    solved = np.linalg.solve(2 * fisher + large["damping"] * np.eye(len(fisher)), question.T)
    slopes = (plane - np.array(large["labels"]))[:, None] * seen
    right = 2 * (asked - (asked > 0.5))[:, None] * (slopes @ solved).T
    np.testing.assert_allclose(large["exact"], right, rtol=1e-3, atol=1e-4 * np.abs(right).max())


@pytest.mark.data
def test_lissa_agrees_with_the_exact_influences_of_the_last_layer(large: dict[str, Any]) -> None:
    assert large["converged"] == [True, True]
    assert large["agreement"] > 0.999
    assert large["distance"] < large["tolerance"]


@pytest.mark.data
def test_both_roads_name_planes_and_agree_in_part(large: dict[str, Any]) -> None:
    assert 0.3 < large["together"] < 1
    assert large["helpful"].count("plane") >= 8


machine = values_of(
    "10-support-vectors",
    {
        name: name
        for name in (
            "same_support",
            "deviation_plane",
            "deviation_digits",
            "deviation_features",
            "same_order",
            "correlation",
            "top",
        )
    },
)


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
