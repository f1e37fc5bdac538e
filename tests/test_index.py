"""An index that leaves something out: what it says of the best is exact, and it vouches only for what is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from cases import blobs
from networks import NETWORKS
from torch import Tensor, nn

from relatif_widgets import Explainer, best
from relatif_widgets.curvature import EKFAC, LowRank
from relatif_widgets.errors import Cancelled, ChoiceError, DataError
from relatif_widgets.explanation import Sign
from relatif_widgets.fitting import _beside_rows, _inputs_bytes, _working
from relatif_widgets.gradients import GradientBatch
from relatif_widgets.index import Index, RelativeMethod
from relatif_widgets.neighbors import Unkept
from relatif_widgets.normalizers import weights_bytes
from relatif_widgets.rows import Outer, Room, Rows, choose, dots, part_products, preconditioned
from relatif_widgets.scoring import Scorer


def convnet() -> nn.Module:
    """Convolutions, whose 40 + 17 coordinates are stored as they are, and a Linear: 5 · 10 as outer products."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 1, 2), nn.Tanh(), nn.Flatten(), nn.Linear(9, 5)
    ).double()  # fmt: skip


def images(count: int) -> tuple[Tensor, Tensor]:
    x, y = blobs(count, 5, 36)
    return x.reshape(-1, 1, 6, 6), y


