"""Products of a tall matrix with vectors: relatif_widgets.products against torch's own.

    python benchmarks/products.py

For eleven columns (the stops of the damping slider, one label) and others, over rows as wide as those
of the ConvNet's last convolution; and for the eigenvectors of a dense Fisher of 6,462 dimensions.
Prints GFLOP/s, the median of three, both in one run; and what rows in stripes come to, whether or
not `product` takes them on this processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from shared import seconds
from torch import Tensor

from relatif_widgets.products import _striped, product

ROWS, WIDTH, STEP = 16_384, 18_496, 4_096
DENSE = 6462
COLUMNS = (1, 2, 8, 11, 16, 22, 24, 33, 64, 250, 256)
STRIPES = (4, 8, 16)


def compare(rows: Tensor, vectors: Tensor, stripes: Sequence[int] = ()) -> list[float]:
    """GFLOP/s of `product`, of `@` and of rows in so many stripes."""
    work = 2 * rows.numel() * len(vectors) / 1e9
    ways: list[Callable[[Tensor], Tensor]] = [
        lambda part: product(part, vectors),
        lambda part: part @ vectors.T,
        *(lambda part, count=count: _striped(part, vectors, count) for count in stripes),
    ]
    return [work / seconds(lambda way=way: [way(part) for part in rows.split(STEP)], 3) for way in ways]


def main() -> None:
    torch.manual_seed(0)
    rows = torch.randn(ROWS, WIDTH)
    of = ", ".join(map(str, STRIPES))
    print(f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    print(f"columns, GFLOP/s of product, of @, ratio, in {of} stripes")
    for columns in COLUMNS:
        ours, plain, *striped = compare(rows, torch.randn(columns, WIDTH), STRIPES)
        print(
            f"{columns:4} {ours:6.0f} {plain:6.0f} {ours / plain:6.1f}", *(f"{rate:6.0f}" for rate in striped)
        )
    ours, plain = compare(torch.randn(STEP, DENSE), torch.randn(DENSE, DENSE))
    print(f"{DENSE:4} {ours:6.0f} {plain:6.0f} {ours / plain:6.1f}")


if __name__ == "__main__":
    main()
