"""Retraining without examples: the built-in refit against independent ones, and what a check compares."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import Golden, blobs, mlp
from test_untouched import everything
from torch import Tensor, nn

from relatif_widgets import ChoiceError, Explainer, ModelError, retraining

L2 = 0.01
N, FEATURES, CLASSES = 400, 6, 3


def softmax_regression() -> tuple[nn.Linear, Tensor, Tensor]:
    """A softmax regression at the optimum of mean loss + L2/2 ‖θ‖², its training set of 400."""
    x, y = blobs(N, CLASSES, FEATURES)
    x = x * 0.6 + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    weights = torch.full((N,), 1 / N, dtype=x.dtype)
    model = nn.Linear(FEATURES, CLASSES).double()
    theta = oracles.newton_softmax(x, y, weights, L2, CLASSES, torch.zeros(21, dtype=x.dtype))
    nn.utils.vector_to_parameters(theta, model.parameters())
    return model, x, y


def flat(model: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def retrained(model: nn.Module, x: Tensor, y: Tensor, removed: list[int]) -> Tensor:
    """The full retraining, by another method, to 1e-13."""
    weights = torch.full((len(x),), 1 / len(x), dtype=x.dtype)
    weights[removed] = 0
    return oracles.newton_softmax(x, y, weights, L2, CLASSES, flat(model))


@pytest.fixture(scope="module")
def trained() -> tuple[Explainer, nn.Linear, Tensor, Tensor]:
    model, x, y = softmax_regression()
    explainer = Explainer(model, (x, y), curvature="fisher", damping=L2, batch_size=128)
    return explainer.fit(progress=False), model, x, y


REMOVALS = [[0], [7, 3], list(range(0, 40)), list(range(0, N, 3)), list(range(5, N))]


@pytest.mark.parametrize("removed", REMOVALS, ids=["one", "two", "forty", "a whole class", "all but five"])
def test_the_refit_of_a_trained_model_is_its_retraining(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor], removed: list[int]
) -> None:
    explainer, model, x, y = trained
    # What is left of the gradient leaves at most itself over λ in the parameters.
    again = explainer.refit(removed, tolerance=1e-8 if len(removed) < 100 else 1e-9)
    right = retrained(model, x, y, removed)
    assert float((flat(again) - right).abs().max()) < 1e-8
    assert float((right - flat(model)).abs().max()) > 1e-4  # there was something to find
    assert not again.training


@pytest.mark.parametrize(
    "curvature", ["hessian", "block_fisher", "low_rank", "kfac", "ekfac", "empirical_fisher"]
)
def test_every_curvature_with_an_inverse_leads_to_the_same_refit(curvature: str) -> None:
    model, x, y = softmax_regression()
    explainer = Explainer(model, (x, y), curvature=curvature, damping=L2).fit(progress=False)
    assert float((flat(explainer.refit([1, 2, 3])) - retrained(model, x, y, [1, 2, 3])).abs().max()) < 1e-8


def test_prediction_follows_the_actual_change_over_many_removals(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor],
) -> None:
    explainer, *_ = trained
    queries, _ = blobs(5, CLASSES, FEATURES, seed=3)
    predicted, actual = [], []
    for row in range(0, N, 20):
        for query in queries[:3]:
            found = explainer.check([row, (row + 11) % N], query, "top2")
            assert len(found.labels) == len(found.actual) == 2
            predicted += found.predicted
            actual += found.actual
    assert np.corrcoef(predicted, actual)[0, 1] > 0.99
    slope = np.polyfit(predicted, actual, 1)[0]
    assert 0.95 < slope < 1.1


def test_predicted_is_the_sum_of_influence_over_n_for_every_label(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor],
) -> None:
    explainer, _, x, _ = trained
    removed = [3, 17, 200]
    found = explainer.check(removed, x[9], ["0", "2", 1], damping=0.1)
    assert found.labels == ("0", "2", "1")
    for label, predicted in zip([0, 2, 1], found.predicted, strict=True):
        right = explainer.scores(x[9:10], [label], method="influence", damping=0.1)[0, removed].sum() / N
        assert predicted == pytest.approx(float(right), rel=1e-9)
    assert found.damping == 0.1
    assert found.removed == (3, 17, 200)


def test_before_and_after_are_the_losses_of_both_models(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor],
) -> None:
    explainer, model, x, y = trained
    found = explainer.check([0, 1], x[5], "true", target=y[5])
    again = explainer.refit([0, 1])
    for one, loss in [(model, found.before), (again, found.after)]:
        right = nn.functional.cross_entropy(one(x[5:6]), y[5:6]).detach()
        assert loss[0] == pytest.approx(float(right), rel=1e-12)
    assert found.actual[0] == found.after[0] - found.before[0]
    assert found.precision == "float64"
    frame = found.to_frame()
    assert list(frame.columns) == ["label", "before", "after", "actual", "predicted"]
    assert frame.loc[0, "label"] == str(int(y[5]))
    assert frame.loc[0, "predicted"] == found.predicted[0]


@pytest.mark.parametrize("name", ["cancer_logistic", "digits_softmax"])
def test_checks_equal_the_golden_changes_on_removal(name: str) -> None:
    golden = Golden(name)
    explainer = Explainer(golden.model, golden.train, loss=golden.loss, curvature="fisher", damping=L2)
    explainer.fit(progress=False)
    assert float(golden.answers["l2"]) == L2
    for row in range(0, 12, 2):
        for query in range(3):
            found = explainer.check([row], golden.test[0][query], "true", target=golden.test[1][query])
            right = golden.answers["loo_dloss_first12"][query, row]
            assert found.actual[0] == pytest.approx(right, abs=2e-9)


# Models that are not at such an optimum


def slope_of_f(
    model: nn.Module,
    names: list[str],
    start: dict[str, Tensor],
    x: Tensor,
    y: Tensor,
    removed: list[int],
    damping: float,
) -> Tensor:
    """∇F at the model's parameters, as the docstring states F, by one backward pass."""
    chosen = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    attached = {name: value.clone().requires_grad_() for name, value in start.items()}

    def losses(parameters: dict[str, Tensor]) -> Tensor:
        outputs = torch.func.functional_call(model, parameters, (x,))
        return nn.functional.cross_entropy(outputs, y, reduction="none")

    linear = torch.autograd.grad(losses(attached).mean(), [attached[name] for name in names])
    keep = torch.ones(len(x), dtype=torch.bool)
    keep[removed] = False
    value = losses(chosen)[keep].sum() / len(x)
    for name, correction in zip(names, linear, strict=True):
        shift = chosen[name] - start[name]
        value = value + damping / 2 * shift.square().sum() - (correction * shift).sum()
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(value, [chosen[n] for n in names])])


