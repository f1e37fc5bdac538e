"""The paper's formulas, as pure functions of rotated gradients.

Sign (Definition 2.1): a **positive** score means that giving training example
z_i more weight *lowers* the query's loss. Such an example is helpful; a
negative score is harmful. Removing z_i changes the query's loss by about
+ I_test,i / n.

Everything here works in the eigenbasis of the curvature H = Q Λ Qᵀ. With
c = Qᵀ g (a *row*) and w = 1/(Λ + λ) (the *weights* of one damping λ),

    I_test,i = Σ w c_test c_i      ‖(H+λI)⁻¹ g_i‖² = Σ w² c_i²      I_i,i = Σ w c_i²

so a new damping needs no new gradient and no new factorisation.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .errors import ModelError
from .products import product

_CACHED = 1 << 20
"""Numbers that a CPU's cache holds."""

_FEW = 16
"""Rows that are not worth it to be squared in float32."""

ROWS, COLUMNS = 128, 1024
"""Squares at once, few enough to stay in a core's cache and for their sums to keep seven digits."""


def preconditioned(
    queries: Float[Tensor, "query dim"], weights: Float[Tensor, "stop dim"]
) -> Float[Tensor, "query stop dim"]:
    """(H+λI)⁻¹ g_test in the eigenbasis, w c_test, at all dampings.

    Args:
        queries: Rotated gradients of the queries' losses.
        weights: 1/(Λ+λ), a row per damping.
    """
    return queries[:, None, :] * weights


def influence(
    queries: Float[Tensor, "query stop dim"], train: Float[Tensor, "train dim"]
) -> Float[Tensor, "query stop train"]:
    """Influence of every training example on every query's loss (IF), at all dampings at once.

    I_test,i = g_testᵀ (H+λI)⁻¹ g_i, Eq. (3) and (6), page 2 of the paper.

    All (query, stop) pairs are the columns of one matrix product, so `train` is
    read from memory once.

    Args:
        queries: What `preconditioned` made of the queries' gradients.
        train: Rotated per-example gradients.

    Returns:
        Influence in units of loss, [query, stop, train].

    >>> c = torch.tensor([[2.0, 0.0]]); w = torch.tensor([[0.5, 1.0]])
    >>> influence(preconditioned(c, w), torch.tensor([[3.0, 7.0]]))
    tensor([[[3.]]])
    """
    return product(train, queries.flatten(0, 1)).T.reshape(*queries.shape[:2], len(train))


def preconditioned_norm(
    rows: Float[Tensor, "train dim"], weights: Float[Tensor, "stop dim"]
) -> Float[Tensor, "stop train"]:
    """‖(H+λI)⁻¹ g_i‖: how far upweighting z_i moves the parameters (denominator of Definition 3.2).

    In float64 whatever the rows are: the square of a confident example's
    gradient underflows float32, and its relative influence would be lost.
    """
    return weighted_squares(rows, weights.double().square()).sqrt()


def self_influence(
    rows: Float[Tensor, "train dim"], weights: Float[Tensor, "stop dim"]
) -> Float[Tensor, "stop train"]:
    """I_i,i = g_iᵀ (H+λI)⁻¹ g_i, the influence of z_i on its own loss, in float64.

    Its square root is the denominator of Definition 3.4; large values mark
    outliers and mislabelled examples.
    """
    return weighted_squares(rows, weights.double())


def theta_relative(
    influence: Float[Tensor, "*#query train"], preconditioned_norm: Float[Tensor, "*#query train"]
) -> Float[Tensor, "*#query train"]:
    """θ-relative influence (θ-RelatIF), Definition 3.2: per unit of change in the parameters.

    An example whose gradient is exactly zero changes nothing and scores 0.

    >>> theta_relative(torch.tensor([6.0, 0.0]), torch.tensor([2.0, 0.0]))
    tensor([3., 0.])
    """
    return _relative(influence, preconditioned_norm)


def loss_relative(
    influence: Float[Tensor, "*#query train"], self_influence: Float[Tensor, "*#query train"]
) -> Float[Tensor, "*#query train"]:
    """ℓ-relative influence (ℓ-RelatIF), Definition 3.4: per unit of expected change in the losses.

    An example whose gradient is exactly zero changes nothing and scores 0.

    Raises:
        ModelError: A self-influence is negative: the curvature is indefinite at
            this damping.

    >>> loss_relative(torch.tensor([6.0]), torch.tensor([4.0]))
    tensor([3.])
    """
    if bool((self_influence < 0).any()):
        worst = int(self_influence.reshape(-1, self_influence.shape[-1]).amin(0).argmin())
        value = float(self_influence.amin())
        raise ModelError(
            f"Self-influence of training example {worst} is {value:.3g}; loss_relative needs a "
            'positive-definite curvature. Raise the damping or use curvature="fisher".'
        )
    return _relative(influence, self_influence.sqrt())


def squared_distance(
    queries: Float[Tensor, "query dim"], train: Float[Tensor, "train dim"]
) -> Float[Tensor, "query train"]:
    """‖x_test − x_i‖² in float64, for the k-NN baseline (Section 4.3).

    >>> squared_distance(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([[25.]], dtype=torch.float64)
    """
    queries, train = queries.double(), train.double()
    square = (queries * queries).sum(1)[:, None] + (train * train).sum(1)
    return (square - 2 * queries @ train.T).clamp_(min=0.0)


