"""Per-example gradients and Jacobians equal one backward pass per example."""

from __future__ import annotations

import warnings
from typing import Any

import oracles
import pytest
import torch
from networks import NETWORKS, Case
from torch import Tensor, nn

from relatif_widgets.errors import ModelError
from relatif_widgets.gradients import (
    GradientBatch,
    Plan,
    Way,
    loss_hessian,
    make_plan,
    output_jacobian,
    pull_back,
)
from relatif_widgets.objective import Objective, make_objective
from relatif_widgets.rows import Outer, part_products

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")
LABELS = torch.tensor([0, 1, 2, 0, 1])


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> Case:
    return NETWORKS[request.param]


def planned(model: nn.Module, inputs: Any, **choice: Any) -> tuple[Objective, Plan]:
    objective = make_objective(model, **choice)
    with objective.evaluating(), torch.no_grad():
        some = inputs[:3] if isinstance(inputs, Tensor) else inputs
        return objective, make_plan(objective, some, objective.outputs(objective.parameters, some))


def test_the_fastest_way_that_is_right_is_chosen(case: Case) -> None:
    objective, plan = planned(case.model(), case.inputs())
    assert tuple(layer.name for layer in plan.layers) == case.covered
    assert plan.way == case.way
    assert bool(plan.rest(objective)) == (case.way != "hooks")


def test_gradients_and_jacobians_equal_one_backward_pass_per_example(case: Case) -> None:
    model, x = case.model(), case.inputs()
    right = oracles.gradients(model, CROSS_ENTROPY, x, LABELS)
    objective, plan = planned(model, x)
    batch = GradientBatch(objective, x, LABELS, plan=plan)
    torch.testing.assert_close(batch.gradients, right, rtol=1e-9, atol=1e-12)

    with torch.no_grad():
        expected = torch.cat([model(one[None]) for one in x])
    batch = GradientBatch(objective, x, LABELS, plan=plan)
    jacobian = batch.jacobian
    torch.testing.assert_close(batch.outputs, expected)
    delta = expected.softmax(1) - nn.functional.one_hot(LABELS, 3)
    torch.testing.assert_close(torch.einsum("bo,bop->bp", delta, jacobian), right, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(batch.gradients, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_torch_func_and_the_loop_equal_the_hooks(case: Case, way: Way) -> None:
    model, x = case.model(), case.inputs()
    right = oracles.gradients(model, CROSS_ENTROPY, x, LABELS)
    objective = make_objective(model)
    with torch.no_grad():
        outputs = torch.cat([model(one[None]) for one in x])
    delta = outputs.softmax(1) - nn.functional.one_hot(LABELS, 3)
    with objective.evaluating():
        found = pull_back(objective, objective.parameters, x, delta, way)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)


def test_layers_and_the_rest_together_are_the_whole_gradient(case: Case) -> None:
    x = case.inputs()
    objective, plan = planned(case.model(), x)
    batch = GradientBatch(objective, x, LABELS, plan=plan)
    whole = batch.gradients
    pieces = torch.full_like(whole, torch.nan)
    for layer in plan.layers:
        layer.scatter(batch.layer_gradients(layer, batch.loss_slopes), pieces)
        torch.testing.assert_close(layer.gather(pieces), layer.gather(whole))
    pieces[pieces.isnan()] = batch.pull_back_rest(batch.loss_slopes[:, None])[:, 0].flatten()
    torch.testing.assert_close(pieces, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [1, 3], ids=["by forward mode", "by gradients"])
def test_products_with_vectors_equal_those_of_the_gradients(case: Case, count: int) -> None:
    x = case.inputs()
    objective, plan = planned(case.model(), x)
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(count, objective.size, generator=generator, dtype=torch.float64)
    found = GradientBatch(objective, x, LABELS, plan=plan).products(vectors)
    right = GradientBatch(objective, x, LABELS, plan=plan).gradients @ vectors.T
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3], ids=["one", "two", "by gradients"])
def test_dots_with_vectors_layer_by_layer_equal_those_of_the_gradients(case: Case, count: int) -> None:
    x = case.inputs()
    objective, plan = planned(case.model(), x)
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(count, objective.size, generator=generator, dtype=torch.float64)
    found = GradientBatch(objective, x, LABELS, plan=plan).dots(plan.split(objective, vectors))
    right = vectors @ GradientBatch(objective, x, LABELS, plan=plan).gradients.T
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)


def test_the_hessian_equals_double_backward(case: Case) -> None:
    if case.make is NETWORKS["data-dependent"].make:
        pytest.skip("its batch takes one branch")
    model, x = case.model(), case.inputs()
    found = loss_hessian(make_objective(model), x, LABELS)
    right = oracles.hessian(model, CROSS_ENTROPY, x, LABELS)
    torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-10)


