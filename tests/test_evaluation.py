"""The paper's measurements against brute force, values by hand, and independent retrainings."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import Golden, blobs, mlp
from torch import Tensor, nn
from tqdm import tqdm

from relatif_widgets import ChoiceError, DataError, Explainer, ModelError, RelatifError, evaluation
from relatif_widgets.curvature import LowRank
from relatif_widgets.views import plots

L2 = 0.01
N, FEATURES, CLASSES = 300, 5, 3
SCORED = ("influence", "theta_relative", "loss_relative")


def golden_explainer(golden: Golden, damping: float = L2, curvature: str = "fisher") -> Explainer:
    return Explainer(golden.model, golden.train, loss=golden.loss, curvature=curvature, damping=damping).fit(
        progress=False
    )


@pytest.fixture(scope="module")
def digits() -> tuple[Explainer, Golden]:
    golden = Golden("digits_softmax")
    return golden_explainer(golden), golden


def golden_rankings(golden: Golden, k: int) -> dict[str, np.ndarray]:
    """The top k by each method for the predicted labels, from the golden scores and from pixels alone."""
    influence = golden.answers["IFpred|fisher|0.01"]
    scores = {
        "influence": influence,
        "theta_relative": influence / golden.answers["th|fisher|0.01"],
        "loss_relative": influence / golden.answers["l|fisher|0.01"],
        "nearest": -((golden.answers["Xt"][:, None] - golden.answers["X"][None]) ** 2).sum(2),
    }
    return {method: np.argsort(-score, axis=1, kind="stable")[:, :k] for method, score in scores.items()}


# Table 1


def test_specificity_is_that_of_the_golden_scores(digits: tuple[Explainer, Golden]) -> None:
    explainer, golden = digits
    found = evaluation.specificity(explainer, golden.test[0], progress=False)
    logits = golden.tensor("outputs")
    chance = logits.softmax(1)[torch.arange(len(logits)), golden.train[1].long()].numpy()
    right = golden_rankings(golden, 5)
    for method in SCORED:
        for k in (1, 5):
            members = sorted({int(row) for row in right[method][:, :k].ravel()})
            one = found.sets[method, k]
            assert one.cardinality == len(members)
            assert one.largest_possible == 8 * k
            assert one.probability == pytest.approx(chance[members].mean(), rel=1e-12)
            assert one.probability_std == pytest.approx(chance[members].std(), rel=1e-12)
            rows = right[method][:, :k].ravel().tolist()
            assert found.counts(method, k).set_index("index")["returned_for"].to_dict() == {
                row: rows.count(row) for row in members
            }


def test_labels_are_the_predicted_ones_unless_given(digits: tuple[Explainer, Golden]) -> None:
    explainer, golden = digits
    predicted = golden.tensor("yt_pred").long()
    others = (predicted + 1) % 10
    default = evaluation.rank(explainer, golden.test[0], k=3, progress=False).indices
    same = evaluation.rank(explainer, golden.test[0], predicted, k=3, progress=False).indices
    moved = evaluation.rank(explainer, golden.test[0], others, k=3, progress=False).indices
    for method in SCORED:
        np.testing.assert_array_equal(default[method], same[method])
        right = explainer.scores(golden.test[0], others, method=method)  # type: ignore[arg-type]
        np.testing.assert_array_equal(moved[method], right.argsort(descending=True, dim=1)[:, :3].numpy())


def test_the_same_query_again_and_again_has_a_set_of_k(digits: tuple[Explainer, Golden]) -> None:
    explainer, golden = digits
    queries = golden.test[0][:1].repeat(37, 1)
    found = evaluation.specificity(explainer, queries, k=(1, 4, 9), progress=False)
    for method in SCORED:
        for k in (1, 4, 9):
            one = found.sets[method, k]
            assert (one.cardinality, one.returned_for, one.largest_possible) == (k, 37, min(37 * k, 90))


def by_hand(probability: np.ndarray | None) -> evaluation.Rankings:
    return evaluation.Rankings(
        indices={
            "influence": np.array([[0, 1], [0, 2], [0, 1]]),
            "nearest": np.array([[1, 0], [2, 3], [0, 1]]),
        },
        probability=probability,
        train_size=4,
        damping=0.1,
    )


def test_table_1_by_hand_counts_each_element_of_the_set_once() -> None:
    found = by_hand(np.array([0.5, 0.1, 0.9, 0.3])).specificity(k=(2, 1))
    assert found.k == (1, 2)
    frame = found.to_frame().set_index(["method", "k"])
    one, two, near = frame.loc[("influence", 1)], frame.loc[("influence", 2)], frame.loc[("nearest", 2)]
    assert (one["cardinality"], one["largest_possible"], one["returned_for"]) == (1, 3, 3)
    assert (one["probability"], one["probability_std"]) == (0.5, 0)
    # {0, 1, 2}: example 0 is returned three times and counts once
    assert (two["cardinality"], two["largest_possible"], two["most_returned"]) == (3, 4, 0)
    assert two["probability"] == pytest.approx(0.5)
    assert two["probability_std"] == pytest.approx(np.sqrt((0 + 0.16 + 0.16) / 3))
    assert near["cardinality"] == 4
    counts = found.counts("influence", 2)
    assert counts["index"].tolist() == [0, 1, 2]
    assert counts["returned_for"].tolist() == [3, 2, 1]
    assert counts["probability"].tolist() == [0.5, 0.1, 0.9]
    assert str(found).splitlines() == [
        "Influential sets of 3 queries (Table 1), damping 0.1",
        "      cardinality, top 1  cardinality, top 2  probability, top 1  probability, top 2",
        "IF                     1                   3       0.500 ± 0.000       0.500 ± 0.327",
        "k-NN                   3                   4       0.500 ± 0.327       0.450 ± 0.296",
    ]


def test_a_regression_has_sets_and_no_probabilities() -> None:
    x, _ = blobs(30)
    y = x[:, :1] * 2 + 0.1 * torch.sin(7 * x[:, 1:2])
    model = nn.Linear(4, 1).double()
    explainer = Explainer(model, (x, y), loss="mse", curvature="fisher").fit(progress=False)
    found = evaluation.specificity(explainer, x[:6], y[:6] + 0.3, progress=False)
    assert found.probability is None
    assert found.to_frame()["probability"].isna().all()
    assert found.to_frame()["probability_std"].isna().all()
    assert found.counts("influence")["probability"].isna().all()
    assert "probability" not in str(found)
    assert len(found.figure().axes) == 2
    with pytest.raises(DataError, match="a query needs its target"):
        evaluation.specificity(explainer, x[:6], progress=False)


def test_blocks_and_methods_together_do_not_change_rankings() -> None:
    x, y = blobs(60)
    model = mlp()
    queries, _ = blobs(23, seed=4)
    whole = Explainer(model, (x, y), curvature="fisher").fit(progress=False)
    small = Explainer(model, (x, y), curvature="fisher", batch_size=4).fit(progress=False)
    ranked = evaluation.rank(small, queries, k=7, progress=False)
    assert (ranked.k, ranked.queries, ranked.methods) == (7, 23, (*SCORED, "nearest"))
    for method in ranked.methods:
        alone = whole.top_k(queries, k=7, method=method)
        np.testing.assert_array_equal(ranked.indices[method], alone.indices.numpy())
    shorter = evaluation.specificity(whole, queries, k=2, progress=False)
    prefix = ranked.specificity(2)
    for method in SCORED:
        np.testing.assert_array_equal(shorter.returned[method], prefix.returned[method])


@pytest.mark.usefixtures("no_room_for_gradients")
def test_a_shortlist_of_all_methods_together_holds_the_certain_best_of_each() -> None:
    x, y = blobs(1000)
    curvature = LowRank(rank=20, labels="exact")
    explainer = Explainer(mlp(), (x, y), curvature=curvature, damping=0.1).fit(progress=False)
    queries, _ = blobs(3, seed=4)
    ranked = evaluation.rank(explainer, queries, k=5, methods=SCORED, progress=False)
    for method in SCORED:
        certain = explainer.top_k(queries, k=5, method=method).certified
        right = explainer.scores(queries, method=method).argsort(descending=True, dim=1)[:, :5]
        assert bool(certain.any())
        np.testing.assert_array_equal(ranked.indices[method][certain], right[certain].numpy())


def test_progress_knows_how_many_rankings_there_will_be(
    digits: tuple[Explainer, Golden], monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []

    def noted(**options: Any) -> Any:
        bars.append(tqdm(**{**options, "disable": False, "file": io.StringIO()}))
        return bars[-1]

    monkeypatch.setattr("relatif_widgets.evaluation.rankings.tqdm", noted)
    explainer, golden = digits
    evaluation.overlap(explainer, golden.test[0][:6])
    (bar,) = bars
    assert bar.n == bar.total == 6 * 4


def test_10_000_queries_keep_what_was_returned_and_no_scores() -> None:
    """Their scores would be 800 MB; what is kept is k rows a query and a number a training example."""
    x, y = blobs(10_000)
    explainer = Explainer(nn.Linear(4, 3).double(), (x, y), curvature="fisher").fit(progress=False)
    queries, _ = blobs(10_000, seed=1)
    found = evaluation.specificity(explainer, queries.float(), methods=["loss_relative"], progress=False)
    assert found.returned["loss_relative"].shape == (2, 10_000)
    assert found.returned["loss_relative"].sum(axis=1).tolist() == [10_000, 50_000]


# Section 4.3


def test_overlap_is_that_of_the_golden_rankings(digits: tuple[Explainer, Golden]) -> None:
    explainer, golden = digits
    found = evaluation.overlap(explainer, golden.test[0], progress=False)
    right = golden_rankings(golden, 20)
    for method in SCORED:
        expected = [
            100 * np.mean([len({*right[method][q, :k]} & {*right["nearest"][q, :k]}) / k for q in range(8)])
            for k in (1, 5, 10, 20)
        ]
        np.testing.assert_allclose(found.percent(method), expected, rtol=1e-12)
    assert found.to_frame().shape == (12, 3)


def test_overlap_by_hand() -> None:
    found = by_hand(None).overlap(k=(1, 2))
    assert found.shared["influence"].tolist() == [[0, 2], [0, 1], [1, 2]]
    assert found.percent("influence").tolist() == [pytest.approx(100 / 3), pytest.approx(500 / 6)]
    assert str(found).splitlines()[1:] == ["     k = 1   k = 2", "IF  33.3 %  83.3 %"]


def test_nearest_overlaps_wholly_with_itself_and_everything_with_everybody(
    digits: tuple[Explainer, Golden],
) -> None:
    explainer, golden = digits
    ranked = evaluation.rank(explainer, golden.test[0], k=90, progress=False)
    itself = evaluation.Rankings(
        {"influence": ranked.indices["nearest"], "nearest": ranked.indices["nearest"]}, None, 90, 0.1
    )
    assert itself.overlap(range(1, 91)).percent("influence").tolist() == [100.0] * 90
    for method in SCORED:
        assert ranked.overlap(90).percent(method).tolist() == [100.0]


# Tables 2 and 4, Figure 6


def solution(x: Tensor, y: Tensor, weights: Tensor, start: Tensor | None = None) -> Tensor:
    start = torch.zeros(CLASSES * (FEATURES + 1), dtype=x.dtype) if start is None else start
    return oracles.newton_softmax(x, y, weights, L2, CLASSES, start)


def linear(theta: Tensor) -> nn.Linear:
    model = nn.Linear(FEATURES, CLASSES).double()
    nn.utils.vector_to_parameters(theta, model.parameters())
    return model


class Trained:
    """A softmax regression at the optimum of mean loss + L2/2 ‖θ‖², and its retraining by Newton's method."""

    def __init__(self) -> None:
        x, self.y = blobs(N, CLASSES, FEATURES)
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
        self.x = 0.6 * x + 0.3 * noise
        self.theta = solution(self.x, self.y, self.weights([]))
        self.queries, _ = blobs(6, CLASSES, FEATURES, seed=3)
        self.explainer = Explainer(linear(self.theta), (self.x, self.y), curvature="fisher", damping=L2).fit(
            progress=False
        )
        self.calls: list[list[int]] = []

    def weights(self, removed: list[int]) -> Tensor:
        weights = torch.full((N,), 1 / N, dtype=torch.float64)
        weights[removed] = 0
        return weights

    def retrain(self, removed: list[int]) -> nn.Module:
        self.calls.append(removed)
        return linear(solution(self.x, self.y, self.weights(removed), self.theta))

    def losses(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return nn.functional.cross_entropy(model(x), y, reduction="none")


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained()


def test_tables_2_and_4_are_those_of_full_retrainings(trained: Trained) -> None:
    """The built-in refit of a converged model at its own L2 coefficient is the regularised retraining."""
    found = evaluation.leave_one_out(trained.explainer, trained.queries, progress=False)
    frame = found.to_frame()
    assert len(frame) == 4 * 6
    before = linear(trained.theta)
    predicted_labels = before(trained.queries).argmax(1)
    influence = trained.explainer.scores(trained.queries, method="influence")
    for line in frame.to_dict("records"):
        query, row = line["query"], line["removed"]
        top = trained.explainer.top_k(trained.queries, k=1, method=line["method"]).indices[query, 0]
        assert row == int(top)
        after = trained.retrain([row])
        changes = trained.losses(after, trained.x, trained.y) - trained.losses(before, trained.x, trained.y)
        test = (
            trained.losses(after, trained.queries, predicted_labels)
            - trained.losses(before, trained.queries, predicted_labels)
        )[query]
        moved = nn.utils.parameters_to_vector(after.parameters()).detach() - trained.theta
        right = {
            "test_loss": float(test),
            "parameters": float(moved.norm()),
            "train_losses": float(changes.square().sum().sqrt()),
            "test_loss_per_parameters": float(test / moved.norm()),
            "test_loss_per_train_losses": float(test / changes.norm()),
            "predicted": float(influence[query, row]) / N,
        }
        for name, value in right.items():
            assert line[name] == pytest.approx(value, rel=1e-5, abs=1e-9), name
    summary = found.summary()
    for method in found.chosen:
        values = frame.loc[frame["method"] == method, "test_loss"]
        assert summary.loc[method, ("test_loss", "mean")] == pytest.approx(values.mean())
        assert summary.loc[method, ("test_loss", "standard_error")] == pytest.approx(
            values.std() / np.sqrt(6)
        )
    # What each method is made for (Proposition 3.1 and 3.3): IF has the largest effect, on everything.
    means = {name: summary[name, "mean"] for name in ("parameters", "train_losses", "test_loss")}
    for values in means.values():
        assert values["influence"] > 1.5 * values["theta_relative"]
        assert values["influence"] > 1.5 * values["loss_relative"]


def test_a_retraining_of_your_own_gives_the_same_tables_and_each_removal_once(trained: Trained) -> None:
    trained.calls.clear()
    random = [5, 5, 17, 17, 5, 200]
    own = evaluation.leave_one_out(
        trained.explainer,
        trained.queries,
        removed={"random": random},
        retrain=trained.retrain,
        progress=False,
    )
    assert sorted(trained.calls) == [[row] for row in own.removed]
    assert set(own.removed) == {row for rows in own.chosen.values() for row in rows}
    assert own.chosen["random"] == tuple(random)
    assert list(own.chosen) == [*SCORED, "nearest", "random"]
    refit = evaluation.leave_one_out(
        trained.explainer, trained.queries, removed={"random": random}, progress=False
    )
    np.testing.assert_allclose(own.actual, refit.actual, atol=1e-9)
    np.testing.assert_allclose(own.parameters, refit.parameters, atol=1e-8)
    np.testing.assert_allclose(own.losses, refit.losses, atol=1e-8)
    np.testing.assert_array_equal(own.predicted, refit.predicted)
    assert "retrained by retrain= (Tables 2 and 4)" in str(own)
    assert "retrained by the built-in refit" in str(refit)


def test_a_float32_model_is_measured_in_float64(trained: Trained) -> None:
    explainer = Explainer(
        linear(trained.theta).float(), (trained.x.float(), trained.y), curvature="fisher", damping=L2
    ).fit(progress=False)
    rows = [22, 98, 289]
    found = evaluation.correlation(explainer, trained.queries.float(), removed=rows, progress=False)
    right = evaluation.correlation(trained.explainer, trained.queries, removed=rows, progress=False)
    assert found.actual.dtype == np.float64
    np.testing.assert_allclose(found.actual, right.actual, atol=1e-6 * np.abs(right.actual).max())


@pytest.mark.parametrize("curvature", ["low_rank", "ekfac"])
def test_the_retrainings_do_not_depend_on_the_curvature_they_step_with(
    trained: Trained, curvature: str
) -> None:
    explainer = Explainer(linear(trained.theta), (trained.x, trained.y), curvature=curvature, damping=L2).fit(
        progress=False
    )
    found = evaluation.correlation(explainer, trained.queries, removed=[3, 22], progress=False)
    right = evaluation.correlation(trained.explainer, trained.queries, removed=[3, 22], progress=False)
    np.testing.assert_allclose(found.actual, right.actual, atol=1e-9)
    influence = explainer.scores(trained.queries, method="influence")[:, [3, 22]].T / N
    np.testing.assert_allclose(found.predicted, influence.numpy(), rtol=1e-9)


@pytest.mark.parametrize("name", ["digits_softmax", "cancer_logistic"])
def test_actual_changes_are_the_golden_ones_on_removal(name: str) -> None:
    golden = Golden(name)
    explainer = golden_explainer(golden, damping=float(golden.answers["l2"]))
    found = evaluation.correlation(
        explainer, golden.test[0], golden.test[1], removed=range(12), tolerance=1e-10, progress=False
    )
    right = golden.answers["loo_dloss_first12"].T
    np.testing.assert_allclose(found.actual, right, atol=1e-6 * np.abs(right).max())
    predicted = golden.answers["fd_IF_l2_first12"].T / len(golden.train[0])
    np.testing.assert_allclose(found.predicted, predicted, atol=1e-6 * np.abs(predicted).max())
    assert found.pearson == pytest.approx(np.corrcoef(predicted.ravel(), right.ravel())[0, 1], rel=1e-6)
    assert found.slope == pytest.approx(np.polyfit(predicted.ravel(), right.ravel(), 1)[0], rel=1e-6)
    assert found.slope > 1  # at n near 100 the removal is no small step


def test_figure_6_by_hand() -> None:
    found = evaluation.Correlation(
        (7, 3), np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[1.0, 3.0], [5.0, 7.0]]), 0.1
    )
    assert found.pearson == pytest.approx(1)
    assert found.slope == pytest.approx(2)
    assert found.to_frame().to_dict("records")[2] == {
        "removed": 3,
        "query": 0,
        "predicted": 2.0,
        "actual": 5.0,
    }
    bent = evaluation.Correlation((0,), np.array([[-1.0, 0.0, 1.0]]), np.array([[1.0, 0.0, 1.0]]), 0.1)
    assert (bent.pearson, bent.slope) == (0, 0)
    flat = evaluation.Correlation((0,), np.full((1, 3), 0.1), np.array([[1.0, 0.0, 1.0]]), 0.1)
    assert np.isnan(flat.pearson)
    assert np.isnan(flat.slope)


