"""The passes over the training set that everything later looks up."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import heap
from .curvature import Columns, Curvature, Eigenbasis, Held, Rotation, Setting
from .data import Fingerprint
from .errors import ChoiceError, DataError, ModelError, one_of
from .gradients import GradientBatch
from .index import Index
from .neighbors import Features, Neighbors, Unkept, flatten_inputs
from .normalizers import weights_bytes
from .objective import module_of
from .rows import Kept, Part, Rows, Waiting, choose, kept_part
from .scoring import normalize
from .task import BATCH, Task

STORAGES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_CHUNK_BYTES = {"cpu": 128 << 20}
"""Bytes of a batch at the most, on a CPU so that its arrays come from what the last batch freed."""
_ELSEWHERE = 256 << 20

Sizes = Mapping[Held, int]
"""Examples a batch, by what a pass holds of the rows."""

_COPIES = 4
"""Copies of a large model's parameters in float64 that a batch may take: every batch touches some of those besides."""

_FEW = 16
"""Examples of a large model that are worth more than that, where the memory holds them."""

_LEAN = ("low_rank", "ekfac", "kfac", "lissa")
"""Curvatures of which none needs less than another whatever the model."""

_READ = 64
"""Inputs that are read anew at once: a chance to cancel after each few."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


@dataclass(frozen=True)
class Fitted:
    """What a fit leaves behind.

    Attributes:
        index: Rotated gradients and normalizers.
        neighbors: Where the training examples lie for k-NN, or None where they share no space.
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


class Collected:
    """What the last pass over the training set gathers, besides the rows.

    Args:
        task: Model and training set.
        features: The space for k-NN, or None for the inputs themselves.
        again: Whether inputs are not kept for k-NN, but read anew.
    """

    def __init__(self, task: Task, features: Features | None, again: bool) -> None:
        self._task, self._features = task, features
        self._again = again and features is None
        self._targets: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._predicted: list[Tensor] = []
        self._probability: list[Tensor] = []
        self._space: Tensor | Unkept | None = None if features else shared_inputs(task)
        self._shared = self._space is not None
        self._spaceless = False

    def add(self, batch: GradientBatch) -> None:
        loss = self._task.objective.loss
        self._losses.append(batch.losses)
        self._targets.append(batch.targets)
        probabilities = loss.probabilities(batch.outputs)
        if probabilities is not None:
            classes = self._task.classes(batch.targets)[:, None]
            self._predicted.append(probabilities.argmax(1))
            self._probability.append(probabilities.gather(1, classes)[:, 0])
        if self._features is not None:
            self._place(batch.first, self._features.of(batch.inputs))
        elif isinstance(batch.inputs, Tensor):
            if not self._shared:
                self._place(batch.first, flatten_inputs(batch.inputs))
        else:
            self._spaceless = True

    def fitted(self, index: Index, fingerprint: str, seconds: float) -> Fitted:
        space = None if self._spaceless else self._space
        return Fitted(
            index=index,
            neighbors=None if space is None else Neighbors(space, self._features),
            targets=torch.cat(self._targets),
            losses=torch.cat(self._losses),
            predicted=torch.cat(self._predicted) if self._predicted else None,
            probability=torch.cat(self._probability) if self._probability else None,
            data_fingerprint=fingerprint,
            seconds=seconds,
        )

    def _place(self, first: int, places: Float[Tensor, "batch feature"]) -> None:
        if self._space is None:
            shape = self._task.source.length, places.shape[1]
            self._space = (
                Unkept(partial(_inputs, self._task), shape) if self._again else places.new_empty(shape)
            )
        if self._space.shape[1] != places.shape[1]:  # padded to different lengths: no distance between them
            self._spaceless = True
        elif isinstance(self._space, Tensor):
            self._space[first : first + len(places)] = places


def _inputs(task: Task) -> Iterator[Float[Tensor, "part feature"]]:
    """All training inputs, flattened, some at a time."""
    for batch in task.batches(task.source, _READ):
        yield flatten_inputs(batch.inputs)


def shared_inputs(task: Task) -> Float[Tensor, "train feature"] | None:
    """The training inputs as rows where they lie, if they lie in memory as the model takes them."""
    whole = task.source.in_memory()
    inputs = None if whole is None else whole[0]
    objective = task.objective
    if not isinstance(inputs, Tensor) or inputs.dim() < 2 or not inputs.is_contiguous():
        return None
    if inputs.dtype != objective.dtype or inputs.device != objective.device:
        return None
    return inputs.detach().flatten(1)


