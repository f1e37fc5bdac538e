"""What draws an explanation: it registers here, and loads when it is first asked to draw."""

from __future__ import annotations

import importlib
from typing import Any

from ..saved import View, register_view

_DRAWN_BY: dict[View, tuple[str, str]] = {
    "page": (".html", "page"),
    "text/html": (".html", "static_html"),
    "text/plain": (".text", "plain_text"),
    "image/png": (".figure", "png"),
    "figure": (".figure", "figure"),
    "gallery": (".gallery", "gallery"),
}


class _Deferred:
    """A view whose module is imported by its first call."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return getattr(importlib.import_module(self._module, __name__), self._name)(*args, **settings)


for _view, (_module, _name) in _DRAWN_BY.items():
    register_view(_view, _Deferred(_module, _name))
