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


def parametrize_options(options: list[dict[str, Any]]) -> pytest.MarkDecorator:
    """Parametrises a test over the given options."""
    return pytest.mark.parametrize(
        "options", options, ids=lambda given: "-".join(str(value) for value in given.values())
    )


every_option = parametrize_options(OPTIONS)
