"""Scores equal the independent implementation's, on real data, to 1e-8 in float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import oracles
import pytest
import torch
from cases import Golden

from relatif_widgets import Explainer, ModelError

FILES = ["digits_softmax", "cancer_logistic", "digits_convnet"]
DAMPINGS = [0.001, 0.01, 0.1, 1.0]
DENSE = ["fisher", "hessian", "empirical_fisher"]
GOLDEN_NAMES = {"empirical_fisher": "empirical"}
CRITERIA = ["influence", "theta_relative", "loss_relative"]


@pytest.fixture(scope="module", params=FILES)
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture(scope="module")
def fitted(golden: Golden) -> Callable[[str], Explainer]:
    """An explainer of each curvature, fitted once."""

    @cache
    def fit(curvature: str) -> Explainer:
        explainer = Explainer(golden.model, golden.train, loss=golden.loss, curvature=curvature)
        return explainer.fit(progress=False)

    return fit


@pytest.fixture(scope="module")
def fisher(fitted: Callable[[str], Explainer]) -> Explainer:
    return fitted("fisher")


@pytest.fixture(scope="module")
def identity(golden: Golden) -> Explainer:
    return Explainer(golden.model, golden.train, loss=golden.loss, curvature="identity").fit(progress=False)


def relative_error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("method", CRITERIA)
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("curvature", DENSE)
def test_scores_equal_the_golden_ones(
    golden: Golden, fitted: Callable[[str], Explainer], curvature: str, method: str, damping: float
) -> None:
    explainer = fitted(curvature)
    right = golden.scores(method, GOLDEN_NAMES.get(curvature, curvature), damping)
    if bool(right.isnan().any()):  # a self-influence ≤ 0 has no root
        with pytest.raises(ModelError, match="the exact Hessian is indefinite there"):
            explainer.scores(golden.test[0], golden.test[1], method=method, damping=damping)
        return
    found = explainer.scores(golden.test[0], golden.test[1], method=method, damping=damping)
    assert found.shape == right.shape
    assert relative_error(found, right) < 1e-8
    torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-8 * float(right.abs().max()))


@pytest.mark.parametrize("method", CRITERIA)
@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_kronecker_scores_equal_the_golden_ones(
    kronecker: Callable[[str], Explainer], curvature: str, method: str, damping: float
) -> None:
    golden = Golden("digits_convnet")
    found = kronecker(curvature).scores(golden.test[0], golden.test[1], method=method, damping=damping)
    assert relative_error(found, golden.scores(method, curvature, damping)) < 1e-8


@pytest.mark.parametrize("method", CRITERIA)
@pytest.mark.parametrize("damping", DAMPINGS)
def test_low_rank_with_every_pair_is_the_golden_fisher(
    golden: Golden, fitted: Callable[[str], Explainer], damping: float, method: str
) -> None:
    found = fitted("low_rank").scores(golden.test[0], golden.test[1], method=method, damping=damping)
    assert relative_error(found, golden.scores(method, "fisher", damping)) < 1e-8


@pytest.fixture(scope="module")
def kronecker() -> Callable[[str], Explainer]:
    """An explainer of the golden ConvNet for each Kronecker curvature, fitted once."""
    golden = Golden("digits_convnet")

    @cache
    def fit(curvature: str) -> Explainer:
        explainer = Explainer(golden.model, golden.train, curvature=curvature, fisher_labels="exact")
        return explainer.fit(progress=False)

    return fit


def test_an_indefinite_hessian_says_which_damping_would_do() -> None:
    golden = Golden("digits_convnet")
    explainer = Explainer(golden.model, golden.train, curvature="hessian").fit(progress=False)
    with pytest.raises(ModelError, match="indefinite there") as caught:
        explainer.scores(golden.test[0][:1], damping=0.001)
    worst = int(explainer.self_influence(0.001).argmin())
    assert f"training example {worst} is" in str(caught.value)
    told = float(str(caught.value).split("take a damping above ")[1].split(",")[0])
    smallest = float(torch.linalg.eigvalsh(golden_hessian(golden)).min())
    assert told == pytest.approx(-smallest, rel=1e-3)
    assert torch.isfinite(explainer.scores(golden.test[0][:1], damping=1.01 * told)).all()
    # The other two criteria need an inverse only.
    assert torch.isfinite(explainer.scores(golden.test[0][:1], method="theta_relative", damping=0.001)).all()
    # An explanation opens at definite dampings, and offers no other.
    with pytest.raises(ModelError, match="indefinite at damping 0.001. Its smallest eigenvalue is"):
        explainer.explain(golden.test[0][0], damping=0.001)
    stops = explainer.explain(golden.test[0][0], damping=0.1).dampings
    assert stops == tuple(stop for stop in explainer.dampings if stop > told)


def golden_hessian(golden: Golden) -> torch.Tensor:
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    return oracles.hessian(golden.model, loss, *golden.train) / len(golden.train[0])


@pytest.mark.parametrize("method", CRITERIA)
@pytest.mark.parametrize("damping", [0.001, 10.0])
def test_identity_scores_equal_the_golden_ones_at_any_damping(
    golden: Golden, identity: Explainer, method: str, damping: float
) -> None:
    found = identity.scores(golden.test[0], golden.test[1], method=method, damping=damping)
    assert relative_error(found, golden.scores(method, "identity", 0)) < 1e-8


@pytest.mark.parametrize("name", ["digits_softmax", "digits_convnet"])
def test_labels_none_explains_the_predicted_class(name: str) -> None:
    golden = Golden(name)
    fisher = Explainer(golden.model, golden.train, curvature="fisher").fit(progress=False)
    found = fisher.scores(golden.test[0], method="influence", damping=0.01)
    assert relative_error(found, golden.tensor("IFpred|fisher|0.01")) < 1e-8


@pytest.mark.parametrize("name", ["digits_softmax", "digits_convnet"])
def test_every_label_of_a_query_can_be_explained(name: str) -> None:
    golden = Golden(name)
    explainer = Explainer(golden.model, golden.train, curvature="fisher").fit(progress=False)
    right = golden.tensor("IFall|fisher|0.01")
    for label in range(10):
        found = explainer.scores(golden.test[0][:2], [label, label], method="influence", damping=0.01)
        assert relative_error(found, right[label]) < 1e-8


@pytest.mark.parametrize("name", ["digits_softmax", "cancer_logistic"])
def test_influence_is_the_derivative_of_the_reoptimised_loss(name: str) -> None:
    """For a linear model the Fisher is the Hessian, so Definition 2.1 holds exactly at damping = l2."""
    golden = Golden(name)
    damping = float(golden.answers["l2"])
    explainer = Explainer(golden.model, golden.train, loss=golden.loss, curvature="fisher").fit(
        progress=False
    )
    found = explainer.scores(golden.test[0], golden.test[1], method="influence", damping=damping)[:, :12]
    assert relative_error(found, golden.tensor("fd_IF_l2_first12")) < 1e-6


@pytest.mark.parametrize("name", ["digits_softmax", "cancer_logistic"])
def test_influence_predicts_the_change_on_removal(name: str) -> None:
    golden = Golden(name)
    explainer = Explainer(golden.model, golden.train, loss=golden.loss, curvature="fisher").fit(
        progress=False
    )
    predicted = explainer.scores(golden.test[0], golden.test[1], method="influence", damping=0.01)[
        :, :12
    ] / len(golden.train[0])
    actual = golden.answers["loo_dloss_first12"]
    correlation = np.corrcoef(predicted.numpy().ravel(), actual.ravel())[0, 1]
    # n is near 100, where removal is no small step: slopes of 1.1 to 1.6, but the order holds.
    assert correlation > 0.95
    large = np.abs(actual) > 0.1 * np.abs(actual).max()
    assert (np.sign(predicted.numpy())[large] == np.sign(actual)[large]).all()


def test_losses_and_outputs_are_the_golden_ones(golden: Golden, fisher: Explainer) -> None:
    fitted = fisher._ready()
    torch.testing.assert_close(fitted.losses, golden.tensor("losses"), rtol=1e-10, atol=1e-12)
    assert fisher.self_influence(0.01).dtype == torch.float64
    torch.testing.assert_close(
        fisher.self_influence(0.01).sqrt(), golden.tensor("l|fisher|0.01"), rtol=1e-9, atol=0
    )