@pytest.mark.parametrize(
    ("parameters", "names", "damping"),
    [("2", ["2.weight", "2.bias"], 0.1), (None, ["0.weight", "0.bias", "2.weight", "2.bias"], 1.0)],
    ids=["last layer", "all layers"],
)
def test_a_network_that_is_not_trained_to_its_optimum_is_refitted_around_its_own_weights(
    parameters: str | None, names: list[str], damping: float
) -> None:
    (x, y), model = blobs(120), mlp()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    explainer = Explainer(model, (x, y), parameters=parameters, damping=0.5).fit(progress=False)
    removed = [0, 3, 50]
    again = explainer.refit(removed, damping=damping)
    loss = nn.CrossEntropyLoss(reduction="none")
    caused = oracles.gradients(model, loss, x[removed], y[removed]).sum(0).norm() / len(x)
    left = slope_of_f(again, names, start, x, y, removed, damping)
    assert float(left.norm()) < 1e-8 * float(caused) * 1.01
    for name, value in again.named_parameters():
        assert bool((value != start[name]).any()) == (name in names)
    found = explainer.check(removed, x[1], "true", target=y[1], damping=damping)
    assert found.predicted[0] == pytest.approx(found.actual[0], rel=0.1)


def test_a_loss_that_curves_down_is_refused_rather_than_followed_to_another_minimum() -> None:
    (x, y), model = blobs(120), mlp()
    explainer = Explainer(model, (x, y), curvature="fisher", damping=0.3).fit(progress=False)
    with pytest.raises(ModelError, match="meets a loss that is not convex enough at damping 0.3: between"):
        explainer.refit([0, 3, 50])
    with pytest.raises(ModelError, match="Raise damping, take a layer that is linear in its parameters"):
        explainer.check([0], x[1])


