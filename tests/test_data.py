"""Every kind of data set that users bring, and what is said of those that cannot be read."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cases import blobs, pictures
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from relatif_widgets import DataError, Explainer, media
from relatif_widgets.data import (
    Fingerprint,
    ahead,
    as_inputs,
    as_source,
    batch_length,
    fit_inputs,
    map_tensors,
    transferred,
)
from relatif_widgets.explanation import Row


class Items(Dataset):  # type: ignore[type-arg]
    """A map-style data set over a list."""

    def __init__(self, items: list[object]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> object:
        return self.items[row]


class Torchvision(Dataset):  # type: ignore[type-arg]
    """What torchvision's data sets look like from outside."""

    classes = ("ant", "bee", "cat")

    def __init__(self) -> None:
        self.transform = lambda image: torch.from_numpy(np.asarray(image, dtype=np.float32)) / 255 - 0.5
        self.pictures, self.targets = pictures()

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, row: int) -> tuple[object, int]:
        image = Image.fromarray((self.pictures[row, 0].numpy() * 255).astype(np.uint8))
        return (self.transform(image) if self.transform else image), int(self.targets[row])


X, Y = pictures()
PAIRS = [(X[i], int(Y[i])) for i in range(len(X))]


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        TensorDataset(X, Y),
        Items(PAIRS),
        Items([{"image": x, "label": y} for x, y in PAIRS]),
        Items([{"labels": y, "pixel_values": x, "path": "p"} for x, y in PAIRS]),
        Subset(TensorDataset(torch.cat([X, X]), torch.cat([Y, Y])), range(24)),
    ],
    ids=["tensors", "arrays", "TensorDataset", "Dataset", "dicts", "Hugging Face style", "Subset"],
)
def test_every_form_gives_the_same_batches(data: object) -> None:
    source = as_source(data, "train_set")
    assert source.length == 24
    inputs, targets = source.batch([3, 0, 7])
    assert torch.equal(inputs, X[[3, 0, 7]])
    assert torch.equal(targets, Y[[3, 0, 7]])
    assert [(first, len(i), len(t)) for first, i, t in source.batches(10)] == [
        (0, 10, 10),
        (10, 10, 10),
        (20, 4, 4),
    ]
    source.probe()


def test_a_real_hugging_face_data_set_gives_names_and_its_raw_pictures() -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray((x[0].numpy() * 255).astype(np.uint8)) for x in X]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])}
    )
    plain = datasets.Dataset.from_dict({"image": images, "label": Y.tolist()}, features=features)

    def transform(rows: dict[str, list[object]]) -> dict[str, list[object]]:
        tensors = [
            torch.from_numpy(np.asarray(image, dtype=np.float32))[None] / 255 for image in rows["image"]
        ]
        return {"pixel_values": tensors, "label": rows["label"]}

    source = as_source(plain.with_transform(transform), "train_set")
    assert source.class_names == ("ant", "bee", "cat")
    inputs, targets = source.batch([2, 5])
    torch.testing.assert_close(inputs, (X[[2, 5]] * 255).to(torch.uint8).float() / 255)
    assert targets.tolist() == Y[[2, 5]].tolist()
    raw = source.raw(5)
    assert isinstance(raw, Image.Image)
    assert np.array_equal(np.asarray(raw), np.asarray(images[5]))


def test_torchvision_pictures_are_shown_before_their_transform() -> None:
    data = Torchvision()
    source = as_source(data, "train_set")
    assert source.class_names == ("ant", "bee", "cat")
    assert isinstance(source.raw(3), Image.Image)
    assert source.batch([3])[0].min() < 0  # what the model sees is transformed
    assert data.transform is not None  # the user's object is not changed
    part = as_source(Subset(data, [5, 3]), "train_set")
    assert part.class_names == ("ant", "bee", "cat")
    assert np.array_equal(np.asarray(part.raw(1)), np.asarray(source.raw(3)))


def test_collate_fn_handles_variable_lengths() -> None:
    items = [(torch.ones(1 + i % 3), i % 2) for i in range(6)]

    def collate(batch: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        padded = torch.nn.utils.rnn.pad_sequence([x for x, _ in batch], batch_first=True)
        return torch.nn.functional.pad(padded, (0, 3 - padded.shape[1])), torch.tensor([y for _, y in batch])

    inputs, targets = as_source(Items(items), "train_set", collate).batch([0, 1, 2])
    assert inputs.tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert targets.tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="examples 0 to 2 do not stack into one batch.*collate_fn="):
        as_source(Items(items), "train_set").batch([0, 1, 2])


