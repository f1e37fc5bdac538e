"""The paper's experiments at full size, and docs/paper.md, which sets the paper's numbers beside ours.

    make paper                                  # every step that has no result yet, then docs/paper.md
    python scripts/paper.py table1-mnist        # this step, whether it has a result or not
    python scripts/paper.py --list
    RELATIF_PAPER_QUICK=1 python scripts/paper.py    # a rehearsal in minutes, on little data

Each step keeps its result as JSON in build/paper/, so that an interrupted run goes on with the
next one. A rehearsal writes to build/paper-rehearsal/ alone, its paper.md included.

The experiments are in notebooks/paper.py, the measurements in relatif_widgets.evaluation.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUICK = (
    os.environ.get("RELATIF_PAPER_QUICK", "") not in ("", "0") or os.environ.get("RELATIF_SIZE") == "small"
)
os.environ["RELATIF_SIZE"] = "small" if QUICK else "full"
sys.path[:0] = [str(ROOT / "notebooks")]

import numpy as np  # noqa: E402
import paper  # noqa: E402
import torch  # noqa: E402
import tutorial_data  # noqa: E402

from relatif_widgets import evaluation  # noqa: E402
from relatif_widgets.curvature import Curvature, LowRank  # noqa: E402
from relatif_widgets.evaluation.rankings import SCORED  # noqa: E402
from relatif_widgets.evaluation.removals import QUANTITIES  # noqa: E402
from relatif_widgets.explanation import METHOD_TITLES  # noqa: E402

BUILD = ROOT / "build" / ("paper-rehearsal" if QUICK else "paper")
SEED = 0
TITLES = {**METHOD_TITLES, "nearest": "nearest"}  # as the paper calls it
KS = (1, 5, 10, 20)

Result = dict[str, Any]
Sets = tuple[float, float, float, float, float, float]

# Table 1: cardinality at 1 and 5, then mean and deviation of the probability at 1 and at 5.
PAPER_SETS: dict[str, dict[str, Sets]] = {
    "mnist": {
        "influence": (2704, 4984, 0.168, 0.16, 0.268, 0.21),
        "theta_relative": (8582, 29317, 0.929, 0.16, 0.922, 0.17),
        "loss_relative": (8776, 30431, 0.938, 0.16, 0.930, 0.17),
    },
    "cifar": {
        "influence": (2279, 4869, 0.431, 0.21, 0.511, 0.21),
        "theta_relative": (8264, 26381, 0.918, 0.15, 0.910, 0.16),
        "loss_relative": (8336, 26550, 0.931, 0.14, 0.920, 0.15),
    },
}
# An independent implementation, written in float64 from the paper alone, on the same data.
INDEPENDENT_SETS: dict[str, dict[str, Sets]] = {
    "mnist": {
        "influence": (3288, 6605, 0.204, 0.165, 0.295, 0.203),
        "theta_relative": (8533, 29072, 0.895, 0.174, 0.888, 0.184),
        "loss_relative": (8735, 30276, 0.898, 0.174, 0.890, 0.183),
    },
    "cifar": {
        "influence": (2989, 6198, 0.189, 0.154, 0.254, 0.183),
        "theta_relative": (8056, 25325, 0.843, 0.236, 0.827, 0.249),
        "loss_relative": (8224, 26091, 0.850, 0.232, 0.829, 0.249),
    },
}
# Section 4.3 gives ranges over k = 1, 5, 10, 20, and one for both kinds of RelatIF.
PAPER_OVERLAP = {
    "mnist": {"influence": "1.3 to 2.7", "theta_relative": "26 to 35", "loss_relative": "26 to 35"},
    "cifar": {"influence": "0.67 to 1.24", "theta_relative": "2.6 to 5.6", "loss_relative": "2.6 to 5.6"},
}
INDEPENDENT_OVERLAP = {
    "mnist": {
        "influence": (1.2, 2.3, 2.8, 3.7),
        "theta_relative": (38, 45, 46, 47),
        "loss_relative": (40, 46, 47, 48),
    },
    "cifar": {
        "influence": (0.3, 0.5, 0.5, 0.7),
        "theta_relative": (5.1, 3.6, 3.4, 3.5),
        "loss_relative": (5.0, 3.5, 3.3, 3.4),
    },
}
PAPER_REMOVALS = {
    "influence": ("0.0106 ± 0.0023", "0.039 ± 0.003", "0.879 ± 0.092", "0.311 ± 0.167", "0.016 ± 0.008"),
    "theta_relative": ("0.0084 ± 0.0027", "0.004 ± 0.001", "0.080 ± 0.033", "0.459 ± 0.226", "0.026 ± 0.010"),
    "loss_relative": ("0.0086 ± 0.0028", "0.004 ± 0.002", "0.068 ± 0.036", "0.475 ± 0.229", "0.027 ± 0.010"),
    "nearest": ("0.0048 ± 0.0025", "0.003 ± 0.001", "0.044 ± 0.024", "0.304 ± 0.182", "0.018 ± 0.009"),
}
INDEPENDENT_REMOVALS = {
    "influence": ("0.0043 ± 0.0009", "0.0368 ± 0.0011", "0.345 ± 0.013", "0.118 ± 0.022", "0.0128 ± 0.0023"),
    "theta_relative": (
        "0.0015 ± 0.0007", "0.0024 ± 0.0005", "0.0198 ± 0.0053", "0.201 ± 0.030", "0.0264 ± 0.0039",
    ),
    "loss_relative": (
        "0.0018 ± 0.0007", "0.0031 ± 0.0008", "0.0261 ± 0.0072", "0.200 ± 0.030", "0.0264 ± 0.0039",
    ),
    "nearest": (
        "0.0001 ± 0.0006", "0.0032 ± 0.0006", "0.0253 ± 0.0049", "0.079 ± 0.031", "0.0108 ± 0.0040",
    ),
}  # fmt: skip
INDEPENDENT_FIGURE_6 = {"exact": (0.9998, 1.03), "gradient": (0.34, None), "LiSSA": (0.992, None)}
INDEPENDENT_NAMES = {"IF": 0.0, "θ-RelatIF": 0.80, "ℓ-RelatIF": 0.92}


class Absent(Exception):
    """What a step needs is not at hand."""


@dataclass(frozen=True)
class Check:
    """What was asked of a result, what came, and whether that is within the tolerance."""

    asked: str
    measured: str
    passed: bool

    def __str__(self) -> str:
        return f"{self.asked}: {self.measured}, {'passed' if self.passed else 'missed'}"


Checks = Callable[[Result], list[Check]]


def no_checks(result: Result) -> list[Check]:
    """Of a step that has no tolerance."""
    return []


@dataclass(frozen=True)
class Step:
    """One experiment.

    Attributes:
        title: Heading in docs/paper.md.
        run: Measures; what it returns becomes JSON.
        write: That JSON as lines of docs/paper.md.
        checks: That JSON against the tolerances.
        about: What the text says first.
        figures: Pictures that `run` leaves in the build folder, with their captions.
    """

    title: str
    run: Callable[[], Result]
    write: Callable[[Result], list[str]]
    about: str
    checks: Checks = no_checks
    figures: Mapping[str, str] = field(default_factory=dict)


# What several steps share: a fitted model is kept until another is asked for, for memory's sake


def release() -> None:
    for kept in (mnist, convnet):
        kept.cache_clear()
    gc.collect()


@cache
def mnist() -> paper.Setting:
    release()
    return paper.mnist_regression()


@cache
def convnet(is_reference: bool, curvature: str) -> paper.Setting:
    release()
    checkpoint = reference("cifar_convnet.npz") if is_reference else None
    if is_reference and checkpoint is None:
        raise Absent("the independent implementation's checkpoint, cifar_convnet.npz, is not at hand")
    chosen: str | Curvature = LowRank(rank=64) if QUICK and curvature == "low_rank" else curvature
    return paper.cifar_convnet(checkpoint, curvature=chosen, seed=SEED)


def reference(name: str) -> Path | None:
    """A file of the independent implementation's answers: in RELATIF_REFERENCE, or beside the data sets."""
    named = os.environ.get("RELATIF_REFERENCE")
    folders = [Path(named)] if named else [data.parent / "reference" for data in tutorial_data._folders()]
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def keep_rankings(name: str, ranked: evaluation.Rankings) -> None:
    np.savez(
        BUILD / f"{name}.npz",
        probability=ranked.probability,
        train_size=ranked.train_size,
        damping=ranked.damping,
        **ranked.indices,
    )


