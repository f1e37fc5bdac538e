"""Each curvature equals a dense construction, and is handed over whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import oracles
import pytest
import torch
from cases import Golden, blobs, mlp
from networks import NETWORKS
from torch import Tensor, nn

from relatif_widgets import ChoiceError, Explainer, ModelError
from relatif_widgets.curvature import (
    CURVATURES,
    EKFAC,
    Eigenbasis,
    FisherLabels,
    Hessian,
    Lissa,
    LowRank,
    affordable_rank,
    as_curvature,
    base,
    dense,
    sole_layer,
)
from relatif_widgets.curvature.base import Columns, Setting, eigh
from relatif_widgets.curvature.labels import Labels
from relatif_widgets.curvature.sole_layer import LayerColumns
from relatif_widgets.gradients import GradientBatch, Plan
from relatif_widgets.layers import Layer
from relatif_widgets.objective import make_objective
from relatif_widgets.products import product
from relatif_widgets.rows import Outer, Part

LOSS = nn.CrossEntropyLoss(reduction="none")


def matrix(explainer: Explainer) -> Tensor:
    """Q Λ Qᵀ + μ (I − QQᵀ), written out."""
    basis = explainer._ready().index.basis
    assert basis.eigenvalues is not None
    unit = torch.eye(explainer.parameter_count, dtype=torch.float64)
    rows = basis.rotation.rotate(unit).dense()
    whole = rows @ torch.diag(basis.eigenvalues) @ rows.T
    return whole if basis.tail is None else whole + basis.tail * (unit - rows @ rows.T)


def fitted(curvature: str) -> Explainer:
    return Explainer(mlp(), blobs(12), curvature=curvature, batch_size=5).fit(progress=False)


def test_the_fisher_enumerates_all_labels() -> None:
    basis = fitted("fisher")._ready().index.basis
    assert basis.mean_eigenvalue == pytest.approx(float(torch.trace(matrix(fitted("fisher")))) / 43)
    torch.testing.assert_close(
        matrix(fitted("fisher")), oracles.softmax_fisher(mlp(), blobs(12)[0]), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("loss", ["plain", "weighted", "binary", "squares"])
@pytest.mark.parametrize("place", ["all of a linear model", "without bias", "last layer", "inner layer"])
def test_the_fisher_of_a_single_layer_pair_by_pair_of_outputs(
    loss: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 4, dtype=torch.float64)
    x[:20, 1] = 0  # comes into use late
    x[:, 3] = 0  # never
    losses = {
        "plain": (nn.CrossEntropyLoss(), torch.arange(30) % 3),
        "weighted": (
            nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.5, 2.0]).double(), label_smoothing=0.1),
            torch.arange(30) % 3,
        ),
        "binary": (nn.BCEWithLogitsLoss(), torch.randint(0, 2, (30, 3)).double()),
        "squares": (nn.MSELoss(), torch.randn(30, 3).double()),
    }
    chosen, y = losses[loss]
    if place == "all of a linear model":
        model, parameters = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), None
    elif place == "without bias":
        model, parameters = nn.Linear(4, 3, bias=False), None
    else:
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        parameters = "2" if place == "last layer" else ["0.bias", "0.weight"]
    model = model.double()
    monkeypatch.setattr(sole_layer, "WAITING", 250)  # numbers: some 16 examples
    monkeypatch.setattr(sole_layer, "ALIKE", 8)
    monkeypatch.setattr(sole_layer, "RARE", 0.2)
    monkeypatch.setattr(sole_layer, "PANEL", 2)
    options = {"loss": chosen, "parameters": parameters, "curvature": "fisher", "batch_size": 7}
    zero_rows: list[int] = []
    plain_eigh = dense.eigh
    monkeypatch.setattr(
        dense, "eigh", lambda whole: zero_rows.append(int((~whole.any(1)).sum())) or plain_eigh(whole)
    )
    by_pairs = matrix(Explainer(model, (x, y), **options).fit(progress=False))
    balanced = loss in ("plain", "weighted") and place != "inner layer"
    into = {"all of a linear model": 5, "without bias": 4, "last layer": 6, "inner layer": 5}[place]
    out, idle = 5 if place == "inner layer" else 3, 0 if place == "last layer" else 1
    # A softmax does not see all outputs move together, and no output sees an input that is always zero.
    assert zero_rows == [out * into - (out - balanced) * (into - idle)]
    monkeypatch.setattr(Plan, "sole", lambda *_: None)
    added: list[object] = []
    monkeypatch.setattr(sole_layer.FisherSum, "add", added.append)
    by_rows = matrix(Explainer(model, (x, y), **options).fit(progress=False))
    assert not added  # the second one went the other way
    torch.testing.assert_close(by_pairs, by_rows, rtol=1e-10, atol=1e-13)


def test_the_hessian_is_the_mean_of_the_second_derivatives() -> None:
    x, y = blobs(12)
    torch.testing.assert_close(
        matrix(fitted("hessian")), oracles.hessian(mlp(), LOSS, x, y) / 12, rtol=1e-9, atol=1e-12
    )


def test_the_empirical_fisher_is_the_mean_outer_product() -> None:
    g = oracles.gradients(mlp(), LOSS, *blobs(12))
    torch.testing.assert_close(matrix(fitted("empirical_fisher")), g.T @ g / 12, rtol=1e-9, atol=1e-12)


def test_the_block_fisher_keeps_the_layers_and_drops_what_ties_them() -> None:
    right = oracles.softmax_fisher(mlp(), blobs(12)[0])
    first = 5 * 4 + 5  # weight and bias of the first layer
    right[:first, first:] = 0
    right[first:, :first] = 0
    torch.testing.assert_close(matrix(fitted("block_fisher")), right, rtol=1e-9, atol=1e-12)


def test_a_parametrised_weight_stays_in_the_block_of_its_layer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 3)
    ).double()
    block = Explainer(model, blobs(12), curvature="block_fisher").fit(progress=False)
    whole = Explainer(model, blobs(12), curvature="fisher").fit(progress=False)
    first = 3 + 3 + 12
    torch.testing.assert_close(matrix(block)[:first, :first], matrix(whole)[:first, :first])
    assert matrix(block)[:first, first:].abs().max() == 0


def test_block_and_whole_fisher_agree_where_there_is_one_layer() -> None:
    torch.manual_seed(0)
    model, data = nn.Linear(4, 3).double(), blobs(20)
    block = Explainer(model, data, curvature="block_fisher").fit(progress=False).scores(data[0][:3])
    whole = Explainer(model, data, curvature="fisher").fit(progress=False).scores(data[0][:3])
    torch.testing.assert_close(block, whole, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("curvature", sorted(CURVATURES.keys() - {"lissa"}))  # it has no matrix to look at
def test_every_curvature_gives_scores_normalizers_and_an_explanation(curvature: str) -> None:
    x, y = blobs(12)
    explainer = Explainer(mlp(), (x, y), curvature=curvature, damping=1.0).fit(progress=False)
    train = oracles.gradients(mlp(), LOSS, x, y)
    if curvature == "identity":
        influence, theta, own = train[:2] @ train.T, train.norm(dim=1), train.norm(dim=1)
    else:
        dense = matrix(explainer)
        influence = oracles.influence(dense, 1.0, train[:2], train)
        theta, own = oracles.normalizers(dense, 1.0, train)
    for method, right in [
        ("influence", influence),
        ("theta_relative", influence / theta),
        ("loss_relative", influence / own),
    ]:
        torch.testing.assert_close(
            explainer.scores(x[:2], y[:2], method=method), right, rtol=1e-8, atol=1e-10
        )
    assert explainer.explain(x[0]).provenance.curvature == curvature


@pytest.mark.parametrize("measured", [False, True], ids=["kfac", "ekfac"])
def test_the_kronecker_factors_equal_a_dense_construction(measured: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 3, (2, 3), padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(60, 4),
        nn.Tanh(),
        nn.Linear(4, 3),
    ).double()
    x = torch.randn(7, 2, 4, 4, dtype=torch.float64)
    explainer = Explainer(
        model,
        (x, torch.arange(7) % 3),
        curvature="ekfac" if measured else "kfac",
        fisher_labels="exact",
        batch_size=3,
    ).fit(progress=False)
    right = oracles.kronecker(model, x, measured=measured)
    torch.testing.assert_close(matrix(explainer), right, rtol=1e-9, atol=1e-13)


def test_ekfac_is_the_exact_diagonal_of_the_fisher_in_its_basis() -> None:
    explainer = Explainer(mlp(), blobs(12), curvature="ekfac", fisher_labels="exact").fit(progress=False)
    basis = explainer._ready().index.basis
    rows = basis.rotation.rotate(torch.eye(43, dtype=torch.float64)).dense()
    fisher = oracles.softmax_fisher(mlp(), blobs(12)[0])
    torch.testing.assert_close(basis.eigenvalues, torch.diagonal(rows.T @ fisher @ rows))
    torch.testing.assert_close(rows @ rows.T, torch.eye(43, dtype=torch.float64))  # an orthogonal basis


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - {"data-dependent"}))  # Explainer refuses it
def test_kfac_and_ekfac_take_every_kind_of_layer(name: str) -> None:
    """Blocks of what hooks do not cover are exact; every parameter is somewhere; rows are orthogonally turned."""
    case = NETWORKS[name]
    model, x = case.model(), case.inputs()
    y = torch.tensor([0, 1, 2, 0, 1])
    right = oracles.gradients(model, LOSS, x, y)
    for curvature in ("kfac", "ekfac"):
        explainer = Explainer(model, (x, y), curvature=curvature, fisher_labels="empirical").fit(
            progress=False
        )
        index = explainer._ready().index
        assert index.rows is not None
        torch.testing.assert_close(index.basis.rotation.back(index.rows), right, rtol=1e-9, atol=1e-11)
        dense = matrix(explainer)
        found = explainer.scores(x, y, method="influence", damping=0.1)
        torch.testing.assert_close(found, oracles.influence(dense, 0.1, right, right), rtol=1e-8, atol=1e-9)
        mean = right.T @ right / 5
        for module, parameters in by_module(model).items():
            if module not in case.covered:
                block = dense[parameters[:, None], parameters]
                torch.testing.assert_close(
                    block, mean[parameters[:, None], parameters], rtol=1e-8, atol=1e-10
                )


class Twice(nn.Module):
    """Many channels, the second convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(2, 32, 3), nn.Conv2d(32, 32, 1), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(self.second(self.first(x).tanh()).tanh())
        return self.last(hidden.square().mean((2, 3)))


