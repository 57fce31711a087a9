"""Programs of these tests are large and run for moments: compiling would be most of their time."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _compiled_quickly() -> Iterator[None]:
    flag = "jax_disable_most_optimizations"
    before = jax.config.values[flag]
    jax.config.update(flag, True)
    yield
    jax.config.update(flag, before)