def test_inputs_may_be_a_tuple_or_a_dict() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left = nn.Linear(2, 3)
            self.right = nn.Linear(3, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.left(a) + self.right(b)

    torch.manual_seed(0)
    model = Two().double()
    a, b = torch.randn(4, 2, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0])
    loss = nn.functional.cross_entropy(model(a[2:3], b[2:3]), y[2:3])
    right = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
    for inputs in ((a, b), {"b": b, "a": a}):
        objective, plan = planned(model, inputs)
        assert plan.way == "hooks"
        torch.testing.assert_close(GradientBatch(objective, inputs, y, plan=plan).gradients[2], right)
        torch.testing.assert_close(GradientBatch(objective, inputs, y).gradients[2], right)


def test_a_subset_of_parameters_gives_the_matching_columns() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    everything = oracles.gradients(model, CROSS_ENTROPY, x, LABELS)
    for choice, columns in {
        "2": slice(25, None),
        "0.weight": slice(0, 20),
        "2.bias": slice(40, None),
    }.items():
        objective, plan = planned(model, x, parameters=choice)
        found = GradientBatch(objective, x, LABELS, plan=plan)
        torch.testing.assert_close(found.gradients, everything[:, columns])
        # A bias alone has no inputs to be paired with.
        assert plan.way == ("vmap" if choice == "2.bias" else "hooks")


def test_the_last_layer_alone_is_one_forward_pass_and_an_outer_product() -> None:
    """No graph reaches behind the chosen layer."""
    seen: list[bool] = []

    class Watched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.requires_grad)
            return torch.tanh(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), Watched(), nn.Linear(5, 3)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    objective, plan = planned(model, x, parameters="2")
    seen.clear()
    batch = GradientBatch(objective, x, LABELS, plan=plan)
    (layer,) = plan.layers
    assert layer.once
    (pair,) = batch.pairs(layer, batch.loss_slopes)
    assert seen == [False]
    with torch.no_grad():
        features = model[:2](x)
        error = model(x).softmax(1) - nn.functional.one_hot(LABELS, 3)
    torch.testing.assert_close(pair.inputs[:, 0, :, 0], torch.cat([features, torch.ones(5, 1)], 1))
    torch.testing.assert_close(pair.slopes[:, 0, :, 0], error)


def test_a_convolution_at_one_position_is_an_outer_product() -> None:
    case = NETWORKS["conv2d at one position"]
    model, x = case.model(), case.inputs()
    objective, plan = planned(model, x)
    assert [layer.once for layer in plan.layers] == [True] * 3
    batch = GradientBatch(objective, x, LABELS, plan=plan)
    right = oracles.gradients(model, nn.CrossEntropyLoss(reduction="none"), x, LABELS)
    for layer, part in zip(plan.layers, batch.parts(), strict=True):
        assert isinstance(part, Outer)
        torch.testing.assert_close(part.dense(), layer.gather(right).flatten(1))


def test_examples_of_another_size_have_no_outer_product() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)
    ).double()  # fmt: skip
    objective, plan = planned(model, torch.randn(5, 2, 4, 4, dtype=torch.float64))
    larger = torch.randn(5, 2, 5, 5, dtype=torch.float64)
    batch = GradientBatch(objective, larger, LABELS, plan=plan)
    with pytest.raises(
        ModelError, match="0 is applied at 4 positions of an example, and at one of the first"
    ):
        next(batch.parts())


@pytest.mark.parametrize("name", ["conv2d at one position", "batch norm", "layer used twice", "transformer"])
def test_products_part_by_part_are_those_of_the_whole_gradients(name: str) -> None:
    case = NETWORKS[name]
    model, x = case.model(), case.inputs()
    objective, plan = planned(model, x)
    batch = GradientBatch(objective, x, LABELS, plan=plan)
    torch.manual_seed(0)
    for count in (1, 30):
        vectors = torch.randn(count, objective.size, dtype=torch.float64)
        parts = plan.split(objective, vectors)
        assert sum(part.shape[1] for part in parts) == objective.size
        torch.testing.assert_close(part_products(parts, batch.parts()), vectors @ batch.gradients.T)


def test_the_users_model_is_returned_untouched() -> None:
    model = (
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)).double().train()
    )
    model[0].weight.requires_grad_(False)
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random_state = torch.get_rng_state()
    objective = make_objective(model)
    with objective.evaluating():
        assert not any(module.training for module in model.modules())
        x = torch.randn(5, 4, dtype=torch.float64)
        plan = make_plan(objective, x, objective.outputs(objective.parameters, x).detach())
        assert (
            GradientBatch(objective, x, LABELS, plan=plan)
            .products(torch.ones(1, 33).double())
            .isfinite()
            .all()
        )
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert not model[0].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert objective.size == 5 + 10 + 18  # the frozen weight is not differentiated


def test_the_model_comes_back_after_an_exception() -> None:
    model = nn.Linear(4, 3).train()
    objective = make_objective(model)
    with pytest.raises(KeyboardInterrupt), objective.evaluating():
        raise KeyboardInterrupt
    assert model.training


def test_no_warning_is_left_to_the_user_for_ordinary_models() -> None:
    objective = make_objective(nn.Linear(4, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        output_jacobian(objective, torch.randn(2, 4))