@pytest.mark.parametrize("side", [4, 5, 8])
def test_whatever_is_rotated_before_it_is_multiplied(side: int) -> None:
    """At twice 4 positions inputs and slopes, at twice 9 the slopes, at twice 36 neither."""
    torch.manual_seed(0)
    model, y = Twice().double(), torch.arange(9) % 3
    x = torch.randn(9, 2, side, side, dtype=torch.float64)
    explainer = Explainer(model, (x, y), curvature=EKFAC("empirical"), batch_size=5).fit(progress=False)
    index = explainer._ready().index
    assert index.rows is not None
    right = oracles.gradients(model, LOSS, x, y)
    torch.testing.assert_close(index.basis.rotation.back(index.rows), right, rtol=1e-9, atol=1e-11)
    moments = index.basis.rotation.rotate(right).dense().square().mean(0)
    torch.testing.assert_close(index.basis.eigenvalues, moments, rtol=1e-9, atol=1e-13)


def by_module(model: nn.Module) -> dict[str, Tensor]:
    """Positions of each module's own parameters."""
    found: dict[str, list[Tensor]] = {}
    start = 0
    for name, value in model.named_parameters():
        owner = (
            name.split(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]
        )
        found.setdefault(owner, []).append(torch.arange(start, start + value.numel()))
        start += value.numel()
    return {name: torch.cat(parts) for name, parts in found.items()}


