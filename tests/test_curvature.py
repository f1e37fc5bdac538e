"""Each curvature equals a dense construction, and is handed over whole."""

from __future__ import annotations

import oracles
import pytest
import torch
from cases import blobs, mlp
from torch import Tensor, nn

from relatif_widgets import Explainer, ModelError
from relatif_widgets.curvature import CURVATURES, Eigenbasis

LOSS = nn.CrossEntropyLoss(reduction="none")


def matrix(explainer: Explainer) -> Tensor:
    """Q Λ Qᵀ."""
    basis = explainer._ready().index.basis
    assert basis.vectors is not None
    assert basis.eigenvalues is not None
    return basis.vectors @ torch.diag(basis.eigenvalues) @ basis.vectors.T


def fitted(curvature: str) -> Explainer:
    return Explainer(mlp(), blobs(12), curvature=curvature, batch_size=5).fit(progress=False)


def test_the_fisher_enumerates_all_labels() -> None:
    basis = fitted("fisher")._ready().index.basis
    assert basis.mean_eigenvalue == pytest.approx(float(torch.trace(matrix(fitted("fisher")))) / 43)
    torch.testing.assert_close(
        matrix(fitted("fisher")), oracles.softmax_fisher(mlp(), blobs(12)[0]), rtol=1e-9, atol=1e-12
    )


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


@pytest.mark.parametrize("curvature", CURVATURES)
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


def test_a_singular_matrix_is_refused_with_the_damping_that_would_do() -> None:
    basis = Eigenbasis("test matrix", torch.tensor([-0.5, 2.0], dtype=torch.float64), torch.eye(2))
    with pytest.raises(
        ModelError, match=r"test matrix is singular at damping 0.5: .*take a damping above 0.5"
    ):
        basis.weights(torch.tensor([0.5], dtype=torch.float64), 2)
    assert [basis.is_definite(damping) for damping in (0.4, 0.5, 0.6)] == [False, False, True]
    assert basis.weights(torch.tensor([0.25], dtype=torch.float64), 2).tolist() == [[-4.0, 1 / 2.25]]
