"""What the errors say."""

from __future__ import annotations

import pytest

from relatif_widgets.errors import ChoiceError, RelatifError, unknown_name


def test_the_nearest_name_is_suggested_whatever_its_case() -> None:
    message = str(unknown_name("curvature", "Fischer", ["fisher", "identity"]))
    assert message.endswith("Did you mean 'fisher'?")
    assert "Did you mean" not in str(unknown_name("curvature", "xyz", ["fisher", "identity"]))


def test_long_lists_and_long_names_stay_readable() -> None:
    message = str(unknown_name("label", "x" * 10_000, [f"class {i} " + "y" * 10_000 for i in range(1000)]))
    assert len(message) < 2000
    assert "and 980 more" in message


def test_every_error_is_a_relatif_error_and_a_value_error() -> None:
    with pytest.raises(ValueError, match="unknown"):
        raise ChoiceError("unknown")
    assert issubclass(ChoiceError, RelatifError)
