"""Fixtures that control XLA's optimisations.

The programs of many tests are large and run briefly, so compilation would take most of the time.
A conftest.py imports both fixtures to compile the programs of its folder quickly.
"""

from collections.abc import Iterator

import jax
import pytest

FLAG = "jax_disable_most_optimizations"


@pytest.fixture(scope="module", autouse=True)
def compile_quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    """Disables most of XLA's optimisations, except in modules with `OPTIMISED = True`."""
    before = jax.config.values[FLAG]
    jax.config.update(FLAG, before or not getattr(request.module, "OPTIMISED", False))
    yield
    jax.config.update(FLAG, before)


@pytest.fixture
def optimised() -> Iterator[None]:
    """Compiles as for users, for tests of compiled programs."""
    jax.config.update(FLAG, False)
    yield
    jax.config.update(FLAG, True)
