"""Programs of these tests are large and run for moments: compiling would be most of their time."""

from collections.abc import Iterator

import jax
import pytest

FLAG = "jax_disable_most_optimizations"


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly() -> Iterator[None]:
    before = jax.config.values[FLAG]
    jax.config.update(FLAG, True)
    yield
    jax.config.update(FLAG, before)


@pytest.fixture
def optimised() -> Iterator[None]:
    """As users compile: for a test of what becomes of a program."""
    jax.config.update(FLAG, False)
    yield
    jax.config.update(FLAG, True)