def test_tables_2_and_4_by_hand_and_a_removal_that_changes_nothing() -> None:
    found = evaluation.LeaveOneOut(
        chosen={"influence": (4, 9), "random": (9, 9)},
        removed=(4, 9),
        predicted=np.zeros((2, 2)),
        actual=np.array([[0.6, 9.0], [0.0, 0.0]]),
        parameters=np.array([0.2, 0.0]),
        losses=np.array([3.0, 0.0]),
        damping=0.1,
        retrained="refit",
        seconds=0.0,
    )
    frame = found.to_frame()
    assert frame["test_loss"].tolist() == [0.6, 0.0, 0.0, 0.0]
    assert frame["test_loss_per_parameters"].tolist() == [pytest.approx(3), 0, 0, 0]
    assert frame["test_loss_per_train_losses"].tolist() == [pytest.approx(0.2), 0, 0, 0]
    summary = found.summary()
    assert summary.loc["influence", ("test_loss", "mean")] == pytest.approx(0.3)
    # (0.6, 0): the sample's standard deviation is 0.6/√2, over √2 queries
    assert summary.loc["influence", ("test_loss", "standard_error")] == pytest.approx(0.3)
    lines = str(found).splitlines()
    assert lines[2].split("  ")[0] == "IF"
    assert "0.3000 ± 0.3000" in lines[2]
    assert lines[3].startswith("random")


