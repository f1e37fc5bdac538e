"""Slow, dense, obvious versions of what the package computes, by plain autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def flat_parameters(model: nn.Module) -> list[Tensor]:
    return [value for value in model.parameters() if value.requires_grad]


def gradient(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """∇_θ ℓ of one example, one backward pass."""
    value = loss(model(x[None]), y[None])
    grads = torch.autograd.grad(value.sum(), flat_parameters(model), allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(parameter) if grad is None else grad).reshape(-1)
            for grad, parameter in zip(grads, flat_parameters(model), strict=True)
        ]
    )


def gradients(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([gradient(model, loss, xi, yi) for xi, yi in zip(x, y, strict=True)])


def hessian(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """∇²_θ Σ_i ℓ, row by row: backward through the gradient."""
    parameters = flat_parameters(model)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        first = torch.autograd.grad(
            loss(model(x), y).sum(), parameters, create_graph=True, materialize_grads=True
        )
    slope = torch.cat([grad.reshape(-1) for grad in first])
    rows = []
    for value in slope:
        if not value.requires_grad:
            rows.append(torch.zeros(len(slope), dtype=slope.dtype))
            continue
        second = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        parts = [
            (torch.zeros_like(parameter) if grad is None else grad).reshape(-1)
            for grad, parameter in zip(second, parameters, strict=True)
        ]
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def softmax_fisher(model: nn.Module, x: Tensor) -> Tensor:
    """(1/n) Σ_i Σ_y p(y|x_i) g g ᵀ, enumerating every label: Eq. (7) as it stands."""
    loss = nn.CrossEntropyLoss(reduction="none")
    total = 0
    for xi in x:
        probabilities = model(xi[None])[0].softmax(0).detach()
        for label, probability in enumerate(probabilities):
            g = gradient(model, loss, xi, torch.tensor(label))
            total = total + probability * torch.outer(g, g)
    return total / len(x)


def kronecker(model: nn.Sequential, x: Tensor, *, measured: bool) -> Tensor:
    """K-FAC, or with measured eigenvalues EK-FAC, as one dense block-diagonal matrix.

    Example by example, label by label, position by position; for Linear and
    Conv2d layers with biases, in the order of the parameters.
    """
    layers = [i for i, module in enumerate(model) if isinstance(module, (nn.Linear, nn.Conv2d))]
    seen: dict[int, list[tuple[float, Tensor, Tensor]]] = {i: [] for i in layers}  # (p, a [t, i], d [t, o])
    for xi in x:
        value, inputs, outputs = xi[None], {}, {}
        for i, module in enumerate(model):
            if i in layers:
                inputs[i] = value.detach()
            value = module(value)
            if i in layers:
                outputs[i] = value
        chances = value[0].softmax(0).detach()
        for label, chance in enumerate(chances):
            loss = nn.functional.cross_entropy(value, torch.tensor([label]))
            slopes = torch.autograd.grad(loss, list(outputs.values()), retain_graph=True)
            for i, slope in zip(layers, slopes, strict=True):
                module = model[i]
                if isinstance(module, nn.Conv2d):
                    a = nn.functional.unfold(inputs[i], module.kernel_size, padding=module.padding)[0].T
                    d = slope[0].flatten(1).T
                else:
                    a, d = inputs[i].reshape(-1, inputs[i].shape[-1]), slope.reshape(-1, slope.shape[-1])
                a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)
                seen[i].append((float(chance), a, d))
    blocks = []
    for i in layers:
        n, positions = len(x), len(seen[i][0][1])
        of_inputs = sum(p * a.T @ a for p, a, _ in seen[i]) / n  # the chances of one example sum to 1
        of_slopes = sum(p * d.T @ d for p, _, d in seen[i]) / n / positions
        block = torch.kron(of_slopes, of_inputs)
        if measured:
            basis = torch.kron(torch.linalg.eigh(of_slopes)[1], torch.linalg.eigh(of_inputs)[1])
            moments = sum(p * (basis.T @ (d.T @ a).reshape(-1)) ** 2 for p, a, d in seen[i]) / n
            block = basis @ torch.diag(moments) @ basis.T
        out, into = of_slopes.shape[0], of_inputs.shape[0]
        places = torch.arange(out * into).reshape(out, into)
        order = torch.cat([places[:, :-1].reshape(-1), places[:, -1]])
        blocks.append(block[order[:, None], order])
    return torch.block_diag(*blocks)


def influence(curvature: Tensor, damping: float, queries: Tensor, train: Tensor) -> Tensor:
    """g_testᵀ (H + λI)⁻¹ g_i by a dense solve."""
    damped = curvature + damping * torch.eye(len(curvature), dtype=curvature.dtype)
    return queries @ torch.linalg.solve(damped, train.T)


def normalizers(curvature: Tensor, damping: float, train: Tensor) -> tuple[Tensor, Tensor]:
    """‖(H+λI)⁻¹ g_i‖ and √(g_iᵀ (H+λI)⁻¹ g_i) by a dense solve."""
    damped = curvature + damping * torch.eye(len(curvature), dtype=curvature.dtype)
    solved = torch.linalg.solve(damped, train.T)
    return solved.norm(dim=0), (train.T * solved).sum(0).sqrt()


def newton_softmax(x: Tensor, y: Tensor, weights: Tensor, l2: float, classes: int, start: Tensor) -> Tensor:
    """argmin_θ Σ_i w_i ℓ(z_i, θ) + l2/2 ‖θ‖² of softmax regression with bias, to 1e-12.

    θ is laid out as `nn.Linear` has it: weight [classes, features], then bias.
    """
    ones = torch.ones(len(x), 1, dtype=x.dtype)
    inputs = torch.cat([x, ones], 1)
    theta = torch.cat(
        [start[: classes * x.shape[1]].reshape(classes, -1), start[classes * x.shape[1] :, None]], 1
    )
    for _ in range(100):
        p = (inputs @ theta.T).softmax(1)
        error = p - nn.functional.one_hot(y, classes)
        slope = (weights[:, None] * error).T @ inputs + l2 * theta
        if slope.abs().max() < 1e-13:
            break
        middle = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        hessian = torch.einsum("n,nab,ni,nj->aibj", weights, middle, inputs, inputs).reshape(
            theta.numel(), -1
        )
        hessian = hessian + l2 * torch.eye(theta.numel(), dtype=x.dtype)
        theta = theta - torch.linalg.solve(hessian, slope.reshape(-1)).reshape(theta.shape)
    return torch.cat([theta[:, :-1].reshape(-1), theta[:, -1]])
