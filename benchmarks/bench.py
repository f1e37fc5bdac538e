"""How long people wait, here and with other libraries: `make bench` writes docs/benchmarks.md.

    make bench                              # everything, some hour and a half on two idle cores
    python benchmarks/bench.py --only ekfac kronfluence     # these again, the rest as it was
    python benchmarks/bench.py --quick      # a rehearsal on 600 pictures; writes to build/ alone
    python benchmarks/bench.py --write      # only docs/benchmarks.md, from what is kept

The paper's ConvNet on CIFAR-10 as notebooks/05-bird-or-plane.ipynb trains it. Each configuration runs in
a process of its own, one after the other, and measures one plain training epoch beside itself: ratios
compare on a machine whose speed varies, seconds do not. Results are kept as JSON in build/bench/,
and beside the text in docs/benchmarks/, those of each kind of processor for themselves.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "notebooks")]

OURS = ("ekfac", "ekfac-bfloat16", "ekfac-2GB", "low_rank", "growth")
PEERS = ("kronfluence", "captum", "dattri", "trak")
LARGE = ("resnet18",)
DENSE = ("dense",)
ALL = (*OURS, *PEERS, *DENSE, *LARGE)
TITLES = {
    "dense": "A dense Fisher",
    "growth": "growth",
    "resnet18": "ResNet-18",
    "ekfac": "EK-FAC",
    "ekfac-bfloat16": 'EK-FAC, `storage="bfloat16"`',
    "ekfac-2GB": 'EK-FAC, `memory_limit="2GB"`',
    "low_rank": "low-rank whole Fisher",
    "kronfluence": "kronfluence 1.0.1",
    "captum": "captum 0.9.0",
    "dattri": "dattri 0.3.0",
    "trak": "TRAK 0.3.2",
}
STOPS = 11
"""Dampings of the slider, at each of which a query is scored."""

LIMIT, LONG = 1200, 5400
"""Seconds that a configuration may take, and a large model."""

Result = dict[str, Any]


def give(folder: Path, quick: bool) -> str:
    """Model and data for all processes.

    Returns:
        Which model: a digest of its weights, since no two kinds of processor train the same.
    """
    import cifar
    import shared
    import tutorial_data

    (images, labels), (test, _) = tutorial_data.cifar10(600 if quick else None, 60 if quick else None)
    model = cifar.convnet(0)
    epochs, batch = (2, 64) if quick else (24, 128)
    inputs = cifar.as_inputs(images)
    tutorial_data.trained(
        "cifar", model,
        lambda: cifar.train_convnet(model, inputs, labels, epochs=epochs, batch_size=batch, seed=0),
        0, epochs, batch, len(labels),
    )  # fmt: skip
    shared.save(folder, model, images, labels, test)
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(weights).hexdigest()[:16]


def measure(folder: Path, name: str, many: int, peers: Path, model: str) -> None:
    """Run one configuration, and keep what it measured."""
    script, python = ("peers.py", peers) if name in PEERS else ("ours.py", Path(sys.executable))
    if not python.is_file():
        print(f"{name}: left out, {python} is not there (bash scripts/bench.sh makes it)", flush=True)
        return
    print(f"{name} ...", flush=True)
    command = [str(python), str(Path(__file__).parent / script), str(folder), name, str(many)]
    if name in (*LARGE, *DENSE):
        command = [str(python), str(Path(__file__).parent / ("large.py" if name in LARGE else "dense.py"))]
        command += [name] if name in LARGE else []
        command += ["--examples", "600"] if many < 100 else []
    started = time.perf_counter()
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=LONG if name in LARGE else LIMIT, check=False,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        result: Result = {"name": name, "failed": f"stopped after {LONG if name in LARGE else LIMIT} s"}
    else:
        last = ended.stdout.strip().splitlines()[-1:] or [""]
        try:
            result = json.loads(last[0])
        except json.JSONDecodeError:
            said = (ended.stderr.strip() or "nothing on stderr").splitlines()[-1]
            result = {"name": name, "failed": f"ended with status {ended.returncode}: {said}"}
    result["wall"] = round(time.perf_counter() - started, 1)
    result["model"] = model
    result["on"] = [datetime.datetime.now(datetime.UTC).date().isoformat(), processor()]
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"{name}: {result.get('failed', 'done')}, {result['wall']:,} s", flush=True)


def processor() -> str:
    """What this machine computes with, as far as it says."""
    import torch

    told = Path("/proc/cpuinfo")  # of Linux
    named = (
        told.read_text().partition("model name")[2].partition("\n")[0].strip("\t :") if told.exists() else ""
    )
    cores = f"{torch.get_num_threads()} cores"
    return f"{named or platform.processor()}, {cores}, {torch.backends.cpu.get_cpu_capability()}"


def load(folder: Path) -> list[Result]:
    files = [folder / f"{name}.json" for name in ALL]
    return [json.loads(file.read_text("utf-8")) for file in files if file.is_file()]


# docs/benchmarks.md


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def epochs(result: Result, value: float | None) -> str:
    """Seconds as training epochs of the same process, with the seconds beside them."""
    if value is None:
        return ""
    seconds = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    return f"{value / result['epoch']:.3g} ({seconds} s)"


def compose(results: Sequence[Result], quick: bool = False) -> str:
    """The text, from what was measured, a section for each kind of processor."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; do not edit. The paper's ConvNet on CIFAR-10: 24,234 parameters, all of them "
        "scored, 50,000 training pictures, damping 0.1, the predicted label. Every line ran in a process of its "
        "own with nothing beside it. The unit is **one plain training epoch** over "
        "the same data at batch 256, measured in the same process; seconds stand in brackets. Epochs of two kinds "
        "of processor do not compare, so each has its own tables; when and where stands at the end of them.",
        "",
        "*A new query*: here the tables of the best 50 by the three criteria at all eleven dampings, both signs, and "
        "by k-NN; *shown*: with its document, pictures and all, which is what one click costs; elsewhere one score "
        "of every training example. *A new damping* lies between the slider's stops; at a stop it is a lookup. "
        "*Many queries*: the best five by all three criteria; elsewhere one score of every training example. "
        "*Self-influence* here is made by the fit, and looked up. An empty cell: the library has no such question, or "
        "was not asked it. A process's peak memory counts Python, torch, the data and the epochs too. *Certified*: by "
        "a bound, nobody outside can belong to those five. Where it is not, they have been scored exactly, but "
        "somebody who was not might do better.",
        "",
    ]
    if quick:
        lines += ["**A rehearsal on 600 pictures: none of these numbers is a result.**", ""]
    kinds: dict[str, dict[str, Result]] = {}
    for result in results:
        kinds.setdefault(kind(result), {})[result["name"]] = result
    for of in sorted(kinds, key=lambda of: (-len(kinds[of]), of)):
        lines += [f"## Processors with {of}", "", *section(of, kinds[of], quick)]
    return "\n".join(lines)


