"""What a convolution's kernel sees, against torch's own convolution."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from relatif_widgets import patches

torch.manual_seed(0)

PLAIN = {
    "same": (nn.Conv2d(3, 5, 3, padding=1), (9, 8)),
    "same-string": (nn.Conv2d(2, 5, (5, 3), padding="same"), (12, 8)),
    "valid": (nn.Conv2d(2, 4, 3), (20, 30)),
    "valid-5": (nn.Conv2d(1, 4, 5, bias=False), (40, 40)),
    "more-than-half": (nn.Conv2d(2, 4, 3, padding=2), (16, 9)),
    "even": (nn.Conv2d(2, 4, (4, 3), padding=(2, 0)), (32, 32)),
}
OTHERS = {
    "stride": (nn.Conv2d(3, 5, 3, stride=2, padding=1), (16, 16)),
    "dilation": (nn.Conv2d(3, 5, 3, dilation=2, padding=2), (16, 16)),
    "circular": (nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), (16, 16)),
    "groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (16, 16)),
    "asymmetric": (nn.Conv2d(3, 5, 4, padding="same"), (16, 16)),
    "one-pixel": (nn.Conv2d(3, 5, 1), (16, 16)),
    "small": (nn.Conv2d(3, 5, 3, padding=1), (4, 4)),
}


def inputs(module: nn.Conv2d, size: tuple[int, int], rows: int = 7) -> torch.Tensor:
    return torch.randn(rows, module.in_channels, *size, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_a_convolution_multiplies_patches(name: str) -> None:
    module, size = {**PLAIN, **OTHERS}[name]
    value = inputs(module.double(), size)
    found = patches.unfold(module, value, ones=module.bias is not None)
    weight = module.weight.detach().reshape(module.groups, -1, module.weight[0].numel())
    if module.bias is not None:
        weight = torch.cat([weight, module.bias.detach().view(module.groups, -1, 1)], 2)
    right = module(value).detach()
    torch.testing.assert_close((weight @ found).reshape(right.shape), right, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [*PLAIN, *OTHERS])
def test_other_weights_applied_to_patches(name: str) -> None:
    module, size = {**PLAIN, **OTHERS}[name]
    value, ones = inputs(module.double(), size), module.bias is not None
    seen = patches.unfold(module, value, ones=ones)
    matrices = torch.randn(3, module.groups, module.out_channels // module.groups, seen.shape[2]).double()
    right = torch.einsum("vgoi,rgit->rgvot", matrices, seen)
    torch.testing.assert_close(patches.applied(module, value, matrices, ones=ones), right)


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("name", PLAIN)
def test_second_moments_by_correlation(name: str, ones: bool) -> None:
    module, size = PLAIN[name]
    value = inputs(module.double(), size)
    assert patches.by_correlation(module, value)
    flat = patches.unfold(module, value, ones=ones)[:, 0].transpose(0, 1).flatten(1)
    found = patches.second_moment(module, value, ones=ones)
    torch.testing.assert_close(found, flat @ flat.T, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", OTHERS)
def test_other_convolutions_are_not_correlated(name: str) -> None:
    module, size = OTHERS[name]
    assert not patches.by_correlation(module, inputs(module, size))


def test_single_precision_loses_few_digits() -> None:
    """Nearly 300,000 positions of all positive numbers, where an error of one sum would add up."""
    module = nn.Conv2d(3, 5, 3, padding=1)
    value = inputs(module, (32, 32), rows=280).relu()
    right = patches.second_moment(module, value)
    found = patches.second_moment(module, value.float())
    scale = right.diagonal().sqrt()
    assert float(((found - right) / (scale[:, None] * scale)).abs().max()) < 2e-6
