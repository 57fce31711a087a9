"""All combinations of mode, padding and align_corners, for tests with a parameter `options`."""

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
# Every pair of options occurs: each mode with each padding, and both with each align_corners.
PAIRS = [options for i, options in enumerate(OPTIONS) if i % 4 in (0, 3)]


def parametrize_options(options: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """Parametrises a test over the given options. Those that no pair needs are slow tests."""
    params = [
        pytest.param(
            each, marks=[pytest.mark.slow] if each in OPTIONS and each not in PAIRS else []
        )
        for each in options
    ]
    return pytest.mark.parametrize(
        "options", params, ids=lambda given: "-".join(str(value) for value in given.values())
    )


every_option = parametrize_options(OPTIONS)
