"""benchmarks/bench.py: what it writes of what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench", ROOT / "benchmarks" / "bench.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OURS: dict[str, Any] = {
    "name": "ekfac", "epoch": 10.0, "fit": 50.0, "self-influence": 0.001, "prepare": 0.5, "click": 0.6,
    "another damping": 2.0, "slide": 2e-5, "streamed": 0.4, "index": 4.8e9, "certified": 1.0, "product": 100.0,
    "peak": 6e9, "threads": 2, "batch": {"1000": 10.0, "10000": 90.0}, "top": [[1, 2, 3, 4, 5]],
    "on": ["2020-02-02", "a processor"],
}  # fmt: skip
THEIRS: dict[str, Any] = {
    "name": "kronfluence", "epoch": 11.0, "fit": 55.0, "self-influence": 33.0, "one query": 22.0, "peak": 1e9,
    "threads": 2, "batch": {"10000": 440.0}, "top": [[1, 2, 3, 4, 6]], "note": "EK-FAC",
    "on": ["2020-02-01", "a processor"],
}  # fmt: skip


def test_epochs_are_those_of_the_same_process(bench: ModuleType) -> None:
    lines = bench.compose([OURS, THEIRS]).splitlines()
    assert (
        "| EK-FAC | 5 (50 s) | 0.0001 (0.001 s) | 0.05 (0.5 s); shown: 0.06 (0.6 s) | 0.2 (2 s) "
        "| 1,000: 1 (10 s); 10,000: 9 (90 s) | 6.00 GB |" in lines
    )
    assert (
        "| kronfluence 1.0.1 | 5 (55 s) | 3 (33 s) | 2 (22 s) | 2 (22 s) | 10,000: 40 (440 s) | 1.00 GB |"
        in lines
    )
    assert "| fit, with self-influence | 5 | 8 | 1.6 | 1.76 |" in lines
    assert "| a new query, shown | 0.06 | 2 | 33.3 | 36.7 |" in lines
    assert "| a new damping | 0.2 | 2 | 10 | 11 |" in lines
    assert "| 10,000 queries | 9 | 40 | 4.44 | 4.89 |" in lines
    assert any("the two: 0.67;" in line for line in lines)  # four of six
    others = bench.compose([OURS | {"model": "one"}, THEIRS | {"model": "another"}])
    assert "the two:" not in others  # whose names would have nothing in common
    assert "| a new damping | 0.2 | 2 | 10 | 11 |" in others
    assert any(
        "take 1.2 × as long as streaming that once, with the document 1.5 ×" in line
        and "0.90 × the time of one plain" in line
        for line in lines
    )
    assert lines[-2:] == [
        "- 2020-02-02, a processor: EK-FAC.",
        "- 2020-02-01, a processor: kronfluence 1.0.1.",
    ]


def test_kinds_of_processor_do_not_mix(bench: ModuleType) -> None:
    quicker = OURS | {"epoch": 5.0, "on": ["2020-02-03", "a processor, 2 cores, AVX512"]}
    theirs = THEIRS | {"on": ["2020-02-03", "a processor, 2 cores, AVX2"]}
    text = bench.compose([quicker, theirs, OURS | {"on": ["2020-02-03", "a processor, 2 cores, AVX2"]}])
    first, second = text.index("## Processors with AVX2"), text.index("## Processors with AVX512")
    assert first < second  # that with more lines
    assert "| EK-FAC | 5 (50 s) |" in text[first:second]
    assert "| kronfluence 1.0.1 | 5 (55 s) |" in text[first:second]
    assert "ratio of seconds" in text[first:second]
    assert "| EK-FAC | 10 (50 s) |" in text[second:]
    assert "kronfluence 1.0.1 |" not in text[second:]
    assert "ratio of seconds" not in text[second:]  # of two machines


def test_a_large_model_has_a_line_of_its_own(bench: ModuleType) -> None:
    result = {
        "name": "resnet18", "epoch": 90.0, "fit": 1800.0, "prepare": 13.5, "top": 4.5, "parameters": 11_181_642,
        "examples": 50_000, "memory": "3GB", "peak": 3.5e9, "threads": 2,
        "on": ["2020-02-02", "a processor"],
        "index": "index: 1.1 GB of rotated gradients in float32, 5,500 of 11,181,642 coordinates",
    }  # fmt: skip
    text = bench.compose([OURS, result])
    assert "**ResNet-18**, 11,181,642 parameters, all of them scored; 50,000 pictures" in text
    assert (
        "fit with all normalizers 20 (1,800 s), a new query by all methods at all stops 0.15 (13.5 s)" in text
    )
    assert "5,500 of 11,181,642 coordinates with the most energy" in text


def test_a_dense_fisher_has_a_line_of_its_own(bench: ModuleType) -> None:
    result = {
        "name": "dense", "parameters": 7850, "examples": 60_000, "fit": 75.0, "product": 50.0, "peak": 5.4e9,
        "threads": 2, "on": ["2020-02-02", "a processor"],
    }  # fmt: skip
    text = bench.compose([OURS, result])
    assert "softmax regression on MNIST, 7,850 parameters, 60,000 examples" in text
    assert "in 75 s, 1.50 × the time of one plain float32 product" in text


def test_what_failed_is_said(bench: ModuleType) -> None:
    text = bench.compose([OURS, {"name": "trak", "failed": "stopped after 3600 s", "on": OURS["on"]}])
    assert "- TRAK 0.3.2: stopped after 3600 s." in text.splitlines()
    assert "- Not measured on this kind: " in text
    assert "kronfluence 1.0.1, captum 0.9.0, dattri 0.3.0, A dense Fisher, ResNet-18." in text


def test_a_rehearsal_is_called_one(bench: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "ekfac.json").write_text(json.dumps(OURS))
    found = bench.write(tmp_path, True)
    assert found == tmp_path / "benchmarks.md"
    assert "**A rehearsal on 600 pictures: none of these numbers is a result.**" in found.read_text()


def test_what_was_not_measured_again_stays_as_it_was(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    first, again = tmp_path / "first", tmp_path / "again"
    for folder, results in ((first, (OURS, THEIRS)), (again, ({**OURS, "fit": 40.0},))):
        folder.mkdir()
        for result in results:
            (folder / f"{result['name']}.json").write_text(json.dumps(result))
    bench.write(first, False)
    text = bench.write(again, False).read_text()
    assert "| EK-FAC | 4 (40 s) |" in text
    assert "| kronfluence 1.0.1 | 5 (55 s) |" in text