def test_float32_models_are_refitted_and_compared_in_float64() -> None:
    model, x, y = softmax_regression()
    right = Explainer(model, (x, y), damping=L2).fit(progress=False).check([4], x[7])
    single = model.float()
    explainer = Explainer(single, (x.float(), y), damping=L2).fit(progress=False)
    found = explainer.check([4], x[7].float())
    assert found.precision == "float64"
    assert abs(right.actual[0]) < 1e-2
    assert found.actual[0] == pytest.approx(right.actual[0], rel=1e-4)
    again = explainer.refit([4])
    assert {value.dtype for value in again.parameters()} == {torch.float32}
    twin = retrained(softmax_regression()[0], x, y, [4])
    assert float((flat(again).double() - twin).abs().max()) < 1e-6


class OnlySingle(nn.Module):
    """A model that computes in float32 whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())


def test_a_model_that_takes_no_float64_is_compared_in_its_own_precision() -> None:
    trained, x, y = softmax_regression()
    model = OnlySingle()
    model.layer.load_state_dict(trained.state_dict())
    explainer = Explainer(model, (x.float(), y), damping=L2).fit(progress=False)
    removed = list(range(0, 60))
    found = explainer.check(removed, x[7].float())
    assert found.precision == "float32"
    right = Explainer(trained, (x, y), damping=L2).fit(progress=False).check(removed, x[7])
    assert found.actual[0] == pytest.approx(right.actual[0], rel=1e-2)


def test_tied_weights_parametrisations_and_buffers_stay_what_they_are() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.norm = nn.BatchNorm1d(4)
            self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4)
            self.third.weight = self.second.weight
            self.last = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.third(self.second(self.norm(self.first(x)).tanh()).tanh()))

    torch.manual_seed(1)
    model, (x, y) = Tied().double(), blobs(60)
    model(x)  # running statistics
    model.train()
    explainer = Explainer(model, (x, y), damping=1.0).fit(progress=False)
    again = explainer.refit([0, 1])
    assert isinstance(again, Tied)
    assert again.third.weight is again.second.weight
    assert nn.utils.parametrize.is_parametrized(again.first, "weight")
    assert torch.equal(again.norm.running_mean, model.norm.running_mean)
    assert not torch.equal(again.second.weight, model.second.weight)
    found = explainer.check([0, 1], x[2])
    right = nn.functional.cross_entropy(again(x[2:3]), again(x[2:3]).argmax(1)).detach()
    assert found.after[0] == pytest.approx(float(right), rel=1e-9)


class Trunk(nn.Module):
    """A layer in front of the last one, which counts how often it runs."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, {"cross_entropy": 3, "mse": 2}.get(loss, 1))
        self.scale, self.passes = 1.0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x)
        return self.scale * self.last(self.first(x).tanh())


@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits", "mse", "own"])
@pytest.mark.parametrize("chosen", ["last", ["last.bias"]], ids=["layer", "bias"])
def test_the_network_before_a_last_layer_runs_once(loss: str, chosen: Any) -> None:
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.squeeze(-1) - targets).cosh().log()

    torch.manual_seed(0)
    model, (x, labels) = Trunk(loss).double(), blobs(80)
    targets = {
        "cross_entropy": labels,
        "bce_with_logits": (labels > 0).double(),
        "mse": torch.stack([x[:, 0], x[:, 1] ** 2], 1),
        "own": 0.1 * x[:, 0],
    }[loss]
    explainer = Explainer(
        model,
        (x, targets),
        loss=own if loss == "own" else loss,
        parameters=chosen,
        curvature="empirical_fisher",
        damping=1.0,
    ).fit(progress=False)
    model.passes = 0
    again = explainer.refit([3, 5], tolerance=1e-10)
    once = model.passes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining, "_narrowed", lambda task: task)
        right = explainer.refit([3, 5], tolerance=1e-10)
    assert once <= 2 * 80  # and once more for a batch, to see that nothing else moves it
    assert model.passes - once > 3 * 80
    torch.testing.assert_close(flat(again), flat(right), atol=1e-12, rtol=0)
    assert float((flat(again) - flat(model)).abs().max()) > 1e-4