def kept_rankings(name: str) -> evaluation.Rankings:
    with np.load(BUILD / f"{name}.npz") as kept:
        indices = {method: kept[method] for method in TITLES}
        return evaluation.Rankings(
            indices, kept["probability"], int(kept["train_size"]), float(kept["damping"])
        )  # type: ignore[arg-type]


def needs(name: str) -> None:
    """Run another step first where its result is not at hand."""
    if load(name) is None:
        carry_out(name)


# The steps


def table_1(name: str, setting: paper.Setting, answers: str | None, damping: str) -> Result:
    ranked = evaluation.rank(setting.explainer, setting.test[0], k=max(KS), progress=False)
    keep_rankings(name, ranked)
    found = ranked.specificity((1, 5))
    save(found.figure(), name)
    save(found.histogram(1), f"{name}-returned")
    overlap = ranked.overlap(KS)
    result = {
        **described(setting),
        "queries": ranked.queries,
        "sets": {
            method: [
                *(found.sets[method, k].cardinality for k in (1, 5)),
                *(
                    number
                    for k in (1, 5)
                    for number in (found.sets[method, k].probability, found.sets[method, k].probability_std)
                ),
            ]
            for method in TITLES
        },
        "overlap": {method: overlap.percent(method).tolist() for method in SCORED},
    }
    right = reference(answers) if answers and not QUICK else None
    if right is not None:
        with np.load(right) as kept:
            result["agreement"] = {
                method: agreement(ranked.indices[method], kept[f"top20_predicted_{damping}_{method}"])
                for method in SCORED
            }
    return result