def test_one_query_has_no_standard_error(trained: Trained) -> None:
    found = evaluation.leave_one_out(
        trained.explainer, trained.queries[:1], methods=["influence"], progress=False
    )
    assert np.isnan(found.summary().loc["influence", ("test_loss", "standard_error")])
    assert "±" not in str(found).splitlines()[-1]
    assert len(found.figure().axes) == 5


def test_all_retrainings_answer_figure_6_too(trained: Trained) -> None:
    found = evaluation.leave_one_out(trained.explainer, trained.queries, progress=False)
    again = evaluation.correlation(trained.explainer, trained.queries, removed=found.removed, progress=False)
    pairs = found.correlation()
    np.testing.assert_array_equal(pairs.actual, again.actual)
    np.testing.assert_array_equal(pairs.predicted, again.predicted)
    assert pairs.pearson > 0.99
    assert 0.9 < pairs.slope < 1.2


def test_only_own_rows_may_be_removed(trained: Trained) -> None:
    found = evaluation.leave_one_out(
        trained.explainer, trained.queries, methods=(), removed={"mine": [1, 2, 3, 4, 5, 6]}, progress=False
    )
    assert found.removed == (1, 2, 3, 4, 5, 6)
    assert list(found.to_frame()["method"].unique()) == ["mine"]