class Store:
    """The rows of the last pass, written where they will stay.

    Args:
        rotation: Qᵀ, or None to keep gradients as they are.
        whole: Whether to keep the gradients beside what is rotated, which leaves something out.
        count: n.
        storage: Precision of what is rotated; None for the model's.
        folder: Where to map them to files; None for memory.
    """

    def __init__(
        self,
        rotation: Rotation | None,
        whole: bool,
        count: int,
        storage: torch.dtype | None,
        folder: Path | None,
    ) -> None:
        self._rotation, self._whole = rotation, whole
        self._count, self._storage, self._folder = count, storage, folder
        self._waiting = Waiting(0 if rotation is None else rotation.together)
        self._rows: Rows | None = None
        self._first = 0
        self.moved = False
        """Whether any gradient so far had a number other than zero."""

    def add(self, batch: GradientBatch) -> None:
        """Gradients of the next examples, which may wait for others to be rotated with them."""
        if self._rotation is None:
            sole = batch.plan.sole(batch.objective)
            self._put(Rows((batch.gradients,)) if sole is None else Rows(tuple(batch.parts())))
        elif not self._rotation.together:
            self._put(_stored(self._rotation.rotate_batch(batch), self._storage))
        else:
            self._rotate(self._waiting.add(batch.gradients.numel(), batch.gradients))

    def rows(self) -> Rows:
        """All of them, when all were added."""
        self._rotate(self._waiting.take())
        assert self._rows is not None
        assert self._first == self._count
        return self._rows

    def _rotate(self, together: tuple[Tensor, ...] | None) -> None:
        if together is not None:
            assert self._rotation is not None
            found = _stored(self._rotation.rotate(*together), self._storage)
            self._put(replace(found, gradients=together[0]) if self._whole else found)

    def _put(self, found: Rows) -> None:
        self.moved = self.moved or found.anything
        self._rows = self._rows or found.room(self._count, self._folder)
        self._rows.put(slice(self._first, self._first + len(found)), found)
        self._first += len(found)


def fit(
    task: Task,
    curvature: Curvature,
    dampings: Sequence[float],
    damping: float,
    sizes: Sizes,
    memory: int,
    storage: torch.dtype | None,
    folder: Path | None,
    features: Features | None,
    report: Callable[[str, int], None],
) -> Fitted:
    """Pass over the training set as often as the curvature asks; keep every gradient in its eigenbasis.

    Args:
        task: Model and training set.
        curvature: Fresh or used before; it begins anew.
        dampings: Stops to compute the normalizers for.
        damping: The default λ.
        sizes: Examples a batch.
        memory: Bytes that rows and curvature may take. Rows that do not fit are not kept.
        storage: Precision of the rows that are kept; None for the model's.
        folder: Where to map them to files, which then may take what is free there; None for memory.
        features: The space for k-NN, or None for the inputs themselves.
        report: Called with the stage in words and the examples just done.

    Raises:
        DataError: The data differ between two passes.
        ModelError: Every gradient is zero.
    """
    started = time.perf_counter()
    objective, count = task.objective, task.source.length
    curvature.begin(
        Setting(objective, task.plan, count, damping, memory, lambda rows: next(task.some(rows, len(rows))))
    )
    again = _kept_inputs(task, curvature, sizes, memory) < _inputs_bytes(task)
    collected = Collected(task, features, again)
    fingerprint = ""
    rows: Rows | None = None
    store: Store | None = None
    rotation: Rotation | None = None
    work = count * _gradient_bytes(task)
    # Where memory is short malloc is left alone.
    with heap.kept(work if work <= memory else 0), task.evaluating():
        for number in itertools.count():
            curvature.begin_pass(number)
            last = number == curvature.passes - 1
            # Arrays do not change between passes: theirs is taken once.
            digest = Fingerprint() if last or task.source.in_memory() is None else None
            if last:
                rotation = curvature.rotation()
                spare = _spare(task, curvature, sizes, memory, folder)
                store = _room(task, rotation, storage, folder, spare)
            held: Held = "none" if not last else "row" if store else "part"
            for batch in task.batches(task.source, sizes[held], digest):
                curvature.update(batch)  # first, so that gradients can reuse its Jacobian
                if last:
                    collected.add(batch)
                if store:
                    store.add(batch)
                report(curvature.name if not last else "gradients", len(batch.targets))
            if digest is not None:
                fingerprint = _same_data(task, fingerprint, digest.hexdigest())
            if last:
                break
        if store:
            rows = store.rows()
            if not store.moved:
                raise objective.nothing_moves()
            del store
        report("eigenbasis", 0)
        basis = curvature.finish()
    if rows is not None and rotation is None:
        report("rotating", 0)
        rows = _turned(rows, basis.rotation, storage, folder)
    stops = [damping] if basis.solver else [stop for stop in dampings if basis.is_definite(stop)]
    if rows is None:
        report("normalizers", 0)
        spare = _spare(task, curvature, sizes, memory, folder, stops=len(stops))
        index = _truncated(task, basis, sizes["part"], spare, storage, folder, stops)
    else:
        index = Index(basis, count, rows, objective.dtype)
        index.prepare(stops)
    if stops and not bool(index.self_influence(stops).any()):
        raise objective.nothing_moves()
    return collected.fitted(index, fingerprint, time.perf_counter() - started)