def agreement(ours: np.ndarray, right: np.ndarray, k: int = 5) -> dict[str, float]:
    """Of the first queries' top k: share of equal sets, and mean Jaccard index."""
    pairs = [({*a[:k].tolist()}, {*b[:k].tolist()}) for a, b in zip(ours[: len(right)], right, strict=True)]
    return {
        "queries": len(pairs),
        "equal": sum(a == b for a, b in pairs) / len(pairs),
        "jaccard": sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs),
    }


def described(setting: paper.Setting) -> Result:
    return {
        "parameters": setting.explainer.parameter_count,
        "train": setting.explainer.train_size,
        "accuracy": setting.accuracy,
        "slope": None if np.isnan(setting.slope) else setting.slope,
        "report": setting.explainer.report(),
    }


def tables_2_and_4() -> Result:
    rows, found = paper.tables_2_and_4(mnist(), seed=SEED)
    np.savez(
        BUILD / "tables-2-4-mnist.npz",
        rows=rows.numpy(),
        removed=found.removed,
        predicted=found.predicted,
        actual=found.actual,
        damping=found.damping,
    )
    save(found.figure(), "tables-2-4-mnist")
    summary = found.summary()
    return {
        "rows": rows.tolist(),
        "retrainings": len(found.removed),
        "summary": {
            method: {
                name: [float(summary.loc[method, (name, part)]) for part in ("mean", "standard_error")]
                for name in QUANTITIES
            }
            for method in found.chosen
        },
    }


def figure_6a() -> Result:
    needs("tables-2-4-mnist")
    with np.load(BUILD / "tables-2-4-mnist.npz") as kept:
        exact = evaluation.Correlation(
            tuple(kept["removed"].tolist()), kept["predicted"], kept["actual"], float(kept["damping"])
        )
        rows = torch.from_numpy(kept["rows"])
    return figure_6("figure-6a", mnist(), mnist().test[0][rows], exact)


def figure_6b() -> Result:
    release()
    setting = paper.digit_convnet(seed=SEED)
    exact = paper.retrained_convnet(setting).correlation()
    return {**described(setting), **figure_6("figure-6b", setting, setting.test[0], exact)}


def figure_6(name: str, setting: paper.Setting, asked: torch.Tensor, exact: evaluation.Correlation) -> Result:
    found, recursion = paper.figure_6(setting, asked, exact)
    save(paper.figure_6_panels(found), name)
    return {
        "pairs": [len(exact.removed), exact.actual.shape[1]],
        "correlations": {title: [one.pearson, one.slope] for title, one in found.items()},
        "recursion": recursion,
    }


def figures_mnist() -> Result:
    needs("table1-mnist")
    setting = mnist()
    save(paper.figure_3(setting, kept_rankings("table1-mnist")), "figure-3")
    four = [*(paper.first(setting, digit) for digit in (3, 7)), paper.first(setting, 9, right=False)]
    show("figure-4", setting, four, ("influence", "theta_relative"))
    eight = [paper.first(setting, digit) for digit in (2, 5, 8)]
    show("figure-8", setting, eight, ("loss_relative", "theta_relative"))
    return {"figure 4": four, "figure 8": eight}