def test_what_is_too_large_for_an_exact_block_gets_its_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relatif_widgets.curvature.kronecker.BLOCK_LIMIT", 30)
    case = NETWORKS["embedding"]  # 9 × 4 = 36 numbers
    model, x, y = case.model(), case.inputs(), torch.tensor([0, 1, 2, 0, 1])
    explainer = Explainer(model, (x, y), curvature="kfac", fisher_labels="empirical").fit(progress=False)
    g = oracles.gradients(model, LOSS, x, y)[:, :36]
    torch.testing.assert_close(matrix(explainer)[:36, :36], torch.diag(g.square().mean(0)))
    assert "diagonal for embed" in explainer.report()
    assert "K-FAC in out" in explainer.report()


@pytest.mark.parametrize("rank", [3, 8, 20])
def test_low_rank_is_the_fishers_leading_eigenpairs_and_spreads_the_rest(rank: int) -> None:
    fisher = oracles.softmax_fisher(mlp(), blobs(12)[0])
    values, vectors = torch.linalg.eigh(fisher)
    curvature = LowRank(rank, "exact", iterations=30)
    explainer = Explainer(mlp(), blobs(12), curvature=curvature, batch_size=5).fit(progress=False)
    top = vectors[:, -rank:]
    tail = float(values[:-rank].sum()) / (43 - rank)
    right = top @ torch.diag(values[-rank:]) @ top.T
    right = right + tail * (torch.eye(43, dtype=torch.float64) - top @ top.T)
    torch.testing.assert_close(matrix(explainer), right, rtol=1e-6, atol=1e-8)
    assert explainer._ready().index.basis.mean_eigenvalue == pytest.approx(float(torch.trace(fisher)) / 43)