def section(of: str, kept: dict[str, Result], quick: bool) -> list[str]:
    """What was measured on one kind of processor."""
    ours = {name: kept[name] for name in OURS if name in kept and "failed" not in kept[name]}
    peers = {name: kept[name] for name in PEERS if name in kept and "failed" not in kept[name]}
    one = ours.get("ekfac")
    lines: list[str] = []
    rows = []
    for name, result in {**ours, **peers}.items():
        if name == "growth":
            continue
        many = list(result.get("batch", {}).items())
        click = epochs(result, result.get("prepare", result.get("one query")))
        if "click" in result:
            click += f"; shown: {epochs(result, result['click'])}"
        damped = result.get(
            "another damping",
            result.get("one query") if name in ("kronfluence", "dattri", "captum") else None,
        )
        rows.append([
            TITLES[name],
            epochs(result, result["fit"]), epochs(result, result.get("self-influence")),
            click, epochs(result, damped),
            "; ".join(f"{int(count):,}: {epochs(result, value)}" for count, value in many),
            f"{result['peak'] / 1e9:.2f} GB",
        ])  # fmt: skip
    head = ["", "fit", "self-influence of all", "a new query", "a new damping", "many queries", "peak memory"]
    lines += table(head, rows)
    lines.append("")
    lines += [f"- {TITLES[name]}: {result['note']}." for name, result in peers.items() if result.get("note")]
    failed = [
        f"- {TITLES.get(name, name)}: {result['failed']}."
        for name, result in kept.items()
        if "failed" in result
    ]
    missing = [TITLES.get(name, name) for name in ALL if name not in kept]
    if missing and not quick:
        failed.append(f"- Not measured on this kind: {', '.join(missing)}.")
    lines += [*failed, ""]
    if one is not None:
        lines += [
            f"Sliding to another stop, method or k is a lookup in the document: {1e6 * one['slide']:.0f} µs in Python, "
            "and no message to the kernel in the widget.",
            "",
        ]
        lines += against(one, peers.get("kronfluence"))
        for name, result in ours.items():
            if name != "growth":
                streams, shown = (result[what] / result["streamed"] for what in ("prepare", "click"))
                sure = f"{result['certified']:.0%}"
                work = max(result["batch"].values()) / result["product"]
                stops = result["prepare"] / (STOPS * result["product"] / max(map(int, result["batch"])))
                lines.append(
                    f"- {TITLES[name]}: index {result['index'] / 1e9:.2f} GB; the tables of a new query take "
                    f"{streams:.1f} × as long as streaming that once, with the document {shown:.1f} ×, and "
                    f"{stops:.1f} × one plain float32 product of all gradients with a vector for each stop; top 5 "
                    f"certified for {sure} of 100 queries (IF); the largest batch {work:.2f} × the time of one "
                    "plain float32 product of all gradients at this machine's rate."
                )
        lines.append("")
    if "growth" in ours:
        lines += [f"![How cost grows with n, P and queries](benchmarks/{of}/growth.png)", ""]
        lines += ["*EK-FAC, one drawn label for each example: seconds against the number of training examples, of "
                  "parameters (an eighth of the training set) and of queries in a batch.*", ""]  # fmt: skip
    for name in LARGE:
        if name in kept and "failed" not in kept[name]:
            lines += [large(kept[name]), ""]
    if "dense" in kept and "failed" not in kept["dense"]:
        lines += [dense(kept["dense"]), ""]
    return [*lines, *measured(kept), ""]