def figures_cifar() -> Result:
    setting = convnet(False, "low_rank")
    names = paper.cifar.CLASSES
    dog = paper.first(setting, names.index("dog"))
    truck = paper.first(setting, names.index("truck"), right=False, predicted=names.index("car"))
    near = evaluation.rank(setting.explainer, setting.test[0], methods=["nearest"], k=5, progress=False)
    misled = paper.misled_neighbours(setting, near)
    ten = [paper.first(setting, label) for label in range(10)]
    show("figure-5", setting, [dog, truck], ("influence", "theta_relative"))
    show("figure-9", setting, misled, ("nearest", "theta_relative"))
    show("figure-10", setting, ten[:5], ("influence", "theta_relative"))
    show("figure-11", setting, ten[5:], ("influence", "theta_relative"))
    return {"figure 5": [dog, truck], "figure 9": misled, "figures 10 and 11": ten}


def names() -> Result:
    notebook = ROOT / "notebooks" / "06-names.ipynb"
    if not notebook.is_file():
        raise Absent("notebooks/06-names.ipynb is not there")
    import nbformat
    from nbclient import NotebookClient

    release()
    asked = (
        "{'shares': shares, 'queries': len(kov), "
        "'six': {title: [described(card) for card in six] for title, six in cards.items()}, "
        "'accuracy': (probabilities.argmax(1) == test_set[1]).float().mean().item()}"
    )
    book = nbformat.read(notebook, as_version=4)
    book.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({asked}))"))
    folder = {"metadata": {"path": str(notebook.parent)}}
    NotebookClient(book, timeout=3600, kernel_name="python3", resources=folder).execute()
    printed = "".join(out.text for out in book.cells[-1].outputs if out.get("name") == "stdout")
    found: Result = json.loads(printed)
    return found


# Pictures


def save(figure: Any, name: str) -> None:
    figure.savefig(BUILD / f"{name}.png", dpi=150)


def show(name: str, setting: paper.Setting, queries: Sequence[int], methods: Sequence[str]) -> None:
    explained = [paper.explain(setting, query).figure(methods=methods) for query in queries]  # type: ignore[arg-type]
    paper.stacked(explained).save(BUILD / f"{name}.png")


# What is asked of the results


def mnist_checks(result: Result) -> list[Check]:
    checks = []
    for method, right in INDEPENDENT_SETS["mnist"].items():
        ours = result["sets"][method]
        checks += [near(f"{TITLES[method]}, cardinality at {k}", ours[at], right[at], 0.03)
                   for at, k in enumerate((1, 5))]  # fmt: skip
        for at, k in ((2, 1), (4, 5)):
            asked = f"{TITLES[method]}, probability at {k} within 0.02 of {right[at]:.3f}"
            checks.append(Check(asked, f"{ours[at]:.3f}", abs(ours[at] - right[at]) <= 0.02))
    for method, found in result.get("agreement", {}).items():
        asked = f"{TITLES[method]}, top-5 sets equal to the independent ones for 97 % of {found['queries']:g} queries"
        checks.append(Check(asked, f"{100 * found['equal']:.0f} %", found["equal"] >= 0.97))
    return checks


def cifar_checks(result: Result) -> list[Check]:
    checks = []
    for method, right in INDEPENDENT_SETS["cifar"].items():
        share = 0.10 if method == "influence" else 0.05
        for at, k in enumerate((1, 5)):
            checks.append(
                near(f"{TITLES[method]}, cardinality at {k}", result["sets"][method][at], right[at], share)
            )
    return checks


def accuracy_checks(result: Result) -> list[Check]:
    return [
        Check(
            "Test accuracy at least the paper's 73 %",
            f"{100 * result['accuracy']:.2f} %",
            result["accuracy"] >= 0.73,
        )
    ]


def near(what: str, ours: float, right: float, share: float) -> Check:
    off = ours / right - 1
    return Check(f"{what} within {share:.0%} of {right:,}", f"{ours:,} ({off:+.1%})", abs(off) <= share)