def test_a_tokenizers_output_goes_to_the_model_by_name() -> None:
    items = [{"input_ids": torch.arange(3), "attention_mask": torch.ones(3), "text": "a", "label": 1}] * 2
    inputs, targets = as_source(Items(items), "train_set").batch([0, 1])
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].shape == (2, 3)
    assert targets.tolist() == [1, 1]


class Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self):  # type: ignore[no-untyped-def]
        yield from PAIRS


class Broken(Items):
    def __getitem__(self, row: int) -> object:
        if row == 3:
            raise OSError("truncated jpeg")
        return super().__getitem__(row)


class Short(Items):
    def __len__(self) -> int:
        return 99


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataLoader(TensorDataset(X, Y)), "train_set is a DataLoader.*train_set=loader.dataset"),
        (Endless(), "Endless, which has no length or cannot be indexed"),
        (42, "int, which has no length"),
        ((X, Y[:5]), "24 inputs but 5 targets"),
        (Items([]), "train_set is empty"),
        (Items([X[0]] * 3), r"example 0 is Tensor; expected a pair \(input, target\)"),
        (Items([(X[0], 1, 2)] * 3), "example 0 is 3 parts; expected a pair"),
        (
            Items([{"picture": X[0], "kind": 1}] * 3),
            r"columns \['picture', 'kind'\]; expected one of \['label'",
        ),
        (
            Items([{"left": X[0], "right": X[0], "label": 1}] * 3),
            r"several possible inputs \['left', 'right'\]",
        ),
        (Broken(PAIRS[:4]), r"example 3 cannot be read \(OSError: truncated jpeg\)\. Mend that example"),
        (Short(PAIRS), "example 98 cannot be read .*although its length is 99"),
    ],
)
def test_data_that_cannot_be_read_say_why_and_what_to_do(data: object, message: str) -> None:
    def read() -> None:
        source = as_source(data, "train_set")
        source.batch([0])
        source.batch([source.length - 1])

    with pytest.raises(DataError, match=message):
        read()


def test_probe_finds_labels_that_change_too() -> None:
    class Flips(Items):
        count = 0

        def __getitem__(self, row: int) -> object:
            self.count += 1
            return X[row], self.count

    with pytest.raises(DataError, match="example 0 differs between two passes"):
        as_source(Flips(PAIRS), "train_set").probe()


def test_queries_may_be_a_batch_a_list_or_a_data_set() -> None:
    for queries in (X[:3], X[:3].numpy(), [X[0], X[1], X[2]], TensorDataset(X[:3], Y[:3]), (X[:3], Y[:3])):
        inputs, _ = as_inputs(queries, "queries").batch([0, 1, 2])
        assert torch.equal(torch.as_tensor(inputs), X[:3])
    assert as_inputs({"a": X[:3], "b": X[:3]}, "queries").length == 3
    with pytest.raises(DataError, match="queries is empty"):
        as_inputs(X[:0], "queries")
    with pytest.raises(DataError, match=r"have shapes \[\(1,\), \(2,\)\]; expected one shape"):
        as_inputs([torch.ones(1), torch.ones(2)], "queries")


def test_data_frames_and_lists_are_arrays_too() -> None:
    table = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    frame, column = pd.DataFrame(table), pd.Series([0, 1, 0])
    for data in [(frame, column), (table, [0, 1, 0]), [np.asarray(table), np.asarray([0, 1, 0])]]:
        inputs, targets = as_source(data, "train_set").batch([1])
        assert inputs.tolist() == [[3.0, 4.0]]
        assert targets.tolist() == [1]
    assert as_inputs(frame, "queries").batch([2])[0].tolist() == [[5.0, 6.0]]
    assert as_inputs(table, "queries").batch([2])[0].tolist() == [[5.0, 6.0]]
    with pytest.raises(DataError, match=r"holds <U1; expected numbers. Encode labels as integers"):
        as_source((np.asarray(table), np.asarray(["a", "b", "a"])), "train_set")


def test_inputs_take_the_models_dtype_but_integers_stay() -> None:
    moved = fit_inputs((X[:2].double(), torch.arange(2)), torch.float32, torch.device("cpu"), "train_set", 0)
    assert [x.dtype for x in moved] == [torch.float32, torch.int64]
    with pytest.raises(DataError, match="inputs are str; expected tensors"):
        fit_inputs("text", torch.float32, torch.device("cpu"), "train_set", 0)


