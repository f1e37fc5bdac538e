"""The paper's measurements, of your own model.

    from relatif_widgets import evaluation

    ranked = evaluation.rank(explainer, test_set)           # once, in blocks
    ranked.specificity(k=(1, 5))                            # Table 1
    ranked.overlap(k=(1, 5, 10, 20))                        # Section 4.3
    evaluation.leave_one_out(explainer, x)                  # Tables 2 and 4, for some queries x
    evaluation.correlation(explainer, x, removed=[17, 423])  # Figure 6

Every result is plain data: it prints as the paper's table, `to_frame()` gives the
numbers as a DataFrame, `figure()` draws them for print.

The label explained is the predicted one unless you say otherwise, and "top" means
most positive: the most helpful training examples.
"""

from __future__ import annotations

from .rankings import InfluentialSet, Overlap, Rankings, Specificity, overlap, rank, specificity
from .removals import Correlation, LeaveOneOut, correlation, leave_one_out

__all__ = [
    "Correlation",
    "InfluentialSet",
    "LeaveOneOut",
    "Overlap",
    "Rankings",
    "Specificity",
    "correlation",
    "leave_one_out",
    "overlap",
    "rank",
    "specificity",
]
