"""The paper's experiments: its models, and a function for each table and figure.

Barshan, Brunet & Dziugaite, "RelatIF", AISTATS 2020. The notebooks 03 and 04 and
scripts/paper.py call these. Scores, rankings and retrainings are relatif_widgets's;
here are the models, which questions are asked, and pictures in the paper's layout.
"""

from __future__ import annotations

import copy
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cifar
import numpy as np
import torch
import tutorial_data
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from tutorial_data import pick, trained

from relatif_widgets import Explainer, Explanation, evaluation
from relatif_widgets.curvature import KFAC, Curvature, Lissa
from relatif_widgets.views.figure import PrintFigure

MNIST_DAMPING, CIFAR_DAMPING = 0.001, 0.1
"""λ, footnotes 3 and 4."""

L2 = 0.001
"""Of the softmax regression, over weights and biases. The paper does not give it; with L2 = λ, damping
adds exactly what training penalised, and the built-in refit is the retraining (Appendix C)."""

CONVNET_L2 = 0.01
"""Of the small ConvNet of Figure 6 (b)."""

SCALE = 1e8
"""Of the objective while training: torch's L-BFGS learns nothing from steps whose curvature is below 1e-10."""


@dataclass(frozen=True, eq=False)
class Setting:
    """A trained model, attached and fitted, and what to ask about.

    Attributes:
        explainer: Fitted.
        model: What it explains.
        train, test: Inputs as the model takes them, and labels.
        picture: A model's input -> the picture that it was.
        slope: ‖∇‖ of the training objective where training ended; NaN where it was not followed.
    """

    explainer: Explainer
    model: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    picture: Callable[[Tensor], Tensor]
    slope: float = math.nan

    @property
    def accuracy(self) -> float:
        """On the test set."""
        return cifar.accuracy(self.model, *self.test)

    def predicted(self) -> Tensor:
        """The predicted class of every test example, [test]."""
        with torch.no_grad():
            return torch.cat([self.model(x).argmax(1) for x in self.test[0].split(250)])


# Models


def converge(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    l2: float,
    count: int | None = None,
    tolerance: float = 1e-8,
    rounds: int = 2_000,
) -> float:
    """Minimise (1/n) Σ ℓ_i + l2/2 ‖θ‖² over all parameters, in place, by full-batch L-BFGS in float64.

    Args:
        model: In float64.
        inputs, labels: The training set; inputs in float64.
        l2: Its coefficient. Biases are penalised like weights.
        count: n; by default as many as there are inputs, more where some were removed.
        tolerance: Stop where the gradient's norm is below this.
        rounds: At most so many times ten steps.

    Returns:
        The gradient's norm at the end.

    Raises:
        RuntimeError: It did not come below the tolerance.
    """
    parameters, n = list(model.parameters()), len(labels) if count is None else count
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=10,
        history_size=300,  # with 50, the ConvNet takes ten times as many steps
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = sum(parameter.square().sum() for parameter in parameters)
        loss = nn.functional.cross_entropy(model(inputs), labels, reduction="sum") / n + l2 / 2 * penalty
        loss = SCALE * loss
        loss.backward()
        return loss

    slope = math.inf
    for _ in range(rounds):
        optimizer.step(objective)
        objective()
        slope = float(torch.cat([parameter.grad.flatten() for parameter in parameters]).norm()) / SCALE
        if slope < tolerance:
            optimizer.zero_grad()
            return slope
        # Near the minimum the objective changes by less than its rounding, and no line search gets on.
        optimizer.param_groups[0]["line_search_fn"] = "strong_wolfe" if slope > 1e-5 else None
    raise RuntimeError(f"Training ended at a gradient of {slope:.1e}; expected below {tolerance:g}.")