# Figures


def labels_of(figure: Any) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_numbers_in_figures_have_three_digits() -> None:
    panel = plots.Panel("", [0.84, 0.8349, 12.0, 1234.0, -0.5, 0.0, 0.00012])
    methods = ["influence", "theta_relative", "loss_relative", "nearest", "a", "b", "c"]
    shown = labels_of(plots.dots(methods, [panel], columns=1, width=4))
    assert shown == ["0.840", "0.835", "12", "1,234", "−0.500", "0", "0.00012"]


def test_figures_show_the_numbers(digits: tuple[Explainer, Golden], tmp_path: Path) -> None:
    explainer, golden = digits
    found = evaluation.specificity(explainer, golden.test[0], progress=False)
    figure = found.figure()
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "Distinct examples in the top 1",
        "Distinct examples in the top 5",
        "Probability in the top 1",
        "Probability in the top 5",
    ]
    shown = labels_of(figure)
    assert shown[:3] == [str(found.sets[method, 1].cardinality) for method in SCORED]
    assert shown[6:9] == [f"{found.sets[method, 1].probability:.3g}" for method in SCORED]
    histogram = found.histogram(5)
    curve = histogram.axes[0].lines[0].get_ydata()
    assert list(curve) == found.counts("influence", 5)["returned_for"].tolist()
    lines = evaluation.overlap(explainer, golden.test[0], progress=False).figure().axes[0].lines
    assert [list(line.get_xdata()) for line in lines] == [[1, 5, 10, 20]] * 3
    for number, one in enumerate((figure, histogram)):
        one.savefig(tmp_path / f"{number}.png")


