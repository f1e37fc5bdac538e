"""The exact Fisher of a softmax regression on MNIST, 7,850 parameters, dense: a fit with its index and normalizers.

    python benchmarks/dense.py [--examples 60000] [--damping 0.01]

An epoch of so small a model says nothing; the yardstick is one plain float32 product of all gradients
with a matrix of P×P, at this machine's rate.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import nn

from relatif_widgets import Explainer

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "notebooks"))
import shared
import tutorial_data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=60_000)
    parser.add_argument("--damping", type=float, default=0.01)
    given = parser.parse_args()
    images, labels = (part[: given.examples] for part in tutorial_data.mnist(full=True)[0])
    inputs = images.flatten(1).float() / 255
    torch.manual_seed(0)
    model = nn.Linear(inputs.shape[1], 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(3):
        for rows in torch.randperm(len(inputs)).split(512):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    explainer = Explainer(model, (inputs, labels), curvature="fisher", damping=given.damping)
    rate = shared.product_rate(torch.float32)
    fit = shared.seconds(lambda: explainer.fit(progress=False))
    rate = (rate + shared.product_rate(torch.float32)) / 2
    size, count = explainer.parameter_count, explainer.train_size
    product = 2 * count * size**2 / rate
    shared.tell({"name": "dense", "parameters": size, "examples": count, "fit": fit, "product": product})


if __name__ == "__main__":
    main()