def test_map_tensors_keeps_the_structure() -> None:
    tree = {"a": torch.ones(2), "b": [torch.zeros(2), "text", 3]}
    mapped = map_tensors(lambda x: x + 1, tree)
    assert mapped["a"].tolist() == [2, 2]
    assert mapped["b"][0].tolist() == [1, 1]
    assert mapped["b"][1:] == ("text", 3)
    assert batch_length(tree) == 2
    with pytest.raises(DataError, match=r"\[2, 3\] rows; expected the same number"):
        batch_length((torch.ones(2), torch.ones(3)))


def test_the_fingerprint_follows_the_values_not_the_batches() -> None:
    def of(*parts: Tensor) -> str:
        fingerprint = Fingerprint()
        for part in parts:
            fingerprint.add(part)
        return fingerprint.hexdigest()

    assert of(X) == of(X.clone()) == of(X[:3], X[3:]) == of(*X.split(1))
    changed = X.clone()
    changed[3, 0, 0, 0] += 1e-3
    assert of(X) != of(changed)
    assert of(X) != of(X.double())
    pairs = Fingerprint(), Fingerprint()
    pairs[0].add(X, torch.arange(len(X)))
    for part, rows in zip(X.split(2), torch.arange(len(X)).split(2), strict=True):
        pairs[1].add(part, rows)
    assert pairs[0].hexdigest() == pairs[1].hexdigest()


# Data frames


def patients() -> pd.DataFrame:
    """Columns of every type that a model can take, and an index that is not 0, 1, 2."""
    return pd.DataFrame(
        {
            "age": [31, 47, 62],
            "dose": [0.25, 1.5, 1e-7],
            "smoker": [True, False, True],
            "visits": pd.array([3, 0, 12], dtype="Int64"),
        },
        index=[90, 7, 55],
    )


NUMBERS = [[31, 0.25, 1, 3], [47, 1.5, 0, 0], [62, 1e-7, 1, 12]]


@pytest.mark.parametrize("targets", [pd.Series([0, 1, 0], index=[90, 7, 55]), np.array([0, 1, 0]), [0, 1, 0]])
def test_examples_of_a_data_frame_keep_their_columns_and_values(targets: object) -> None:
    for source in (as_source((patients(), targets), "train_set"), as_inputs(patients(), "test_set")):
        inputs, _ = source.batch([0, 1, 2])
        torch.testing.assert_close(inputs, torch.tensor(NUMBERS, dtype=torch.float64))
        assert source.raw(1) == {"age": 47, "dose": 1.5, "smoker": False, "visits": 0}
        shown = media.show(source.raw(2))
        assert shown == Row(columns=("age", "dose", "smoker", "visits"), values=("62", "1e-07", "True", "12"))
    assert as_source((patients(), targets), "train_set").batch([1, 2])[1].tolist() == [1, 0]


def test_a_data_frame_of_one_type_keeps_that_type() -> None:
    for dtype in ("int64", "float32", "uint8", "bool"):
        frame = pd.DataFrame({"a": [0, 1], "b": [1, 1]}).astype(dtype)
        inputs, _ = as_inputs(frame, "queries").batch([0])
        assert inputs.dtype == getattr(torch, dtype)
    mixed = pd.DataFrame({"a": np.array([1], dtype="float32"), "flag": [True]})
    assert as_inputs(mixed, "queries").batch([0])[0].dtype == torch.float32


def test_columns_may_share_a_name_or_have_names_that_are_no_text() -> None:
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=["a", "a", ("left", 1), 7])
    assert as_inputs(frame, "queries").raw(0) == {"a": 1, "a (2)": 2, "('left', 1)": 3, "7": 4}


def test_the_columns_stay_as_they_were_read() -> None:
    frame = patients()
    source = as_inputs(frame, "queries")
    frame["late"] = [1, 2, 3]
    frame.columns = list("abcde")
    assert list(source.raw(0)) == ["age", "dose", "smoker", "visits"]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["a", "b", "c"], "str"),
        (pd.Categorical(["a", "b", "a"]), "category"),
        (pd.to_datetime(["2020-01-01"] * 3), "datetime64"),
        ([1, "b", None], "object"),
        ([1j, 2j, 3j], "complex128"),
    ],
)
def test_columns_without_numbers_are_named(column: object, words: str) -> None:
    frame = patients().assign(city=column, land=column)
    for read in (
        lambda: as_source((frame, [0, 1, 0]), "train_set"),
        lambda: as_inputs(frame, "train_set"),
    ):
        with pytest.raises(DataError) as caught:
            read()
        message = str(caught.value)
        assert message.startswith("train_set: the columns city (")
        assert f"land ({words}" in message or words == "str"
        assert "age" not in message
        assert "Encode them as it does, or leave them out: frame.drop(columns=[...])." in message