def test_one_pass_with_random_signs_finds_all_that_there_is() -> None:
    """6 examples of 3 classes span 12 directions; one iteration with 20 vectors has them to the last digit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), nn.Tanh(), nn.Linear(10, 3)).double()
    x, y = torch.randn(6, 20, dtype=torch.float64), torch.arange(6) % 3
    curvature = LowRank(12, "exact")
    explainer = Explainer(model, (x, y), curvature=curvature, batch_size=4)
    explainer.fit(progress=False)
    torch.testing.assert_close(matrix(explainer), oracles.softmax_fisher(model, x), rtol=1e-9, atol=1e-12)
    assert "hold 100.0% of the trace" in explainer.report()
    assert len(explainer._ready().index.basis.eigenvalues) == 12  # type: ignore[arg-type]


def test_random_signs_are_few_in_every_row_and_nearly_at_right_angles() -> None:
    model = nn.Linear(400, 5)
    curvature = LowRank(60)
    task = Explainer(model, (torch.randn(9, 400), torch.arange(9) % 5), curvature=curvature)._task
    with task.evaluating():
        curvature.begin(
            Setting(task.objective, task.plan, 9, 0.1, 1 << 30, lambda rows: next(task.some(rows, 9)))
        )
    block = curvature._block
    assert block.is_sparse
    dense = block.to_dense()
    assert dense.shape == (2005, 68)
    assert (dense != 0).sum(1).unique().tolist() == [8]
    assert dense.abs()[dense != 0].unique().numel() == 1
    assert abs(float(dense.sum() / dense.abs().sum())) < 0.02
    assert float(dense.square().sum(0).mean()) == pytest.approx(1)
    spectrum = torch.linalg.eigvalsh(dense.T @ dense)
    assert 0.5 < float(spectrum.min()) < float(spectrum.max()) < 1.7


@pytest.mark.parametrize("room", [True, False])
def test_low_rank_scores_are_those_of_its_matrix_by_every_road(
    room: bool, request: pytest.FixtureRequest
) -> None:
    """Scores for all, and top k by the stored gradients or by a shortlist whose gradients are computed afresh."""
    if not room:
        request.getfixturevalue("no_room_for_gradients")
    x, y = blobs(1200)
    explainer = Explainer(mlp(), (x, y), curvature=LowRank(6, "exact", iterations=2), damping=0.01)
    explainer.fit(progress=False)
    train = oracles.gradients(mlp(), LOSS, x, y)
    dense = matrix(explainer)
    right = oracles.influence(dense, 0.01, train[:3], train)
    theta, own = oracles.normalizers(dense, 0.01, train)
    for method, score in [
        ("influence", right),
        ("theta_relative", right / theta),
        ("loss_relative", right / own),
    ]:
        for some in (slice(0, 1), slice(0, 3)):  # by forward mode; by gradients
            found = explainer.scores(x[some], y[some], method=method)
            torch.testing.assert_close(found, score[some], rtol=1e-8, atol=1e-10)
        for sign, key in [("positive", score), ("negative", -score), ("both", score.abs())]:
            best = explainer.top_k(x[:1], y[:1], k=5, method=method, sign=sign)
            listed = explainer._scorer().shortlist(train[:1], [0.01], [method], 5, lambda done: None)
            assert (listed is None) == room  # or this test would test the other road
            assert bool(best.certified) or not room
            assert best.indices[0].tolist() == key[0].topk(5).indices.tolist()
            torch.testing.assert_close(best.scores[0], score[0, best.indices[0]], rtol=1e-8, atol=1e-10)
    shown = explainer.explain(x[0], labels=[int(y[0])])
    for method, score in [
        ("influence", right),
        ("theta_relative", right / theta),
        ("loss_relative", right / own),
    ]:
        rows = [
            shown.examples[i].index
            for i in shown.panels[0].ranking(method, "positive").examples[shown.stop_at(0.01)]
        ]
        assert rows[:5] == score[0].topk(5).indices.tolist()


@pytest.mark.usefixtures("no_room_for_gradients")
def test_a_certificate_is_never_wrong_and_not_always_withheld() -> None:
    x, y = blobs(1200)
    truth = Explainer(mlp(), (x, y), curvature="fisher", damping=0.1).fit(progress=False)
    given = 0
    for rank in (4, 12, 30):
        explainer = Explainer(mlp(), (x, y), curvature=LowRank(rank, "exact", iterations=4), damping=0.1)
        explainer.fit(progress=False)
        for query in range(12):
            best = explainer.top_k(x[query : query + 1], k=5)
            exact = explainer.scores(x[query : query + 1])[0]
            if bool(best.certified):
                given += 1
                assert best.indices[0].tolist() == exact.topk(5).indices.tolist()
    assert given > 0
    assert bool(truth.top_k(x[:12], k=5).certified.all())


@pytest.mark.parametrize("labels", ["sample", "rademacher"])
@pytest.mark.parametrize("loss", ["cross_entropy", "weighted", "bce_with_logits", "mse"])
def test_drawn_labels_estimate_the_exact_expectation(labels: FisherLabels, loss: str) -> None:
    """The mean over many draws, within four standard errors, for every loss with a likelihood."""
    torch.manual_seed(0)
    outputs = torch.randn(1, 3, dtype=torch.float64)
    module = {
        "cross_entropy": nn.CrossEntropyLoss(),
        "weighted": nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5]), label_smoothing=0.2),
        "bce_with_logits": nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 4.0, 0.3])),
        "mse": nn.MSELoss(),
    }[loss]
    fixed = nn.Linear(1, 3).double()
    objective = make_objective(fixed, module)
    batch = GradientBatch(objective, torch.zeros(20_000, 1).double(), torch.zeros(20_000).long())
    batch.__dict__["outputs"] = outputs.expand(20_000, 3)
    drawn = Labels(labels, "sample")
    drawn.begin_pass()
    slopes = drawn.slopes(batch)[:, 0]
    products = slopes[:, :, None] * slopes[:, None, :]
    factor = objective.loss.curvature_factor(outputs)[0]
    error = (products.mean(0) - factor.T @ factor).abs()
    assert bool((error <= 4 * products.std(0) / 20_000**0.5 + 1e-12).all())
    torch.testing.assert_close(slopes.T @ slopes / 20_000, factor.T @ factor, rtol=0.1, atol=0.02)


def test_random_signs_scatter_less_than_drawn_labels_where_the_model_is_sure() -> None:
    objective = make_objective(nn.Linear(1, 3).double(), "cross_entropy")
    batch = GradientBatch(objective, torch.zeros(20_000, 1).double(), torch.zeros(20_000).long())
    batch.__dict__["outputs"] = torch.tensor([[5.0, 0.0, 0.0]], dtype=torch.float64).expand(20_000, 3)
    spread = {}
    for kind in ("sample", "rademacher"):
        labels = Labels(kind, "sample")
        labels.begin_pass()
        slopes = labels.slopes(batch)[:, 0]
        spread[kind] = float((slopes[:, :, None] * slopes[:, None, :]).std(0).max())
    assert spread["rademacher"] < spread["sample"] / 4


@pytest.mark.parametrize("curvature", ["low_rank", "kfac", "ekfac"])
def test_few_examples_are_seen_at_all_labels(curvature: str) -> None:
    """A single draw from each of a few examples spans too little to be trusted."""
    default = Explainer(mlp(), blobs(40), curvature=curvature).fit(progress=False)
    exact = Explainer(mlp(), blobs(40), curvature=curvature, fisher_labels="exact").fit(progress=False)
    torch.testing.assert_close(matrix(default), matrix(exact), rtol=1e-9, atol=1e-12)
    assert "over all labels" in default.report()
    assert "take more pairs" not in default.report()  # there are no more
    if curvature == "low_rank":
        right = Explainer(mlp(), blobs(40), curvature="fisher").fit(progress=False)
        torch.testing.assert_close(matrix(default), matrix(right), rtol=1e-7, atol=1e-10)


def test_many_examples_are_seen_at_one_draw_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relatif_widgets.curvature.labels.EXACT_ROWS", 100)
    for curvature, words in [("low_rank", "one random mixture"), ("ekfac", "one label drawn")]:
        assert words in Explainer(mlp(), blobs(40), curvature=curvature).fit(progress=False).report()


def test_low_rank_counts_the_parameters_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(value.numel() for value in mlp().parameters())
    for most, few, words in [
        (40 * 3 * size, 1, "over all labels"),
        (40 * 3 * size - 1, 1, "one random mixture"),
        (40 * 3 * size - 1, 41, "over all labels"),  # too few to be seen at one draw each
    ]:
        monkeypatch.setattr("relatif_widgets.curvature.labels.EXACT_NUMBERS", most)
        monkeypatch.setattr("relatif_widgets.curvature.labels.FEW", few)
        assert words in Explainer(mlp(), blobs(40), curvature="low_rank").fit(progress=False).report()
        assert (
            "over all labels" in Explainer(mlp(), blobs(40), curvature="ekfac").fit(progress=False).report()
        )


def test_lissa_on_the_hessian_needs_no_likelihood() -> None:
    def huber(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.huber_loss(outputs[:, 0], targets.double(), reduction="none")

    x, y = blobs(12)
    curvature = Lissa(batch_size=12, tolerance=1e-6, repeats=1)
    explainer = Explainer(mlp(), (x, y), loss=huber, curvature=curvature, damping=5.0).fit(progress=False)
    g = oracles.gradients(mlp(), huber, x, y)
    hessian = oracles.hessian(mlp(), huber, x, y) / 12
    found = explainer.scores(x[:2], y[:2], method="influence")
    torch.testing.assert_close(found, oracles.influence(hessian, 5.0, g[:2], g), rtol=1e-4, atol=1e-7)
    assert "normalizers by EK-FAC, at the training labels" in explainer.report()


def test_labels_do_not_depend_on_the_batch_size() -> None:
    found = [
        Explainer(mlp(), blobs(40), curvature=LowRank(labels="rademacher"), batch_size=size).fit(
            progress=False
        )
        for size in (40, 7)
    ]
    torch.testing.assert_close(matrix(found[0]), matrix(found[1]), rtol=1e-7, atol=1e-10)


def test_coverage_leaves_out_the_smallest_label_directions() -> None:
    whole = Explainer(mlp(), blobs(40), curvature=LowRank(43, "exact")).fit(progress=False)
    most = Explainer(mlp(), blobs(40), curvature=LowRank(43, "exact", coverage=0.6)).fit(progress=False)
    all_but_nothing = LowRank(43, "exact", coverage=1 - 1e-15)
    nearly = Explainer(mlp(), blobs(40), curvature=all_but_nothing).fit(progress=False)
    torch.testing.assert_close(matrix(nearly), matrix(whole), rtol=1e-7, atol=1e-9)
    difference = matrix(whole) - matrix(most)
    share = float(torch.trace(difference) / torch.trace(matrix(whole)))
    assert 0.01 < share <= 0.4  # each example keeps at least 60 % of its own
    assert float(torch.linalg.eigvalsh(difference).min()) > -1e-8  # what is left out was positive


def test_lissa_solves_what_a_dense_solve_does() -> None:
    golden = Golden("digits_softmax")
    curvature = Lissa(batch_size=90, tolerance=1e-8, repeats=1, normalizers=Hessian())
    explainer = Explainer(golden.model, golden.train, curvature=curvature, damping=0.1).fit(progress=False)
    for method in ("influence", "theta_relative", "loss_relative"):
        found = explainer.scores(golden.test[0], golden.test[1], method=method)
        right = golden.scores(method, "hessian", 0.1)
        torch.testing.assert_close(found, right, rtol=1e-6, atol=1e-6 * float(right.abs().max()))
    assert curvature.convergence is not None
    assert curvature.convergence.converged
    assert curvature.convergence.error <= 1e-8
    assert curvature.convergence.spread == 0
    assert "converged after" in explainer.report()


@pytest.mark.parametrize("matrix", ["hessian", "fisher"])
def test_lissa_on_batches_comes_close_and_says_how_close(matrix: str) -> None:
    golden = Golden("digits_softmax")
    curvature = Lissa(matrix=matrix, batch_size=30, tolerance=0.05, repeats=4, seed=1)  # type: ignore[arg-type]
    explainer = Explainer(golden.model, golden.train, curvature=curvature, damping=0.1).fit(progress=False)
    found = explainer.scores(golden.test[0], golden.test[1], method="influence")
    right = golden.scores("influence", "hessian", 0.1)  # of a linear model, the Fisher too
    assert float(torch.corrcoef(torch.stack([found.flatten(), right.flatten()]))[0, 1]) > 0.99
    assert curvature.convergence is not None
    assert 0 < curvature.convergence.spread < 0.3
    again = Lissa(matrix=matrix, batch_size=30, tolerance=0.05, repeats=4, seed=1)  # type: ignore[arg-type]
    second = Explainer(golden.model, golden.train, curvature=again, damping=0.1).fit(progress=False)
    assert torch.equal(second.scores(golden.test[0], golden.test[1], method="influence"), found)


def test_lissa_takes_its_normalizers_from_ekfac() -> None:
    golden = Golden("digits_convnet")
    explainer = Explainer(
        golden.model, golden.train, curvature=Lissa(normalizers=EKFAC("exact")), damping=0.1
    ).fit(progress=False)
    torch.testing.assert_close(explainer.self_influence().sqrt(), golden.tensor("l|ekfac|0.1"))
    torch.testing.assert_close(explainer.self_influence(0.01).sqrt(), golden.tensor("l|ekfac|0.01"))


def test_lissa_that_diverges_names_scale_and_damping() -> None:
    golden = Golden("digits_softmax")
    explainer = Explainer(golden.model, golden.train, curvature=Lissa(scale=0.05), damping=0.01)
    explainer.fit(progress=False)
    with pytest.raises(ModelError, match="LiSSA diverges at scale 0.05 and damping 0.01: after .* steps"):
        explainer.scores(golden.test[0][:1], method="influence")


def test_lissa_that_runs_out_of_steps_says_so() -> None:
    golden = Golden("digits_softmax")
    explainer = Explainer(golden.model, golden.train, curvature=Lissa(steps=100), damping=0.001)
    explainer.fit(progress=False)
    with pytest.warns(UserWarning, match="LiSSA NOT converged after 100 steps.*not to be trusted"):
        shown = explainer.explain(golden.test[0][0])
    assert "NOT converged after 100 steps" in shown.provenance.curvature_detail
    assert shown.dampings == (0.001,)  # each stop would be a recursion of its own


@pytest.mark.parametrize("curvature", ["ekfac", "fisher", "kfac"])
def test_rows_that_do_not_fit_are_replaced_by_passes(curvature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(60)
    stored = Explainer(mlp(), (x, y), curvature=curvature, damping=0.1).fit(progress=False)
    monkeypatch.setattr("relatif_widgets.fitting._row_bytes", lambda task, rotation, storage: 1 << 60)
    monkeypatch.setattr("relatif_widgets.fitting.choose", lambda rows, energies, numbers: None)
    passed = Explainer(mlp(), (x, y), curvature=curvature, damping=0.1).fit(progress=False)
    assert passed._ready().index.rows is None
    assert "no rows" in passed.report()
    for method in ("influence", "theta_relative", "loss_relative"):
        for damping in (0.1, 0.25):  # a stop, and one that needs another pass for its normalizers
            torch.testing.assert_close(
                passed.scores(x[:3], method=method, damping=damping),
                stored.scores(x[:3], method=method, damping=damping),
                rtol=1e-8,
                atol=1e-10,
            )
        ours, theirs = passed.top_k(x[:2], k=4, method=method), stored.top_k(x[:2], k=4, method=method)
        assert torch.equal(ours.indices, theirs.indices)
        assert bool(ours.certified.all())
    torch.testing.assert_close(passed.self_influence(0.03), stored.self_influence(0.03))
    ours, theirs = passed.explain(x[0], damping=0.07), stored.explain(x[0], damping=0.07)
    assert ours.dampings == theirs.dampings
    for mine, other in zip(ours.panels[0].rankings, theirs.panels[0].rankings, strict=True):
        assert [[ours.examples[i].index for i in row] for row in mine.examples] == [
            [theirs.examples[i].index for i in row] for row in other.examples
        ]


def test_auto_takes_the_most_faithful_that_fits() -> None:
    def chosen(size: int, count: int = 1000, memory: int = 10**10) -> str:
        return as_curvature("auto", size, count, memory).name

    assert chosen(8_000) == "fisher"
    assert chosen(8_000, memory=10**9) == "low_rank"  # a dense matrix of that size takes 2 GB
    assert chosen(8_001) == "low_rank"
    assert chosen(24_234, count=50_000, memory=2 * 10**9) == "low_rank"
    assert chosen(11_000_000, memory=4 * 10**9) == "ekfac"


def test_as_many_eigenpairs_as_memory_allows() -> None:
    assert affordable_rank(24_234, 50_000, 4, 10**10) == 1024
    tight = affordable_rank(24_234, 50_000, 4, 4 * 10**8)
    assert 64 < tight < 1024
    assert affordable_rank(24_234, 50_000, 4, 8 * 10**8) == pytest.approx(2 * tight, abs=1)
    explainer = Explainer(mlp(), blobs(30), curvature="low_rank", memory_limit="30kB").fit(progress=False)
    assert len(explainer._ready().index.basis.eigenvalues) < 30


def test_low_rank_takes_more_pairs_until_what_is_left_lies_under_the_damping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("relatif_widgets.curvature.low_rank.RANK", 4)
    values = torch.linalg.eigvalsh(oracles.softmax_fisher(mlp(), blobs(40)[0])).flip(0)

    def pairs(damping: float, **options: object) -> tuple[int, int, str]:
        curvature = LowRank(labels="exact", iterations=3)
        explainer = Explainer(mlp(), blobs(40), curvature=curvature, damping=damping, **options)
        explainer.fit(progress=False)
        return len(explainer._ready().index.basis.eigenvalues), curvature.passes, explainer.report()

    for damping in (10.0, 0.3, 0.01):
        needed = int((values > damping / 4).sum()) + 1
        doublings = max(0, (needed - 1).bit_length() - 2)
        found, passes, report = pairs(damping)
        assert found == min(4 * 2**doublings, 43)
        assert passes == 4 + doublings
        assert "what is left out" not in report
    few, _, report = pairs(0.01, memory_limit="20kB")
    assert few < 16
    assert "what is left out does not lie well under the damping of 0.01: take more pairs" in report


def test_fisher_labels_are_for_curvatures_that_draw_them() -> None:
    data = blobs(12)
    for curvature in ("fisher", "identity", "lissa"):
        with pytest.raises(ChoiceError, match=f"changes nothing for curvature='{curvature}'"):
            Explainer(mlp(), data, curvature=curvature, fisher_labels="exact")
    with pytest.raises(ChoiceError, match="give it to the object itself, as in LowRank"):
        Explainer(mlp(), data, curvature=LowRank(3), fisher_labels="exact")
    with pytest.raises(ChoiceError, match="fisher_labels='smaple' is not known.*Did you mean 'sample'"):
        Explainer(mlp(), data, curvature="ekfac", fisher_labels="smaple")
    found = Explainer(mlp(), data, curvature="ekfac", fisher_labels="empirical").fit(progress=False)
    assert "EK-FAC, at the training labels" in found.report()


def test_a_loss_without_a_likelihood_is_told_what_to_use_instead() -> None:
    def huber(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.huber_loss(outputs[:, 0], targets.double(), reduction="none")

    x, y = blobs(12)
    for curvature in ("auto", "fisher", "block_fisher", "low_rank", "kfac", "ekfac"):
        with pytest.raises(ModelError, match=r"loss 'huber' has no known likelihood.*\"hessian\" or"):
            Explainer(mlp(), (x, y), loss=huber, curvature=curvature)
    for curvature, labels in [
        ("hessian", None),
        ("low_rank", "empirical"),
        ("ekfac", "empirical"),
    ]:
        explainer = Explainer(mlp(), (x, y), loss=huber, curvature=curvature, fisher_labels=labels)
        assert explainer.fit(progress=False).scores(x[:2], y[:2], damping=1.0).isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowRank(0), "rank=0; expected a whole number"),
        (lambda: LowRank(iterations=1.5), "iterations=1.5; expected a whole number"),
        (lambda: LowRank(coverage=0), "coverage=0; expected a share"),
        (lambda: Lissa(tolerance=0), "tolerance=0; expected a relative error"),
        (lambda: Lissa(scale=-1), "scale=-1; expected a number above 0"),
        (lambda: Lissa(repeats=0), "repeats=0; expected a whole number"),
        (lambda: Lissa(normalizers="ekfac"), "normalizers='ekfac'; expected a curvature object"),
        (lambda: Lissa(matrix="hesian"), "matrix='hesian' is not known.*Did you mean 'hessian'"),
    ],
)
def test_bad_options_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        make()


def test_a_singular_matrix_is_refused_with_the_damping_that_would_do() -> None:
    basis = Eigenbasis(
        "test matrix", Columns(torch.eye(2)), torch.tensor([-0.5, 2.0], dtype=torch.float64), size=2
    )
    with pytest.raises(
        ModelError, match=r"test matrix is singular at damping 0.5: .*take a damping above 0.5"
    ):
        basis.weights(torch.tensor([0.5], dtype=torch.float64), 2)
    assert [basis.is_definite(damping) for damping in (0.4, 0.5, 0.6)] == [False, False, True]
    assert basis.weights(torch.tensor([0.25], dtype=torch.float64), 2).tolist() == [[-4.0, 1 / 2.25]]


def test_large_matrices_go_to_numpys_lapack_and_back_where_it_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = half @ half.T
    right = torch.linalg.eigvalsh(matrix)
    monkeypatch.setattr("relatif_widgets.curvature.base._LARGE", 6)
    plain, asked = np.linalg.eigh, []

    def moody(matrix: np.ndarray) -> object:
        asked.append(matrix.shape)
        if len(asked) == 2:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")
        return plain(matrix)

    monkeypatch.setattr(np.linalg, "eigh", moody)
    for values, vectors in (eigh(matrix), eigh(matrix), eigh(matrix[None])):
        torch.testing.assert_close(values.flatten(), right)
        torch.testing.assert_close((vectors * values[..., None, :] @ vectors.mT).view(6, 6), matrix)
    assert asked == [(6, 6)] * 3
    eigh(torch.eye(5))
    assert len(asked) == 3


def test_what_no_gradient_has_costs_nothing_to_rotate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter that nothing moves, and one that moves only in some rows."""
    torch.manual_seed(0)
    vectors = torch.zeros(5, 5, dtype=torch.float64)
    vectors[2, 0] = 1
    vectors[torch.tensor([0, 1, 3, 4])[:, None], torch.arange(1, 5)] = torch.linalg.qr(
        torch.randn(4, 4).double()
    ).Q
    gradients = torch.randn(7, 5, dtype=torch.float64)
    widths: list[int] = []
    monkeypatch.setattr(base, "TURNED", 3)
    monkeypatch.setattr(
        base, "product", lambda rows, vectors: widths.append(rows.shape[1]) or product(rows, vectors)
    )
    never, late = gradients.clone(), gradients.clone()
    never[:, 2] = late[:5, 2] = 0
    for moving, width in ((gradients, 5), (never, 4), (late, 5)):
        widths.clear()
        torch.testing.assert_close(turned(Columns(vectors), moving), moving @ vectors)
        assert widths == [width] * 3