def test_a_baseline_with_a_dollar_in_its_name_is_drawn_as_it_is(trained: Trained, tmp_path: Path) -> None:
    found = evaluation.leave_one_out(
        trained.explainer, trained.queries[:2], methods=(), removed={"a$_b$^": [1, 2]}, progress=False
    )
    figure = found.figure()
    figure.savefig(tmp_path / "loo.png")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a$_b$^"]
    scatter = found.correlation().figure()
    scatter.savefig(tmp_path / "pairs.png")
    points = scatter.axes[0].collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 1], found.correlation().actual.ravel())


# Questions that cannot be answered


def test_errors_say_what_instead(trained: Trained, digits: tuple[Explainer, Golden]) -> None:
    explainer, queries = trained.explainer, trained.queries
    with pytest.raises(RelatifError, match=r"call explainer.fit\(\) first"):
        evaluation.specificity(Explainer(linear(trained.theta), (trained.x, trained.y)), queries)
    for k in (0, N + 1, 2.5, True, "5"):
        with pytest.raises(ChoiceError, match=f"k={k!r}; expected whole numbers from 1 to {N}"):
            evaluation.specificity(explainer, queries, k=k, progress=False)  # type: ignore[arg-type]
    with pytest.raises(ChoiceError, match="holds no number"):
        evaluation.overlap(explainer, queries, k=(), progress=False)
    with pytest.raises(ChoiceError, match="Did you mean 'loss_relative'"):
        evaluation.specificity(explainer, queries, methods=["relatif"], progress=False)  # type: ignore[list-item]
    with pytest.raises(ChoiceError, match="names none"):
        evaluation.specificity(explainer, queries, methods=[], progress=False)
    with pytest.raises(ChoiceError, match="which the others are compared with"):
        evaluation.overlap(explainer, queries, methods=["nearest"], progress=False)
    with pytest.raises(ChoiceError, match='expected "nearest" and a method'):
        evaluation.rank(explainer, queries, methods=["influence"], k=2, progress=False).overlap(2)
    with pytest.raises(ChoiceError, match="from 1 to 2"):
        by_hand(None).specificity(3)
    with pytest.raises(ChoiceError, match="k=3 was not measured; expected one of 1, 2"):
        by_hand(None).specificity((1, 2)).counts("influence", 3)