def kind(result: Result) -> str:
    """The instructions of the processor that a result was measured on."""
    return result["on"][1].rpartition(", ")[2]


def measured(kept: dict[str, Result]) -> list[str]:
    """When and where, by `make bench` or `python benchmarks/bench.py --only ...`."""
    runs: dict[tuple[str, ...], list[str]] = {}
    for name, result in kept.items():
        if "failed" not in result:
            runs.setdefault(tuple(result["on"]), []).append(TITLES.get(name, name))
    return [
        "Measured by `make bench`, or its `--only`:",
        "",
        *(
            f"- {date}, {machine}: {', '.join(names)}."
            for (date, machine), names in sorted(runs.items(), reverse=True)
        ),
    ]


def large(one: Result) -> str:
    """A model too large for an index of whole rows."""
    return (
        f"**{TITLES[one['name']]}**, {one['parameters']:,} parameters, all of them scored; "
        f"{one['examples']:,} pictures of CIFAR-10, EK-FAC with one drawn label, "
        f'`memory_limit="{one["memory"]}"`; in epochs of its own training: fit with all normalizers '
        f"{epochs(one, one['fit'])}, a new query by all methods at all stops {epochs(one, one['prepare'])}, its best "
        f"five at one damping {epochs(one, one['top'])}; peak memory {one['peak'] / 1e9:.2f} GB, the pictures and "
        f"the training among it. {one['index'][0].upper()}{one['index'][1:]} with the most energy, those "
        "of an outer product by its factors; the best are scored exactly from gradients computed afresh."
    )


def dense(one: Result) -> str:
    """All eigenpairs of an exact Fisher."""
    return (
        f"**{TITLES[one['name']]}**: a softmax regression on MNIST, {one['parameters']:,} parameters, "
        f"{one['examples']:,} examples; all eigenpairs, the rotated gradients and the normalizers in "
        f"{one['fit']:.0f} s, {one['fit'] / one['product']:.2f} × the time of one plain float32 product of all "
        f"gradients with a matrix of P × P at this machine's rate; peak memory {one['peak'] / 1e9:.2f} GB."
    )