@pytest.mark.parametrize("reason", ["scaled", "reused", "large", "not the last"])
def test_where_the_last_layer_alone_is_another_model_all_of_it_is_refitted(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reused(Trunk):
        def forward(self, x: Tensor) -> Tensor:
            self.passes += len(x)
            return self.last(self.first(x).tanh() + self.last.bias.mean())

    torch.manual_seed(0)
    model, (x, y) = (Reused if reason == "reused" else Trunk)("cross_entropy").double(), blobs(80)
    if reason == "scaled":
        model.scale = 1.5
    if reason == "large":
        monkeypatch.setattr(retraining, "STORED_BYTES", 80 * 5 * 8 - 1)
    chosen = "first" if reason == "not the last" else "last"
    explainer = Explainer(model, (x, y), parameters=chosen, damping=1.0).fit(progress=False)
    model.passes = 0
    again = explainer.refit([3, 5])
    assert model.passes > 3 * 80

    # Stationary: ∇L without the two, minus ∇L with them, plus damping times the way gone
    def slope(one: nn.Module, rows: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(one(x[rows]), y[rows], reduction="sum") / 80
        parameters = [value for name, value in one.named_parameters() if name.startswith(chosen)]
        return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])

    everything_ = torch.arange(80)
    kept = everything_[(everything_ != 3) & (everything_ != 5)]
    way = torch.cat([
        (after - before).flatten()
        for (name, before), after in zip(model.named_parameters(), again.parameters(), strict=True)
        if name.startswith(chosen)
    ]).detach()  # fmt: skip
    left = slope(again, kept) - slope(model, everything_) + way
    assert float(left.norm()) < 1e-8 * float(slope(model, torch.tensor([3, 5])).norm()) + 1e-15


def test_the_refit_starts_from_the_weights_that_were_attached() -> None:
    model, x, y = softmax_regression()
    explainer = Explainer(model, (x, y), curvature="fisher", damping=L2).fit(progress=False)
    right = explainer.refit([2])
    before = explainer.check([2], x[0])
    with torch.no_grad():
        model.weight.mul_(3.0)
    assert torch.equal(flat(explainer.refit([2])), flat(right))
    assert explainer.check([2], x[0]).actual == before.actual


def test_examples_without_a_gradient_change_nothing() -> None:
    model, (x, y) = nn.Linear(4, 3, bias=False).double(), blobs(30)
    x[4] = 0.0
    explainer = Explainer(model, (x, y), damping=0.1).fit(progress=False)
    assert torch.equal(flat(explainer.refit([4])), flat(model))
    assert explainer.check([4], x[0]).actual == explainer.check([4], x[0]).predicted == (0.0,)


# The user's own retraining


def test_a_retraining_of_ones_own_is_called_with_the_rows_and_compared(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor],
) -> None:
    explainer, model, x, y = trained
    asked: list[list[int]] = []

    def retrain(removed: list[int]) -> nn.Module:
        asked.append(removed)
        again = nn.Linear(FEATURES, CLASSES).double()
        nn.utils.vector_to_parameters(retrained(model, x, y, removed), again.parameters())
        return again.train()

    given = explainer.check(np.array([8, 2]), x[3], "top2", retrain=retrain)
    assert asked == [[8, 2]]
    assert {type(row) for row in asked[0]} == {int}
    built_in = explainer.check([8, 2], x[3], "top2")
    assert given.actual == pytest.approx(built_in.actual, abs=1e-9)
    assert given.predicted == built_in.predicted


def test_the_model_itself_may_be_retrained_in_place() -> None:
    model, x, y = softmax_regression()
    explainer = Explainer(model, (x, y), damping=L2).fit(progress=False)
    right = explainer.check([6], x[3])

    def retrain(removed: list[int]) -> nn.Module:
        nn.utils.vector_to_parameters(retrained(softmax_regression()[0], x, y, removed), model.parameters())
        return model

    assert explainer.check([6], x[3], retrain=retrain).actual == pytest.approx(right.actual, abs=1e-9)


