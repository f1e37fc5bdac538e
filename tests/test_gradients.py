"""Per-example gradients and Jacobians equal one backward pass per example."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import oracles
import pytest
import torch
from torch import Tensor, nn

from relatif_widgets.gradients import GradientBatch, loss_hessian, output_jacobian, per_example_gradients
from relatif_widgets.objective import make_objective

CROSS_ENTROPY = nn.CrossEntropyLoss(reduction="none")


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = kind(3, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.two(torch.tanh(self.one(x)))))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class DataDependent(nn.Module):
    """Python control flow on values, which vmap cannot trace."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 3)
        self.two = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if float(x.sum()) > 0 else self.two(x)


def batch_norm() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)
    ).double()
    model(torch.randn(8, 2, 4, 4, dtype=torch.float64))  # gives the running statistics values
    return model


VECTOR, PICTURE, SERIES = (5, 4), (5, 2, 4, 4), (5, 6, 3)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), VECTOR),
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), VECTOR),
    "no bias": (lambda: nn.Linear(4, 3, bias=False), VECTOR),
    "conv2d": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.Flatten(), nn.Linear(16, 3)),
        PICTURE,
    ),
    "grouped conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), nn.Flatten(), nn.Linear(36, 3)),
        PICTURE,
    ),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(6, 4, 2, dilation=2), nn.Flatten(), nn.Linear(4, 3)), SERIES),
    "transposed conv": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(75, 3)),
        PICTURE,
    ),
    "layer norm": (lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)), VECTOR),
    "group norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 3)),
        PICTURE,
    ),
    "batch norm": (batch_norm, PICTURE),
    "dropout": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)), VECTOR),
    "lstm": (lambda: Recurrent(nn.LSTM), SERIES),
    "gru": (lambda: Recurrent(nn.GRU), SERIES),
    "tied weights": (Tied, VECTOR),
    "layer used twice": (Twice, VECTOR),
    "weight norm": (
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)
        ),
        VECTOR,
    ),
    "transformer": (
        lambda: nn.Sequential(
            nn.Linear(3, 4),
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        SERIES,
    ),
    "data-dependent": (DataDependent, VECTOR),
}


@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_jacobians_equal_one_backward_pass_per_example(name: str) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    right = oracles.gradients(model, CROSS_ENTROPY, x, y)
    objective = make_objective(model)

    found = per_example_gradients(objective, x, y)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)

    outputs, jacobian = output_jacobian(objective, x)
    with torch.no_grad():
        expected = torch.cat([model(one[None]) for one in x])
    torch.testing.assert_close(outputs, expected)
    delta = outputs.softmax(1) - nn.functional.one_hot(y, 3)
    torch.testing.assert_close(torch.einsum("bo,bop->bp", delta, jacobian), right, rtol=1e-9, atol=1e-12)

    batch = GradientBatch(objective, x, y)
    _ = batch.jacobian
    torch.testing.assert_close(batch.gradients, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"data-dependent"}))  # its batch takes one branch
def test_the_hessian_equals_double_backward(name: str) -> None:
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    found = loss_hessian(make_objective(model), x, y)
    right = oracles.hessian(model, CROSS_ENTROPY, x, y)
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
    objective = make_objective(model)
    by_tuple = per_example_gradients(objective, (a, b), y)
    by_dict = per_example_gradients(objective, {"b": b, "a": a}, y)
    loss = nn.functional.cross_entropy(model(a[2:3], b[2:3]), y[2:3])
    right = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))])
    torch.testing.assert_close(by_tuple[2], right)
    torch.testing.assert_close(by_dict, by_tuple)


def test_a_subset_of_parameters_gives_the_matching_columns() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    everything = per_example_gradients(make_objective(model), x, y)
    last = per_example_gradients(make_objective(model, parameters="2"), x, y)
    torch.testing.assert_close(last, everything[:, 25:])


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
        per_example_gradients(
            objective, torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
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