def test_errors_of_retrainings_come_before_the_work(trained: Trained) -> None:
    explainer, queries = trained.explainer, trained.queries

    def ask(**options: Any) -> None:
        evaluation.leave_one_out(explainer, queries, progress=False, **options)

    with pytest.raises(ChoiceError, match=r"removed\['mine'\] has 2 rows for 6 queries"):
        ask(removed={"mine": [1, 2]})
    with pytest.raises(ChoiceError, match="names training example 300, which does not exist"):
        ask(removed={"mine": [1, 2, 3, 4, 5, 300]})
    with pytest.raises(ChoiceError, match="which is a method"):
        ask(removed={"nearest": [1, 2, 3, 4, 5, 6]})
    with pytest.raises(ChoiceError, match="expected a training row per query, 6 in all"):
        ask(removed={"mine": 3})
    with pytest.raises(ChoiceError, match="retrain is int"):
        ask(retrain=3)
    with pytest.raises(ChoiceError, match="tolerance=2"):
        ask(tolerance=2)
    with pytest.raises(ChoiceError, match="more than once"):
        evaluation.correlation(explainer, queries, removed=[1, 1], progress=False)
    plain = Explainer(linear(trained.theta), (trained.x, trained.y), curvature="identity").fit(progress=False)
    with pytest.raises(ChoiceError, match="no inverse to refit with"):
        evaluation.leave_one_out(plain, queries, progress=False)
    # with a retraining of one's own plain gradients can be judged too: Figure 6's "gradient"
    judged = evaluation.correlation(
        plain, queries, removed=[3, 22, 98], retrain=trained.retrain, progress=False
    )
    right = plain.scores(queries, method="influence")[:, [3, 22, 98]].T / N
    np.testing.assert_allclose(judged.predicted, right.numpy(), rtol=1e-12)


