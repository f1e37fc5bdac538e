"""notebooks/paper.py, and scripts/paper.py, which sets the paper's numbers beside ours."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import oracles
import paper
import pytest
import torch
from cases import blobs
from torch import nn

from relatif_widgets import Explainer, evaluation
from relatif_widgets.evaluation.rankings import SCORED

ROOT = Path(__file__).parents[1]


# notebooks/paper.py


def test_training_ends_at_the_penalised_optimum_and_removal_keeps_the_weights_of_the_others() -> None:
    x, y = blobs(80)
    kept = torch.arange(80) != 17
    for rows in (torch.ones(80, dtype=torch.bool), kept):
        model = nn.Linear(4, 3).double()
        slope = paper.converge(model, x[rows], y[rows], l2=0.01, count=80)
        assert slope < 1e-8
        right = oracles.newton_softmax(
            x, y, rows.double() / 80, 0.01, 3, torch.zeros(15, dtype=torch.float64)
        )
        found = nn.utils.parameters_to_vector(model.parameters()).detach()
        torch.testing.assert_close(found, right, atol=1e-6, rtol=0)
    assert paper.gradient_norm(model, x[kept], y[kept], 0.01) > 1e-6  # of another objective: n is 79


def test_training_that_does_not_arrive_says_so() -> None:
    x, y = blobs(40)
    with pytest.raises(RuntimeError, match="expected below 1e-08"):
        paper.converge(nn.Linear(4, 3).double(), x, y, l2=0.01, rounds=1)


def test_digits_are_averaged_over_squares() -> None:
    images = torch.zeros(1, 28, 28, dtype=torch.uint8)
    images[0, 2, 4] = 255
    images[0, 3, 5] = 51
    found = paper.pooled(images, 14)
    assert found.shape == (1, 14, 14)
    assert float(found[0, 1, 2]) == pytest.approx((1 + 0.2) / 4)
    assert float(found.sum()) == pytest.approx(0.3)


@pytest.fixture(scope="module")
def setting() -> paper.Setting:
    x, y = blobs(120)
    queries, truth = blobs(30, seed=2)
    model = nn.Linear(4, 3).double()
    paper.converge(model, x, y, l2=0.01)
    explainer = Explainer(model, (x, y), curvature="fisher", damping=0.01).fit(progress=False)
    return paper.Setting(explainer, model, (x, y), (queries, truth), lambda x: x.reshape(2, 2))


def test_queries_for_figures_are_the_first_of_their_kind(setting: paper.Setting) -> None:
    said, truth = setting.predicted().tolist(), setting.test[1].tolist()
    rights = [row for row in range(30) if truth[row] == 1 and said[row] == 1]
    assert paper.first(setting, 1) == rights[0]
    wrongs = [row for row in range(30) if truth[row] == 1 and said[row] != 1]
    assert paper.first(setting, 1, right=False) == (wrongs or [truth.index(1)])[0]


def test_figure_9_looks_for_the_fewest_neighbours_of_the_same_class(setting: paper.Setting) -> None:
    ranked = evaluation.rank(setting.explainer, setting.test[0], methods=["nearest"], k=5, progress=False)
    found = paper.misled_neighbours(setting, ranked, count=3)
    labels, truth = setting.train[1].numpy(), setting.test[1].numpy()
    same = (labels[ranked.indices["nearest"]] == truth[:, None]).sum(1)
    right = [row for row in range(30) if int(setting.predicted()[row]) == truth[row]]
    assert found == sorted(right, key=lambda row: (same[row], row))[:3]


def test_figure_3_shows_one_example_for_all_by_influence(setting: paper.Setting) -> None:
    ranked = evaluation.rank(setting.explainer, setting.test[0], k=1, progress=False)
    axes = paper.figure_3(setting, ranked, count=4).axes
    columns = len(axes) // 3
    shown = [np.asarray(axis.images[0].get_array()) for axis in axes]
    common = ranked.specificity(1).counts("influence").head(10)
    shared = int(common.sort_values("probability")["index"].iloc[0])
    for picture in shown[columns : 2 * columns]:
        np.testing.assert_array_equal(picture, setting.train[0][shared].reshape(2, 2))
    answers = {picture.tobytes() for picture in shown[2 * columns :]}
    assert len(answers) == columns  # each column's RelatIF answer is another
    assert [axes[row * columns].get_ylabel() for row in range(3)] == ["test", "IF", "RelatIF"]


def test_figure_6_compares_the_same_removals(setting: paper.Setting) -> None:
    effects = evaluation.leave_one_out(setting.explainer, setting.test[0][:4], progress=False)
    exact = effects.correlation()
    found, recursion = paper.figure_6(setting, setting.test[0][:4], exact, steps=400, repeats=1)
    assert list(found) == ["exact", "gradient", "LiSSA"]
    assert found["exact"].pearson > 0.99
    assert found["LiSSA"].pearson > 0.98
    assert "steps" in recursion
    plain = Explainer(setting.model, setting.train, curvature="identity").fit(progress=False)
    right = plain.scores(setting.test[0][:4], method="influence")[:, list(exact.removed)].T / 120
    np.testing.assert_allclose(found["gradient"].predicted, right.numpy(), rtol=1e-12)
    for one in found.values():
        np.testing.assert_array_equal(one.actual, exact.actual)
    assert [axis.get_title(loc="left") for axis in paper.figure_6_panels(found).axes] == list(found)


# scripts/paper.py


@pytest.fixture
def script(tmp_path: Path) -> Iterator[ModuleType]:
    """The script with folders of its own, as at full size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RELATIF_PAPER_QUICK", raising=False)
        patch.setenv("RELATIF_SIZE", "full")
        spec = importlib.util.spec_from_file_location("paper_script", ROOT / "scripts" / "paper.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(__import__("sys").modules, "paper_script", module)
        spec.loader.exec_module(module)
        patch.setattr(module, "ROOT", tmp_path)
        patch.setattr(module, "BUILD", tmp_path / "build" / "paper")
        (tmp_path / "docs").mkdir()
        yield module


def fake(script: ModuleType) -> dict[str, Any]:
    """Results that are the independent ones, except for one cardinality."""
    sets = {method: list(values) for method, values in script.INDEPENDENT_SETS["mnist"].items()}
    sets["theta_relative"][1] = 20_000
    one = {"seed": 0, "seconds": 1234.5, "threads": 2}
    return {
        "table1-mnist": {
            **one,
            "result": {
                "parameters": 7850,
                "train": 60_000,
                "queries": 10_000,
                "accuracy": 0.9224,
                "slope": 7e-9,
                "report": "60,000 training examples\ncurvature: exact Fisher\n",
                "sets": {**sets, "nearest": [8000, 28_000, 0.8, 0.2, 0.8, 0.2]},
                "overlap": {method: [1.0, 2.0, 3.0, 4.0] for method in SCORED},
                "agreement": {method: {"queries": 100, "equal": 0.99, "jaccard": 0.995} for method in SCORED},
            },
        },
        "tables-2-4-mnist": {
            **one,
            "result": {
                "rows": list(range(100)),
                "retrainings": 321,
                "summary": {
                    method: {
                        name: [size * (9 if method == "influence" and place in (1, 2) else 1), 0.001]
                        for place, name in enumerate(script.QUANTITIES)
                    }
                    for method, size in zip((*SCORED, "nearest"), (0.01, 0.02, 0.02, 0.01), strict=True)
                },
            },
        },
        "figure-6a": {
            **one,
            "result": {
                "pairs": [321, 100],
                "correlations": {"exact": [0.9997, 1.03], "gradient": [0.3, 20.0], "LiSSA": [0.96, 1.1]},
                "recursion": "converged after 9,000 steps",
            },
        },
    }


def test_the_papers_numbers_stand_beside_ours_and_the_independent_ones(script: ModuleType) -> None:
    text = script.compose(fake(script), rehearsal=False)
    lines = text.splitlines()
    at = lines.index("| IF | paper | 2,704 | 4,984 | 0.168 ± 0.160 | 0.268 ± 0.210 |")
    assert lines[at + 1] == "|  | **ours** | 3,288 | 6,605 | 0.204 ± 0.165 | 0.295 ± 0.203 |"
    assert lines[at + 2] == "|  | independent | 3,288 | 6,605 | 0.204 ± 0.165 | 0.295 ± 0.203 |"
    assert "| θ-RelatIF | 26 to 35 | **1.0, 2.0, 3.0, 4.0** | 38, 45, 46, 47 |" in lines
    assert "`python scripts/paper.py table1-mnist`, seed 0, 1,234 s on 2 threads." in lines
    assert "![Figure 6 (a)](paper/figure-6a.png)" in lines
    assert "rehearsal" not in text
    # what has no result is said, with the command that gives it
    assert "Not run: `python scripts/paper.py table1-cifar`." in lines
    assert text.count("Not run: ") == len(script.STEPS) - 3


def test_a_tolerance_that_is_missed_is_said_beside_the_number(script: ModuleType) -> None:
    lines = script.compose(fake(script), rehearsal=False).splitlines()
    assert "- θ-RelatIF, cardinality at 5 within 3% of 29,072: 20,000 (-31.2%), **missed**" in lines
    assert "- IF, cardinality at 5 within 3% of 6,605: 6,605 (+0.0%), **passed**" in lines
    assert "Tolerances: 14 of 15 passed." in lines
    assert "- exact, correlation of at least 0.999: 0.9997, **passed**" in lines
    assert "- LiSSA, correlation of at least 0.97: 0.9600, **missed**" in lines
    removals = [line for line in lines if "an order of magnitude" in line]
    assert [line.split(": ")[-1] for line in removals] == ["4.5 times, **missed**"] * 2
    ratios = [line for line in lines if "the nearest neighbour's:" in line]
    assert [line.split(": ")[-1] for line in ratios] == ["0.020 against 0.010, **passed**"] * 2


def test_names_are_counted_by_their_endings_and_not_by_what_stands_behind(script: ModuleType) -> None:
    kov, others = (
        [f"{letter}ukov (Russian)" for letter in "ABCDE"],
        ["Kovac (Czech)", "Izba (Russian, in truth Zkov)"],
    )
    result = {
        "six": {"IF": others * 3, "θ-RelatIF": [*kov, others[0]], "ℓ-RelatIF": [*kov[:4], *others]},
        "shares": {"IF": 0.0, "θ-RelatIF": 0.8125, "ℓ-RelatIF": 0.9},
        "queries": 108,
        "accuracy": 0.679,
    }
    kept = {"table-3-names": {"seed": 0, "seconds": 60, "threads": 2, "result": result}}
    lines = script.compose(kept, rehearsal=False).splitlines()
    assert "- θ-RelatIF, at least 5 of the first 6 for Vasyukov end in -kov: 5, **passed**" in lines
    assert "- ℓ-RelatIF, at least 5 of the first 6 for Vasyukov end in -kov: 4, **missed**" in lines
    assert "| θ-RelatIF | **0.81** | 0.80 |" in lines
    assert "| Kovac (Czech) | Aukov (Russian) | Aukov (Russian) |" in lines


def test_a_rehearsal_says_that_it_is_none_of_the_results(script: ModuleType) -> None:
    assert "**A rehearsal on little data: none of these numbers is a result.**" in script.compose(
        {}, rehearsal=True
    )


def test_agreement_is_of_sets_and_not_of_their_order(script: ModuleType) -> None:
    ours = np.array([[1, 2, 3, 4, 5, 9], [1, 2, 3, 4, 5, 9], [7, 7, 7, 7, 7, 7]])
    right = np.array([[5, 4, 3, 2, 1, 0], [1, 2, 3, 4, 6, 5]])
    assert script.agreement(ours, right) == {"queries": 2, "equal": 0.5, "jaccard": (1 + 4 / 6) / 2}


def test_an_interrupted_run_goes_on_with_the_next_step(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[str] = []

    def step(name: str, fails: bool = False) -> Any:
        def run() -> dict[str, Any]:
            ran.append(name)
            if fails:
                raise KeyboardInterrupt
            script.save(paper.PrintFigure(figsize=(1, 1)), name)
            return {"answer": name}

        return script.Step(name, run, lambda result: [result["answer"]], "About.", figures={name: "Picture"})

    def absent() -> dict[str, Any]:
        raise script.Absent("the weights are not at hand")

    steps = {"one": step("one"), "two": step("two", fails=True)}
    monkeypatch.setattr(script, "STEPS", steps)
    with pytest.raises(KeyboardInterrupt):
        script.main([])
    steps["two"] = step("two")
    steps["three"] = script.Step("three", absent, lambda result: [], "About.")
    script.main([])
    assert ran == ["one", "two", "two"]
    text = (tmp_path / "docs" / "paper.md").read_text()
    assert "Not run: `python scripts/paper.py three`." in text
    assert (tmp_path / "docs" / "paper" / "two.png").is_file()
    script.main(["one"])  # by name: again
    assert ran == ["one", "two", "two", "one"]
    kept = json.loads((script.BUILD / "one.json").read_text())
    assert kept["result"] == {"answer": "one"}
    assert kept["seed"] == 0
    with pytest.raises(SystemExit):
        script.main(["four"])


def test_rankings_come_back_as_they_were_kept(script: ModuleType) -> None:
    script.BUILD.mkdir(parents=True)
    indices = {method: np.arange(6).reshape(2, 3) + place for place, method in enumerate(script.TITLES)}
    script.keep_rankings("some", evaluation.Rankings(indices, np.linspace(0, 1, 9), 9, 0.1))
    found = script.kept_rankings("some")
    assert (found.train_size, found.damping) == (9, 0.1)
    for method, right in indices.items():
        np.testing.assert_array_equal(found.indices[method], right)
