"""The one pass over the training set that everything later looks up."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .curvature import Curvature
from .data import Fingerprint
from .errors import ChoiceError, ModelError
from .index import Index
from .neighbors import Neighbors, flatten_inputs
from .task import Task

BATCH = 256
_CHUNK_BYTES = 256 << 20
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves behind.

    Attributes:
        index: Rotated gradients and normalizers.
        neighbors: The training inputs, or None where they share no input space.
        targets: Training targets.
        losses: ℓ(z_i, θ*), [train].
        predicted: The model's class for every training example, or None in a regression.
        probability: The model's probability of every training label, or None.
        data_fingerprint: SHA-256 of inputs and targets.
        seconds: Wall time of the fit.
    """

    index: Index
    neighbors: Neighbors | None
    targets: Tensor
    losses: Float[Tensor, "train"]
    predicted: Int[Tensor, "train"] | None
    probability: Float[Tensor, "train"] | None
    data_fingerprint: str
    seconds: float


def fit(
    task: Task,
    curvature: Curvature,
    dampings: Sequence[float],
    chunk: int,
    report: Callable[[str, int], None],
) -> Fitted:
    """Accumulate the curvature, keep every gradient, rotate them into the eigenbasis.

    Args:
        task: Model and training set.
        curvature: Fresh or used before; it begins anew.
        dampings: Stops to compute the normalizers for.
        chunk: Examples a batch.
        report: Called with the stage in words and the examples just done.
    """
    started = time.perf_counter()
    objective, count = task.objective, task.source.length
    rows = torch.empty(count, objective.size, dtype=objective.dtype, device=objective.device)
    losses = torch.empty(count, dtype=objective.dtype, device=objective.device)
    fingerprint = Fingerprint()
    targets: list[Tensor] = []
    predicted: list[Tensor] = []
    probability: list[Tensor] = []
    flat: list[Tensor] = []
    curvature.begin(objective)
    with task.evaluating():
        for batch in task.batches(task.source, chunk):
            part = slice(batch.first, batch.first + len(batch.targets))
            fingerprint.add(batch.inputs, batch.targets)
            curvature.update(batch)  # first, so that gradients can reuse its Jacobian
            rows[part] = batch.gradients
            losses[part] = batch.losses
            targets.append(batch.targets)
            probabilities = objective.loss.probabilities(batch.outputs)
            if probabilities is not None:
                predicted.append(probabilities.argmax(1))
                probability.append(probabilities.gather(1, task.classes(batch.targets)[:, None])[:, 0])
            if isinstance(batch.inputs, Tensor):
                flat.append(flatten_inputs(batch.inputs))
            report("gradients", len(batch.targets))
        if not bool(rows.any()):
            raise ModelError(
                f"Every gradient is zero: {', '.join(objective.parameters)} do not move the loss of any example. "
                "Choose parameters that the output depends on (is there a .detach(), or a layer that is not used?)."
            )
        report("eigenbasis", 0)
        basis = curvature.finish()
    report("rotating", 0)
    for block in torch.split(rows, 1024):  # in place: the rows are the largest thing here
        block.copy_(basis.rotate(block))
    index = Index(basis, rows)
    index.prepare([damping for damping in dampings if basis.is_definite(damping)])
    return Fitted(
        index=index,
        neighbors=Neighbors(torch.cat(flat)) if flat and len({x.shape[1] for x in flat}) == 1 else None,
        targets=torch.cat(targets),
        losses=losses,
        predicted=torch.cat(predicted) if predicted else None,
        probability=torch.cat(probability) if probability else None,
        data_fingerprint=fingerprint.hexdigest(),
        seconds=time.perf_counter() - started,
    )


def chunk_size(task: Task, curvature: Curvature, batch_size: int | None, memory_limit: int | None) -> int:
    """Examples a batch: as asked, or what keeps one batch within an eighth of the limit."""
    if batch_size is not None:
        return batch_size
    room = _CHUNK_BYTES if memory_limit is None else min(_CHUNK_BYTES, memory_limit // 8)
    return max(1, min(BATCH, room // _example_bytes(task, curvature)))


def check_memory(task: Task, curvature: Curvature, chunk: int, limit: int) -> None:
    """Refuse a fit that would not fit.

    Raises:
        ModelError: Rows, curvature, inputs and a batch together exceed `limit` bytes.
    """
    itemsize = task.objective.dtype.itemsize
    features = torch.Size(task.example).numel() if isinstance(task.example, list) else 0
    parts = {
        "rotated gradients": task.source.length * task.objective.size * itemsize,
        "curvature": curvature.working_memory(task.objective.size),
        "inputs for k-NN": task.source.length * features * itemsize,
        "one batch": chunk * _example_bytes(task, curvature),
    }
    total = sum(parts.values())
    if total > limit:
        detail = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
        raise ModelError(
            f"Fitting needs about {_size(total)} ({detail}); memory_limit is {_size(limit)}. Score fewer "
            'parameters, such as parameters="fc", a part of the training set, or raise the limit.'
        )


def as_bytes(limit: int | str | None) -> int | None:
    """Bytes of a number or of text such as "2GB" (powers of ten).

    >>> as_bytes("1.5 MB")
    1500000
    """
    if limit is None or (isinstance(limit, int) and not isinstance(limit, bool) and limit > 0):
        return limit
    found = (
        re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)b?\s*", limit.lower())
        if isinstance(limit, str)
        else None
    )
    if found is None or float(found[1]) == 0:
        raise ChoiceError(f'memory_limit={limit!r}; expected a number of bytes or text such as "2GB".')
    return int(float(found[1]) * _UNITS[found[2]])


def _example_bytes(task: Task, curvature: Curvature) -> int:
    # The Jacobian, its product with the loss's factor, and a temporary of that size.
    width = 3 * (task.outputs + 1) if curvature.uses_jacobian else 3
    return width * task.objective.size * task.objective.dtype.itemsize


def _size(count: Any) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