def test_a_retrained_model_that_does_not_compare_is_refused(trained: Trained) -> None:
    def ask(model: nn.Module) -> None:
        evaluation.correlation(
            trained.explainer, trained.queries, removed=[3], retrain=lambda removed: model, progress=False
        )

    with pytest.raises(ModelError, match=r"example 3 .* its parameters lack 'weight' of shape \[3, 5\]"):
        ask(nn.Linear(FEATURES, 4).double())
    wide = linear(trained.theta)
    wide.forward = lambda x: torch.cat([nn.Linear.forward(wide, x)] * 2, 1)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"it returned shape \[.*, 6\]; expected \[.*, 3\]"):
        ask(wide)
    lost = linear(trained.theta)
    lost.forward = lambda x: nn.Linear.forward(lost, x) * torch.inf  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="Did its training diverge"):
        ask(lost)


def test_the_module_is_there_without_importing_torch_with_the_package() -> None:
    code = (
        "import sys, relatif_widgets; assert 'torch' not in sys.modules; "
        "assert 'evaluation' in dir(relatif_widgets); "
        "import relatif_widgets.evaluation as one; assert relatif_widgets.evaluation is one"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Real data


@pytest.mark.data
def test_mnist_agrees_with_the_independent_answers(data_folder: Path) -> None:
    """k-NN of 100 test images, overlaps of the independent rankings, an exact retraining: two minutes of one core."""
    file = data_folder.parent / "reference" / "mnist_softmax.npz"
    if not file.is_file():
        pytest.skip("no independent answers beside the full data sets")
    import tutorial_data

    right = np.load(file)
    (images, labels), (test, truth) = tutorial_data.mnist(full=True)
    x, queries = (part.reshape(len(part), -1).float() / 255 for part in (images, test))
    model = nn.Linear(784, 10)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(right["W"][:, :784]))
        model.bias.copy_(torch.from_numpy(right["W"][:, 784]))
    explainer = Explainer(model, (x, labels), curvature="kfac", fisher_labels="exact").fit(progress=False)

    ranked = evaluation.rank(explainer, queries[:100], methods=["nearest"], k=20, progress=False)
    np.testing.assert_array_equal(ranked.indices["nearest"], right["nearest"])
    independent = evaluation.Rankings(
        {
            **{method: right[f"top20_predicted_0.001_{method}"] for method in SCORED},  # type: ignore[dict-item]
            "nearest": right["nearest"],
        },
        None,
        60_000,
        1e-3,
    ).overlap()
    # over all 10,000 queries: 38, 45, 46, 47 and 40, 46, 47, 48 %; IF 1.2 to 3.7 %
    np.testing.assert_allclose(independent.percent("theta_relative"), [38, 45, 46, 47], atol=4)
    np.testing.assert_allclose(independent.percent("loss_relative"), [40, 46, 47, 48], atol=4)
    np.testing.assert_allclose(independent.percent("influence"), [1.2, 2.3, 2.8, 3.7], atol=2)

    strongest = np.abs(right["loo_change"]).max(axis=1).argsort()[-1:]
    found = evaluation.correlation(
        explainer,
        queries[right["loo_queries"]],
        truth[right["loo_queries"]],  # two of these thirty are misclassified
        removed=right["loo_removed"][strongest].tolist(),
        tolerance=1e-4,
        progress=False,
    )
    actual = right["loo_change"][strongest]
    np.testing.assert_allclose(found.actual, actual, atol=1e-3 * np.abs(actual).max())
