"""The same matrices from an independent library, where it is installed.

    pip install --no-deps --target PEERS curvlinops-for-pytorch==3.0.1 einops einconv opt_einsum \
        backpack-for-pytorch unfoldNd linear_operator
    PYTHONPATH=PEERS pytest tests/test_peers.py
"""

from __future__ import annotations

import warnings

import pytest
import torch
from test_curvature import matrix
from torch import Tensor, nn

from relatif_widgets import Explainer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    curvlinops = pytest.importorskip(
        "curvlinops", reason="curvlinops is not installed; see the top of this file"
    )

pytestmark = pytest.mark.filterwarnings("ignore")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(12, 4),
        nn.Tanh(),
        nn.Linear(4, 3),
    ).double()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(9, 2, 4, 4, dtype=torch.float64), torch.arange(9) % 3


@pytest.mark.parametrize("curvature", ["fisher", "kfac", "ekfac"])
def test_curvatures_equal_those_of_curvlinops(curvature: str, data: tuple[Tensor, Tensor]) -> None:
    model, loss = network(), nn.CrossEntropyLoss()
    parameters, batches = list(model.parameters()), [data]
    if curvature == "fisher":
        other = curvlinops.GGNLinearOperator(model, loss, parameters, batches)
    else:
        kind = {"kfac": curvlinops.KFACLinearOperator, "ekfac": curvlinops.EKFACLinearOperator}[curvature]
        other = kind(
            model,
            loss,
            parameters,
            batches,
            fisher_type="type-2",
            kfac_approx="expand",
            separate_weight_and_bias=False,
        )
    size = sum(value.numel() for value in parameters)
    right = torch.as_tensor(other @ torch.eye(size, dtype=torch.float64))
    labels = None if curvature == "fisher" else "exact"
    explainer = Explainer(model, data, curvature=curvature, fisher_labels=labels).fit(progress=False)
    torch.testing.assert_close(matrix(explainer), right, rtol=1e-8, atol=1e-11)
