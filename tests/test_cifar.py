"""notebooks/cifar.py, and the part of CIFAR-10 that tutorials take."""

from __future__ import annotations

from pathlib import Path

import cifar
import pytest
import torch
import tutorial_data


def test_the_papers_convnet_has_24234_parameters_and_one_beginning_per_seed() -> None:
    before = torch.random.get_rng_state()
    first, again, other = cifar.convnet(0), cifar.convnet(0), cifar.convnet(1)
    assert sum(parameter.numel() for parameter in first.parameters()) == 24_234
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_picture_comes_back_from_what_the_network_reads() -> None:
    images = torch.randint(0, 256, (3, 32, 32, 3), generator=torch.Generator().manual_seed(0)).byte()
    inputs = cifar.as_inputs(images)
    assert inputs.shape == (3, 3, 32, 32)
    # (pixel/255 − mean)/std of the green channel, by hand
    pixel = float(images[1, 5, 7, 1])
    assert float(inputs[1, 1, 5, 7]) == pytest.approx((pixel / 255 - 0.4822) / 0.2435, rel=1e-5)
    back = (cifar.as_picture(inputs[1]) * 255).round().byte().permute(1, 2, 0)
    assert torch.equal(back, images[1])


def test_what_is_held_out_is_not_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    dice = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    inputs = torch.randn(60, 3, 32, 32, generator=dice) + labels[:, None, None, None]
    held = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:30]
    options = {"epochs": 4, "batch_size": 16, "held_out": 0.5, "seed": 3, "learning_rate": 0.01}
    model, other = cifar.convnet(), cifar.convnet()
    accuracies = cifar.train_convnet(model, inputs, labels, **options, log=True)
    assert len(accuracies) == 4
    assert cifar.accuracy(model, inputs[held], labels[held]) == accuracies[-1]
    assert "epoch  4: loss " in capsys.readouterr().out
    changed = inputs.clone()
    changed[held] = 0
    cifar.train_convnet(other, changed, labels, **options)
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert cifar.train_convnet(other, inputs, labels, epochs=1) == []


@pytest.mark.data
def test_a_part_of_cifar_is_the_beginning_of_it(data_folder: Path) -> None:
    (images, labels), (test_images, test_labels) = tutorial_data.cifar10(8, 4)
    assert images.shape == (8, 32, 32, 3)
    assert test_images.shape == (4, 32, 32, 3)
    (more, more_labels), _ = tutorial_data.cifar10(12, 1)
    assert torch.equal(more[:8], images)
    assert torch.equal(more_labels[:8], labels)
    assert len(test_labels) == 4
