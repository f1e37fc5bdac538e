"""Models and data that the tests share: small, float64, seeded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"

MODULES = {
    "digits_softmax": lambda: nn.Sequential(nn.Linear(64, 10)),
    "cancer_logistic": lambda: nn.Sequential(nn.Linear(12, 1)),
    "digits_convnet": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(6, 10),
    ),
}
LOSSES = {
    "digits_softmax": "cross_entropy",
    "cancer_logistic": "bce_with_logits",
    "digits_convnet": "cross_entropy",
}


class Golden:
    """One golden file: its model with the learned weights, its data, its answers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loss = LOSSES[name]
        self.answers = dict(np.load(GOLDEN / f"{name}.npz"))
        self.model = MODULES[name]().double()
        weights = {key[6:]: self.tensor(key) for key in self.answers if key.startswith("param_")}
        self.model.load_state_dict(weights)
        self.train = (self.tensor("X"), self.tensor("y"))
        self.test = (self.tensor("Xt"), self.tensor("yt"))

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.answers[key])

    def scores(self, method: str, curvature: str, damping: float, numerator: str = "IF") -> Tensor:
        """The right scores [test, train]."""
        stop = "0" if curvature == "identity" else f"{damping}"
        influence = self.tensor(f"{numerator}|{curvature}|{stop}")
        denominator = {"influence": None, "theta_relative": "th", "loss_relative": "l"}[method]
        if denominator is None:
            return influence
        return influence / self.tensor(f"{denominator}|{curvature}|{stop}")


def blobs(count: int = 40, classes: int = 3, features: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian blobs, float64 [count, features], and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    centres = torch.randn(classes, features, generator=generator, dtype=torch.float64)
    return centres[labels] + 0.7 * torch.randn(
        count, features, generator=generator, dtype=torch.float64
    ), labels


def mlp(features: int = 4, classes: int = 3, seed: int = 0) -> nn.Module:
    """A small float64 network with a bend in it."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(features, 5), nn.Tanh(), nn.Linear(5, classes)).double()


def pictures(count: int = 24, classes: int = 3, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Grey float32 pictures [count, 1, size, size] in 0..1, brighter with the label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    noise = torch.rand(count, 1, size, size, generator=generator)
    return (noise * 0.5 + labels[:, None, None, None] / (2 * classes)).clamp(0, 1), labels


def convnet(classes: int = 3, seed: int = 0) -> nn.Module:
    """A float32 convolutional network for 8x8 pictures."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, classes)
    )
