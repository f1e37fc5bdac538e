"""See the training examples that taught a PyTorch model its answer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import views as _views  # noqa: F401 - signs the views up with Explanation
from ._version import __version__
from .errors import ChoiceError, DataError, DocumentError, ModelError, RelatifError
from .explanation import Explanation
from .report import Report

if TYPE_CHECKING:
    from . import evaluation
    from .best import TopK
    from .explainer import Explainer
    from .retraining import Check
    from .views.widget import ExplanationWidget

__all__ = [
    "Check",
    "ChoiceError",
    "DataError",
    "DocumentError",
    "Explainer",
    "Explanation",
    "ExplanationWidget",
    "ModelError",
    "RelatifError",
    "Report",
    "TopK",
    "__version__",
    "evaluation",
]

# A saved explanation opens without torch or Jupyter: these resolve when asked for.
_LAZY = {
    "Check": ".retraining",
    "Explainer": ".explainer",
    "ExplanationWidget": ".views.widget",
    "TopK": ".best",
}


def __getattr__(name: str) -> Any:
    if name == "evaluation":
        return importlib.import_module(".evaluation", __name__)
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