@pytest.mark.parametrize("curvature", ["identity", "lissa"])
def test_curvatures_without_an_inverse_predict_beside_a_retraining_of_ones_own(curvature: str) -> None:
    from relatif_widgets.curvature import Lissa

    model, x, y = softmax_regression()
    chosen = Lissa(steps=200, batch_size=50, tolerance=1.0) if curvature == "lissa" else curvature
    explainer = Explainer(model, (x, y), curvature=chosen, damping=0.5).fit(progress=False)
    found = explainer.check([1], x[0], retrain=lambda removed: model)
    assert found.actual == (0.0,)
    right = explainer.scores(x[:1], method="influence")[0, 1] / N
    assert found.predicted[0] == pytest.approx(float(right), rel=1e-6)
    for ask in (lambda: explainer.refit([1]), lambda: explainer.check([1], x[0])):
        with pytest.raises(
            ChoiceError, match='no inverse to refit with. Fit with another, such as curvature="fisher"'
        ):
            ask()


class Flattened(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2]


def broken(value: float) -> nn.Module:
    model = nn.Linear(FEATURES, CLASSES).double()
    with torch.no_grad():
        model.bias[0] = value
    return model


@pytest.mark.parametrize(
    ("retrain", "kind", "message"),
    [
        ("fast", ChoiceError, "retrain is str; expected a function that takes the list of removed rows"),
        (
            lambda removed: None,
            ChoiceError,
            "retrain= returned NoneType; expected the retrained torch.nn.Module",
        ),
        (
            lambda removed: nn.Linear(FEATURES, 2).double(),
            ModelError,
            r"does not take the query as the attached one does: it returned shape \[1, 2\]; expected \[1, 3\]",
        ),
        (
            lambda removed: nn.Linear(9, CLASSES).double(),
            ModelError,
            "does not take the query as the attached one",
        ),
        (
            lambda removed: broken(float("nan")),
            ModelError,
            "retrain= returned cannot be used: Weight 'bias' holds NaN",
        ),
        (lambda removed: broken(1e308).float().double(), ModelError, "Weight 'bias' holds NaN or infinity"),
    ],
    ids=["no function", "no module", "other outputs", "other inputs", "NaN", "infinite"],
)
def test_what_retrain_returns_is_looked_at(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor],
    retrain: Any,
    kind: type[Exception],
    message: str,
) -> None:
    explainer, _, x, _ = trained
    with pytest.raises(kind, match=message):
        explainer.check([1], x[0], retrain=retrain)


def test_a_loss_that_is_not_finite_is_refused(trained: tuple[Explainer, nn.Linear, Tensor, Tensor]) -> None:
    class Overflows(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 0.0

    explainer, _, x, _ = trained
    with pytest.raises(ModelError, match="retrained model's loss of the query is NaN or infinite"):
        explainer.check([1], x[0], retrain=lambda removed: Overflows(FEATURES, CLASSES).double())


def test_what_retrain_raises_passes_through(trained: tuple[Explainer, nn.Linear, Tensor, Tensor]) -> None:
    def retrain(removed: list[int]) -> nn.Module:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        trained[0].check([1], trained[2][0], retrain=retrain)


# Refusals


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ([], r"removed=\[\] removes nothing; expected at least one row"),
        ([0, N], f"removed= names training example {N}, which does not exist; expected 0 to {N - 1}"),
        ([-1], "removed= names training example -1, which does not exist"),
        ([4, 2, 4], "removed= names training example 4 more than once"),
        ([1.0], f"removed= holds 1.0; expected row numbers of the training set, 0 to {N - 1}"),
        (["7"], "removed= holds '7'; expected row numbers"),
        ([True, False], "removed= holds True; expected row numbers.*For a mask pass mask.nonzero"),
        (torch.ones(N, dtype=torch.bool), "expected row numbers.*For a mask pass mask.nonzero"),
        (np.ones(N, dtype=bool), "expected row numbers.*For a mask pass mask.nonzero"),
        (3, r"removed=3; expected a list of training rows, such as \[17, 3\]"),
        ("12", "removed='12'; expected a list of training rows"),
        (range(N), f"removed= names all {N} training examples; expected to leave at least one"),
    ],
)
def test_rows_that_cannot_be_removed_are_refused(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor], removed: Any, message: str
) -> None:
    explainer, _, x, _ = trained
    with pytest.raises(ChoiceError, match=message):
        explainer.refit(removed)
    with pytest.raises(ChoiceError, match=message):
        explainer.check(removed, x[0])