def pooled(images: Tensor, side: int) -> Tensor:
    """Digits, uint8 [n, 28, 28] -> intensities from 0 to 1, float32 [n, side, side], averaged over squares."""
    return nn.functional.avg_pool2d(images[:, None].float() / 255, 28 // side)[:, 0]


def mnist_regression(
    *, full: bool | None = None, queries: int | None = pick(None, 1_000), side: int = pick(28, 14)
) -> Setting:
    """Softmax regression on MNIST, trained to convergence, under its exact Fisher at damping 0.001.

    Args:
        full: All 70,000 digits, or 5,000; by default as the tutorials' size says.
        queries: How many test digits, the first ones; None for all.
        side: Pixels each way; 28 gives the paper's 7,850 parameters.
    """
    (images, labels), (test, truth) = tutorial_data.mnist(full=tutorial_data.FULL if full is None else full)
    inputs, asked = (pooled(part, side).flatten(1) for part in (images, test[:queries]))
    model = nn.Linear(side * side, 10).double()
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    wide = inputs.double()

    def picture(example: Tensor) -> Tensor:
        return example.reshape(side, side)

    def train() -> None:
        converge(model, wide, labels, l2=L2)

    trained("mnist-regression", model, train, len(labels), side, L2, "lbfgs")
    slope = gradient_norm(model, wide, labels, L2)
    model.float()
    explainer = Explainer(
        model,
        (inputs, labels),
        curvature="fisher",
        damping=MNIST_DAMPING,
        dampings=[MNIST_DAMPING],
        render=picture,
    ).fit()
    return Setting(explainer, model, (inputs, labels), (asked, truth[:queries]), picture, slope)


def gradient_norm(model: nn.Module, inputs: Tensor, labels: Tensor, l2: float) -> float:
    """‖∇‖ of mean NLL + l2/2 ‖θ‖² at the model's weights."""
    parameters = list(model.parameters())
    penalty = sum(parameter.square().sum() for parameter in parameters)
    loss = nn.functional.cross_entropy(model(inputs), labels) + l2 / 2 * penalty
    return float(torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)]).norm())


def cifar_convnet(
    checkpoint: Path | None = None,
    *,
    curvature: str | Curvature = "low_rank",
    train: int | None = pick(None, 1_000),
    queries: int | None = pick(None, 100),
    epochs: int = pick(24, 10),
    seed: int = 0,
) -> Setting:
    """The paper's ConvNet on CIFAR-10, all 24,234 parameters, at damping 0.1.

    Args:
        checkpoint: An .npz with its weights, `param_c1.weight` to `param_f.bias`; None trains it.
        curvature: As in `Explainer`.
        train, queries: How many pictures, the first ones; None for all.
        epochs, seed: Of the training.
    """
    (images, labels), (test, truth) = tutorial_data.cifar10(train, queries)
    inputs, asked = cifar.as_inputs(images), cifar.as_inputs(test)
    model = cifar.convnet(seed)
    if checkpoint is not None:
        load_convnet(model, checkpoint)
    else:
        batch = pick(128, 64)

        def fit() -> None:
            cifar.train_convnet(model, inputs, labels, epochs=epochs, batch_size=batch, seed=seed)

        trained("cifar", model, fit, seed, epochs, batch, len(labels))
    explainer = Explainer(
        model,
        (inputs, labels),
        curvature=curvature,
        damping=CIFAR_DAMPING,
        dampings=[CIFAR_DAMPING],
        batch_size=pick(None, 32),  # what convolutions see is unfolded: memory goes with the batch
        class_names=cifar.CLASSES,
        render=cifar.as_picture,
        # 50,000 whole gradients take 4.8 GB; the low-rank curvature keeps coordinates alone.
        storage="bfloat16" if curvature in ("ekfac", "kfac") else None,
    ).fit()
    return Setting(explainer, model, (inputs, labels), (asked, truth), cifar.as_picture)


def load_convnet(model: nn.Sequential, checkpoint: Path) -> None:
    """Fill `cifar.convnet`'s layers from a checkpoint that calls them c1, c2, c3 and f."""
    layers = [layer for layer in model if isinstance(layer, (nn.Conv2d, nn.Linear))]
    with np.load(checkpoint) as kept, torch.no_grad():
        for name, layer in zip(("c1", "c2", "c3", "f"), layers, strict=True):
            for part in ("weight", "bias"):
                getattr(layer, part).copy_(torch.from_numpy(kept[f"param_{name}.{part}"]))


def digit_convnet(*, train: int = pick(1_000, 120), queries: int = pick(20, 4), seed: int = 0) -> Setting:
    """A small smooth ConvNet on MNIST at a minimum of its training objective, under its exact Hessian.

    The paper names no architecture, and influence is about a stationary point. So: tanh and average
    pooling, which have second derivatives everywhere; digits of 14 × 14 pixels; and few of them,
    because every removal is trained to a minimum again.

    Args:
        train, queries: How many digits of each.
        seed: Of the initial weights.
    """
    (images, labels), (test, truth) = tutorial_data.mnist()
    inputs, asked = (pooled(part, 14)[:, None].double() for part in (images[:train], test[:queries]))
    labels, truth = labels[:train], truth[:queries]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2),
            nn.Conv2d(4, 8, 3), nn.Tanh(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(32, 10),
        ).double()  # fmt: skip

    def fit() -> None:
        converge(model, inputs, labels, l2=CONVNET_L2)

    trained("digit-convnet", model, fit, seed, train, CONVNET_L2)
    slope = gradient_norm(model, inputs, labels, CONVNET_L2)
    explainer = Explainer(
        model,
        (inputs, labels),
        curvature="hessian",
        damping=CONVNET_L2,
        dampings=[CONVNET_L2],
        batch_size=pick(None, 30),
    ).fit(progress=False)
    return Setting(explainer, model, (inputs, labels), (asked, truth), torch.squeeze, slope)