def removal_checks(result: Result) -> list[Check]:
    means = {
        method: {name: mean for name, (mean, _) in of.items()} for method, of in result["summary"].items()
    }
    checks = []
    for name in ("parameters", "train_losses"):
        least = min(means["influence"][name] / means[method][name] for method in SCORED[1:])
        asked = f"IF's {QUANTITIES[name]} an order of magnitude (8 times or more) above both RelatIFs'"
        checks.append(Check(asked, f"{least:.1f} times", least >= 8))
    for name in ("test_loss_per_parameters", "test_loss_per_train_losses"):
        least = min(means[method][name] for method in SCORED[1:])
        other = max(means[method][name] for method in ("influence", "nearest"))
        asked = f"both RelatIFs' {QUANTITIES[name]} above IF's and the nearest neighbour's"
        checks.append(Check(asked, f"{least:.3f} against {other:.3f}", least > other))
    return checks


def figure_6_checks(result: Result) -> list[Check]:
    found = {name: pearson for name, (pearson, _) in result["correlations"].items()}
    return [
        Check(f"{name}, correlation of at least {least}", f"{found[name]:.4f}", found[name] >= least)
        for name, least in (("exact", 0.999), ("LiSSA", 0.97))
    ]


def names_checks(result: Result) -> list[Check]:
    checks = []
    for title in ("θ-RelatIF", "ℓ-RelatIF"):
        # "Abakumov (Russian)": the name, then what the model makes of it
        ends = sum(name.split(" (")[0].endswith("kov") for name in result["six"][title])
        checks.append(
            Check(f"{title}, at least 5 of the first 6 for Vasyukov end in -kov", f"{ends}", ends >= 5)
        )
    return checks


# docs/paper.md


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def write_sets(kind: str, result: Result) -> list[str]:
    def cells(sets: Sequence[float] | None) -> list[str]:
        if sets is None:
            return ["", "", "", ""]
        one, five, p1, s1, p5, s5 = sets
        return [f"{one:,}", f"{five:,}", f"{p1:.3f} ± {s1:.3f}", f"{p5:.3f} ± {s5:.3f}"]

    head = ["", "", "cardinality, top 1", "top 5", "probability, top 1", "top 5"]
    rows, shared = [], []
    for method, sets in result["sets"].items():
        if method in SCORED:
            rows.append([TITLES[method], "paper", *cells(PAPER_SETS[kind][method])])
        rows.append(["" if method in SCORED else TITLES[method], "**ours**", *cells(sets)])
        if method in SCORED:
            rows.append(["", "independent", *cells(INDEPENDENT_SETS[kind][method])])
    for method, percent in result["overlap"].items():
        ours = ", ".join(f"{value:.1f}" for value in percent)
        others = ", ".join(f"{value:g}" for value in INDEPENDENT_OVERLAP[kind][method])
        shared.append([TITLES[method], PAPER_OVERLAP[kind][method], f"**{ours}**", others])
    lines = [model_line(result), "", *table(head, rows), ""]
    if "agreement" in result:
        told = "; ".join(
            f"{TITLES[method]} {100 * one['equal']:.0f} % equal, Jaccard index {one['jaccard']:.2f}"
            for method, one in result["agreement"].items()
        )
        lines += [f"Top-5 sets of the first 100 queries against the independent ones: {told}.", ""]
    lines += ["Overlap with the k nearest neighbours, in percent (Section 4.3), for k = 1, 5, 10, 20:", ""]
    return [*lines, *table(["", "paper (over k)", "ours", "independent"], shared)]


def model_line(result: Result) -> str:
    slope = "" if result["slope"] is None else f"; gradient of the training objective {result['slope']:.1e}"
    curvature = next(line for line in result["report"].splitlines() if line.startswith("curvature: "))
    asked = f"; {result['queries']:,} queries" if "queries" in result else ""
    return (
        f"{result['parameters']:,} parameters, {result['train']:,} training examples{asked}; test accuracy "
        f"{100 * result['accuracy']:.2f} %{slope}; {curvature}."
    )


def write_removals(result: Result) -> list[str]:
    rows = []
    for method, measured in result["summary"].items():
        ours = [f"{mean:.4f} ± {error:.4f}" for mean, error in measured.values()]
        rows += [
            [TITLES[method], "paper", *PAPER_REMOVALS[method]],
            ["", "**ours**", *ours],
            ["", "independent", *INDEPENDENT_REMOVALS[method]],
        ]
    count = f"{len(result['rows']):,} test samples, {result['retrainings']:,} retrainings."
    return [count, "", *table(["", "", *QUANTITIES.values()], rows)]