def test_many_columns_without_numbers_are_not_all_listed() -> None:
    frame = pd.DataFrame({f"word {i}": ["x"] for i in range(50)})
    with pytest.raises(DataError, match=r"the columns word 0 \(.*word 19 \(.* and 30 more hold no numbers"):
        as_inputs(frame, "queries")


def test_missing_values_are_refused_with_their_row() -> None:
    frame = patients()
    frame.loc[7, "visits"] = pd.NA
    source = as_inputs(frame, "queries")
    assert media.show(source.raw(1)).values[-1] == "<NA>"
    with pytest.raises(DataError, match="queries: example 1 holds NaN"):
        fit_inputs(source.batch([0, 1, 2])[0], torch.float32, torch.device("cpu"), "queries", 0)


def test_a_data_frame_without_targets_is_no_training_set() -> None:
    with pytest.raises(
        DataError, match=r"train_set is a DataFrame, with the columns age, dose, smoker, visits; .*"
    ):
        as_source(patients(), "train_set")
    with pytest.raises(DataError, match=r"train_set=\(frame.drop\(columns=\[target\]\), frame\[target\]\)"):
        as_source(patients(), "train_set")


@pytest.mark.parametrize("dtype", ["int64", "Int64", "float64", "Float64", "bool", "boolean", "uint8"])
def test_targets_may_be_a_series_of_any_numbers(dtype: str) -> None:
    targets = pd.Series([0, 1, 0], index=[5, 6, 7]).astype(dtype)
    assert [int(y) for y in as_source((patients(), targets), "train_set").batch([0, 1])[1]] == [0, 1]


def test_targets_that_are_no_numbers_are_refused() -> None:
    for targets in (pd.Series(["a", "b", "a"]), pd.Series(["a", "b", "a"], dtype="category")):
        with pytest.raises(DataError, match="expected numbers. Encode labels as integers from 0"):
            as_source((patients(), targets), "train_set")


def test_every_example_of_an_explanation_shows_its_columns() -> None:
    x, y = blobs()
    names = ["length", "width", "height", "weight"]
    frame = pd.DataFrame(x.numpy(), columns=names, index=range(100, 100 + len(x)))
    model = torch.nn.Linear(4, 3).double()
    explainer = Explainer(model, (frame, pd.Series(y.numpy()))).fit(progress=False)
    right = Explainer(model, (x, y)).fit(progress=False)
    assert torch.equal(explainer.scores(frame[:3]), right.scores(x[:3]))
    for explanation in (
        explainer.queries((frame, y)).explain(2),
        explainer.queries(frame).explain(2),
        explainer.explain(frame.iloc[2]),
    ):
        for shown in (explanation.query.media, *(example.media for example in explanation.examples)):
            assert isinstance(shown, Row)
            assert shown.columns == tuple(names)
        assert explanation.query.media.values[1] == f"{float(x[2, 1]):,.6g}"


def test_a_row_of_mixed_types_is_a_query() -> None:
    frame = patients().drop(columns="visits")
    model = torch.nn.Linear(3, 2)
    explainer = Explainer(model, (frame, [0, 1, 0]), damping=1.0).fit(progress=False)
    shown = explainer.explain(frame.iloc[0]).query.media
    assert shown == Row(columns=("age", "dose", "smoker"), values=("31", "0.25", "True"))
    with pytest.raises(
        DataError, match="query holds no numbers in the columns name, city. Encode or drop them"
    ):
        explainer.explain(pd.Series({"age": 3, "name": "Ada", "city": "x"}))
    with pytest.raises(DataError, match=r"query has shape \[1, 3\]; expected one example"):
        explainer.explain(frame.iloc[[0]])