def against(one: Result, other: Result | None) -> list[str]:
    """What is asked of EK-FAC here, beside EK-FAC elsewhere."""
    if other is None or other["on"][1] != one["on"][1]:
        return []  # seconds and epochs of two machines do not compare
    agreement = []
    if one.get("model") == other.get("model"):
        from shared import jaccard

        count, same = min(len(one["top"]), len(other["top"])), jaccard(one["top"], other["top"])
        agreement = [
            f"Top 5 by influence of the first {count} queries, Jaccard index of the two: {same:.2f}; both draw one "
            "label for each example to estimate the Fisher, each its own.",
            "",
        ]

    def units(result: Result, *names: str) -> float:
        return sum(result[name] for name in names) / result["epoch"]

    unit = other["epoch"] / one["epoch"]
    many = max(map(int, one["batch"].keys() & other["batch"].keys()))
    ours, theirs = (result["batch"][str(many)] / result["epoch"] for result in (one, other))
    return [
        "EK-FAC here and in kronfluence, in epochs of each process:",
        "",
        *table(
            ["", "here", "kronfluence", "ratio", "ratio of seconds"],
            [
                [name, f"{here:.3g}", f"{there:.3g}", f"{there / here:.3g}", f"{there / here * unit:.3g}"]
                for name, here, there in (
                    (
                        "fit, with self-influence",
                        units(one, "fit", "self-influence"),
                        units(other, "fit", "self-influence"),
                    ),
                    ("a new query, shown", units(one, "click"), units(other, "one query")),
                    ("a new damping", units(one, "another damping"), units(other, "one query")),
                    (f"{many:,} queries", ours, theirs),
                )
            ],
        ),
        "",
        *agreement,
    ]


def draw(growth: Result, file: Path) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 3),
        ("n", "P", "queries"),
        ("training examples", "parameters", "queries"),
        strict=True,
    ):
        points = growth[name]
        sizes = [point[0] for point in points]
        if name == "queries":
            axes.plot(sizes, [point[1] for point in points], "o-", color="0.3", label="top_k")
        else:
            axes.plot(sizes, [point[1] for point in points], "o-", color="tab:blue", label="fit")
            axes.plot(sizes, [point[2] for point in points], "s-", color="tab:orange", label="a new query")
        axes.set(xscale="log", yscale="log", xlabel=label)
        axes.set_xticks(sizes, [f"{size:,}" if size < 10_000 else f"{size / 1000:,.3g}k" for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("seconds")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)


def write(folder: Path, quick: bool) -> Path:
    """The text, its plot, and beside that the results, so that one configuration can be measured again."""
    target = (folder if quick else ROOT / "docs") / "benchmarks.md"
    beside = target.parent / "benchmarks"
    if quick:
        shutil.rmtree(beside, ignore_errors=True)
    for result in load(folder):
        place = beside / kind(result)
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / f"{result['name']}.json", place)
        if result["name"] == "growth" and "failed" not in result:
            draw(result, place / "growth.png")
    kept = [result for place in sorted(beside.iterdir()) if place.is_dir() for result in load(place)]
    target.write_text(compose(kept, quick), encoding="utf-8")
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures, and writes docs/benchmarks.md.")
    parser.add_argument("--only", nargs="+", choices=ALL, metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="a rehearsal on 600 pictures")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    parser.add_argument(
        "--peers", type=Path, default=ROOT / "build" / "peers" / "bin" / "python", metavar="PYTHON"
    )
    options = parser.parse_args()
    folder = ROOT / "build" / ("bench-rehearsal" if options.quick else "bench")
    folder.mkdir(parents=True, exist_ok=True)
    if not options.write:
        os.environ["RELATIF_SIZE"] = "small" if options.quick else "full"
        model = give(folder, options.quick)
        for name in options.only or ALL:
            measure(folder, name, 60 if options.quick else 10_000, options.peers, model)
    print(f"wrote {write(folder, options.quick)}")


if __name__ == "__main__":
    main()