def write_figure_6(independent: Mapping[str, tuple[float, float | None]], result: Result) -> list[str]:
    removed, queries = result["pairs"]
    rows = []
    for name, (pearson, slope) in result["correlations"].items():
        other = independent.get(name)
        told = (
            "" if other is None else f"{other[0]:g}" + ("" if other[1] is None else f", slope {other[1]:g}")
        )
        rows.append([name, f"**{pearson:.4f}**, slope {slope:.3g}", told])
    lines = [model_line(result), ""] if "report" in result else []
    return [
        *lines,
        f"{removed:,} removed examples × {queries:,} test samples. LiSSA {result['recursion']}.",
        "",
        *table(["", "ours: Pearson's correlation", "independent"], rows),
    ]


def write_names(result: Result) -> list[str]:
    titles = list(result["six"])
    rows = [list(line) for line in zip(*result["six"].values(), strict=True)]
    shares = [
        [title, f"**{share:.2f}**", f"{INDEPENDENT_NAMES[title]:.2f}" if title in INDEPENDENT_NAMES else ""]
        for title, share in result["shares"].items()
    ]
    return [
        f"Test accuracy {100 * result['accuracy']:.2f} % (paper 71.45). The top six for Vasyukov:",
        "",
        *table(titles, rows),
        "",
        f"The same over {result['queries']:,} Russian test names in -kov: the share of their top six that end in it.",
        "",
        *table(["", "ours", "independent"], shares),
    ]


def write_rows(result: Result) -> list[str]:
    return [f"Test rows: {'; '.join(f'{name}: {rows}' for name, rows in result.items())}."]


CIFAR_UNKNOWN = (
    "The paper gives the channels, the pooling after each convolution and the number of parameters. From these "
    "follow 3 × 3 kernels and a last pooling to one pixel; that they are padded is our choice. It does not give the "
    "optimiser, the number of epochs, regularisation or augmentation: they decide how confident the model is of its "
    "training examples, hence the probabilities and the size of IF's set. For larger models it takes LiSSA for the "
    "numerator and block-diagonal approximations like K-FAC for the denominators (Appendix C), and does not say "
    "which it used here. The pictures used here are JPEG copies of the originals."
)
KRONECKER = (
    "The same model and queries under {}. No tolerance is set: it knows nothing across layers, so its lists are "
    "others, as the agreement with the independent ones (the whole Fisher) says; what Table 1 shows of IF and "
    "RelatIF holds all the same."
)


def convnet_step(
    name: str, title: str, is_reference: bool, curvature: str, about: str, checks: Checks = no_checks
) -> Step:
    return Step(
        title,
        lambda: table_1(
            name, convnet(is_reference, curvature), "cifar_convnet.npz" if is_reference else None, "0.1"
        ),
        lambda result: write_sets("cifar", result),
        about,
        checks,
        {name: "Cardinality and probability", f"{name}-returned": "For how many queries each is returned"},
    )


