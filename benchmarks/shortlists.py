"""What a query's tables miss where the index does not tell scores to the last digit.

    python benchmarks/bench.py --only ekfac       # lays the model and the data down in build/bench
    python benchmarks/shortlists.py low_rank      # or bfloat16, or truncated

The paper's ConvNet on CIFAR-10, 12 test pictures: of the tables of the best 50 by the three criteria,
both signs, the share of names at each stop that the shortlist lacks, against everybody's exact
scores; and how many gradients are computed afresh for a query.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from shared import DAMPING, load

from relatif_widgets import Explainer
from relatif_widgets.rankings import RELATIVE

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "low_rank": {"curvature": "low_rank", "memory_limit": "2GB"},  # coordinates, and no room for gradients
    "bfloat16": {"curvature": "ekfac", "storage": "bfloat16"},
    "truncated": {"curvature": "ekfac", "memory_limit": "2GB"},
}

QUERIES, TOP = 12, 50


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", choices=[*CONFIGURATIONS])
    given = load(Path(__file__).parents[1] / "build" / "bench")
    explainer = Explainer(
        given.model, given.train, damping=DAMPING, **CONFIGURATIONS[parser.parse_args().index]
    ).fit(progress=False)
    print(explainer.report())
    scorer = explainer._scorer()
    index, dampings = scorer.index, explainer.explain(given.queries[0][0]).dampings
    (gradients,) = explainer._gradient_blocks(*(part[:QUERIES] for part in given.queries))
    exact = torch.empty(QUERIES, len(dampings), index.count)
    for part, values in scorer.influence(gradients, dampings, lambda done: None):
        exact[:, :, part] = values
    lengths = []
    missed = torch.zeros(len(dampings))
    for query in range(QUERIES):
        listed = scorer.shortlist(gradients[query : query + 1], dampings, RELATIVE, TOP, lambda done: None)
        assert listed is not None
        lengths.append(len(listed.rows))
        on_list = torch.zeros(index.count, dtype=torch.bool)
        on_list[listed.rows] = True
        for stop, damping in enumerate(dampings):
            for method in RELATIVE:
                score = index.relative(method, exact[query, stop], damping, slice(0, index.count))
                for signed in (score, -score):
                    missed[stop] += (~on_list[signed.topk(TOP).indices]).sum()
    print(f"gradients computed afresh for a query: {statistics.median(lengths):.0f}")
    for damping, share in zip(dampings, missed / (QUERIES * len(RELATIVE) * 2 * TOP), strict=True):
        print(f"damping {damping:<8g} names that the list lacks: {float(share):.1%}")


if __name__ == "__main__":
    main()
