"""What `make bench` measures of other libraries, one a process: python benchmarks/peers.py FOLDER NAME MANY.

Each is asked, by its own public interface, for the influence of every training example on one query, and
where that is feasible on MANY of them. All at damping 0.1 where they have one; the label is the predicted
one; batches of 256. What is smaller than a library's default is said in its `note`.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from shared import DAMPING, Given, epochs, load, seconds, tell
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

BATCH = 256
FEW = 0.1
"""Share of the training set for a curvature by Hessian-vector products, which take an epoch each."""


def kronfluence(given: Given, many: int, place: Path) -> dict[str, Any]:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classification(Task):  # type: ignore[misc]
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            inputs, labels = batch
            outputs = model(inputs)
            if sample:
                labels = torch.multinomial(outputs.detach().softmax(1), 1)[:, 0]
            return nn.functional.cross_entropy(outputs, labels, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    task = Classification()
    model = prepare_model(given.model, task)
    analyzer = Analyzer(
        analysis_name="bench", model=model, task=task, cpu=True, output_dir=str(place), disable_tqdm=True
    )
    train, queries = TensorDataset(*given.train), TensorDataset(*given.queries)

    def fit() -> None:
        analyzer.fit_all_factors(
            "ekfac",
            train,
            per_device_batch_size=BATCH,
            factor_args=FactorArguments("ekfac"),
            overwrite_output_dir=True,
        )

    def scores(count: int) -> Tensor:
        analyzer.compute_pairwise_scores(
            "pairs", "ekfac", Subset(queries, range(count)), train, per_device_query_batch_size=count,
            per_device_train_batch_size=BATCH, score_args=ScoreArguments(damping_factor=DAMPING),
            overwrite_output_dir=True,
        )  # fmt: skip
        found: Tensor = analyzer.load_pairwise_scores("pairs")["all_modules"]
        return found

    def own() -> None:
        analyzer.compute_self_scores(
            "self", "ekfac", train, per_device_train_batch_size=BATCH,
            score_args=ScoreArguments(damping_factor=DAMPING), overwrite_output_dir=True,
        )  # fmt: skip

    found = {"fit": seconds(fit), "one query": seconds(lambda: scores(1)), "self-influence": seconds(own)}
    best: list[Tensor] = []
    few = min(1_000, many)  # 10,000 queries × 50,000 scores take 2 GB in one piece
    found["batch"] = {few: seconds(lambda: best.append(scores(few).topk(5).indices))}
    return {
        **found,
        "top": best[0][:100].tolist(),
        "note": "EK-FAC; a damping of one's own asks for all again",
    }


def dattri(given: Given, many: int, place: Path) -> dict[str, Any]:
    from dattri.algorithm.influence_function import IFAttributorArnoldi
    from dattri.task import AttributionTask

    def loss(params: Any, data: Any) -> Tensor:
        inputs, labels = data
        outputs = torch.func.functional_call(given.model, params, inputs)
        return nn.functional.cross_entropy(outputs, labels)

    task = AttributionTask(loss_func=loss, model=given.model, checkpoints=given.model.state_dict())
    attributor = IFAttributorArnoldi(
        task=task, precompute_data_ratio=FEW, proj_dim=50, max_iter=50, regularization=DAMPING
    )
    train = DataLoader(TensorDataset(*given.train), batch_size=BATCH)
    query = DataLoader(TensorDataset(*(part[:1] for part in given.queries)), batch_size=1)

    def ask() -> None:
        with torch.no_grad():
            attributor.attribute(train, query)

    def fit() -> None:
        attributor.cache(train)
        ask()  # the directions are found when they are first needed

    both = seconds(fit)
    one = seconds(ask)
    return {
        "fit": both - one,
        "one query": one,
        "note": f"Arnoldi, 50 directions of 50 iterations over {FEW:.0%} of the training set; "
        "its EK-FAC takes Linear layers alone",
    }


def captum(given: Given, many: int, place: Path) -> dict[str, Any]:
    from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

    file = place / "checkpoint.pt"
    torch.save(given.model.state_dict(), file)

    def restore(model: nn.Module, path: str) -> float:
        model.load_state_dict(torch.load(path, weights_only=True))
        return 1.0

    train = TensorDataset(*given.train)
    some = Subset(train, range(int(FEW * len(train))))
    made: list[Any] = []

    def fit() -> None:
        made.append(
            ArnoldiInfluenceFunction(
                given.model, train, str(file), checkpoints_load_func=restore, batch_size=BATCH,
                loss_fn=nn.CrossEntropyLoss(reduction="sum"), sample_wise_grads_per_batch=True,
                hessian_dataset=some, arnoldi_dim=50, projection_dim=50, hessian_reg=DAMPING,
            )
        )  # fmt: skip

    found: dict[str, Any] = {"fit": seconds(fit)}
    query = tuple(part[:1] for part in given.queries)
    found["one query"] = seconds(lambda: made[0].influence(query, k=5))
    found["self-influence"] = seconds(made[0].self_influence)
    return {**found, "note": f"Arnoldi, 50 directions of 50 iterations over {FEW:.0%} of the training set"}


def trak(given: Given, many: int, place: Path) -> dict[str, Any]:
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    size = sum(parameter.numel() for parameter in given.model.parameters())
    dimensions = 512
    projector = BasicProjector(
        size, dimensions, seed=0, proj_type=ProjectionType.rademacher, device="cpu", block_size=128
    )
    tracker = TRAKer(
        model=given.model, task="image_classification", train_set_size=len(given.train[1]), save_dir=str(place),
        device="cpu", proj_dim=dimensions, projector=projector, use_half_precision=False, logging_level=logging.ERROR,
    )  # fmt: skip
    train = DataLoader(TensorDataset(*given.train), batch_size=BATCH)

    def fit() -> None:
        tracker.load_checkpoint(given.model.state_dict(), model_id=0)
        for batch in train:
            tracker.featurize(batch=batch, num_samples=len(batch[1]))
        tracker.finalize_features()

    asked = 0

    def ask(count: int) -> None:
        nonlocal asked
        asked += 1
        name = f"asked-{asked}"
        tracker.start_scoring_checkpoint(name, given.model.state_dict(), model_id=0, num_targets=count)
        queries = DataLoader(TensorDataset(*(part[:count] for part in given.queries)), batch_size=BATCH)
        for batch in queries:
            tracker.score(batch=batch, num_samples=len(batch[1]))
        tracker.finalize_scores(name)

    found: dict[str, Any] = {"fit": seconds(fit), "one query": seconds(lambda: ask(1))}
    few = min(1_000, many)
    found["batch"] = {few: seconds(lambda: ask(few))}
    return {**found, "note": f"one checkpoint, {dimensions} dimensions, float32; no damping"}


PEERS: dict[str, Callable[[Given, int, Path], dict[str, Any]]] = {
    "kronfluence": kronfluence,
    "dattri": dattri,
    "captum": captum,
    "trak": trak,
}


def main() -> None:
    folder, name, many = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    os.environ["TQDM_DISABLE"] = "1"
    given = load(folder)
    before = epochs(given.train)
    with tempfile.TemporaryDirectory() as place:
        found = PEERS[name](given, many, Path(place))
    tell({"name": name, "epoch": median(before + epochs(given.train)), **found})


if __name__ == "__main__":
    main()
