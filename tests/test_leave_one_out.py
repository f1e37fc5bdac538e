"""Ground truth: retraining without a training example changes the loss as influence says."""

from __future__ import annotations

import numpy as np
import oracles
import torch
from sklearn.datasets import load_digits
from torch import nn

from relatif_widgets import Explainer


def test_influence_over_n_is_the_change_of_loss_on_removal() -> None:
    """Strictly convex, n = 1,000, Newton to 1e-12: correlation ≥ 0.999."""
    digits, labels = load_digits(return_X_y=True)
    x = torch.tensor(digits[:1100] / 16)
    y = torch.tensor(labels[:1100])
    # Project to ten dimensions: exact retraining then takes milliseconds.
    projection = torch.randn(64, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 8
    x = x @ projection
    train_x, train_y, test_x, test_y = x[:1000], y[:1000], x[1000:], y[1000:]
    n, l2 = len(train_x), 0.01
    uniform = torch.full((n,), 1 / n, dtype=torch.float64)
    theta = oracles.newton_softmax(train_x, train_y, uniform, l2, 10, torch.zeros(110, dtype=torch.float64))

    def model(weights: torch.Tensor) -> nn.Linear:
        linear = nn.Linear(10, 10).double()
        nn.utils.vector_to_parameters(weights, linear.parameters())
        return linear

    def losses(weights: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return nn.functional.cross_entropy(model(weights)(test_x), test_y, reduction="none")

    # The l2 term of the objective is the damping; for a linear model the Fisher is the Hessian.
    explainer = Explainer(model(theta), (train_x, train_y), curvature="fisher", damping=l2).fit(
        progress=False
    )
    influence = explainer.scores(test_x, test_y, method="influence")
    strongest = influence.abs().sum(0).argsort(descending=True)
    removed = torch.cat([strongest[:15], strongest[::65]])
    before = losses(theta)
    predicted, actual = [], []
    for row in removed.tolist():
        weights = uniform.clone()
        weights[row] = 0
        again = oracles.newton_softmax(train_x, train_y, weights, l2, 10, theta)
        predicted.append(influence[:, row] / n)
        actual.append(losses(again) - before)
    correlation = np.corrcoef(torch.stack(predicted).numpy().ravel(), torch.stack(actual).numpy().ravel())[
        0, 1
    ]
    assert correlation > 0.999
