"""The public face: attach, fit, ask."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import numpy as np
import oracles
import pytest
import torch
from cases import Golden, blobs, convnet, mlp, pictures
from torch import Tensor, nn
from torch.utils.data import Dataset

from relatif_widgets import ChoiceError, DataError, Explainer, ModelError, RelatifError, scores
from relatif_widgets.errors import Cancelled
from relatif_widgets.explanation import METHODS

CRITERIA = ["influence", "theta_relative", "loss_relative"]
Ask = Callable[[Explainer, Tensor], object]


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return blobs()


@pytest.fixture(scope="module")
def explainer(data: tuple[Tensor, Tensor]) -> Explainer:
    return Explainer(mlp(), data, curvature="fisher", class_names=["bird", "plane", "frog"]).fit(
        progress=False
    )


@pytest.mark.parametrize("method", CRITERIA)
@pytest.mark.parametrize("damping", [1e-3, 0.02, 5.0])
def test_scores_equal_a_dense_solve_at_stops_and_between_them(
    explainer: Explainer, data: tuple[Tensor, Tensor], method: str, damping: float
) -> None:
    x, y = data
    model, loss = mlp(), nn.CrossEntropyLoss(reduction="none")
    fisher = oracles.softmax_fisher(model, x)
    train = oracles.gradients(model, loss, x, y)
    right = oracles.influence(fisher, damping, oracles.gradients(model, loss, x[:4], y[:4]), train)
    theta, own = oracles.normalizers(fisher, damping, train)
    right = right / {"influence": 1.0, "theta_relative": theta, "loss_relative": own}[method]
    found = explainer.scores(x[:4], y[:4], method=method, damping=damping)
    torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-10)


def test_nearest_is_minus_the_squared_distance(explainer: Explainer, data: tuple[Tensor, Tensor]) -> None:
    x = data[0]
    found = explainer.scores(x[:3] + 0.1, method="nearest")
    right = -(x[:3, None] + 0.1 - x[None]).square().sum(2)
    torch.testing.assert_close(found, right)
    assert explainer.top_k(x[:3], k=1, method="nearest").indices.reshape(-1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("sign", ["positive", "negative", "both"])
@pytest.mark.parametrize("method", CRITERIA)
def test_top_k_is_the_best_of_scores(
    explainer: Explainer, data: tuple[Tensor, Tensor], method: str, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = data[0]
    everything = explainer.scores(x, method=method, damping=0.1)
    right = scores.top_k(everything, 7, sign)
    index = explainer._ready().index
    whole = type(index).influence
    # Small parts, so that the best of several parts must be merged.
    monkeypatch.setattr(
        type(index), "influence", lambda self, *args, **options: whole(self, *args, step=9, **options)
    )
    found = explainer.top_k(x, k=7, method=method, damping=0.1, sign=sign)
    assert torch.equal(found.indices, right[0])
    torch.testing.assert_close(found.scores, right[1])
    assert found.certified.tolist() == [True] * len(x)


def test_equal_scores_are_listed_by_index_even_across_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(6)
    twice = (torch.cat([x, x]), torch.cat([y, y]))
    explainer = Explainer(mlp(), twice, curvature="fisher").fit(progress=False)
    index = explainer._ready().index
    whole = type(index).influence
    monkeypatch.setattr(
        type(index), "influence", lambda self, *args, **options: whole(self, *args, step=5, **options)
    )
    found = explainer.top_k(x[:1], k=4)
    first, second = found.indices[0, :2].tolist()
    assert second == first + 6
    torch.testing.assert_close(found.scores[0, 0], found.scores[0, 1], rtol=1e-12, atol=0)


def test_permuting_the_training_set_permutes_the_scores(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    plain = Explainer(mlp(), (x, y), curvature="fisher").fit(progress=False).scores(x[:3])
    shuffled = Explainer(mlp(), (x[order], y[order]), curvature="fisher").fit(progress=False).scores(x[:3])
    torch.testing.assert_close(shuffled, plain[:, order], rtol=1e-8, atol=1e-10)


def test_self_influence_is_the_influence_on_oneself(
    explainer: Explainer, data: tuple[Tensor, Tensor]
) -> None:
    x, y = data
    own = explainer.scores(x, y, method="influence", damping=0.3).diagonal()
    torch.testing.assert_close(explainer.self_influence(0.3), own)


def test_a_mislabelled_example_has_the_largest_self_influence() -> None:
    golden = Golden("digits_softmax")
    x, y = golden.train
    flipped = y.clone()
    flipped[17] = (flipped[17] + 5) % 10
    explainer = Explainer(golden.model, (x, flipped), curvature="fisher").fit(progress=False)
    assert int(explainer.self_influence(0.01).argmax()) == 17


def test_fitting_twice_gives_the_same_answers(data: tuple[Tensor, Tensor]) -> None:
    explainer = Explainer(mlp(), data, curvature="fisher").fit(progress=False)
    before = explainer.scores(data[0][:2])
    torch.testing.assert_close(explainer.fit(progress=False).scores(data[0][:2]), before)


def test_batch_size_does_not_change_the_answers(data: tuple[Tensor, Tensor]) -> None:
    one = Explainer(mlp(), data, batch_size=1).fit(progress=False).scores(data[0][:2])
    many = Explainer(mlp(), data, batch_size=40).fit(progress=False).scores(data[0][:2])
    torch.testing.assert_close(one, many, rtol=1e-9, atol=1e-12)


def test_damping_changes_nothing_under_the_identity(data: tuple[Tensor, Tensor]) -> None:
    explainer = Explainer(mlp(), data, curvature="identity").fit(progress=False)
    assert torch.equal(
        explainer.scores(data[0][:2], damping=1e-3), explainer.scores(data[0][:2], damping=10.0)
    )
    assert explainer.explain(data[0][0], damping=0.5).dampings == (0.5,)


def test_any_object_of_the_protocol_is_a_curvature(data: tuple[Tensor, Tensor]) -> None:
    from relatif_widgets.curvature import Fisher

    class Doubled(Fisher):
        name = "doubled"

        def finish(self):  # type: ignore[no-untyped-def]
            self._total *= 2
            return super().finish()

    found = Explainer(mlp(), data, curvature=Doubled()).fit(progress=False)
    plain = Explainer(mlp(), data, curvature="fisher").fit(progress=False)
    # (2F + 2λ)⁻¹ = ½ (F + λ)⁻¹
    torch.testing.assert_close(
        2 * found.scores(data[0][:2], method="influence", damping=0.2),
        plain.scores(data[0][:2], method="influence", damping=0.1),
    )


def test_auto_takes_the_fisher_then_the_low_rank_one_and_says_which(data: tuple[Tensor, Tensor]) -> None:
    assert "curvature='fisher'" in repr(Explainer(mlp(), data))
    torch.manual_seed(0)
    large = nn.Sequential(nn.Linear(4, 2000), nn.ReLU(), nn.Linear(2000, 3)).double()
    assert Explainer(large, data, parameters="2").parameter_count == 6003
    explainer = Explainer(large, data, damping=0.1).fit(progress=False)
    assert "16,003 parameters, curvature='low_rank'" in repr(explainer)
    shown = explainer.explain(data[0][0])
    assert shown.provenance.curvature == "low_rank"
    assert "low-rank whole Fisher" in shown.provenance.curvature_detail


# explain


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", ["positive", "negative", "both"])
def test_every_slider_position_of_an_explanation_is_what_top_k_computes(
    explainer: Explainer, data: tuple[Tensor, Tensor], method: str, sign: str
) -> None:
    x = data[0]
    explanation = explainer.explain(x[5], labels=["bird", "frog"], damping=0.05)
    assert explanation.labels == ("bird", "frog")
    assert explanation.dampings == tuple(sorted({*explainer.dampings, 0.05}))
    for label in ("bird", "frog"):
        for damping in explanation.dampings:
            wanted = "positive" if method == "nearest" else sign
            right = explainer.top_k(x[5:6], [label], k=7, method=method, damping=damping, sign=wanted)
            found = explanation.top(label, method=method, damping=damping, sign=sign, k=7)
            expected = [
                (int(i), float(s))
                for i, s in zip(right.indices[0], right.scores[0], strict=True)
                if method == "nearest" or sign == "both" or (s > 0) == (sign == "positive")
            ]
            assert [example.index for example, _ in found] == [i for i, _ in expected]
            assert [score for _, score in found] == pytest.approx([s for _, s in expected], rel=1e-7)


def test_an_explanation_says_what_the_model_says(explainer: Explainer, data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    with torch.no_grad():
        probabilities = mlp()(x).softmax(1)
    explanation = explainer.explain(x[4], labels="top2", target=1, name="test #4", index=4)
    order = probabilities[4].argsort(descending=True).tolist()
    assert [panel.label for panel in explanation.panels] == order[:2]
    query = explanation.query
    assert (query.name, query.index, query.label, query.predicted) == ("test #4", 4, 1, order[0])
    assert query.probabilities == pytest.approx(probabilities[4].tolist(), rel=1e-8)
    for example in explanation.examples:
        assert example.label == int(y[example.index])
        assert example.predicted == int(probabilities[example.index].argmax())
        assert example.probability == pytest.approx(
            float(probabilities[example.index, example.label]), rel=1e-8
        )
        assert example.loss == pytest.approx(
            -float(probabilities[example.index, example.label].log()), rel=1e-7
        )


def test_predicted_true_and_top2_may_be_mixed_with_names(
    explainer: Explainer, data: tuple[Tensor, Tensor]
) -> None:
    x = data[0]
    predicted = explainer.explain(x[0]).labels
    assert len(predicted) == 1
    assert explainer.explain(x[0], labels=["true", "predicted"], target=2).labels == tuple(
        dict.fromkeys(["frog", *predicted])
    )
    assert explainer.explain(x[0], labels=1).labels == ("plane",)


def test_pictures_are_shown_in_one_sprite_sheet() -> None:
    x, y = pictures()
    explainer = Explainer(convnet(), (x, y)).fit(progress=False)
    explanation = explainer.explain(x[0], top=3)
    assert explanation.sprite is not None
    assert (explanation.sprite.width, explanation.sprite.height) == (8, 8)
    assert explanation.sprite.count == len(explanation.examples)
    assert explanation.query.media.kind == "picture"


def test_render_decides_what_is_shown(data: tuple[Tensor, Tensor]) -> None:
    explainer = Explainer(mlp(), data, render=lambda row: f"sum {float(row.sum()):.2f}").fit(progress=False)
    explanation = explainer.explain(data[0][0])
    assert explanation.query.media.text == f"sum {float(data[0][0].sum()):.2f}"
    assert explanation.examples[0].media.text.startswith("sum ")


@pytest.mark.parametrize(
    "labels", [np.int64(2), torch.tensor(2), np.array([2]), [np.int64(2)], torch.tensor([2]), "frog"]
)
def test_labels_come_in_every_form(explainer: Explainer, data: tuple[Tensor, Tensor], labels: object) -> None:
    x = data[0]
    assert explainer.explain(x[0], labels=labels).labels == ("frog",)
    right = explainer.scores(x[:1], [2])
    assert torch.equal(explainer.scores(x[:1], labels), right)


def test_the_target_may_be_a_name(explainer: Explainer, data: tuple[Tensor, Tensor]) -> None:
    assert explainer.explain(data[0][0], labels="true", target="plane").labels == ("plane",)
    with pytest.raises(ChoiceError, match="label='zebra' is not known"):
        explainer.explain(data[0][0], target="zebra")


def test_several_labels_at_once_are_asked_for_by_their_bits() -> None:
    x, y = blobs()
    bits = torch.nn.functional.one_hot(y, 3).double()
    explainer = Explainer(mlp(), (x, bits), loss="bce_with_logits").fit(progress=False)
    explanation = explainer.explain(x[0], labels=[[0, 1, 0], "predicted"], target=bits[0])
    assert explanation.labels[0] == "0, 1, 0"
    right = explainer.top_k(x[:1], torch.tensor([[0.0, 1.0, 0.0]]), k=3)
    assert [example.index for example, _ in explanation.top("0, 1, 0", k=3)] == right.indices[0].tolist()


def test_log_probabilities_with_nll_loss_are_cross_entropy() -> None:
    x, y = blobs()
    log_softmax = nn.Sequential(mlp(), nn.LogSoftmax(1))
    found = Explainer(log_softmax, (x, y), loss=nn.NLLLoss()).fit(progress=False)
    right = Explainer(mlp(), (x, y)).fit(progress=False)
    for method in CRITERIA:
        torch.testing.assert_close(found.scores(x[:3], method=method), right.scores(x[:3], method=method))


def test_a_loss_of_ones_own_is_explained_at_its_targets() -> None:
    x, y = blobs()

    def hinge(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.multi_margin_loss(outputs, targets, reduction="none")

    explainer = Explainer(mlp(), (x, y), loss=hinge, curvature="identity").fit(progress=False)
    explanation = explainer.explain(x[0], labels=[1], target=y[0])
    assert explanation.labels == ("1",)
    right = explainer.top_k(x[:1], [1], k=3)
    assert [example.index for example, _ in explanation.top("1", k=3)] == right.indices[0].tolist()


def test_a_regression_is_explained_at_its_target() -> None:
    torch.manual_seed(0)
    x = torch.randn(20, 3, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    model = nn.Linear(3, 1).double()
    explainer = Explainer(model, (x, y), loss="mse").fit(progress=False)
    explanation = explainer.explain(x[0], labels=["true", 1.5], target=float(y[0]))
    assert explanation.labels == (f"{float(y[0]):.6g}", "1.5")
    right = explainer.top_k(x[:1], [1.5], k=3, method="influence", damping=0.1)
    found = explanation.top("1.5", method="influence", damping=0.1, k=3)
    assert [example.index for example, _ in found] == right.indices[0].tolist()
    assert explanation.query.output == f"{float(model(x[:1]).detach()):.6g}"
    with pytest.raises(DataError, match="at the prediction itself a regression's gradient is zero"):
        explainer.scores(x[:2])
    with pytest.raises(DataError, match="a query needs its target"):
        explainer.explain(x[0])


def test_progress_is_told_and_may_stop_the_work(explainer: Explainer, data: tuple[Tensor, Tensor]) -> None:
    seen: list[float] = []
    explainer.explain(data[0][0], progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0

    def stop(fraction: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        explainer.explain(data[0][0], progress=stop)


def test_threads_may_ask_at_once(explainer: Explainer, data: tuple[Tensor, Tensor]) -> None:
    x = data[0]
    right = explainer.scores(x)
    found: dict[int, Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: explainer.scores(x)})) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], right) for i in range(6))


# Bad input: each error says what was seen, expected, and to try


def test_labels_outside_the_outputs_name_the_example(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    wrong = y.clone()
    wrong[33] = 7
    with pytest.raises(
        DataError, match=r"train_set: Label 7 of example 33 is outside the model's 3 outputs; .*0 to 2"
    ):
        Explainer(mlp(), (x, wrong))


def test_labels_of_a_lazy_data_set_are_checked_on_the_way(data: tuple[Tensor, Tensor]) -> None:
    class Lazy(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 40

        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            return data[0][row], 9 if row == 33 else int(data[1][row])

    with pytest.raises(DataError, match="Label 9 of example 33 is outside"):
        Explainer(mlp(), Lazy(), batch_size=8).fit(progress=False)


def test_nan_pixels_name_the_example() -> None:
    x, y = pictures()
    x[13, 0, 2, 2] = float("nan")
    with pytest.raises(DataError, match="train_set: example 13 holds NaN or infinity"):
        Explainer(convnet(), (x, y))
    good, _ = pictures()
    explainer = Explainer(convnet(), (good, y)).fit(progress=False)
    with pytest.raises(DataError, match="queries: example 13 holds NaN or infinity"):
        explainer.scores(x)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="train_set is empty; expected at least one example"):
        Explainer(mlp(), (torch.empty(0, 4), torch.empty(0, dtype=torch.int64)))


def test_a_data_set_whose_two_passes_disagree_is_refused() -> None:
    x, y = pictures()

    class Augmented(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(x)

        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            return x[row] + 0.1 * torch.randn(1, 8, 8), int(y[row])

    state = torch.get_rng_state()
    with pytest.raises(DataError, match="example 0 differs between two passes.*evaluation transform"):
        Explainer(convnet(), Augmented())
    assert not torch.equal(state, torch.zeros_like(state))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda e, x: e.scores(x, method="influnce"),
            r"method='influnce' is not known.*Did you mean 'influence'\?",
        ),
        (lambda e, x: e.top_k(x, sign="postive"), r"Did you mean 'positive'\?"),
        (lambda e, x: e.top_k(x, k=0), "k=0; expected a whole number, at least 1"),
        (lambda e, x: e.top_k(x, k=2.5), "k=2.5; expected a whole number"),
        (lambda e, x: e.top_k(x, k="5"), "k='5'; expected a whole number"),
        (lambda e, x: e.top_k(x, k=41), "k=41; expected 1 to 40"),
        (lambda e, x: e.top_k(x, method="nearest", sign="negative"), 'method="nearest" has no sign'),
        (lambda e, x: e.scores(x, damping=0), "damping=0; expected a finite λ > 0"),
        (lambda e, x: e.scores(x, damping=float("nan")), "damping=nan"),
        (lambda e, x: e.scores(x, damping="much"), "damping='much' is no number"),
        (lambda e, x: e.self_influence(-1), "damping=-1"),
        (lambda e, x: e.explain(x[0], labels="brid"), r"label='brid' is not known.*Did you mean 'bird'\?"),
        (lambda e, x: e.explain(x[0], labels=5), "label=5 is outside the model's 3 classes; expected 0 to 2"),
        (lambda e, x: e.explain(x[0], labels=[]), "labels=\\[\\] asks for no panel"),
        (lambda e, x: e.explain(x[0], labels="true"), "needs the query's true label"),
        (lambda e, x: e.explain(x[0], top=0), "top=0"),
    ],
)
def test_unknown_choices_are_refused(
    explainer: Explainer, data: tuple[Tensor, Tensor], ask: Ask, message: str
) -> None:
    with pytest.raises(ChoiceError, match=message):
        ask(explainer, data[0])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e, x: e.scores(x[:3], [0, 1]), "2 labels for 3 queries"),
        (
            lambda e, x: e.scores(x[:2], [0, 3]),
            "labels: Label 3 of example 1 is outside the model's 3 outputs",
        ),
        (lambda e, x: e.scores(x[0]), r"queries has shape \[4\]; expected a batch \['query', 4\].*x\[None\]"),
        (
            lambda e, x: e.explain(x[:2]),
            r"query has shape \[2, 4\]; expected one example like the training inputs",
        ),
        (
            lambda e, x: e.scores(x[:2, :3]),
            r"The model does not take inputs of shape \[2, 3\] and type float64: ",
        ),
        (lambda e, x: e.explain(object()), "query is object; expected one input"),
        (lambda e, x: e.explain(x[0], target=8), "target: Label 8"),
        (lambda e, x: e.explain((x[0], 1)), r"query is a pair; expected one input alone"),
        (lambda e, x: e.explain(x[0], target=[1, 2]), r"target=\[1, 2\] is not like the training targets"),
        (lambda e, x: e.scores(x[:2], [None, 1]), "are no targets"),
    ],
)
def test_queries_that_do_not_fit_are_refused(
    explainer: Explainer, data: tuple[Tensor, Tensor], ask: Ask, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ask(explainer, data[0])


def test_asking_before_fitting_says_what_to_do(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(RelatifError, match=r"call explainer.fit\(\) first"):
        Explainer(mlp(), data).scores(data[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"curvature": "fischer"}, r"curvature='fischer' is not known.*Did you mean 'fisher'\?"),
        ({"curvature": 3}, "neither a name nor an object"),
        ({"class_names": ["a", "b"]}, "class_names has 2 names; the model has 3 classes"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"memory_limit": "lots"}, "memory_limit='lots'"),
        ({"memory_limit": float("nan")}, "memory_limit=nan"),
        ({"memory_limit": "2XB"}, 'such as "2GB" or "2GiB"'),
        ({"index_folder": __file__}, "there is a file of that name"),
        ({"damping": -1}, "damping=-1"),
        ({"dampings": [0.1, 0]}, "damping=0"),
        ({"storage": "float8"}, "storage='float8' is not known.*Did you mean"),
        ({"space": "pixels"}, "space='pixels' is not known"),
        ({"loss": "ce"}, "loss='ce' is not known.*Did you mean 'cross_entropy'"),
        ({"collate_fn": 3}, "collate_fn=3; expected a function"),
    ],
)
def test_unknown_options_are_refused(
    data: tuple[Tensor, Tensor], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ChoiceError, match=message):
        Explainer(mlp(), data, **options)


def test_memory_limit_is_obeyed_or_refused(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(
        ModelError, match=r"Fitting needs about .*and 30 kB may be used.*\"low_rank\" or \"ekfac\""
    ):
        Explainer(mlp(), data, curvature="fisher", memory_limit="30 kB")
    assert "ekfac" in repr(Explainer(mlp(), data, memory_limit="65 kB"))  # "auto" takes what fits
    small = Explainer(mlp(), data, memory_limit="200kB")
    assert small._sizes["row"] < 40  # one batch is kept to an eighth of the limit
    large = Explainer(mlp(), data).fit(progress=False)
    torch.testing.assert_close(small.fit(progress=False).scores(data[0][:2]), large.scores(data[0][:2]))


@pytest.mark.parametrize("curvature", ["fisher", "ekfac", "low_rank"])
@pytest.mark.parametrize(
    ("storage", "digits"), [("float32", 1e-5), ("bfloat16", 5e-2), (torch.float16, 1e-2)]
)
def test_rows_may_be_kept_in_less_precision(curvature: str, storage: object, digits: float) -> None:
    x, y = blobs(60)
    exact = Explainer(mlp(), (x, y), curvature=curvature, damping=0.1).fit(progress=False)
    rounded = Explainer(mlp(), (x, y), curvature=curvature, damping=0.1, storage=storage).fit(progress=False)
    for method in ("influence", "theta_relative", "loss_relative"):
        ours, theirs = rounded.scores(x[:4], method=method), exact.scores(x[:4], method=method)
        assert ours.dtype == torch.float64
        error = float((ours - theirs).abs().max() / theirs.abs().max())
        assert 0 < error < digits
    torch.testing.assert_close(rounded.self_influence(), exact.self_influence(), rtol=4 * digits, atol=1e-9)
    name = str(storage).removeprefix("torch.")
    assert f"rotated gradients in {name}" in rounded.report()
    full, half = exact._ready().index.rows, rounded._ready().index.rows
    assert full is not None
    assert half is not None
    assert half.nbytes < 0.6 * full.nbytes
    for method in ("influence", "loss_relative"):
        found, best = (one.top_k(x[:30], k=3, method=method) for one in (rounded, exact))
        assert bool(found.certified.any()) == (name != "float16")
        assert torch.equal(found.indices[found.certified], best.indices[found.certified])


def test_a_gradient_too_large_for_its_storage_is_refused() -> None:
    x, y = blobs(20)
    with pytest.raises(ModelError, match="too large for storage='float16', which ends at 65504"):
        Explainer(nn.Linear(4, 3).double(), (x * 1e6, y), curvature="identity", storage="float16").fit(
            progress=False
        )


def test_models_in_half_precision_are_scored_in_float32() -> None:
    x, y = blobs(20)
    half = mlp().to(torch.bfloat16)
    as_float = mlp().to(torch.bfloat16).float()
    found = Explainer(half, (x, y), damping=0.1).fit(progress=False).scores(x[:3])
    right = Explainer(as_float, (x, y), damping=0.1).fit(progress=False).scores(x[:3])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, right)
    assert next(half.parameters()).dtype == torch.bfloat16


def test_data_that_change_between_the_passes_of_a_fit_are_refused() -> None:
    class Drifting(torch.utils.data.Dataset):  # type: ignore[type-arg]
        """The same for every look in a row, another after the first pass."""

        def __init__(self) -> None:
            self.x, self.y = blobs(40)
            self.looks = 0

        def __len__(self) -> int:
            return 40

        def __getitem__(self, row: int) -> tuple[Tensor, int]:
            self.looks += row == 20
            return self.x[row] + (0.5 if self.looks > 4 and row == 20 else 0), int(self.y[row])

    explainer = Explainer(mlp(), Drifting(), curvature="ekfac")
    with pytest.raises(DataError, match="train_set differs between two passes over the data"):
        explainer.fit(progress=False)


def test_infinite_outputs_name_the_example() -> None:
    class Overflows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x) * torch.where(x[:, :1] > 50, float("inf"), 1.0)

    x, y = blobs()
    x[21, 0] = 100.0
    with pytest.raises(ModelError, match="The model's output for example 21 is NaN or infinite"):
        Explainer(Overflows(), (x, y)).fit(progress=False)


def test_an_infinite_loss_names_the_example() -> None:
    x, y = blobs()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum(1) * 0 + torch.where(targets == 2, float("inf"), 1.0)

    with pytest.raises(ModelError, match="The (gradient|loss) for example 2 is NaN or infinite"):
        Explainer(mlp(), (x, y), loss=loss, curvature="identity").fit(progress=False)


def test_a_name_asked_of_classes_without_names_says_where_names_come_from(
    data: tuple[Tensor, Tensor],
) -> None:
    explainer = Explainer(mlp(), data).fit(progress=False)
    with pytest.raises(
        ChoiceError, match=r"one of '0', '1', '2'\. .*class_names=\[\.\.\.\]\) gives them some"
    ):
        explainer.explain(data[0][0], labels="bird")


def test_class_names_that_no_json_can_hold_are_cleaned(data: tuple[Tensor, Tensor]) -> None:
    explainer = Explainer(mlp(), data, class_names=["a\udc80", "b", "b"]).fit(progress=False)
    assert explainer.class_names == ("a?", "b (1)", "b (2)")
    assert "a?" in explainer.explain(data[0][0]).to_json()


def test_the_report_says_what_was_fitted(explainer: Explainer) -> None:
    report = explainer.report()
    assert "40 training examples; 43 parameters in 0.weight, 0.bias, 2.weight, 2.bias" in report
    assert "curvature: exact Fisher\n" in report
    eigenvalues = explainer._ready().index.basis.eigenvalues
    assert f"largest {float(eigenvalues.max()):.4g}" in report


# Models and options that a stranger would try


class Random(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(x), 0.5)  # always on


class Coupled(Random):
    def forward(self, x: Tensor) -> Tensor:
        outputs = self.linear(x)
        return outputs - outputs.mean(0)


class Detached(Random):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).detach()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Random, "outputs differ between two runs on the same inputs.*F.dropout"),
        (Coupled, "depends on the rest of its batch"),
        (Detached, "Every gradient is zero: the loss of no example moves with linear.weight, linear.bias"),
    ],
)
def test_models_that_have_no_per_example_gradients_are_refused(
    data: tuple[Tensor, Tensor], model: type[nn.Module], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        Explainer(model(), data).fit(progress=False)


@pytest.mark.parametrize("names", [np.array(["a", "b", "c"]), {2: "c", 1: "b", 0: "a"}, ("a", "b", "c")])
def test_class_names_come_as_arrays_and_mappings_too(data: tuple[Tensor, Tensor], names: object) -> None:
    assert Explainer(mlp(), data, class_names=names).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": "abc"}, "class_names='abc'; expected a list of 3 names"),
        ({"class_names": {1: "a", 2: "b", 3: "c"}}, r"keys \[1, 2, 3\]; expected the class indices 0 to 2"),
        ({"dampings": 0.1}, "dampings=0.1; expected several"),
        ({"dampings": "0.1"}, "dampings='0.1'; expected several"),
        ({"dampings": ["0.1"]}, "damping='0.1' is no number"),
        ({"damping": "0.1"}, "damping='0.1' is no number"),
        ({"damping": True}, "damping=True is no number"),
        ({"device": "gpu"}, "device='gpu' cannot be used here"),
        ({"loss": nn.CrossEntropyLoss}, r"is a class; expected an instance: loss=CrossEntropyLoss\(\)"),
    ],
)
def test_near_misses_are_told(data: tuple[Tensor, Tensor], options: dict[str, object], message: str) -> None:
    with pytest.raises(ChoiceError, match=message):
        Explainer(mlp(), data, **options)


def test_parameters_may_be_the_module_itself(data: tuple[Tensor, Tensor]) -> None:
    model = mlp()
    assert Explainer(model, data, parameters=model[2]).parameter_count == 18
    with pytest.raises(ChoiceError, match="none of its parameters belongs to the model"):
        Explainer(model, data, parameters=nn.Linear(2, 2))


def test_training_inputs_that_require_a_gradient_are_taken_as_values(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    found = Explainer(mlp(), (x.clone().requires_grad_(), y)).fit(progress=False).scores(x[:2])
    torch.testing.assert_close(found, Explainer(mlp(), data).fit(progress=False).scores(x[:2]))


def test_examples_of_other_lengths_are_explained_without_neighbors() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.embed(ids).sum(1))

    def collate(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        ids = nn.utils.rnn.pad_sequence([ids for ids, _ in items], batch_first=True)
        return ids, torch.tensor([label for _, label in items])

    torch.manual_seed(0)
    items = [(torch.randint(1, 9, (3 + i % 4,)), i % 3) for i in range(12)]
    explainer = Explainer(Words().double(), items, collate_fn=collate).fit(progress=False)
    shown = explainer.queries(items).explain(0)  # three words; the training batch was padded to six
    label = shown.labels[0]
    best = explainer.top_k([items[0]], k=3)
    assert [example.index for example, _ in shown.top(label, k=3)] == best.indices[0].tolist()
    assert shown.top(label, method="nearest") == []
    longest = explainer.queries(items).explain(3)  # six words
    assert len(longest.top(longest.labels[0], method="nearest")) > 0


@pytest.mark.parametrize("parameters", [None, "out"])
def test_a_stock_transformer_with_a_padding_mask_is_explained(parameters: str | None) -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 8, padding_idx=0)
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder, self.out = nn.TransformerEncoder(layer, 2), nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.out(self.encoder(self.embed(ids), src_key_padding_mask=ids == 0)[:, 0])

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Reader().double()
        ids = torch.randint(1, 9, (12, 5))
        ids[::2, 3:] = 0
        y = torch.arange(12) % 3
        fused = torch.backends.mha.get_fastpath_enabled()
        explainer = Explainer(model, (ids, y), parameters=parameters, curvature="ekfac", damping=0.1)
        found = explainer.fit(progress=False).scores(ids[:2], y[:2], method="influence")
        assert torch.backends.mha.get_fastpath_enabled() == fused
        gradients = oracles.gradients(model.eval(), nn.CrossEntropyLoss(reduction="none"), ids, y)
    if parameters:
        gradients = gradients[:, -27:]
    basis = explainer._ready().index.basis
    turned = basis.rotation.rotate(gradients).dense()
    torch.testing.assert_close(
        found, (turned[:2] / (basis.eigenvalues + 0.1)) @ turned.T, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda f, y: (f[:, 0] - y).detach() ** 2, "does not depend on the outputs in a way that can be"),
        (lambda f, y: (f[:, 0] - y) * float("nan"), "slope of the loss for example 0 is NaN or infinite"),
    ],
)
def test_losses_that_cannot_be_differentiated_are_refused(loss: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Explainer(mlp(), blobs(), loss=loss, curvature="ekfac", fisher_labels="empirical").fit(progress=False)


@pytest.mark.parametrize(
    ("curvature", "advice"),
    [
        ("fisher", ', take a curvature that needs less, such as "low_rank" or "ekfac", set batch_size=1, or'),
        ("kfac", ', take a curvature that needs less, such as "identity", set batch_size=1, or raise'),
        (
            "identity",
            'Score fewer parameters, such as parameters="2", set batch_size=1, or raise memory_limit.',
        ),
    ],
)
def test_advice_on_memory_names_only_what_needs_less(
    data: tuple[Tensor, Tensor], curvature: str, advice: str
) -> None:
    with pytest.raises(ModelError, match="Fitting needs about") as raised:
        Explainer(mlp(), data, curvature=curvature, memory_limit=8, batch_size=2)
    assert advice in str(raised.value)
    with pytest.raises(ModelError, match="Fitting needs about") as raised:
        Explainer(mlp(), data, curvature=curvature, memory_limit=8, batch_size=1)
    assert "batch_size" not in str(raised.value)


def test_fewer_parameters_are_no_advice_where_one_layer_is_scored(data: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ModelError, match=r"may be used\. Raise memory_limit\.$"):
        Explainer(mlp(), data, parameters="2", curvature="identity", memory_limit=8, batch_size=1)


def test_a_fit_tells_a_function_how_far_it_is(data: tuple[Tensor, Tensor]) -> None:
    told: list[float] = []
    explainer = Explainer(mlp(), data, curvature="kfac", batch_size=5)
    explainer.fit(progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1
    assert len({*told}) >= 2 * len(data[0]) // 5  # two passes

    def stop(share: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        explainer.fit(progress=stop)
    with pytest.raises(RelatifError, match=r"call explainer.fit\(\) first"):
        explainer.scores(data[0][:1])


@pytest.mark.parametrize("ask", ["fit", "scores", "top_k", "self_influence", "explain"])
def test_progress_is_a_function(ask: str, data: tuple[Tensor, Tensor]) -> None:
    explainer = Explainer(mlp(), data).fit(progress=False)
    given = {
        "fit": ("yes",), "scores": (True, data[0][:1]), "top_k": (True, data[0][:1]), "self_influence": (1,),
        "explain": ("bar", data[0][0]),
    }[ask]  # fmt: skip
    with pytest.raises(ChoiceError, match=f"progress={given[0]!r}; expected a function of the fraction done"):
        getattr(explainer, ask)(*given[1:], progress=given[0])


def test_a_class_in_place_of_a_curvature_and_a_number_in_place_of_parameters_are_told() -> None:
    from relatif_widgets.curvature import LowRank

    with pytest.raises(ChoiceError, match=r"curvature=LowRank is a class; expected an object: LowRank\(\)"):
        Explainer(mlp(), blobs(), curvature=LowRank)
    with pytest.raises(ChoiceError, match="parameters=3; expected a module or its name"):
        Explainer(mlp(), blobs(), parameters=3)
    with pytest.raises(ChoiceError, match="fisher_labels='true' is not known"):
        Explainer(mlp(), blobs(), fisher_labels="true")


def test_a_softmax_before_cross_entropy_is_warned_of(data: tuple[Tensor, Tensor]) -> None:
    with pytest.warns(UserWarning, match="outputs sum to 1 for every example, as after a softmax"):
        Explainer(nn.Sequential(mlp(), nn.Softmax(1)), data)


def test_common_names_for_methods_and_signs_are_understood_as_hints(explainer: Explainer) -> None:
    inputs, _ = blobs(2)
    with pytest.raises(ChoiceError, match="method='IF' is not known.*Did you mean 'influence'"):
        explainer.top_k(inputs, method="IF")  # type: ignore[arg-type]
    with pytest.raises(ChoiceError, match="sign='helpful' is not known.*Did you mean 'positive'"):
        explainer.top_k(inputs, sign="helpful")  # type: ignore[arg-type]
