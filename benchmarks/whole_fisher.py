"""The right answers that benchmarks/faithfulness.py compares with: the whole Fisher, solved without approximation.

    python benchmarks/whole_fisher.py CHECKPOINT.npz ANSWERS.npz

CHECKPOINT.npz as in faithfulness.py, which reads ANSWERS.npz in its place. The Fisher of all 24,234
parameters over all 50,000 training examples and all labels is formed (P² float32, 2.4 GB), damped and
factorised; scores and normalizers of every training example are solved for with the factor. That the
factor is right is checked with matrix-free Fisher-vector products: the relative residual is printed.
About half an hour on two cores, 8 GB.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from relatif_widgets import Explainer
from relatif_widgets.curvature import Identity
from relatif_widgets.gradients import fisher_products
from relatif_widgets.task import Task

sys.path.insert(0, str(Path(__file__).parent))
from faithfulness import METHODS, load
from shared import DAMPING, jaccard

BATCH = 512
BLOCKS = 8


def whole_fisher(task: Task, size: int) -> Tensor:
    """(1/n) Σ_i J_iᵀ (E_y ∇²_f ℓ) J_i, its lower triangle, block by block."""
    total = torch.zeros(size, size)
    edges = [size * block // BLOCKS for block in range(BLOCKS + 1)]
    started = time.perf_counter()
    for at, batch in enumerate(task.batches(task.source, BATCH)):
        rows = batch.pull_back(task.objective.loss.curvature_factor(batch.outputs)).flatten(0, 1)
        for first, last in pairwise(edges):
            total[first:last, :last].addmm_(rows[:, first:last].T, rows[:, :last])
        if at % 10 == 0:
            print(f"{at * BATCH:6,} examples, {time.perf_counter() - started:.0f} s", flush=True)
    return total.div_(task.source.length)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("answers", type=Path)
    parser.add_argument("--check", type=int, default=3, help="queries whose residual is looked at")
    arguments = parser.parse_args()
    model, data, queries, given = load(arguments.checkpoint)
    explainer = Explainer(model, data, curvature=Identity(), damping=DAMPING)
    task = explainer._task
    with task.evaluating():
        predicted = task.forward(queries).argmax(1)
        right = task.query(queries, predicted).gradients
        damped = whole_fisher(task, right.shape[1])
        damped.diagonal().add_(DAMPING)
        factor = torch.linalg.cholesky(damped, out=damped)
        solved = torch.cholesky_solve(right.T, factor).T.contiguous()
        few = solved[: arguments.check]
        image = DAMPING * few
        for batch in task.batches(task.source, BATCH):
            image += fisher_products(task.objective, batch.inputs, batch.targets, few) / task.source.length
        error = (image - right[: len(few)]).norm(dim=1) / right[: len(few)].norm(dim=1)
        print(f"relative residual with Fisher-vector products: {float(error.max()):.1e}", flush=True)
        influence, theta, loss = [], [], []
        for batch in task.batches(task.source, 2 * BATCH):
            rows = batch.gradients
            influence.append(rows @ solved.T)
            half = torch.linalg.solve_triangular(factor, rows.T, upper=False)
            loss.append(half.norm(dim=0))
            theta.append(torch.linalg.solve_triangular(factor.T, half, upper=True).norm(dim=0))
    scores = torch.cat(influence)
    normalizers = {"influence": torch.ones(len(scores)), "theta_relative": torch.cat(theta)}
    normalizers["loss_relative"] = torch.cat(loss)
    found = {key: value for key, value in given.items() if not key.startswith("top20")}
    for method in METHODS:
        key = f"top20_predicted_{DAMPING}_{method}"
        best = (scores / normalizers[method][:, None]).topk(20, dim=0).indices.T.numpy()
        found[key] = best
        print(f"{method}: the given answers' top 5 agree to {jaccard(given[key][:, :5], best[:, :5]):.3f}")
    np.savez(arguments.answers, **found)


if __name__ == "__main__":
    main()
