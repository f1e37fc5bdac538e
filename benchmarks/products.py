"""Products of a tall matrix with vectors: relatif_widgets.products against torch's own.

    python benchmarks/products.py

For eleven columns (the stops of the damping slider, one label) and others, over rows as wide as those
of the ConvNet's last convolution; and for the eigenvectors of a dense Fisher of 6,462 dimensions.
Prints GFLOP/s, the median of three, both in one run.
"""

from __future__ import annotations

import torch
from shared import seconds
from torch import Tensor

from relatif_widgets.products import product

ROWS, WIDTH, STEP = 16_384, 18_496, 692
DENSE = 6462
COLUMNS = (1, 2, 11, 16, 22, 33, 64)


def compare(rows: Tensor, vectors: Tensor, step: int = STEP) -> tuple[float, float]:
    """GFLOP/s of `product` and of `@`."""
    work = 2 * rows.numel() * len(vectors) / 1e9
    parts = rows.split(step)
    return (
        work / seconds(lambda: [product(part, vectors) for part in parts], 3),
        work / seconds(lambda: [part @ vectors.T for part in parts], 3),
    )


def main() -> None:
    torch.manual_seed(0)
    rows = torch.randn(ROWS, WIDTH)
    print(f"{torch.get_num_threads()} threads; columns, GFLOP/s of product, of @, ratio")
    for columns in COLUMNS:
        ours, plain = compare(rows, torch.randn(columns, WIDTH))
        print(f"{columns:4} {ours:6.0f} {plain:6.0f} {ours / plain:6.1f}")
    ours, plain = compare(torch.randn(4096, DENSE), torch.randn(DENSE, DENSE), 4096)
    print(f"{DENSE:4} {ours:6.0f} {plain:6.0f} {ours / plain:6.1f}")


if __name__ == "__main__":
    main()
