"""Programs of these tests are compiled fast, and cached."""

import pathlib
from collections.abc import Iterator

import pytest

from tests.experiments.conftest import keeping_compiled


@pytest.fixture(autouse=True)
def fast_compilation(compiled: pathlib.Path) -> Iterator[None]:
    """Compiles without most optimisations."""
    with keeping_compiled(compiled):
        yield