STEPS: dict[str, Step] = {
    "table1-mnist": Step(
        "Table 1 and Section 4.3, logistic regression on MNIST",
        lambda: table_1("table1-mnist", mnist(), "mnist_softmax.npz", "0.001"),
        lambda result: write_sets("mnist", result),
        "Mean negative log-likelihood + 0.001/2 ‖θ‖², weights and biases, minimised by L-BFGS in float64; exact "
        "Fisher, damping 0.001; labels as predicted. The paper does not say how it was regularised nor when "
        "training stopped (its test accuracy is 91.93 %): the size of IF's set, the probabilities and the overlap "
        "depend on both.",
        mnist_checks,
        {
            "table1-mnist": "Cardinality and probability of the influential sets",
            "table1-mnist-returned": "For how many queries each training example is the first answer",
        },
    ),
    "tables-2-4-mnist": Step(
        "Tables 2 and 4, leave-one-out retraining on MNIST",
        tables_2_and_4,
        write_removals,
        "The same model. For each of 100 test samples drawn at random, the top example of every method is removed "
        "and the model retrained to convergence; mean ± standard error. Δℓ_test is at the predicted label; the sum "
        "over the training set includes the removed example. The paper's samples, its regularisation and its stopping "
        "are unpublished, and the absolute size of every change depends on the last two. What its "
        "Table 4 prints after ± has the size of a standard deviation. Compare orderings, also with "
        "the independent ones, whose samples are others.",
        removal_checks,
        {"tables-2-4-mnist": "Tables 2 and 4: mean ± standard error"},
    ),
    "figure-6a": Step(
        "Figure 6 (a), logistic regression on MNIST",
        figure_6a,
        lambda result: write_figure_6(INDEPENDENT_FIGURE_6, result),
        "Predicted and actual change of the test loss over the retrainings of Tables 2 and 4: every removed example "
        "on every test sample. The paper prints no correlation, and does not say which examples it removed nor how "
        "LiSSA was tuned. The independent LiSSA is at depth 10,000 and at the true label. Where LiSSA says that it did "
        "not reach its tolerance, the correlation shows how much that matters here.",
        figure_6_checks,
        {"figure-6a": "Figure 6 (a)"},
    ),
    "figures-mnist": Step(
        "Figures 3, 4 and 8, what IF and RelatIF return on MNIST",
        figures_mnist,
        write_rows,
        "The paper does not say which test samples it shows. Figure 3: samples that share their top example by IF, "
        "one for each answer of θ-RelatIF; that example is the least probable of the ten that IF returns most. "
        "Figures 4 and 8: the first sample of some digits that the model gets "
        "right, and in Figure 4 the first 9 that it gets wrong. RelatIF is θ-RelatIF, as in the paper.",
        figures={
            "figure-3": "Figure 3: one example is IF's answer to all of these",
            "figure-4": "Figure 4: IF above θ-RelatIF",
            "figure-8": "Figure 8: ℓ-RelatIF above θ-RelatIF",
        },
    ),
    "figure-6b": Step(
        "Figure 6 (b), a ConvNet on MNIST",
        figure_6b,
        lambda result: write_figure_6({}, result),
        "The paper does not describe this network. Here: two convolutions of 4 and 8 channels with tanh and average "
        "pooling and a linear layer, on digits of 14 × 14 pixels, at a minimum of mean negative log-likelihood + "
        "0.01/2 ‖θ‖²; each removal is trained to a minimum again, from there. Exact Hessian, damping 0.01. "
        "No tolerance is set: how far a removal is from an infinitesimal step depends on the network.",
        figures={"figure-6b": "Figure 6 (b)"},
    ),
    "table1-cifar": convnet_step(
        "table1-cifar",
        "Table 1 and Section 4.3, ConvNet on CIFAR-10, the independent implementation's weights",
        True,
        "low_rank",
        "16C-32C-64C-F, all 24,234 parameters, damping 0.1; whole Fisher by its leading eigenpairs. The weights are "
        f"those of the independent implementation, so that only the scores may differ. {CIFAR_UNKNOWN}",
        cifar_checks,
    ),
    "table1-cifar-ekfac": convnet_step(
        "table1-cifar-ekfac",
        "The same by EK-FAC",
        True,
        "ekfac",
        KRONECKER.format("EK-FAC, gradients kept in bfloat16"),
    ),
    "table1-cifar-kfac": convnet_step(
        "table1-cifar-kfac",
        "The same by K-FAC",
        True,
        "kfac",
        KRONECKER.format("K-FAC, gradients kept in bfloat16"),
    ),
    "table1-cifar-trained": convnet_step(
        "table1-cifar-trained",
        "The same on a model trained here",
        False,
        "low_rank",
        "Trained by notebooks/cifar.py: SGD with momentum, one cycle of the learning rate, 24 epochs, weight decay "
        "0.001, max pooling of 2, 2 and 8, as chosen on a tenth held out; then on all pictures. "
        f"Another model, so its sets are others too. {CIFAR_UNKNOWN}",
        accuracy_checks,
    ),
    "figures-cifar": Step(
        "Figures 5, 9, 10 and 11, what they return on CIFAR-10",
        figures_cifar,
        write_rows,
        "On the model trained here. Figure 5: the first dog that the model gets right, and the first truck that it "
        "takes for a car. Figure 9: two that it gets right although the fewest of the five nearest training pictures "
        "are of their class. Figures 10 and 11: the first of each class that it gets right.",
        figures={
            "figure-5": "Figure 5: IF above θ-RelatIF",
            "figure-9": "Figure 9: nearest neighbours above θ-RelatIF",
            "figure-10": "Figure 10",
            "figure-11": "Figure 11",
        },
    ),
    "table-3-names": Step(
        "Table 3, names",
        names,
        write_names,
        "notebooks/06-names.ipynb at full size: an LSTM, last layer, damping 0.001. In the paper all six of IF's are "
        "Russian names misclassified as Japanese, and all six of RelatIF's end in -kov. It does not give the size "
        "of the network nor its training. Its test set is 15 % of each class; ours is 2,000 names drawn from all.",
        names_checks,
    ),
}