def _room(
    task: Task, rotation: Rotation | None, storage: torch.dtype | None, folder: Path | None, spare: int
) -> Store | None:
    """Room for the rows, and for the gradients where the rows do not tell them; None where the rows do not fit."""
    count = task.source.length
    needed = count * _row_bytes(task, rotation, storage)
    if needed > spare:
        return None
    lossy = rotation is not None and not rotation.complete
    exact = storage in (None, task.objective.dtype)
    whole = lossy and exact and needed + count * _gradient_bytes(task) <= spare
    return Store(rotation, whole, count, storage, folder)


def _turned(rows: Rows, rotation: Rotation, storage: torch.dtype | None, folder: Path | None) -> Rows:
    """Gradients rotated where they lie, if they were written out, for they are the largest thing here."""
    (whole,) = rows.parts
    assert isinstance(rotation, Columns)
    room = rows if isinstance(whole, Tensor) and storage in (None, whole.dtype) else None
    for place, turned in rotation.turned(whole):
        found = _stored(Rows((turned,)), storage)
        room = room or found.room(len(rows), folder)
        room.put(place, found)
    assert room is not None
    return room


def _spare(
    task: Task, curvature: Curvature, sizes: Sizes, memory: int, folder: Path | None, stops: int = 0
) -> int:
    """Bytes that rows may take: what memory leaves, or what is free where they are mapped to."""
    if folder is not None:
        return shutil.disk_usage(folder).free
    held: Held = "part" if stops else "row"
    beside = _beside_rows(task, curvature, sizes, held, memory)
    return memory - beside - weights_bytes(stops, task.objective.size, task.objective.dtype)


def _truncated(
    task: Task,
    basis: Eigenbasis,
    chunk: int,
    spare: int,
    storage: torch.dtype | None,
    folder: Path | None,
    stops: Sequence[float],
) -> Index:
    """The pass that makes the normalizers keeps as much of the rows as there is room for."""
    count, dtype, values = task.source.length, task.objective.dtype, basis.eigenvalues
    index = Index(basis, count, None, dtype)
    semidefinite = values is not None and float(values.min()) >= -1e-9 * float(values.max())
    if basis.solver is not None or basis.tail is not None or not semidefinite:
        normalize(task, index, index.missing(stops), chunk, lambda share: None)
        return index
    assert values is not None
    numbers = max(0, spare) // (count * (storage or dtype).itemsize)
    kept: Kept | None = None
    rows: Rows | None = None
    if numbers:
        with task.evaluating():
            kept = choose(basis.rotation.rotate_batch(next(task.some([0], 1))), values, numbers)

    def keep(place: slice, parts: Iterator[Part]) -> Iterator[Part]:
        nonlocal rows
        assert kept is not None
        selected: list[Part] = []
        for columns, part in zip(kept.columns, parts, strict=True):
            selected += kept_part(part, columns)
            yield part
        found = _stored(Rows(tuple(selected)), storage)
        rows = rows or found.room(count, folder)
        rows.put(place, found)

    normalize(task, index, index.missing(stops), chunk, lambda share: None, *([] if kept is None else [keep]))
    return replace(index, rows=rows, kept=kept if kept is None or kept.count < sum(kept.sizes) else None)


def batch_sizes(
    task: Task, curvature: Curvature, batch_size: int | None, memory: int, *, same: bool
) -> Sizes:
    """As asked, or what keeps one batch within an eighth of the memory; `same`: in all passes."""

    def of(held: Held) -> int:
        if batch_size is not None:
            return batch_size
        return _at_once(task, _example_bytes(task, curvature, "row" if same else held), memory)

    return {held: of(held) for held in get_args(Held)}


