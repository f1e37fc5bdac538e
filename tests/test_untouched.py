"""The user's model comes back as it was, by every path, also after an exception and after Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import blobs
from torch import Tensor, nn

from relatif_widgets import Explainer
from relatif_widgets.curvature import CURVATURES, Lissa

# Its recursions are cut short: whether they converge is no matter here.
pytestmark = pytest.mark.filterwarnings("ignore:LiSSA NOT converged")


class Fragile(nn.Module):
    """Raises when it has run so many times."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.last, self.error = 0, -1, KeyboardInterrupt

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.last:
            raise self.error
        return x


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), Fragile(), nn.Linear(5, 5), nn.Linear(5, 3)
    ).double()
    model.train()
    model[2].eval()
    model[4].weight.requires_grad_(False)
    model[0].register_forward_hook(lambda module, args, output: None)
    model[5].weight.grad = torch.ones(3, 5).double()
    return model


def everything(model: nn.Module) -> list[Any]:
    """All that a user could notice."""
    return [
        [module.training for module in model.modules()],
        [(name, id(value), value.requires_grad) for name, value in model.named_parameters()],
        [(name, id(value)) for name, value in model.named_buffers()],
        {name: value.tolist() for name, value in model.state_dict().items()},
        [None if value.grad is None else value.grad.tolist() for value in model.parameters()],
        [
            (list(module._forward_hooks), list(module._forward_pre_hooks), list(module._backward_hooks))
            for module in model.modules()
        ],
        [type(module) for module in model.modules()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    ]


def curvature(name: str) -> Any:
    return Lissa(steps=30, batch_size=15, repeats=1) if name == "lissa" else name


def ask(explainer: Explainer, x: Tensor) -> None:
    explainer.scores(x[:1], damping=1.0)
    explainer.top_k(x[:4], k=2, method="theta_relative", damping=1.0)
    explainer.self_influence(0.5)
    explainer.explain(x[0], damping=1.0)
    explainer.scores(x[:2], method="nearest")
    explainer.queries(x).page("all", 0, 2)
    explainer.examples([0, 1])
    explainer.show(0)
    explainer.more_like(0, damping=1.0)


@pytest.mark.parametrize("name", CURVATURES)
@pytest.mark.parametrize("space", ["inputs", "features"])
def test_after_every_question(name: str, space: str) -> None:
    model, (x, y) = network(), blobs(30)
    before = everything(model)
    explainer = Explainer(model, (x, y), curvature=curvature(name), space=space)
    assert everything(model) == before
    explainer.fit(progress=False)
    assert everything(model) == before
    ask(explainer, x)
    assert everything(model) == before


@pytest.mark.parametrize("name", CURVATURES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_after_a_call_of_the_model_that_is_broken_off(name: str, error: type[BaseException]) -> None:
    """Wherever it happens: at attaching, in each pass of the fit, at the questions."""
    x, y = blobs(30)

    def story(model: nn.Module) -> None:
        ask(
            Explainer(model, (x, y), curvature=curvature(name), batch_size=8, space="features").fit(
                progress=False
            ),
            x,
        )

    model = network()
    story(model)
    calls = model[3].calls
    for last in sorted({1, 2, *range(3, calls, max(1, calls // 12)), calls}):
        model = network()
        before = everything(model)
        model[3].last, model[3].error = last, error
        broken_off(story, model, error)
        assert everything(model) == before, f"broken off at call {last} of {calls}"


def broken_off(story: Callable[[nn.Module], None], model: nn.Module, error: type[BaseException]) -> None:
    with pytest.raises(error):
        story(model)