@pytest.mark.parametrize(
    "rows", [torch.tensor([5, 6]), np.array([5, 6]), (5, 6), range(5, 7), [np.int64(5), 6]]
)
def test_rows_may_come_as_any_sequence_of_integers(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor], rows: Any
) -> None:
    assert trained[0].check(rows, trained[2][0]).removed == (5, 6)


def test_options_are_checked(trained: tuple[Explainer, nn.Linear, Tensor, Tensor]) -> None:
    explainer, _, x, _ = trained
    with pytest.raises(ChoiceError, match="steps=0; expected a whole number, at least 1"):
        explainer.refit([1], steps=0)
    for tolerance in (0.0, 2, float("nan"), "fine"):
        with pytest.raises(ChoiceError, match="tolerance=.*; expected a share of the gradient, such as 1e-8"):
            explainer.refit([1], tolerance=tolerance)  # type: ignore[arg-type]
    with pytest.raises(ChoiceError, match="damping=0; expected a finite λ > 0"):
        explainer.refit([1], damping=0)
    with pytest.raises(ChoiceError, match="label='cat' is not known"):
        explainer.check([1], x[0], "cat")
    with pytest.raises(ChoiceError, match='labels="true" needs the query\'s true label'):
        explainer.check([1], x[0], "true")
    with pytest.raises(ValueError, match="expected one example like the training inputs"):
        explainer.check([1], x[:2, :, None])


def test_a_refit_that_does_not_converge_says_how_far_it_came(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor],
) -> None:
    explainer = trained[0]
    with pytest.raises(ModelError) as caught:
        explainer.refit(list(range(100)), steps=2)
    assert str(caught.value).startswith(
        "Refitting without 100 training examples did not converge: after 2 passes over the training set "
        "the gradient is "
    )
    assert "expected 1e-08. Raise damping (now 0.01)" in str(caught.value)
    assert "or retrain the model yourself: check(..., retrain=...)" in str(caught.value)


def test_a_looser_tolerance_takes_fewer_passes(trained: tuple[Explainer, nn.Linear, Tensor, Tensor]) -> None:
    explainer = trained[0]
    basis = explainer._ready().index.basis
    found = [
        retraining.refit(explainer._task, basis, [1, 2], L2, tolerance=tolerance)
        for tolerance in (1e-1, 1e-4, 1e-8)
    ]
    passes = [one.steps for one in found]
    assert passes == sorted(passes)
    assert passes[0] < passes[-1] <= 12
    assert all(one.residual <= limit for one, limit in zip(found, (1e-1, 1e-4, 1e-8), strict=True))


def test_an_indefinite_hessian_is_refused_with_the_damping_that_would_do() -> None:
    golden = Golden("digits_convnet")
    explainer = Explainer(golden.model, golden.train, curvature="hessian").fit(progress=False)
    with pytest.raises(ModelError, match="indefinite at damping 0.001. Its smallest eigenvalue is"):
        explainer.refit([1])