# Measurements


def some_queries(setting: Setting, count: int, seed: int = 0) -> Tensor:
    """Rows of the test set, drawn at random as for Tables 2 and 4, ascending."""
    drawn = torch.randperm(len(setting.test[1]), generator=torch.Generator().manual_seed(seed))
    return drawn[:count].sort().values


def tables_2_and_4(
    setting: Setting, *, count: int = pick(100, 6), seed: int = 0
) -> tuple[Tensor, evaluation.LeaveOneOut]:
    """Remove the top example of some test samples by every method, retrain exactly, and measure.

    Returns:
        The rows of the test set, [count], and what was measured.
    """
    rows = some_queries(setting, count, seed)
    return rows, evaluation.leave_one_out(setting.explainer, setting.test[0][rows], progress=False)


def retrained_convnet(setting: Setting) -> evaluation.LeaveOneOut:
    """The same of `digit_convnet`, each time trained to its minimum from where it was."""
    inputs, labels = setting.train

    def without(removed: list[int]) -> nn.Module:
        kept = torch.ones(len(labels), dtype=torch.bool)
        kept[removed] = False
        again = copy.deepcopy(setting.model)
        converge(again, inputs[kept], labels[kept], l2=CONVNET_L2, count=len(labels))
        return again

    return evaluation.leave_one_out(
        setting.explainer,
        setting.test[0],
        methods=("influence", "theta_relative"),
        retrain=without,
        progress=False,
    )


def figure_6(
    setting: Setting,
    queries: Tensor,
    exact: evaluation.Correlation,
    *,
    steps: int = pick(10_000, 1_000),
    repeats: int = pick(2, 1),
) -> tuple[dict[str, evaluation.Correlation], str]:
    """The same removals, predicted by plain gradients and by LiSSA as well.

    Args:
        setting: What `exact` was measured of.
        queries: The inputs whose loss was looked at, [query, ...].
        exact: Predicted with the exact curvature; its actual changes are taken for all.
        steps, repeats: Of LiSSA's recursion.

    Returns:
        Figure 6 for "exact", "gradient" and "LiSSA", as the paper calls them, and how LiSSA's recursion ended.
    """
    # Influence itself needs no normalizers: the cheapest will do.
    lissa = Lissa(steps=steps, repeats=repeats, normalizers=KFAC("sample"))
    curvatures: dict[str, str | Curvature] = {"gradient": "identity", "LiSSA": lissa}
    found = {"exact": exact}
    for name, curvature in curvatures.items():
        explainer = Explainer(
            setting.model,
            setting.train,
            curvature=curvature,
            damping=exact.damping,
            dampings=[exact.damping],
        ).fit(progress=False)
        with warnings.catch_warnings():
            # Whether the recursion converged is part of the answer.
            warnings.filterwarnings("ignore", message="LiSSA")
            influence = explainer.scores(queries, method="influence")[:, list(exact.removed)]
        predicted = (influence.T / explainer.train_size).double().numpy()
        found[name] = evaluation.Correlation(exact.removed, predicted, exact.actual, exact.damping)
    return found, str(lissa.convergence)


# Which test samples to show


def first(setting: Setting, true: int, *, right: bool = True, predicted: int | None = None) -> int:
    """The first test sample of a class that the model gets right, or wrong.

    Args:
        setting: The model and its test set.
        true: The class.
        right: Whether the model says so.
        predicted: What it says instead, where that matters; any other class if there is none such.

    Returns:
        Its row; where there is none such, that of the first of the class.
    """
    said, truth = setting.predicted(), setting.test[1]
    wanted = (truth == true) & ((said == truth) == right)
    if predicted is not None and bool((wanted & (said == predicted)).any()):
        wanted &= said == predicted
    return int((wanted if bool(wanted.any()) else truth == true).nonzero()[0])