def turned(rotation: Columns, whole: Part) -> Tensor:
    """All rows, each written once."""
    found = torch.full((len(whole), rotation.vectors.shape[1]), torch.nan, dtype=torch.float64)
    for place, rows in rotation.turned(whole):
        assert bool(found[place].isnan().all())
        found[place] = rows
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("reflected", [True, False])
def test_a_sole_layers_gradients_are_rotated_by_their_factors(
    bias: bool, reflected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    columns = 3 if bias else 4
    layer = Layer("", 1, 3, 4, 0, 9 if bias else None, False, once=True)
    monkeypatch.setattr(sole_layer, "ALIKE", 8)
    monkeypatch.setattr(sole_layer, "RARE", 0.2)
    inputs = torch.randn(30, 4, dtype=torch.float64)
    inputs[:, 0] = 0
    inputs[1:, 2] = 0  # one example alone has it
    slopes = torch.randn(30, 3, dtype=torch.float64)
    if reflected:
        slopes -= slopes.mean(1, keepdim=True)
    gradients = torch.zeros(30, 12, dtype=torch.float64)
    outer = slopes[:, :, None] * inputs[:, None]
    gradients[:, : 3 * columns] = outer[:, :, :columns].flatten(1)
    if bias:
        gradients[:, 9:] = outer[:, :, 3]
    rotation = LayerColumns(torch.linalg.qr(torch.randn(12, 12).double()).Q, layer, reflected=reflected)
    (right,) = rotation.rotate(gradients).parts
    widths: list[tuple[int, ...]] = []
    monkeypatch.setattr(
        sole_layer, "product", lambda rows, vectors: widths.append(rows.shape) or product(rows, vectors)
    )
    torch.testing.assert_close(turned(rotation, Outer(slopes, inputs)), right)
    moving = 2 if reflected else 3
    # What one example alone has costs the others nothing, and what nobody has nobody.
    assert {width for _, width in widths} == {2 * moving, 3 * moving}
    assert [rows for rows, width in widths if width == 3 * moving] == [1]
    assert sum(rows for rows, _ in widths) == 30


def test_examples_are_alike_that_lack_the_same_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.tensor([[1.0, 0, 2], [0, 3, 0], [1, 0, 0], [0, 1, 0], [0, 2, 0], [1, 0, 1], [4, 2, 0]])
    sizes = torch.tensor([[1.0, 0], [0, 1], [2, 1], [0, 2], [1, 3], [3, 1], [0, 1]])

    def found() -> list[tuple[list[int], list[int]]]:
        return [(rows.tolist(), common.tolist()) for rows, common in sole_layer.alike(inputs, sizes)]

    assert found() == [([0, 2, 5, 1, 3, 4, 6], [0, 1, 2])]
    monkeypatch.setattr(sole_layer, "ALIKE", 4)
    monkeypatch.setattr(sole_layer, "RARE", 0.4)
    # The first of the second output comes after those of the first; the last example's first input is rare.
    assert found() == [([0, 2, 5], [0, 2]), ([3, 4], [1]), ([1, 6], [0, 1])]


@pytest.mark.parametrize("name", ["fisher", "empirical_fisher", "hessian"])
def test_where_no_input_is_ever_anything_but_zero(name: str) -> None:
    model = nn.Linear(3, 2, bias=False)
    x, y = torch.zeros(6, 3), torch.tensor([0, 1] * 3)
    with pytest.raises(ModelError, match="Every gradient is zero"):
        Explainer(model, (x, y), curvature=name).fit(progress=False)


def test_zero_rows_are_left_out_of_the_eigendecomposition() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    half[[1, 4]] = 0
    matrix = half @ half.T
    values, vectors = eigh(matrix)
    assert torch.equal(values[:2], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(vectors * values @ vectors.T, matrix)
    assert torch.equal(eigh(torch.zeros(2, 2))[1], torch.eye(2))


def test_an_eigendecomposition_that_does_not_converge_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, asked = torch.linalg.eigh, []

    def moody(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(float(matrix[0, 0]))
        if len(asked) < 3:
            raise torch.linalg.LinAlgError("failed to converge")
        return plain(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", moody)
    values, vectors = eigh(torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)))
    torch.testing.assert_close(values, torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert asked == pytest.approx([3.0, 3000.0, 0.3])
    assert vectors.abs().flip(1).tolist() == [[1.0, 0.0], [0.0, 1.0]]

    def never(matrix: torch.Tensor) -> None:
        raise torch.linalg.LinAlgError("failed to converge")

    monkeypatch.setattr(torch.linalg, "eigh", never)
    with pytest.raises(ModelError, match="eigendecomposition of a 2×2 curvature did not converge"):
        eigh(torch.eye(2))