def gradients_at_once(task: Task, batch_size: int | None, memory: int) -> int:
    """Examples a batch where whole gradients of P numbers are formed."""
    if batch_size is not None:
        return batch_size
    each = 3 * task.objective.size * task.objective.dtype.itemsize + task.plan.activations
    return _at_once(task, each, memory)


def _at_once(task: Task, each: int, memory: int) -> int:
    most = max(_CHUNK_BYTES.get(task.objective.device.type, _ELSEWHERE), _COPIES * task.objective.size * 8)
    return max(1, min(BATCH, most // each, memory // 8 // each), min(_FEW, memory // 8 // each))


def check_memory(task: Task, curvature: Curvature, sizes: Sizes, memory: int) -> None:
    """Refuse a fit whose curvature would not fit; rows and inputs that do not fit are not kept.

    Raises:
        ModelError: Curvature and a batch together exceed `memory` bytes.
    """
    parts = _working(task, curvature, sizes, "part")
    total = sum(parts.values())
    if total > memory:
        detail = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items())
        *others, last = (module_of(name) for name in task.objective.parameters)
        ways = [f'score fewer parameters, such as parameters="{last}"'] if {*others} - {last} else []
        if curvature.name != "identity":
            leaner = '"identity"' if curvature.name in _LEAN else '"low_rank" or "ekfac"'
            ways.append(f"take a curvature that needs less, such as {leaner}")
        if sizes["part"] > 1:
            ways.append("set batch_size=1")
        advice = ", ".join([*ways, "or raise memory_limit"]) if ways else "raise memory_limit"
        raise ModelError(
            f"Fitting needs about {in_bytes(total)} ({detail}), and {in_bytes(memory)} may be used. "
            f"{advice[0].upper()}{advice[1:]}."
        )


def _working(
    task: Task, curvature: Curvature, sizes: Sizes, held: Held, *, last: bool = False
) -> dict[str, int]:
    """Bytes that a fit works with: at its peak, or from the last pass on."""
    return {
        "curvature": curvature.working_memory(task.objective.size, task.plan, last=last),
        "one batch": sizes[held] * _example_bytes(task, curvature, held),
    }


def _beside_rows(task: Task, curvature: Curvature, sizes: Sizes, held: Held, memory: int) -> int:
    """Bytes that are not there for rows, from the last pass on."""
    working = _working(task, curvature, sizes, held, last=True)
    return sum(working.values()) + _kept_inputs(task, curvature, sizes, memory)


def _kept_inputs(task: Task, curvature: Curvature, sizes: Sizes, memory: int) -> int:
    """Bytes of inputs that are kept for k-NN: all of them, or none."""
    needed = _inputs_bytes(task)
    return needed if needed + sum(_working(task, curvature, sizes, "part").values()) <= memory else 0


def _inputs_bytes(task: Task) -> int:
    """Bytes that it takes to keep the inputs for k-NN; none where they lie in memory anyway."""
    apart = isinstance(task.example, list) and shared_inputs(task) is None
    numbers = torch.Size(task.example).numel() if apart else 0
    return task.source.length * numbers * task.objective.dtype.itemsize


def available_memory() -> int:
    """Half of what the machine, or the container that this runs in, has free."""
    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # no container, or "max"
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return max(free // 2, 64 << 20)


def as_bytes(limit: int | float | str | None) -> int | None:
    """Bytes of a number or of text such as "2GB" (powers of ten) or "2GiB" (of 1,024).

    >>> as_bytes("1.5 MB"), as_bytes("2KiB"), as_bytes(2e9)
    (1500000, 2048, 2000000000)
    """
    if limit is None:
        return None
    if isinstance(limit, (int, float)) and not isinstance(limit, bool) and 1 <= limit < 1 << 62:
        return int(limit)
    text = limit.lower() if isinstance(limit, str) else ""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt]?)b?|([kmgt])ib)\s*", text)
    if found is None or float(found[1]) == 0:
        raise ChoiceError(
            f'memory_limit={limit!r}; expected a number of bytes, or text such as "2GB" or "2GiB".'
        )
    unit = 1024 ** " kmgt".index(found[3]) if found[3] else _UNITS[found[2]]
    return int(float(found[1]) * unit)


