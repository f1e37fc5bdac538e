"""The tutorials' data: real digits from wherever they are at hand."""

from __future__ import annotations

import importlib.util
import io
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="module")
def tutorial_data() -> ModuleType:
    path = Path(__file__).parents[1] / "notebooks" / "tutorial_data.py"
    spec = importlib.util.spec_from_file_location("tutorial_data", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_small_set_is_4000_and_1000_real_digits(tutorial_data: ModuleType) -> None:
    (images, labels), (test_images, test_labels) = tutorial_data.mnist()
    assert (images.shape, images.dtype) == ((4000, 28, 28), torch.uint8)
    assert test_images.shape == (1000, 28, 28)
    everything = torch.cat([labels, test_labels])
    assert torch.bincount(everything).tolist() == [500] * 10
    pictures = {picture.numpy().tobytes() for picture in torch.cat([images, test_images])}
    assert len(pictures) == 5000  # no test digit was trained on
    assert images.max() == 255


@pytest.mark.data
def test_the_full_set_comes_from_the_data_folder(tutorial_data: ModuleType, data_folder: Path) -> None:
    (images, labels), (test_images, test_labels) = tutorial_data.mnist(full=True)
    assert images.shape == (60_000, 28, 28)
    assert test_images.shape == (10_000, 28, 28)
    # The first labels of MNIST, as everybody knows them.
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert torch.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_without_a_folder_the_full_set_comes_from_the_hub(
    tutorial_data: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def load_dataset(name: str, split: str) -> dict[str, object]:
        asked.append((name, split))
        return {"image": [Image.new("L", (28, 28), 7)] * 2, "label": [3, 4]}

    monkeypatch.setattr(tutorial_data, "_folders", list)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    (images, labels), _ = tutorial_data.mnist(full=True)
    assert asked == [("ylecun/mnist", "train"), ("ylecun/mnist", "test")]
    assert np.unique(images.numpy()).tolist() == [7]
    assert labels.tolist() == [3, 4]


@pytest.mark.data
def test_names_come_with_their_languages(tutorial_data: ModuleType, data_folder: Path) -> None:
    names, languages = tutorial_data.names()
    assert len(names) == len(languages) == 20_050
    assert sorted(set(languages))[:3] == ["Arabic", "Chinese", "Czech"]
    assert len(set(languages)) == 18
    assert languages[names.index("Khoury")] == "Arabic"


def test_without_a_folder_names_come_from_pytorchs_tutorial(
    tutorial_data: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data/names/Greek.txt", "Adamou\n")
        archive.writestr("data/names/Czech.txt", "Abl\nAdsit\n")
        archive.writestr("data/eng-fra.txt", "no names\n")
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(file.getvalue())

    monkeypatch.setattr(tutorial_data, "_folders", list)
    monkeypatch.setattr(tutorial_data.urllib.request, "urlopen", urlopen)
    assert tutorial_data.names() == (["Abl", "Adsit", "Adamou"], ["Czech", "Czech", "Greek"])
    assert asked == [tutorial_data.NAMES_URL]


def test_a_model_is_trained_once_for_the_same_settings(
    tutorial_data: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RELATIF_CACHE", str(tmp_path))
    runs = []

    def run(*settings: object) -> float:
        model = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)

        def train() -> None:
            runs.append(settings)
            torch.nn.init.constant_(model.weight, 3.0 + len(runs))

        return float(tutorial_data.trained("line", model, train, *settings).weight.detach())

    assert [run("seed", 0), run("seed", 0), run("seed", 1)] == [4.0, 4.0, 5.0]
    assert runs == [("seed", 0), ("seed", 1)]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".pt", ".pt"]
