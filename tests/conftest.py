"""Where the full data sets are; tests that need them are marked `data`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _find_data() -> Path | None:
    named = os.environ.get("RELATIF_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if _find_data() is None:
        absent = pytest.mark.skip(
            reason="no full data sets: RELATIF_DATA names no folder, ../shared/data is none"
        )
        for item in items:
            if item.get_closest_marker("data"):
                item.add_marker(absent)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the full data sets; only for tests marked `data`."""
    folder = _find_data()
    assert folder is not None
    return folder


@pytest.fixture
def no_room_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A low-rank index of coordinates alone, as where memory has no room for the gradients beside them."""
    monkeypatch.setattr("relatif_widgets.fitting._gradient_bytes", lambda task: 1 << 60)