def _same_data(task: Task, before: str, now: str) -> str:
    if before not in ("", now):
        raise DataError(
            f"{task.source.name} differs between two passes over the data. Scores belong to fixed "
            "examples; pass the data set with its evaluation transform (no random augmentation)."
        )
    return now


def _stored(rows: Rows, storage: torch.dtype | None) -> Rows:
    """Rows in the precision of storage.

    Raises:
        ModelError: A number is too large for it.
    """
    if storage is None:
        return rows
    found = rows.to(storage)
    if not all(bool(tensor.isfinite().all()) for tensor in found.tensors):
        raise ModelError(
            f"A rotated gradient is too large for storage={str(storage).removeprefix('torch.')!r}, which ends at "
            f'{torch.finfo(storage).max:g}. Use storage="bfloat16".'
        )
    return found


def as_storage(storage: str | torch.dtype | None) -> torch.dtype | None:
    """A precision by name.

    Raises:
        ChoiceError: It is none of those that rows are kept in.
    """
    if storage is None:
        return None
    known = {str(dtype).removeprefix("torch."): dtype for dtype in STORAGES}
    return known[one_of("storage", str(storage).removeprefix("torch."), tuple(known))]


def as_folder(folder: Any) -> Path | None:
    """A folder that can be written to, made where it is not there.

    Raises:
        ChoiceError: It cannot.
    """
    if folder is None:
        return None
    try:
        place = Path(folder).expanduser()
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except (OSError, TypeError) as error:
        why = "there is a file of that name" if isinstance(error, FileExistsError) else error
        raise ChoiceError(
            f"index_folder={folder!r} cannot be written to: {why}. Expected a folder on a disk with room, "
            'such as "/tmp/index".'
        ) from error
    return place


def stored(index: Index) -> str:
    """What an index holds, in words."""
    rows, kept = index.rows, index.kept
    if rows is None:
        return "no rows, they exceed the memory: each question takes a pass over the training set"
    precision = str(index.stored_dtype).removeprefix("torch.")
    where = ", mapped to a file" if rows.mapped else ""
    held = "rotated gradients" if rows.gradients is None else "rotated gradients, and gradients as they are,"
    text = f"{in_bytes(rows.nbytes)} of {held} in {precision}{where}"
    afresh = "the best of a ranking are scored afresh, and TopK.certified says where nobody else can belong to them"
    if kept is None:
        few = "" if index.complete else ", their leading coordinates alone"
        return f"{text}{few}; {afresh}" if index.partial else text
    values = index.basis.eigenvalues
    assert values is not None
    share = float(kept.of(values).sum() / values.sum())
    named = zip(index.basis.rotation.names, kept.energy, strict=False)
    parts = ", ".join(f"{name or 'the model itself'} {energy:.0%}" for name, energy in named)
    return (
        f"{text}, {kept.count:,} of {sum(kept.sizes):,} coordinates with {share:.1%} of the curvature's trace"
        f"{f' ({parts})' if parts else ''}; {afresh}"
    )


def unkept(neighbors: Neighbors | None) -> list[str]:
    """That inputs were not kept, in words."""
    if neighbors is None or isinstance(neighbors.inputs, Tensor):
        return []
    return ["k-NN: inputs exceed the memory, and are read anew for each question"]


def _row_bytes(task: Task, rotation: Rotation | None, storage: torch.dtype | None) -> int:
    size = task.objective.size
    plain, kept = task.objective.dtype.itemsize, (storage or task.objective.dtype).itemsize
    if rotation is not None:
        return rotation.row_bytes(task.plan, size, kept)
    # Raw gradients are kept until they are turned: as they are, or the factors of an outer product.
    sole = task.plan.sole(task.objective)
    return size * plain if sole is None else size * kept + (sole.out + sole.into) * plain


def _gradient_bytes(task: Task) -> int:
    return task.objective.size * task.objective.dtype.itemsize


def _example_bytes(task: Task, curvature: Curvature, held: Held) -> int:
    # The Jacobian, its product with the loss's factor, and a temporary of that size.
    width = 3 * (task.outputs + 1) if curvature.uses_jacobian else 3
    numbers = curvature.numbers(task.plan, task.objective.size, held=held)
    return width * numbers * task.objective.dtype.itemsize + task.plan.activations


def in_bytes(count: int) -> str:
    """A number of bytes as people read it, in powers of ten.

    >>> in_bytes(30_000), in_bytes(205_200_000)
    ('30 kB', '205 MB')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"