def test_pandas_and_polars_are_not_needed_to_read_arrays() -> None:
    program = (
        "import sys; sys.modules['pandas'] = None; sys.modules['polars'] = None\n"
        "import numpy as np, torch\n"
        "from relatif_widgets import Explainer\n"
        "x, y = np.eye(3), [0, 1, 2]\n"
        "e = Explainer(torch.nn.Linear(3, 3), (x, y)).fit(progress=False)\n"
        "e.queries(x).explain(1)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_a_mapping_may_hold_several_values_in_one_column() -> None:
    source = as_inputs({"tokens": torch.arange(30).reshape(2, 15), "length": torch.tensor([3, 4])}, "queries")
    shown = media.show(source.raw(0))
    assert shown == Row(columns=("tokens", "length"), values=("0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, …", "3"))
    words = media.show(
        {"name": "Ada", "day": pd.Timestamp("2020-01-02"), "few": np.array([1.5, 2]), "none": None}
    )
    assert words.values == ("Ada", "2020-01-02 00:00:00", "1.5, 2", "None")


def test_the_next_batch_is_read_while_one_is_worked_on() -> None:
    reading, may_go = [threading.Event() for _ in range(4)], threading.Event()

    def batches() -> Iterator[tuple[int, Any, Tensor]]:
        for first, event in enumerate(reading):
            event.set()
            assert first == 0 or may_go.wait(30)
            yield first, {"x": torch.full((2,), first)}, torch.tensor([first])

    found = ahead(batches())
    first, inputs, targets = next(found)
    assert (first, inputs["x"].tolist(), targets.tolist()) == (0, [0, 0], [0])
    assert reading[1].wait(30)  # nobody has asked for it yet
    assert not reading[2].is_set()  # one ahead, not all of them
    may_go.set()
    assert [(first, targets.tolist()) for first, _, targets in found] == [(1, [1]), (2, [2]), (3, [3])]


def test_what_the_reader_raises_is_raised_at_its_batch_and_no_thread_stays() -> None:
    def batches() -> Iterator[tuple[int, Any, Tensor]]:
        yield 0, torch.zeros(1), torch.zeros(1)
        raise DataError("example 1 is gone")

    found = ahead(batches())
    assert next(found)[0] == 0
    with pytest.raises(DataError, match="example 1 is gone"):
        next(found)
    left = ahead(iter(range(9)))
    next(left)
    left.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("relatif-reader")]


def test_a_data_set_is_read_by_another_thread_and_arrays_where_they_lie() -> None:
    x, y = torch.randn(12, 3), torch.arange(12) % 2
    readers: set[str] = set()

    class Rows(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            readers.add(threading.current_thread().name)
            return x[row], int(y[row])

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    by_rows, by_arrays = (
        Explainer(model, data, curvature="ekfac", batch_size=5) for data in (Rows(), (x, y))
    )
    readers.clear()
    by_rows.fit(progress=False)
    assert any(name.startswith("relatif-reader") for name in readers)
    before = set(threading.enumerate())
    by_arrays.fit(progress=False)
    assert set(threading.enumerate()) <= before
    one, other = (e.explain(x[0]) for e in (by_rows, by_arrays))
    assert one.provenance.data_fingerprint == other.provenance.data_fingerprint
    assert torch.equal(by_rows.scores(x[:2]), by_arrays.scores(x[:2]))


def test_batches_go_to_a_gpu_from_pinned_memory_while_the_one_before_is_worked_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where there is no GPU: what is asked of torch, and in which order."""
    asked: list[str] = []

    class Stream:
        def __init__(self, name: Any) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            asked.append(f"{self.name} waits for {other.name}")

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        asked.append(f"on {stream.name}")
        yield
        asked.append(f"off {stream.name}")

    def noted(name: str, result: Any) -> None:
        def method(self: Tensor, *args: Any) -> Any:
            asked.append(f"{name} {int(self[0])}")
            return self if result is None else result

        monkeypatch.setattr(Tensor, name, method)

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", on)
    noted("pin_memory", None)
    noted("record_stream", 0)
    batches = ((first, {"x": torch.tensor([first])}, torch.tensor([10 + first])) for first in range(2))
    found = []
    for first, inputs, targets in transferred(batches, torch.device("cpu")):
        asked.append(f"work {first}")
        found.append((first, inputs["x"].tolist(), targets.tolist()))
    assert found == [(0, [0], [10]), (1, [1], [11])]
    sent = [["on side", f"pin_memory {first}", f"pin_memory {10 + first}", "off side"] for first in range(2)]
    arrived = [
        ["main waits for side", f"record_stream {first}", f"record_stream {10 + first}"] for first in range(2)
    ]
    assert asked == [*sent[0], *arrived[0], *sent[1], "work 0", *arrived[1], "work 1"]
