"""Settings and fixtures of all tests: annotation checks, double precision and real data."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

import tests.annotations

# Must come before any import of the package. Every annotated shape is checked in every test.
install_import_hook("stn_jax", f"{tests.annotations.__name__}.check")

import hypothesis
import jax
import jaxtyping
import pytest

# No deadline: a machine that is busy, or compiles, is no failure.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.load_profile("default")
hypothesis.settings.register_profile("faults", max_examples=2000)  # see `make test-faults`

# Two devices, so that sharding can be tested. Other tests run on the first one.
jax.config.update("jax_num_cpu_devices", 2)

# Two thirds of the time is compilation. The cache keeps programs from one run of the tests to the
# next; a change of a program, of a flag or of JAX is another entry.
COMPILED = pathlib.Path(__file__).parent.parent / ".jax_cache"
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
# Commands in other processes must not write into the user's cache folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--data-dir",
        default=None,
        help="folder with real data sets; without it, tests that need them are skipped",
    )


@pytest.fixture(scope="session")
def data_dir(request: pytest.FixtureRequest) -> pathlib.Path:
    given = request.config.getoption("--data-dir")
    if given is None:
        pytest.skip("needs --data-dir")
    return pathlib.Path(given)


@pytest.fixture
def unchecked():
    """Disables annotation checks, so that the errors of the functions themselves are raised."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    """Enables double precision."""
    with jax.enable_x64(True):
        yield
