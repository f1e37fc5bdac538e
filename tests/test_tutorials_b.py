"""What the tutorials on names, birds and wrong labels say, on the small size of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cifar
import pytest
import torch
import tutorial_data
from tutorials import run

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def values_of(name: str, expression: str) -> Any:
    """What an expression is at the end of a notebook that ran at small size."""
    return run(NOTEBOOKS / name, {"found": expression}).values["found"]


@pytest.fixture(scope="module")
def mislabelled() -> dict[str, Any]:
    found = """{
        "precision": average_precision,
        "flipped": torch.nonzero(flipped).flatten().tolist(),
        "first": order[:look].tolist(),
        "tagged": explainer.tags.value,
        "own": int((first == suspects).sum()) / len(suspects),
        "left": gain["wrong labels left"].to_dict(),
        "accuracy": gain["test accuracy"].to_dict(),
        "same": bool((labels[~flipped] == true_labels[~flipped]).all()),
        "changed": bool((labels[flipped] != true_labels[flipped]).all()),
    }"""
    values: dict[str, Any] = values_of("07-find-the-mislabelled.ipynb", found)
    return values


def test_one_label_in_twenty_is_wrong_and_no_other(mislabelled: dict[str, Any]) -> None:
    assert len(mislabelled["flipped"]) == 200  # of 4,000
    assert mislabelled["same"]
    assert mislabelled["changed"]


def test_self_influence_puts_wrong_labels_first(mislabelled: dict[str, Any]) -> None:
    precision = mislabelled["precision"]
    assert precision["chance"] == pytest.approx(0.05, abs=0.02)
    assert precision["self-influence"] > 0.75
    assert precision["harm to checked examples"] > 0.4
    found = set(mislabelled["first"]) & set(mislabelled["flipped"])
    assert len(found) >= 170  # 85 % of them, in a tenth of the data


def test_the_tagged_are_the_wrong_ones_among_those_looked_at(mislabelled: dict[str, Any]) -> None:
    wrong = sorted(set(mislabelled["first"]) & set(mislabelled["flipped"]))
    assert mislabelled["tagged"] == {str(row): ["mislabelled"] for row in wrong}


def test_a_suspect_is_its_own_best_teacher(mislabelled: dict[str, Any]) -> None:
    assert mislabelled["own"] > 0.9


def test_fixing_what_was_tagged_raises_the_accuracy_and_chance_does_not(mislabelled: dict[str, Any]) -> None:
    left, accuracy = mislabelled["left"], mislabelled["accuracy"]
    assert left["as they were"] == 200
    assert left["every label right"] == 0
    assert left["400 looked at, by self-influence"] == 200 - len(mislabelled["tagged"])
    assert left["400 looked at, by chance"] > 160
    gained = accuracy["400 looked at, by self-influence"] - accuracy["as they were"]
    assert gained > 0.003
    assert gained > accuracy["400 looked at, by chance"] - accuracy["as they were"]


@pytest.mark.data
def test_names_that_taught_a_name_in_kov_end_in_kov_by_relatif_and_not_by_if() -> None:
    found = """{
        "shares": shares,
        "six": {title: [texts[train_rows[card.index]] for card in six] for title, six in cards.items()},
        "panel": explanation.panels[0].name,
        "shown": [explainer.show(row).text for row in range(50)],
        "names": [texts[row] for row in train_rows[:50]],
        "seen": QUERY in {texts[row] for row in train_rows},
        "parameters": explainer.parameter_count,
    }"""
    values = values_of("06-names.ipynb", found)
    assert values["panel"] == "Russian"
    assert not values["seen"]
    assert values["parameters"] == 18 * (48 + 1)
    assert values["shown"] == values["names"]
    shares = values["shares"]
    assert shares["any training name"] < 0.05
    assert shares["IF"] < 0.2
    assert shares["θ-RelatIF"] > 0.6
    assert shares["ℓ-RelatIF"] > 0.7
    assert sum(name.endswith("kov") for name in values["six"]["ℓ-RelatIF"]) >= 4
    assert sum(name.endswith("kov") for name in values["six"]["IF"]) <= 1


@pytest.mark.data
def test_evidence_for_bird_is_birds_and_for_plane_planes() -> None:
    found = """{
        "truth": CLASSES[test_labels[query]],
        "top2": sorted(CLASSES[c] for c in probabilities[query].topk(2).indices.tolist()),
        "panels": {m: explanation.to_frame(method=m, k=5)[["panel", "label"]].values.tolist() for m in METHODS},
        "opened": sorted(panel.name for panel in widget.explanation.panels),
        "can_check": widget.can_check,
        "without": retrain([0, 1])[0].weight.shape[0],
    }"""
    values = values_of("05-bird-or-plane.ipynb", found)
    assert values["truth"] in {"bird", "plane"}
    assert values["top2"] == ["bird", "plane"]
    assert values["opened"] == ["bird", "plane"]
    for method, cards in values["panels"].items():
        assert sorted(panel for panel, _ in cards) == ["bird"] * 5 + ["plane"] * 5
        own = sum(panel == label for panel, label in cards)
        assert own >= 9, method
    assert values["can_check"]
    assert values["without"] == 16


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


def test_the_epoch_that_does_best_on_the_held_out_part_is_kept() -> None:
    dice = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    inputs = torch.randn(60, 3, 32, 32, generator=dice) + labels[:, None, None, None]
    model = cifar.convnet()
    accuracies = cifar.train_convnet(model, inputs, labels, epochs=4, batch_size=16, held_out=0.5, seed=3)
    held = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:30]
    assert len(accuracies) == 4
    assert cifar.accuracy(model, inputs[held], labels[held]) == max(accuracies)


@pytest.mark.data
def test_a_part_of_cifar_is_the_beginning_of_it(data_folder: Path) -> None:
    (images, labels), (test_images, test_labels) = tutorial_data.cifar10(8, 4)
    assert images.shape == (8, 32, 32, 3)
    assert test_images.shape == (4, 32, 32, 3)
    (more, more_labels), _ = tutorial_data.cifar10(12, 1)
    assert torch.equal(more[:8], images)
    assert torch.equal(more_labels[:8], labels)
    assert len(test_labels) == 4
