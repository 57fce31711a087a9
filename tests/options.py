"""Every mode, padding and align_corners, for tests with a parameter `options`."""

import itertools
from typing import Any

import pytest

from tests import oracles

OPTIONS = [
    {"mode": mode, "padding_mode": padding_mode, "align_corners": align_corners}
    for mode, padding_mode, align_corners in itertools.product(
        oracles.MODES, oracles.PADDING_MODES, (False, True)
    )
]


def each(options: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """One test for each."""
    return pytest.mark.parametrize(
        "options", options, ids=lambda one: "-".join(str(value) for value in one.values())
    )


every_option = each(OPTIONS)