def top_k(
    scores: Float[Tensor, "row train"], k: int, sign: Literal["positive", "negative", "both"] = "positive"
) -> tuple[Int[Tensor, "row k"], Float[Tensor, "row k"]]:
    """The k best training examples of every row, best first; equal scores by ascending index.

    Args:
        scores: Any of the scores above.
        k: How many; at most the number of training examples.
        sign: "positive": largest first (proponents); "negative": smallest first
            (opponents); "both": largest absolute value first, as in Eq. (11).

    Returns:
        Indices and scores, both [row, k].

    >>> top_k(torch.tensor([[1.0, -5.0, 3.0, 3.0]]), 2)
    (tensor([[2, 3]]), tensor([[3., 3.]]))
    """
    key = signed(scores, sign)
    best = key.topk(min(k + 1, key.shape[1]), dim=1)
    indices = best.indices[:, :k].clone()
    # torch.topk leaves the order of equal scores, and which of them enters, to chance;
    # a stable sort of the few at or above the k-th value does not.
    equal = (best.values[:, 1:] == best.values[:, :-1]).any(1)
    for row in torch.nonzero(equal)[:, 0].tolist():
        candidates = torch.nonzero(key[row] >= best.values[row, k - 1])[:, 0]
        order = torch.sort(key[row, candidates], descending=True, stable=True).indices[:k]
        indices[row] = candidates[order]
    return indices, scores.gather(1, indices)


class Running:
    """The k best of scores that come part by part; equal ones by ascending index.

    >>> running = Running(2, "positive")
    >>> running.add(0, torch.tensor([[3.0, 1.0]]))
    >>> running.add(2, torch.tensor([[2.0, 3.0]]))
    >>> running.best
    (tensor([[0, 3]]), tensor([[3., 3.]]))
    """

    def __init__(self, k: int, sign: Literal["positive", "negative", "both"]) -> None:
        self._k, self._sign = k, sign
        self._best: tuple[Tensor, Tensor] | None = None

    def add(self, first: int, scores: Float[Tensor, "query part"]) -> None:
        """Scores of the training examples from `first` on."""
        indices, values = top_k(scores, min(self._k, scores.shape[1]), self._sign)
        indices = indices + first
        if self._best is not None:
            # Earlier parts come first, so equal scores stay in index order.
            indices, values = torch.cat([self._best[0], indices], 1), torch.cat([self._best[1], values], 1)
            order, values = top_k(values, min(self._k, values.shape[1]), self._sign)
            indices = indices.gather(1, order)
        self._best = indices, values

    @property
    def best(self) -> tuple[Int[Tensor, "query k"], Float[Tensor, "query k"]]:
        """Indices and scores of all that came, best first."""
        assert self._best is not None
        return self._best


def signed(scores: Tensor, sign: Literal["positive", "negative", "both"]) -> Tensor:
    """Scores turned so that the best are the largest, see `top_k`."""
    if sign == "positive":
        return scores
    return -scores if sign == "negative" else scores.abs()


def weighted_squares(
    rows: Float[Tensor, "train dim"], weights: Float[Tensor, "stop dim"]
) -> Float[Tensor, "stop train"]:
    """Σ w c² at every damping, in float64.

    Rows in float32 are divided by their largest number and squared in float32, so that nothing
    underflows; sums are short ones, added up in float64: right to about 3e-7 of themselves.

    >>> weighted_squares(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 2.0]]).double())
    tensor([[11.]], dtype=torch.float64)
    """
    if rows.dtype == torch.float64 or len(rows) < _FEW:
        # Blocks bound the squares to about 64 MB.
        step = max(1, (1 << 23) // max(1, rows.shape[1]))
        return torch.cat([weights @ block.double().square().T for block in torch.split(rows, step)], dim=1)
    found = torch.zeros(len(rows), len(weights), dtype=torch.float64, device=rows.device)
    top = weights.abs().amax(1, keepdim=True).clamp(min=1e-300)
    scaled = (weights / top).float()
    step = ROWS if rows.device.type == "cpu" else 64 * ROWS
    for start in range(0, len(rows), step):
        block = rows[start : start + step].float()
        most = largest(block)
        total = found[start : start + step]
        for first in range(0, rows.shape[1], COLUMNS):
            some = slice(first, first + COLUMNS)
            total += product(scaled_squares(block[:, some], most), scaled[:, some])
        total *= most.double().square()
    return found.T * top


def squared_lengths(rows: Float[Tensor, "row dim"]) -> Float[Tensor, "row"]:
    """‖c‖² in float64, a few rows at a time, which stay in a cache.

    >>> squared_lengths(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([25.,  0.], dtype=torch.float64)
    """
    step = max(1, _CACHED // max(1, rows.shape[1])) if rows.device.type == "cpu" else max(1, len(rows))
    parts = [torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in torch.split(rows, step)]
    return torch.cat(parts).square()


def largest(rows: Float[Tensor, "row dim"]) -> Float[Tensor, "row 1"]:
    """The largest absolute value of each row, and 1 where all is zero."""
    most = torch.maximum(
        rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True)
    )  # no temporary of their size
    return torch.where(most > 0, most, 1)


def scaled_squares(rows: Float[Tensor, "row dim"], most: Float[Tensor, "row 1"]) -> Float[Tensor, "row dim"]:
    """(c / most)², for numbers whose squares would underflow."""
    return (rows / most).square_()


def _relative(
    influence: Float[Tensor, "*#query train"], normalizer: Float[Tensor, "*#query train"]
) -> Float[Tensor, "*#query train"]:
    scores, zero = influence / normalizer, normalizer == 0
    return torch.where(zero, 0, scores) if bool(zero.any()) else scores  # of few, seldom any