def test_progress_rises_to_one_and_what_it_raises_stops_the_work(
    trained: tuple[Explainer, nn.Linear, Tensor, Tensor],
) -> None:
    explainer, _, x, _ = trained
    seen: list[float] = []
    explainer.check([1, 2, 3], x[0], progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 4

    def stop(fraction: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        explainer.check([1, 2, 3], x[0], progress=stop)


# The user's model


class Fragile(nn.Module):
    """Raises when it has run so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last = 0, -1

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.last:
            raise KeyboardInterrupt
        return x


def test_the_users_model_stays_as_it_is_also_after_an_exception() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), Fragile(), nn.Linear(5, 5), nn.Linear(5, 3)
    ).double()
    model.train()
    model[4].weight.requires_grad_(False)
    model[5].weight.grad = torch.ones(3, 5).double()
    x, y = blobs(30)
    explainer = Explainer(model, (x, y), damping=1.0).fit(progress=False)
    before = everything(model)
    again = explainer.refit([0, 1])
    assert everything(model) == before
    assert not any(module.training for module in again.modules())
    assert not {id(value) for value in again.parameters()} & {id(value) for value in model.parameters()}
    explainer.check([0, 1], x[3])
    assert everything(model) == before
    calls = model[3].calls
    explainer.check([0, 1], x[3])
    once = model[3].calls - calls
    for last in range(1, once + 1):
        model[3].calls, model[3].last = 0, last
        interrupted(explainer, x[3])
        assert everything(model) == before, f"broken off at call {last} of {once}"
    model[3].last = -1
    other = nn.Sequential(nn.Linear(4, 3), nn.Dropout()).double()
    state, before = everything(other), everything(model)
    explainer.check([0, 1], x[3], retrain=lambda removed: other)
    assert everything(other) == state
    assert everything(model) == before


def interrupted(explainer: Explainer, query: Tensor) -> None:
    with pytest.raises(KeyboardInterrupt):
        explainer.check([0, 1], query)


def test_a_model_that_cannot_be_copied_is_refused_by_refit_and_can_be_checked() -> None:
    class Sealed(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("cannot pickle '_thread.lock' object")

    class Same(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            return self

    x, y = blobs(30)
    for kind, words in [
        (Sealed, r"Sealed, cannot be copied \(TypeError: cannot pickle '_thread.lock' object\)"),
        (Same, "Same, cannot be copied: its copy holds the same parameters"),
    ]:
        model = kind(4, 3).double()
        before = everything(model)
        explainer = Explainer(model, (x, y), damping=0.1).fit(progress=False)
        with pytest.raises(ModelError, match=words) as caught:
            explainer.refit([1])
        assert "or use check(), which compares losses without a copy" in str(caught.value)
        assert explainer.check([1], x[0]).actual[0] != 0
        assert everything(model) == before


def test_a_model_whose_layers_were_changed_since_is_refused() -> None:
    model, (x, y) = nn.Sequential(nn.Linear(4, 3)).double(), blobs(30)
    explainer = Explainer(model, (x, y), damping=0.1).fit(progress=False)
    model.append(nn.Linear(3, 3).double())
    with pytest.raises(
        ModelError, match="other weights than when the explainer was attached. Attach to it anew"
    ):
        explainer.refit([1])


def test_a_regression_is_checked_at_its_target() -> None:
    x, _ = blobs(200)
    y = x @ torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=x.dtype) + x[:, 0].sin()

    # The exact optimum of the mean of ½‖f − y‖² + λ/2 ‖θ‖², with and without a row.
    def optimum(keep: Tensor) -> Tensor:
        gram = x[keep].T @ x[keep] / len(x) + 0.1 * torch.eye(4, dtype=x.dtype)
        return torch.linalg.solve(gram, x[keep].T @ y[keep] / len(x))

    everybody = torch.ones(len(x), dtype=torch.bool)
    rest = everybody.clone()
    rest[[3, 90]] = False
    model = nn.Linear(4, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(optimum(everybody))
    explainer = Explainer(model, (x, y), loss="mse", damping=0.1).fit(progress=False)
    found = explainer.check([3, 90], x[8], [2.5])
    error = x[8] @ optimum(rest) - 2.5
    assert found.after[0] == pytest.approx(float(error**2) / 2, rel=1e-9)
    assert found.labels == ("2.5",)
    assert found.predicted[0] == pytest.approx(found.actual[0], rel=0.3)
    assert float((flat(explainer.refit([3, 90])) - optimum(rest)).abs().max()) < 1e-8


def test_a_model_that_branches_on_values_runs_one_example_at_a_time() -> None:
    class Branches(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if float(x.sum()) > 0 else -x)

    x, y = blobs(40)
    torch.manual_seed(0)
    model = Branches(4, 3).double()
    explainer = Explainer(model, (x, y), damping=0.1).fit(progress=False)
    flipped = nn.Linear(4, 3).double()
    flipped.load_state_dict(model.state_dict())
    signed = torch.where(x.sum(1, keepdim=True) > 0, x, -x)
    right = Explainer(flipped, (signed, y), damping=0.1).fit(progress=False).refit([2, 9])
    assert float((flat(explainer.refit([2, 9])) - flat(right)).abs().max()) < 1e-9
