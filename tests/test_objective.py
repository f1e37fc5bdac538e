"""Losses, their curvature in the outputs, and what make_objective accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import oracles
import pytest
import torch
from cases import blobs, mlp
from torch import Tensor, nn

from relatif_widgets import ChoiceError, DataError, Explainer, ModelError
from relatif_widgets.objective import as_loss, make_objective

WEIGHT = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        ("cross_entropy", nn.CrossEntropyLoss(reduction="none")),
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")),
        (nn.CrossEntropyLoss(weight=WEIGHT), nn.CrossEntropyLoss(weight=WEIGHT, reduction="none")),
        (
            nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2),
            nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2, reduction="none"),
        ),
        (nn.MultiMarginLoss(), nn.MultiMarginLoss(reduction="none")),
        (lambda f, y: f.logsumexp(1) - f[torch.arange(len(f)), y], nn.CrossEntropyLoss(reduction="none")),
    ],
)
def test_per_example_losses_of_classes(loss: object, reference: nn.Module) -> None:
    outputs = torch.randn(4, 3, dtype=torch.float64)
    targets = torch.tensor([0, 2, 1, 1])
    torch.testing.assert_close(as_loss(loss).per_example(outputs, targets), reference(outputs, targets))


@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        ("mse", lambda f, y: 0.5 * (f - y).square().sum(1)),
        (nn.MSELoss(), lambda f, y: (f - y).square().mean(1)),
        (nn.MSELoss(reduction="sum"), lambda f, y: (f - y).square().sum(1)),
        (nn.L1Loss(), lambda f, y: (f - y).abs().mean(1)),
        (nn.HuberLoss(reduction="sum"), lambda f, y: nn.HuberLoss(reduction="none")(f, y).sum(1)),
        ("bce_with_logits", lambda f, y: nn.BCEWithLogitsLoss(reduction="none")(f, y).sum(1)),
        (nn.BCEWithLogitsLoss(), lambda f, y: nn.BCEWithLogitsLoss(reduction="none")(f, y).mean(1)),
        (
            nn.BCEWithLogitsLoss(pos_weight=WEIGHT[:2], reduction="sum"),
            lambda f, y: nn.BCEWithLogitsLoss(pos_weight=WEIGHT[:2], reduction="none")(f, y).sum(1),
        ),
    ],
)
def test_per_example_losses_of_values(loss: object, reference: Callable[[Tensor, Tensor], Tensor]) -> None:
    outputs = torch.randn(4, 2, dtype=torch.float64)
    targets = torch.rand(4, 2, dtype=torch.float64)
    torch.testing.assert_close(as_loss(loss).per_example(outputs, targets), reference(outputs, targets))


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [
        ("cross_entropy", [[20.0, 3.0, -1.0], [0.0, 14.0, 1.0]], [0, 1]),
        (nn.CrossEntropyLoss(weight=WEIGHT), [[20.0, 3.0, -1.0], [0.0, 14.0, 1.0]], [0, 1]),
        ("bce_with_logits", [[17.0], [-16.0]], [[1.0], [0.0]]),
    ],
)
def test_slopes_of_the_confident_keep_their_digits(
    loss: object, outputs: list[list[float]], targets: list[Any]
) -> None:
    """In float32 p − y is off by 6e-8, here as much as the slopes themselves."""
    known, exact = as_loss(loss), torch.tensor(outputs, dtype=torch.float64)
    found = known.slopes(exact.float(), torch.tensor(targets))
    assert found.dtype == torch.float32
    if isinstance(targets[0], list):
        right = torch.tensor([[-1.0], [1.0]]).double() * (-exact.abs()).sigmoid()
    else:
        weight = getattr(known, "weight", None)
        right = exact.softmax(1)
        rows = torch.arange(2)
        right[rows, targets] = -right.scatter(1, torch.tensor(targets)[:, None], 0.0).sum(1)
        right = right if weight is None else right * weight[targets][:, None]
    torch.testing.assert_close(found.double(), right, rtol=1e-6, atol=0)


def expected_output_hessian(loss: object, outputs: Tensor) -> Tensor:
    """E_{y∼p} ∇²_f ℓ(f, y) for one example, enumerating labels, by autograd."""
    known = as_loss(loss)
    if isinstance(loss, nn.CrossEntropyLoss) or loss == "cross_entropy":
        labels = torch.arange(outputs.shape[1])
        chances = outputs[0].softmax(0)
    else:
        bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * outputs.shape[1])
        labels = bits.reshape(-1, outputs.shape[1])
        positive = outputs[0].sigmoid()
        chances = (labels * positive + (1 - labels) * (1 - positive)).prod(1)
    total = torch.zeros(outputs.shape[1], outputs.shape[1], dtype=torch.float64)
    for label, chance in zip(labels, chances, strict=True):
        total += chance * torch.autograd.functional.hessian(
            lambda f, label=label: known.per_example(f[None], label[None])[0], outputs[0]
        )
    return total


@pytest.mark.parametrize(
    "loss",
    [
        "cross_entropy",
        nn.CrossEntropyLoss(weight=WEIGHT),
        nn.CrossEntropyLoss(label_smoothing=0.3),
        nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.3),
        "bce_with_logits",
        nn.BCEWithLogitsLoss(pos_weight=WEIGHT),
        nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=WEIGHT.flip(0)),
    ],
)
def test_the_curvature_factor_squares_to_the_expected_hessian_of_the_loss(loss: object) -> None:
    outputs = torch.randn(2, 3, dtype=torch.float64)
    factor = as_loss(loss).curvature_factor(outputs)
    for b in range(2):
        torch.testing.assert_close(factor[b].T @ factor[b], expected_output_hessian(loss, outputs[b : b + 1]))


@pytest.mark.parametrize(
    ("loss", "scale"), [("mse", 1.0), (nn.MSELoss(), 1.0), (nn.MSELoss(reduction="sum"), 2.0)]
)
def test_the_curvature_factor_of_squared_error(loss: object, scale: float) -> None:
    factor = as_loss(loss).curvature_factor(torch.randn(3, 2, dtype=torch.float64))
    torch.testing.assert_close(factor[0].T @ factor[0], scale * torch.eye(2, dtype=torch.float64))


def test_the_fisher_of_a_regression_is_the_gauss_newton_matrix() -> None:
    torch.manual_seed(0)
    x = torch.randn(10, 3, dtype=torch.float64)
    model = nn.Linear(3, 1).double()
    explainer = Explainer(model, (x, torch.randn(10)), loss="mse", curvature="fisher").fit(progress=False)
    basis = explainer._ready().index.basis
    rows = basis.rotation.rotate(torch.eye(4, dtype=torch.float64)).dense()
    design = torch.cat([x, torch.ones(10, 1, dtype=torch.float64)], 1)
    found = rows @ torch.diag(basis.eigenvalues) @ rows.T
    torch.testing.assert_close(found, design.T @ design / 10, rtol=1e-9, atol=1e-12)


def test_a_callable_without_likelihood_has_no_fisher_but_has_the_identity() -> None:
    x, y = blobs()

    def hinge(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(outputs, targets, reduction="none")

    with pytest.raises(ModelError, match="loss 'hinge' has no known likelihood.*curvature=\"hessian\""):
        Explainer(mlp(), (x, y), loss=hinge)
    explainer = Explainer(mlp(), (x, y), loss=hinge, curvature="identity").fit(progress=False)
    found = explainer.scores(x[:2], y[:2], method="influence")
    right = oracles.gradients(mlp(), hinge, x, y)
    torch.testing.assert_close(found, right[:2] @ right.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda f, y: (f - y).square().mean(), r"\[\]"),
        (lambda f, y: (f[:, None] - y).square(), r"\[3, 3\]"),
    ],
)
def test_a_loss_that_is_not_per_example_is_refused(loss: Callable[..., Tensor], shape: str) -> None:
    x, y = blobs(classes=1)
    with pytest.raises(
        ModelError, match=f"gave shape {shape} for a batch of 3; expected one loss per example"
    ):
        Explainer(nn.Linear(4, 1).double(), (x, y), loss=loss, curvature="identity")


def test_an_unknown_loss_suggests_the_nearest_name() -> None:
    with pytest.raises(ChoiceError, match=r"Did you mean 'cross_entropy'\?"):
        as_loss("crossentropy")
    with pytest.raises(ChoiceError, match="is no loss"):
        as_loss(3)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ("2", ["2.weight", "2.bias"]),
        ("2.bias", ["2.bias"]),
        (["2", "0.bias"], ["0.bias", "2.weight", "2.bias"]),
        (lambda name, parameter: parameter.dim() == 2, ["0.weight", "2.weight"]),
    ],
)
def test_parameters_are_chosen_by_module_name_list_or_predicate(choice: object, names: list[str]) -> None:
    assert list(make_objective(mlp(), parameters=choice).parameters) == names


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("fc", "parameters='fc' is not known; expected one of '0', '1', '2'"),
        ("2.wieght", "Did you mean '2.weight'"),
        ([], "chooses nothing"),
        (lambda name, parameter: False, "chose none of 0.weight"),
    ],
)
def test_parameters_that_choose_nothing_are_refused(choice: object, message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        make_objective(mlp(), parameters=choice)


def test_a_model_that_cannot_be_scored_is_refused() -> None:
    with pytest.raises(ModelError, match="model is function; expected a torch.nn.Module"):
        make_objective(lambda x: x)
    frozen = mlp().requires_grad_(False)
    with pytest.raises(ModelError, match="None of the model's 4 parameters requires a gradient"):
        make_objective(frozen)
    assert make_objective(frozen, parameters="2").size == 18  # named ones need no flag
    broken = mlp()
    broken[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="Weight '0.weight' holds NaN or infinity"):
        make_objective(broken)
    with pytest.raises(ModelError, match="BatchNorm1d '1' has no running statistics"):
        make_objective(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False)))


def test_later_training_does_not_change_the_answers() -> None:
    x, y = blobs()
    model = mlp()
    explainer = Explainer(model, (x, y)).fit(progress=False)
    before = explainer.scores(x[:3])
    with torch.no_grad():
        model[0].weight.add_(1.0)
    torch.testing.assert_close(explainer.scores(x[:3]), before)


def test_half_precision_models_are_computed_in_float32() -> None:
    x, y = blobs()
    half = Explainer(mlp().half(), (x, y), curvature="identity").fit(progress=False)
    single = Explainer(mlp().half().float(), (x, y), curvature="identity").fit(progress=False)
    found = half.scores(x[:2])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, single.scores(x[:2]))


def test_targets_are_checked_against_the_loss() -> None:
    with pytest.raises(DataError, match="a target is 0.5"):
        as_loss("cross_entropy").as_targets(torch.tensor([1.0, 0.5]), 3)
    with pytest.raises(
        DataError, match=r"Label 3 at position 1 is outside the model's 3 outputs; expected 0 to 2"
    ):
        as_loss("cross_entropy").as_targets(torch.tensor([1, 3]), 3)
    with pytest.raises(DataError, match=r"shape \[2, 3\]. For one-hot targets pass targets.argmax\(1\)"):
        as_loss("cross_entropy").as_targets(torch.eye(3)[:2], 3)
    with pytest.raises(DataError, match='For one logit and two classes pass loss="bce_with_logits"'):
        as_loss("cross_entropy").as_targets(torch.tensor([0, 1]), 1)
    with pytest.raises(DataError, match="expects targets from 0 to 1"):
        as_loss("bce_with_logits").as_targets(torch.tensor([1, 2]), 1)
    with pytest.raises(DataError, match="1 target values an example do not match the model's 2 outputs"):
        as_loss("mse").as_targets(torch.tensor([1.0, 2.0, 3.0]), 2)