@pytest.mark.parametrize("curvature", ["ekfac", "kfac", "fisher"])
def test_a_truncated_index_names_the_same_examples_and_vouches_only_for_the_right_ones(
    curvature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = images(1200)
    whole = Explainer(convnet(), (x, y), curvature=curvature, damping=0.1).fit(progress=False)
    monkeypatch.setattr("relatif_widgets.fitting._row_bytes", lambda task, rotation, storage: 1 << 60)
    given = refused = 0
    for numbers in (2, 20, 60):
        monkeypatch.setattr(
            "relatif_widgets.fitting.choose",
            lambda rows, energies, room, own=numbers: choose(rows, energies, own),
        )
        part = Explainer(convnet(), (x, y), curvature=curvature, damping=0.1).fit(progress=False)
        rows = part._ready().index.rows
        assert rows is not None
        assert rows.nbytes == numbers * 1200 * 8
        for damping in (0.1, 0.04):  # a stop, and one whose normalizers take another pass
            torch.testing.assert_close(part.self_influence(damping), whole.self_influence(damping))
            for method in ("influence", "theta_relative", "loss_relative"):
                for sign in ("positive", "negative", "both"):
                    options = {"k": 5, "method": method, "damping": damping, "sign": sign}
                    for query in range(2):
                        ours, right = (one.top_k(x[query : query + 1], **options) for one in (part, whole))
                        if bool(ours.certified):
                            given += 1
                            assert ours.indices.tolist() == right.indices.tolist()
                            torch.testing.assert_close(ours.scores, right.scores)
                        else:
                            refused += 1
                        if numbers == 60:
                            assert ours.indices.tolist() == right.indices.tolist()
        torch.testing.assert_close(part.scores(x[:2]), whole.scores(x[:2]))
    assert given > 10
    assert refused > 10
    ours, right = (one.explain(x[0], labels=[int(y[0])]) for one in (part, whole))
    stop = ours.stop_at(0.1)
    for mine, theirs in zip(ours.panels[0].rankings, right.panels[0].rankings, strict=True):
        if mine.method != "nearest":
            np.testing.assert_allclose(mine.scores[stop][:5], theirs.scores[stop][:5], rtol=1e-7)


@pytest.mark.usefixtures("no_room_for_gradients")
@pytest.mark.parametrize(
    "options",
    [{"storage": "bfloat16"}, {"curvature": LowRank(12)}, {"memory_limit": "650kB"}],
    ids=["bfloat16", "low rank", "650kB"],
)
def test_influence_between_the_stops_needs_no_normalizers_there(options: dict[str, Any]) -> None:
    """Those of the stop below bound it as well."""
    x, y = images(1200)
    explainer, whole = (
        Explainer(convnet(), (x, y), damping=0.1, **{"curvature": "ekfac", **given}).fit(progress=False)
        for given in (options, {key: value for key, value in options.items() if key == "curvature"})
    )
    index = explainer._ready().index
    assert index.partial
    assert index.stop_below(0.07) == 0.03
    assert index.stop_below(1e-9) is None
    given = 0
    for damping in (0.07, 0.2):
        found = explainer.top_k(x[:20], k=3, method="influence", damping=damping)
        right = whole.scores(x[:20], method="influence", damping=damping).topk(3, dim=1)
        given += int(found.certified.sum())
        assert torch.equal(found.indices[found.certified], right.indices[found.certified])
        torch.testing.assert_close(found.scores[found.certified], right.values[found.certified])
        assert index.missing([damping]) == [damping]
    assert given > 5 or "curvature" in options
    explainer.top_k(x[:1], k=3, method="theta_relative", damping=0.07)
    assert index.missing([0.07]) == []


def test_a_list_is_as_long_as_its_bound_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 107 coordinates some are kept, and few can be among the best.

    More where only the bound is believed, and not what the first of each ranking were off by;
    where that bound says nothing, 200 are listed.
    """
    x, y = images(1200)
    whole = Explainer(convnet(), (x, y), curvature="ekfac", damping=0.1).fit(progress=False)
    monkeypatch.setattr("relatif_widgets.fitting._row_bytes", lambda task, rotation, storage: 1 << 60)
    monkeypatch.setattr(
        "relatif_widgets.fitting.choose", lambda rows, energies, numbers: choose(rows, energies, 50)
    )
    part = Explainer(convnet(), (x, y), curvature="ekfac", damping=0.1, batch_size=5).fit(progress=False)
    assert part._ready().index.kept is not None
    methods: tuple[RelativeMethod, ...] = ("influence", "theta_relative", "loss_relative")
    ((gradients, _),) = part._gradient_blocks(x[:1], None, lambda done: None)
    scorer = part._scorer()

    def listed() -> Tensor:
        found = scorer.shortlist(gradients, [0.1, 1.0], methods, 3, told.append)
        assert found is not None
        return found.rows

    told: list[float] = []
    short = listed()
    assert told == sorted(told)
    assert len(told) >= 2 + len(short) / 5  # a chance to cancel after each batch
    assert told[-1] <= 1
    for damping in (0.1, 1.0):
        for method in methods:
            for sign in ("positive", "negative"):
                best = whole.top_k(x[:1], k=3, method=method, damping=damping, sign=sign)
                assert set(best.indices[0].tolist()) <= set(short.tolist())
    monkeypatch.setattr("relatif_widgets.shortlists.GRANTED", 1e12)
    bounded = listed()
    assert set(short.tolist()) < set(bounded.tolist())
    monkeypatch.setattr(
        Index, "left_out", lambda self, dampings: self.self_influence(dampings).new_full((2, 1200), 1e9)
    )
    assert len(short) < 100
    assert len(bounded) < 150
    assert len(listed()) >= 200


@pytest.mark.parametrize("room", [None, 50, 0], ids=["whole", "truncated", "none"])
def test_questions_tell_their_progress_pass_by_pass(
    monkeypatch: pytest.MonkeyPatch, room: int | None
) -> None:
    """Where an index is cut or there is none, `top_k` of many queries takes a pass for a few of them."""
    x, y = images(300)
    if room is not None:
        monkeypatch.setattr("relatif_widgets.fitting._row_bytes", lambda task, rotation, storage: 1 << 60)
        monkeypatch.setattr(
            "relatif_widgets.fitting.choose", lambda rows, energies, numbers: choose(rows, energies, room)
        )
    options: dict[str, Any] = {"curvature": "ekfac", "damping": 0.1, "batch_size": 50}
    explainer = Explainer(convnet(), (x, y), **options).fit(progress=False)
    monkeypatch.setattr(explainer, "_queries_at_once", lambda: 4)
    monkeypatch.setattr(explainer, "_at_once", 4)
    asked: dict[str, Callable[[Any], object]] = {
        "scores": lambda told: explainer.scores(x[:11], progress=told),
        "top_k": lambda told: explainer.top_k(x[:11], k=3, progress=told),
        "a new damping": lambda told: explainer.top_k(x[:11], k=3, damping=0.07, progress=told),
        "nearest": lambda told: explainer.top_k(x[:11], k=3, method="nearest", progress=told),
    }
    for name, ask in asked.items():
        told: list[float] = []
        ask(told.append)
        assert told == sorted(told), name
        assert told[-1] == pytest.approx(1), name
        if room is not None and name != "nearest":  # six batches of the training set for each block of four
            assert len(told) >= 3 * 6, name
    assert explainer._ready().index.missing([0.05])
    told = []
    explainer.self_influence(0.05, progress=told.append)
    assert told == ([] if room is None else pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1]))

    def stop(done: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        explainer.top_k(x[:11], k=3, progress=stop)


def test_gradients_beside_low_rank_rows_make_every_table_exact() -> None:
    """Where memory has room for them; the coordinates alone would name others at dampings far below the tail."""
    x, y = images(1200)
    options: dict[str, Any] = {
        "curvature": LowRank(30, "exact", iterations=3),
        "damping": 0.1,
        "batch_size": 50,
    }
    whole = Explainer(convnet(), (x, y), **options).fit(progress=False)
    index = whole._ready().index
    assert index.rows is not None
    assert index.rows.gradients is not None
    assert index.complete
    assert not index.partial
    assert "rotated gradients, and gradients as they are, in float64\n" in whole.report()
    train = torch.cat([block for block, _ in whole._gradient_blocks(x, y, lambda done: None)])
    assert torch.equal(index.rows.gradients, train)
    vectors = index.basis.rotation.back(Rows((torch.eye(30, dtype=torch.float64),)))
    assert index.basis.eigenvalues is not None
    assert index.basis.tail is not None
    curvature = index.basis.tail * torch.eye(107, dtype=torch.float64)
    curvature += vectors.T @ ((index.basis.eigenvalues - index.basis.tail)[:, None] * vectors)
    shown = whole.explain(x[0], labels=[int(y[0])], top=50)
    for stop, damping in enumerate(shown.dampings):
        right = oracles.influence(curvature, damping, train[:1], train)
        theta, own = oracles.normalizers(curvature, damping, train)
        for method, score in (
            ("influence", right),
            ("theta_relative", right / theta),
            ("loss_relative", right / own),
        ):
            for sign, value in (("positive", score), ("negative", -score)):
                table = shown.panels[0].ranking(method, sign)
                listed = [shown.examples[place].index for place in table.examples[stop]]
                assert listed == value[0].topk(50).indices.tolist()
                np.testing.assert_allclose(table.scores[stop], score[0, listed], rtol=1e-6)
    beside = _beside_rows(whole._task, whole._curvature, whole._sizes, "row", 1 << 40)
    short = beside + index.rows.nbytes - index.rows.gradients.nbytes // 2
    lean = Explainer(convnet(), (x, y), **options, memory_limit=short).fit(progress=False)
    assert lean._ready().index.ranks
    torch.testing.assert_close(lean.scores(x[:3]), whole.scores(x[:3]))
    rounded = Explainer(convnet(), (x, y), **options, storage="bfloat16").fit(progress=False)
    assert rounded._ready().index.ranks


@pytest.mark.parametrize("name", ["conv2d at one position", "batch norm", "grouped conv"])
def test_vectors_and_gradients_meet_in_either_basis(name: str) -> None:
    case = NETWORKS[name]
    model, x, y = case.model(), case.inputs(), torch.tensor([0, 1, 2, 0, 1])
    explainer = Explainer(model, (x, y), curvature=EKFAC("empirical")).fit(progress=False)
    task, rotation = explainer._task, explainer._ready().index.basis.rotation
    (batch,) = task.batches(task.source, 5)
    torch.manual_seed(0)
    rows = rotation.rotate(torch.randn(4, explainer.parameter_count, dtype=torch.float64))
    right = rotation.back(rows) @ batch.gradients.T
    asked = []
    for examples in (1, 10**9):
        vectors, parts = rotation.meet(rows, examples, lambda rows: task.plan.split(task.objective, rows))
        torch.testing.assert_close(part_products(vectors, parts(batch)), right)
        asked.append(vectors)
    turned = [not torch.allclose(one, other) for one, other in zip(*asked, strict=True)]
    assert turned[: len(task.plan.layers)] == [layer.once for layer in task.plan.layers]


def test_a_memory_limit_keeps_the_coordinates_with_the_most_energy() -> None:
    x, y = images(1200)
    explainer = Explainer(convnet(), (x, y), curvature="ekfac", damping=0.1, memory_limit="650kB").fit(
        progress=False
    )
    index = explainer._ready().index
    assert index.rows is not None
    assert index.kept is not None
    # What is left beside one batch and the curvature.
    rest = _beside_rows(
        explainer._task, explainer._curvature, explainer._sizes, "part", 650_000
    ) + weights_bytes(len(explainer.dampings), explainer.parameter_count, torch.float64)
    assert 650_000 - rest - 1200 * 8 < index.rows.nbytes <= 650_000 - rest
    values, kept = index.basis.eigenvalues, index.kept
    # The Linear's outer products: 5 + 10 numbers for 50 coordinates.
    assert kept.columns[2] is None
    single = torch.cat([values[:40], values[40:57]])
    parts = torch.split(torch.arange(57), [40, 17])
    stored = torch.cat(
        [part if own is None else part[own] for part, own in zip(parts, kept.columns, strict=False)]
    )
    assert stored.tolist() == single.topk(len(stored)).indices.sort().values.tolist()
    share = (single[stored].sum() + values[57:].sum()) / values.sum()
    assert (
        f"{len(stored) + 50} of 107 coordinates with {float(share):.1%} of the curvature's trace (0 "
        in explainer.report()
    )
    shown = explainer.explain(x[0]).provenance.curvature_detail
    assert f"; ranked by {len(stored) + 50} of 107 coordinates, the best scored exactly" in shown
    assert "5 100%); the best of a ranking are scored afresh, and TopK.certified" in explainer.report()


def test_inputs_for_nearest_are_those_of_the_training_set_where_they_lie_in_memory() -> None:
    x, y = images(30)
    shared = Explainer(convnet(), (x, y), curvature="identity").fit(progress=False)
    copied = Explainer(convnet(), (x.float(), y), curvature="identity").fit(progress=False)
    listed = Explainer(convnet(), [*zip(x, y, strict=True)], curvature="identity").fit(progress=False)
    spaces = []
    for explainer, bytes_ in ((shared, 0), (copied, 30 * 36 * 8), (listed, 30 * 36 * 8)):
        assert _inputs_bytes(explainer._task) == bytes_
        neighbors = explainer._ready().neighbors
        assert neighbors is not None
        assert isinstance(neighbors.inputs, Tensor)
        spaces.append(neighbors.inputs)
    assert spaces[0].data_ptr() == x.data_ptr()
    assert spaces[1].dtype == torch.float64
    torch.testing.assert_close(spaces[1], x.float().double().flatten(1), rtol=0, atol=0)
    torch.testing.assert_close(spaces[2], x.flatten(1), rtol=0, atol=0)
    best = [one.top_k(x[:4], k=3, method="nearest").indices.tolist() for one in (shared, copied, listed)]
    assert best[0] == best[1] == best[2]


def test_inputs_for_which_there_is_no_room_are_read_anew_for_each_question() -> None:
    x, y = images(700)
    pairs = [*zip(x.float(), y, strict=True)]
    model = convnet().float()
    whole = Explainer(model, pairs, curvature="ekfac").fit(progress=False)
    working = sum(_working(whole._task, whole._curvature, whole._sizes, "part").values())
    kept = _inputs_bytes(whole._task)
    assert kept == 700 * 36 * 4
    options: dict[str, Any] = {"curvature": "ekfac", "batch_size": max(whole._sizes.values())}
    just = Explainer(model, pairs, memory_limit=working + kept, **options)
    less = Explainer(model, pairs, memory_limit=working + kept - 1, **options).fit(progress=False)
    assert just._sizes == less._sizes == whole._sizes
    neighbors = less._ready().neighbors
    assert neighbors is not None
    assert isinstance(neighbors.inputs, Unkept)
    for explainer, said in ((just.fit(progress=False), False), (less, True)):
        assert ("k-NN: inputs exceed the memory, and are read anew" in explainer.report()) == said
    queries = torch.cat([x[:3], x[690:] + 0.01]).float()
    right = whole.scores(queries, method="nearest")
    torch.testing.assert_close(less.scores(queries, method="nearest"), right, rtol=1e-9, atol=1e-12)
    best, again = (one.top_k(queries, k=4, method="nearest") for one in (whole, less))
    assert torch.equal(best.indices, again.indices)
    torch.testing.assert_close(best.scores, again.scores, rtol=1e-9, atol=1e-12)
    told: list[float] = []
    shown = less.explain(queries[0], progress=told.append)
    assert told == sorted(told)
    assert told[0] < 0.1  # a chance to cancel while they are read
    (table,) = (table for table in shown.panels[0].rankings if table.method == "nearest")
    assert [shown.examples[row].index for row in table.examples[0][:4]] == again.indices[0].tolist()


def test_inputs_that_are_read_anew_still_need_one_length() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x.sum(1, keepdim=True))
            return out

    def padded(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        values = nn.utils.rnn.pad_sequence([value for value, _ in items], batch_first=True)
        return values, torch.tensor([label for _, label in items])

    torch.manual_seed(0)
    pairs = [(torch.randn(4 if row < 5 else 6, dtype=torch.float64), row % 3) for row in range(10)]
    options: dict[str, Any] = {"curvature": "ekfac", "batch_size": 1, "collate_fn": padded}
    probe = Explainer(Sum(), pairs, **options)
    working = sum(_working(probe._task, probe._curvature, probe._sizes, "part").values())
    explainer = Explainer(Sum(), pairs, memory_limit=working, **options).fit(progress=False)
    assert explainer._ready().neighbors is None
    with pytest.raises(DataError, match="nearest needs inputs"):
        explainer.top_k(pairs[:1], k=1, method="nearest")


def test_outer_products_are_kept_where_their_factors_tell_more() -> None:
    rows = Rows((torch.zeros(1, 3), Outer(torch.zeros(1, 2), torch.zeros(1, 3))))
    energies = torch.tensor([5.0, 1.0, 0.1, 2.1, 2.0, 1.9, 2.2, 1.8, 2.0])

    def chosen(numbers: int) -> tuple[list[int] | None, list[int] | None] | None:
        found = choose(rows, energies, numbers)
        if found is None:
            return None
        first, second = (None if columns is None else columns.tolist() for columns in found.columns)
        assert found.count == (3 if first is None else len(first)) + (6 if second is None else len(second))
        return first, second

    assert chosen(0) is None
    assert chosen(1) == ([0], [])
    assert chosen(4) == ([0], [0, 1, 3])  # all of the outer product takes five
    assert chosen(6) == ([0], None)  # 12 for five numbers, 2.4 each; the best single coordinate has more
    assert chosen(7) == ([0, 1], None)
    assert chosen(99) == (None, None)


@pytest.mark.usefixtures("no_room_for_gradients")
@pytest.mark.parametrize("curvature", ["ekfac", "fisher", LowRank(40, "exact", iterations=3)])
def test_rounded_rows_make_a_shortlist_that_is_scored_exactly(curvature: Any) -> None:
    x, y = images(1200)
    exact = Explainer(convnet(), (x, y), curvature=curvature, damping=0.1).fit(progress=False)
    right = {query: exact.top_k(x[query : query + 1], k=5, method="influence") for query in range(8)}
    for storage in ("bfloat16", "float16"):
        rounded = Explainer(convnet(), (x, y), curvature=curvature, damping=0.1, storage=storage).fit(
            progress=False
        )
        given = 0
        for query, known in right.items():
            found = rounded.top_k(x[query : query + 1], k=5, method="influence")
            assert found.indices.tolist() == known.indices.tolist()
            torch.testing.assert_close(found.scores, known.scores)
            given += int(found.certified)
        assert given > 0 if storage == "bfloat16" else given == 0
        ours, whole = (one.explain(x[0], labels=[int(y[0])]) for one in (rounded, exact))
        for mine, theirs in zip(ours.panels[0].rankings, whole.panels[0].rankings, strict=True):
            for first, second in zip(mine.scores, theirs.scores, strict=True):
                np.testing.assert_allclose(first[:3], second[:3], rtol=1e-7)


@pytest.mark.usefixtures("no_room_for_gradients")
def test_many_queries_share_a_pass_over_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images(600)
    explainer = Explainer(
        convnet(), (x, y), curvature=LowRank(30, "exact", iterations=3), damping=0.1, batch_size=20
    ).fit(progress=False)
    one_by_one = [explainer.top_k(x[query : query + 1], k=4) for query in range(100)]
    passes: list[int] = []
    plain = Scorer.influence

    def counted(self: Scorer, gradients: Tensor, *args: Any) -> Any:
        passes.append(len(gradients))
        return plain(self, gradients, *args)

    monkeypatch.setattr(Scorer, "influence", counted)
    together = explainer.top_k(x[:100], k=4)
    assert passes == [100]
    assert together.indices.tolist() == [one.indices[0].tolist() for one in one_by_one]
    torch.testing.assert_close(together.scores, torch.cat([one.scores for one in one_by_one]))
    monkeypatch.setattr(explainer, "_memory", 8 * 8 * 40 * 6 * 107)
    again = explainer.top_k(x[:100], k=4)
    assert passes == [100, 40, 40, 20]
    assert torch.equal(again.indices, together.indices)


@pytest.mark.parametrize("sign", ["positive", "negative", "both"])
def test_a_list_for_each_query_gives_what_scoring_everybody_gives(sign: str) -> None:
    x, y = images(2000)
    exact, rounded = (
        Explainer(convnet(), (x, y), curvature="ekfac", damping=0.1, storage=storage, batch_size=96).fit(
            progress=False
        )
        for storage in (None, "bfloat16")
    )
    methods = ("influence", "theta_relative", "loss_relative")
    found, right = (
        one._top(x[:150], None, k=4, methods=methods, damping=None, sign=sign) for one in (rounded, exact)
    )
    for method in methods:
        ours, whole = found[method], right[method]
        same = (ours.indices == whole.indices).all(1)
        assert same[ours.certified].all()
        assert ours.certified.any()
        assert float(same.double().mean()) > 0.97
        torch.testing.assert_close(ours.scores[same], whole.scores[same])


@pytest.mark.parametrize("curvature", ["ekfac", LowRank(30, "exact", iterations=3)])
@pytest.mark.parametrize("sign", ["positive", "negative", "both"])
def test_many_queries_of_a_whole_index_are_screened_in_bfloat16(
    sign: Sign, curvature: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the processor multiplies it quickly."""
    monkeypatch.setattr("relatif_widgets.index._multiplies_bfloat16", lambda device: True)
    x, y = images(2000)
    explainer = Explainer(convnet().float(), (x.float(), y), curvature=curvature, damping=0.1).fit(
        progress=False
    )
    methods: tuple[RelativeMethod, ...] = ("influence", "theta_relative", "loss_relative")
    asked: list[int] = []
    plain = best._everybody

    def counted(scorer: Scorer, gradients: Tensor, *options: Any) -> Any:
        asked.append(len(gradients))
        return plain(scorer, gradients, *options)

    monkeypatch.setattr(best, "_everybody", counted)
    found = explainer._top(x[:150].float(), None, k=4, methods=methods, sign=sign)
    few = asked.copy()
    monkeypatch.setattr(Index, "rounding", lambda self, dtype: 1e9)  # nobody is vouched for
    again = explainer._top(x[:150].float(), None, k=4, methods=methods, sign=sign)
    assert asked[len(few) :] == [150]
    assert sum(few) < 100
    for method in methods:
        score = explainer.scores(x[:150].float(), method=method)
        right = score.abs() if sign == "both" else score if sign == "positive" else -score
        for top in (found[method], again[method]):
            assert bool(top.certified.all())
            values = right.gather(1, top.indices)
            torch.testing.assert_close(values, right.topk(4).values)
            torch.testing.assert_close(top.scores, score.gather(1, top.indices))


@pytest.mark.usefixtures("no_room_for_gradients")
def test_a_shortlist_of_low_rank_coordinates_serves_many_queries_where_the_training_set_is_large() -> None:
    x, y = images(20_000)
    explainer = Explainer(
        convnet(), (x, y), curvature=LowRank(30, "exact", iterations=2), damping=0.1, batch_size=200
    ).fit(progress=False)
    asked: list[int] = []
    plain = Scorer.pairs

    def counted(self: Scorer, rows: Tensor, *options: Any) -> Any:
        asked.append(len(rows))
        return plain(self, rows, *options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scorer, "pairs", counted)
        found = explainer.top_k(x[:300], k=3)
    assert asked == [300 * 200]
    right = explainer.scores(x[:300])
    torch.testing.assert_close(found.scores, right.gather(1, found.indices))
    best = right.topk(3).indices
    assert torch.equal(found.indices[found.certified], best[found.certified])
    assert bool(found.certified.any())
    assert float((found.indices == best).double().mean()) > 0.97


@pytest.mark.parametrize("storage", [None, "bfloat16"])
@pytest.mark.parametrize("curvature", ["fisher", "ekfac", LowRank(40, "exact", iterations=3)])
def test_rows_in_a_file_answer_as_rows_in_memory_do(curvature: Any, storage: Any, tmp_path: Path) -> None:
    x, y = images(1200)
    options: dict[str, Any] = {"curvature": curvature, "damping": 0.1, "storage": storage}
    inside = Explainer(convnet(), (x, y), **options).fit(progress=False)
    mapped = Explainer(convnet(), (x, y), **options, index_folder=tmp_path / "new").fit(progress=False)
    assert "mapped to a file" in mapped.report()
    assert "mapped" not in inside.report()
    assert list((tmp_path / "new").iterdir()) == []  # they have no names, and go with the process
    for method in ("influence", "theta_relative", "loss_relative"):
        assert torch.equal(mapped.scores(x[:3], method=method), inside.scores(x[:3], method=method))
    assert torch.equal(mapped.self_influence(0.02), inside.self_influence(0.02))
    ours, right = (one.top_k(x[:40], k=3) for one in (mapped, inside))
    assert torch.equal(ours.indices, right.indices)


def test_rows_in_a_file_do_not_count_against_the_memory(tmp_path: Path) -> None:
    x, y = images(1200)
    options: dict[str, Any] = {"curvature": "ekfac", "damping": 0.1, "memory_limit": "600kB"}
    part = Explainer(convnet(), (x, y), **options).fit(progress=False)
    whole = Explainer(convnet(), (x, y), **options, index_folder=tmp_path).fit(progress=False)
    assert part._ready().index.kept is not None
    assert whole._ready().index.kept is None
    assert bool(whole.top_k(x[:5]).certified.all())


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    for folder in (taken, taken / "below", 7):
        with pytest.raises(ChoiceError, match="index_folder=.*cannot be written to"):
            Explainer(convnet(), images(20), index_folder=folder)  # type: ignore[arg-type]


def test_a_drawn_label_that_is_the_training_label_is_rotated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = images(300)
    model = convnet()
    last = model[-1]  # type: ignore[index]
    with torch.no_grad():
        last.weight.mul_(20)  # confident, so that most drawn labels are the predicted ones
        y = model(x).argmax(1)
    y[:30] = (y[:30] + 1) % 5
    seen: list[tuple[int, int]] = []
    plain = GradientBatch.some

    def counted(self: GradientBatch, rows: Tensor) -> GradientBatch:
        seen.append((len(rows), len(self.targets)))
        return plain(self, rows)

    monkeypatch.setattr(GradientBatch, "some", counted)
    explainer = Explainer(model, (x, y), curvature=EKFAC("sample"), damping=0.1, batch_size=60)
    index = explainer.fit(progress=False)._ready().index
    assert len(seen) > 0
    assert all(0 < few <= many / 2 for few, many in seen)
    batch = next(explainer._task.some(range(300), 300))
    with explainer._task.evaluating():
        right = index.basis.rotation.rotate(batch.gradients).dense()
    assert index.rows is not None
    torch.testing.assert_close(index.rows.dense(), right, rtol=1e-10, atol=1e-12)


def test_early_passes_take_larger_batches_unless_a_collate_fn_may_pad_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = [(picture, int(label)) for picture, label in zip(*images(60), strict=True)]
    monkeypatch.setattr("relatif_widgets.fitting._CHUNK_BYTES", {"cpu": 60_000})
    monkeypatch.setattr("relatif_widgets.fitting._FEW", 1)
    together = Explainer(convnet(), data, curvature=EKFAC("sample"), damping=0.1, batch_size=60)
    right = together.fit(progress=False).scores(data[0][0][None])
    for collate in (None, torch.utils.data.default_collate):
        explainer = Explainer(convnet(), data, curvature=EKFAC("sample"), damping=0.1, collate_fn=collate)
        assert explainer._sizes["row"] < 20
        early, last = explainer._sizes["none"], explainer._sizes["row"]
        assert early == last if collate else early > last
        torch.testing.assert_close(explainer.fit(progress=False).scores(data[0][0][None]), right)


def test_a_long_query_is_summed_up_in_float64() -> None:
    """Of its own self-influence no digit is lost, however many coordinates it has."""
    torch.manual_seed(0)
    query = Rows((torch.randn(2, 70_000), Outer(torch.randn(2, 3), torch.randn(2, 5)), torch.randn(2, 0)))
    weights = torch.rand(3, 70_015).double()
    ready = preconditioned(query, torch.split(weights, query.sizes, dim=1), torch.float64)
    exact = weights @ query.dense().double().square().T
    torch.testing.assert_close(dots(ready, query), exact, rtol=1e-6, atol=0)


def test_a_truncated_index_in_float32_scores_the_confident_as_float64_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gradients of losses of a millionth: once for the normalizers, once more for the numerators."""
    x, y = images(600)
    model = convnet()
    with torch.no_grad():
        model[-1].weight *= 150
        model[-1].bias *= 150
        y = model(x).argmax(1)
        losses = nn.functional.cross_entropy(model(x), y, reduction="none")
    assert int((losses < 1e-5).sum()) > 20
    queries = x[losses.argsort()[:30]]  # the surest
    whole = Explainer(model, (x, y), curvature="ekfac", damping=0.01).fit(progress=False)
    monkeypatch.setattr("relatif_widgets.fitting._row_bytes", lambda task, rotation, storage: 1 << 60)
    monkeypatch.setattr(
        "relatif_widgets.fitting.choose", lambda rows, energies, room: choose(rows, energies, 40)
    )
    part = Explainer(model.float(), (x.float(), y), curvature="ekfac", damping=0.01, batch_size=7)
    part.fit(progress=False)
    assert part._ready().index.kept is not None
    for method in ("theta_relative", "loss_relative"):
        right = whole.scores(queries, method=method)
        found = part.scores(queries.float(), method=method).double()
        torch.testing.assert_close(found, right, rtol=2e-4, atol=2e-5 * float(right.abs().max()))
        top = part.top_k(queries.float(), k=5, method=method)
        torch.testing.assert_close(top.scores.double(), right.gather(1, top.indices), rtol=2e-4, atol=0)


def test_rows_in_another_precision_take_the_same_memory_again() -> None:
    room = Room()
    one, other = torch.randn(3, 4).to(torch.bfloat16), torch.randn(2, 4).to(torch.bfloat16)
    first = room.cast(one, torch.float32)
    assert torch.equal(first, one.float())
    second = room.cast(other, torch.float32)
    assert torch.equal(second, other.float())
    assert second.data_ptr() == first.data_ptr()
    larger = torch.randn(5, 4).to(torch.bfloat16)
    assert torch.equal(room.cast(larger, torch.float32), larger.float())
    assert room.cast(one, torch.bfloat16) is one