def load(name: str) -> Result | None:
    """What a step kept, or None."""
    file = BUILD / f"{name}.json"
    if not file.is_file():
        return None
    kept: Result = json.loads(file.read_text(encoding="utf-8"))
    return kept


def carry_out(name: str) -> None:
    """Run a step and keep its result and time."""
    print(f"{name}{' (a rehearsal on little data)' if QUICK else ''} ...", flush=True)
    torch.manual_seed(SEED)
    started = time.perf_counter()
    try:
        result = STEPS[name].run()
    except Absent as reason:
        print(f"{name}: left out, {reason}", flush=True)
        return
    kept = {
        "step": name,
        "seed": SEED,
        "seconds": round(time.perf_counter() - started, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "result": result,
    }
    half = BUILD / f"{name}.json.part"
    half.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
    half.replace(BUILD / f"{name}.json")
    print(f"{name}: {kept['seconds']:,} s", flush=True)
    for check in STEPS[name].checks(result):
        print(f"  {check}", flush=True)


def compose(kept: Mapping[str, Result], *, rehearsal: bool = QUICK, folder: str = "paper") -> str:
    """docs/paper.md from the steps' results.

    Args:
        kept: Step → what its JSON holds; steps without one are named as not run.
        rehearsal: Say that these are no results.
        folder: Of the pictures, beside the text.
    """
    lines = [
        "# The paper's numbers, and ours",
        "",
        "Written by `make paper`; do not edit. *Independent* is an implementation in float64 that was written from "
        "the paper alone, on the same data, and shares no code with this one. The label explained is the predicted "
        "one. Methods, curvatures and scores are explained in the README.",
        "",
    ]
    if rehearsal:
        lines += ["**A rehearsal on little data: none of these numbers is a result.**", ""]
    for name, step in STEPS.items():
        lines += [f"## {step.title}", "", step.about, ""]
        command = f"python scripts/paper.py {name}"
        if name not in kept:
            lines += [f"Not run: `{command}`.", ""]
            continue
        one = kept[name]
        lines += [*step.write(one["result"]), ""]
        for picture, caption in step.figures.items():
            lines += [f"![{caption}]({folder}/{picture}.png)", "", f"*{caption}.*", ""]
        checks = step.checks(one["result"])
        if checks:
            passed = sum(check.passed for check in checks)
            lines += [f"Tolerances: {passed} of {len(checks)} passed.", ""]
            lines += [f"- {check.asked}: {check.measured}, **{'passed' if check.passed else 'missed'}**"
                      for check in checks]  # fmt: skip
            lines.append("")
        threads = f"{one['threads']} thread{'s' if one['threads'] > 1 else ''}"
        lines += [f"`{command}`, seed {one['seed']}, {one['seconds']:,.0f} s on {threads}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def write() -> Path:
    """docs/paper.md with its pictures; a rehearsal's stays in the build folder.

    Beside the pictures lie the results it was written from: a step that was not run here keeps what it says.
    """
    kept = {name: found for name in STEPS if (found := load(name)) is not None}
    if QUICK:
        target, folder = BUILD / "paper.md", "."
    else:
        target, folder = ROOT / "docs" / "paper.md", "paper"
        beside = ROOT / "docs" / "paper"
        beside.mkdir(exist_ok=True)
        for name in kept:
            for file in (f"{name}.json", *(f"{picture}.png" for picture in STEPS[name].figures)):
                shutil.copy(BUILD / file, beside)
        for file in beside.glob("*.json"):
            kept.setdefault(file.stem, json.loads(file.read_text(encoding="utf-8")))
    target.write_text(compose(kept, folder=folder), encoding="utf-8")
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n", maxsplit=1)[0],
        epilog="Without a step: all that have no result yet.",
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help="run these, results or not")
    parser.add_argument("--list", action="store_true", help="the steps, and which have a result")
    parser.add_argument("--write", action="store_true", help="only write docs/paper.md from what is kept")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.steps if name not in STEPS]
    if unknown:
        parser.error(f"no step {', '.join(unknown)}; there are {', '.join(STEPS)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    if options.list:
        for name, step in STEPS.items():
            print(f"{name:22} {'done' if load(name) else '    '} {step.title}")
        return
    if not options.write:
        for name in options.steps or [name for name in STEPS if load(name) is None]:
            carry_out(name)
    print(f"wrote {write()}")


if __name__ == "__main__":
    main()
