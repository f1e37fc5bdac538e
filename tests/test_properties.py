"""What must hold whatever the model and the data, for every curvature."""

from __future__ import annotations

import oracles
import pytest
import torch
from cases import blobs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from relatif_widgets import Explainer
from relatif_widgets.curvature import CURVATURES, EKFAC, KFAC, Curvature, Lissa, LowRank

seeds = st.integers(0, 10_000)
few = settings(max_examples=3, deadline=None)
DAMPING = 5.0  # the Hessian of a network that nobody trained is far from definite
METHODS = ("influence", "theta_relative", "loss_relative")


def make(name: str) -> Curvature:
    """A curvature with no chance in it, so that what holds in exact arithmetic holds here."""
    exact = {
        "low_rank": lambda: LowRank(30, "exact"),
        "kfac": lambda: KFAC("exact"),
        "ekfac": lambda: EKFAC("exact"),
        "lissa": lambda: Lissa(batch_size=1000, tolerance=1e-9, repeats=1, normalizers=EKFAC("exact")),
    }
    return exact.get(name, CURVATURES[name])()


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def scores(name: str, model: nn.Module, data: tuple[Tensor, Tensor], damping: float = DAMPING) -> Tensor:
    """Of two queries, by each criterion: [criterion, query, train]."""
    explainer = Explainer(model, data, curvature=make(name), damping=damping).fit(progress=False)
    x, y = (part[:2] for part in blobs(4, seed=99))
    return torch.stack([explainer.scores(x, y, method=method) for method in METHODS])


@pytest.mark.parametrize("name", CURVATURES)
@given(seed=seeds)
@few
def test_permuting_the_training_set_permutes_the_scores(name: str, seed: int) -> None:
    x, y = blobs(14, seed=seed)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(seed))
    before = scores(name, network(seed), (x, y))
    after = scores(name, network(seed), (x[order], y[order]))
    torch.testing.assert_close(after, before[:, :, order], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", CURVATURES)
@given(seed=seeds)
@few
def test_duplicated_examples_get_equal_scores(name: str, seed: int) -> None:
    x, y = blobs(10, seed=seed)
    found = scores(name, network(seed), (torch.cat([x, x[3:4]]), torch.cat([y, y[3:4]])))
    torch.testing.assert_close(found[:, :, 10], found[:, :, 3], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", sorted(CURVATURES.keys() - {"identity"}))
@given(seed=seeds)
@few
def test_large_damping_tends_to_plain_gradients(name: str, seed: int) -> None:
    model, (x, y) = network(seed), blobs(10, seed=seed)
    queries = tuple(part[:2] for part in blobs(4, seed=99))
    loss = nn.CrossEntropyLoss(reduction="none")
    plain = oracles.gradients(model, loss, *queries) @ oracles.gradients(model, loss, x, y).T
    found = scores(name, model, (x, y), damping=1e6)[0] * 1e6
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize(
    "name", sorted(CURVATURES.keys() - {"lissa"})
)  # its numerators are of another matrix
@given(seed=seeds)
@few
def test_theta_relative_is_a_cosine_and_loss_relative_one_in_the_metric(name: str, seed: int) -> None:
    """Of the query with itself: I/‖(H+λI)⁻¹g‖ = cos · ‖g‖, and I/√I = √I, which no other example exceeds."""
    model, (x, y) = network(seed), blobs(10, seed=seed)
    explainer = Explainer(model, (x, y), curvature=make(name), damping=DAMPING).fit(progress=False)
    gradients = oracles.gradients(model, nn.CrossEntropyLoss(reduction="none"), x, y)
    influence = explainer.scores(x, y, method="influence")
    theta = explainer.scores(x, y, method="theta_relative")
    relative = explainer.scores(x, y, method="loss_relative")
    own = explainer.self_influence()
    torch.testing.assert_close(torch.diagonal(influence), own)
    torch.testing.assert_close(torch.diagonal(relative), own.sqrt())
    assert bool((relative.abs() <= own.sqrt()[:, None] * (1 + 1e-9)).all())
    assert bool((theta.abs() <= gradients.norm(dim=1)[:, None] * (1 + 1e-9)).all())
    changes = influence / theta  # ‖(H+λI)⁻¹ g_i‖, whoever asks
    torch.testing.assert_close(changes, changes[:1].expand_as(changes), rtol=1e-6, atol=0)


@given(seed=seeds)
@few
def test_ekfac_is_the_fisher_where_one_factor_is_the_same_for_all_examples(seed: int) -> None:
    """A linear regression: δδᵀ has the expectation I whatever the example, so F = I ⊗ A exactly."""
    x, _ = blobs(12, seed=seed)
    y = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.manual_seed(seed)
    model = nn.Linear(4, 3).double()
    found = {}
    for curvature in (KFAC("exact"), EKFAC("exact"), "fisher"):
        explainer = Explainer(model, (x, y), loss="mse", curvature=curvature, damping=0.01).fit(
            progress=False
        )
        found[explainer._curvature.name] = [explainer.scores(x[:3], y[:3], method=m) for m in METHODS]
    torch.testing.assert_close(found["ekfac"], found["fisher"], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found["kfac"], found["fisher"], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["hessian", "empirical_fisher", "low_rank", "kfac", "ekfac", "identity"])
@given(seed=seeds, factor=st.floats(0.01, 100))
@few
def test_scaling_an_examples_loss_leaves_its_relative_influence(name: str, seed: int, factor: float) -> None:
    """At a huge damping the curvature plays no part, and the scaled example's own gradient is all that changes."""
    model, (x, y) = network(seed), blobs(10, seed=seed)
    targets = torch.stack([y.double(), torch.ones(10, dtype=torch.float64)], 1)
    scaled = targets.clone()
    scaled[4, 1] = factor
    labels = "empirical" if name in ("low_rank", "kfac", "ekfac") else None  # this loss has no likelihood

    def weighted(outputs: Tensor, target: Tensor) -> Tensor:
        return target[:, 1] * nn.functional.cross_entropy(outputs, target[:, 0].long(), reduction="none")

    found = []
    for given_targets in (targets, scaled):
        explainer = Explainer(
            model, (x, given_targets), loss=weighted, curvature=name, fisher_labels=labels, damping=1e8
        ).fit(progress=False)
        found.append([explainer.scores(x[:2], targets[:2], method=m)[:, 4] for m in METHODS])
    torch.testing.assert_close(found[1][0], found[0][0] * factor, rtol=1e-2, atol=1e-14)
    torch.testing.assert_close(found[1][1:], found[0][1:], rtol=1e-2, atol=1e-10)