def misled_neighbours(setting: Setting, ranked: evaluation.Rankings, count: int = 2) -> list[int]:
    """Figure 9's test samples: classified rightly, with the fewest of their five nearest of their class, by row."""
    truth = setting.test[1]
    near = setting.train[1][torch.from_numpy(ranked.indices["nearest"][:, :5])]
    same = (near == truth[:, None]).sum(1)
    same[setting.predicted() != truth] = 6
    return same.sort(stable=True).indices[:count].tolist()


def explain(setting: Setting, query: int) -> Explanation:
    """One test sample, for the predicted label."""
    return setting.explainer.explain(
        setting.test[0][query], target=int(setting.test[1][query]), name=f"test #{query}", index=query, top=10
    )


# Pictures


def figure_3(setting: Setting, ranked: evaluation.Rankings, count: int = 8) -> Figure:
    """Test samples that share the top example by IF, with it and with the top example by θ-RelatIF.

    Of the ten examples that IF returns most it is the one that the model finds least probable. Of the test
    samples whose first answer by θ-RelatIF is the same, one is shown.
    """
    common = ranked.specificity(1).counts("influence").head(10)
    shared = int(common.loc[common["probability"].idxmin(), "index"])
    asked = np.flatnonzero(ranked.indices["influence"][:, 0] == shared)
    _, places = np.unique(ranked.indices["theta_relative"][asked, 0], return_index=True)
    asked = asked[np.sort(places)][:count]
    said, names = setting.predicted(), setting.explainer.class_names
    rows = {
        "test": asked,
        "IF": ranked.indices["influence"][asked, 0],
        "RelatIF": ranked.indices["theta_relative"][asked, 0],
    }
    cell = 7 / (len(asked) + 0.6)
    figure = PrintFigure(figsize=(7, 3 * (cell + 0.32)), layout="constrained", facecolor="white")
    axes = figure.subplots(3, len(asked), squeeze=False)
    for line, (title, shown) in zip(axes, rows.items(), strict=True):
        inputs, labels = setting.test if title == "test" else setting.train
        if title == "test":
            told = [names[c] for c in said[shown].tolist()]
        else:
            known = setting.explainer.examples(sorted({*shown.tolist()})).set_index("index")["predicted"]
            told = [known[row] for row in shown.tolist()]
        for axis, row, answer in zip(line, shown.tolist(), told, strict=True):
            axis.imshow(setting.picture(inputs[row]).numpy(), cmap="gray")
            truth = names[int(labels[row])]
            axis.set_xlabel(
                f"true: {truth}\npred: {answer}{'' if answer == truth else ' ✗'}",
                fontsize=7,
                color="black" if answer == truth else "#b02a1c",
            )
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(linewidth=0.5, color="0.75")
        line[0].set_ylabel(title, fontsize=9, fontweight="bold")
    return figure


def figure_6_panels(correlations: Mapping[str, evaluation.Correlation], width: float = 7.0) -> Figure:
    """Predicted against actual change of the test loss, a panel for each curvature."""
    figure = PrintFigure(
        figsize=(width, width / len(correlations) + 0.35), layout="constrained", facecolor="white"
    )
    for place, (name, found) in enumerate(correlations.items()):
        axis = figure.add_subplot(1, len(correlations), place + 1)
        predicted, actual = 1000 * found.predicted.ravel(), 1000 * found.actual.ravel()
        axis.axline((0, 0), slope=1, color="0.75", linewidth=0.8, zorder=1)
        axis.scatter(
            predicted, actual, s=8, color="#0072b2", alpha=0.4, linewidths=0, rasterized=True, zorder=2
        )
        for limits, values in ((axis.set_xlim, predicted), (axis.set_ylim, actual)):
            room = 0.06 * (np.ptp(values) or 1)
            limits(values.min() - room, values.max() + room)
        axis.set_box_aspect(1)
        axis.set_title(name, fontsize=9, loc="left")
        axis.text(
            0.04,
            0.96,
            f"r = {found.pearson:.4f}\nslope {found.slope:.3g}",
            fontsize=8,
            va="top",
            transform=axis.transAxes,
            linespacing=1.5,
        )
        axis.set_xlabel("predicted, 1000 I / n", fontsize=8)
        if place == 0:
            axis.set_ylabel("actual, 1000 Δℓ", fontsize=8)
        axis.locator_params(nbins=4)
        axis.tick_params(labelsize=7, length=2.5, color="0.6")
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set(linewidth=0.7, color="0.6")
    return figure


def stacked(figures: Sequence[Figure], dpi: int = 150) -> Image.Image:
    """Figures under each other, as one picture."""
    parts = []
    for figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        parts.append(Image.open(buffer).convert("RGB"))
    sheet = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height
    return sheet
