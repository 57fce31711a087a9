"""Algorithms of the sampler that depend on sizes and platforms give the same values."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax.sampling import separable, splat, windows
from tests import oracles
from tests.options import parametrize_options

# One combination for each mode; test_against_oracle.py has all of them, for few channels.
EACH_MODE = [
    {"mode": "nearest", "padding_mode": "zeros", "align_corners": False},
    {"mode": "bilinear", "padding_mode": "border", "align_corners": True},
    {"mode": "bicubic", "padding_mode": "reflection", "align_corners": False},
]
each_mode = parametrize_options(EACH_MODE)


def arrays(
    spatial: tuple[int, ...], channels: int, out: tuple[int, ...], reach: float = 1.3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, a grid and a cotangent of the samples."""
    random = np.random.default_rng(0)
    return (
        random.normal(size=(*spatial, channels)),
        random.uniform(-reach, reach, (*out, len(spatial))),
        random.normal(size=(*out, channels)),
    )


def with_gradients(
    image: jax.Array, grid: jax.Array, cotangent: jax.Array, **options: Any
) -> tuple[jax.Array, ...]:
    """The samples, and the gradients to image and grid."""
    sample = functools.partial(stn_jax.grid_sample, **options)
    output, vjp = jax.vjp(sample, image, grid)
    return output, *vjp(cotangent)


def check(given: tuple[np.ndarray, np.ndarray, np.ndarray], options: dict[str, Any]) -> None:
    """Compares samples and gradients in float64 with the oracle."""
    with jax.enable_x64(True):
        found = jax.jit(functools.partial(with_gradients, **options))(*map(jnp.asarray, given))
    expected = oracles.grid_sample(*given[:2], **options)
    gradients = oracles.grid_sample_vjp(*given, **options)
    for actual, each in zip(found, (expected, *gradients), strict=True):
        np.testing.assert_allclose(actual, each, rtol=0, atol=1e-11)


@each_mode
@pytest.mark.parametrize("channels", [1, 2, 5, 9])
def test_any_number_of_channels(channels: int, options: dict[str, Any]) -> None:
    """Some numbers are no multiple of a vector, or too large for unrolled code."""
    check(arrays((6, 7), channels, (5, 7)), options)


@parametrize_options(EACH_MODE[1:])
@pytest.mark.parametrize("spatial", [(40, 30), (14, 13, 12)], ids=str)
def test_few_points_of_a_large_image(spatial: tuple[int, ...], options: dict[str, Any]) -> None:
    """Their windows are copied, instead of the image with its padding."""
    given = arrays(spatial, 3, (2, 2), reach=1.1)
    if len(spatial) == 3 or options["mode"] == "bicubic":
        layout = windows.Layout(options["mode"], options["padding_mode"], ())
        points = [jnp.zeros((2, 2))] * len(spatial)
        assert windows.are_few(points, given[0].shape, layout)
    check(given, options)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(splat, "BLOCK_NUMBERS", 64)
    monkeypatch.setattr(separable, "STORED_NUMBERS", 256)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.usefixtures("small_blocks")
@each_mode
@pytest.mark.parametrize("spatial", [(7, 9), (4, 5, 6)], ids=str)
def test_samples_are_processed_in_blocks(spatial: tuple[int, ...], options: dict[str, Any]) -> None:
    """The number of points is no multiple of the length of a block."""
    check(arrays(spatial, 3, (3, 5, 7)), options)


@each_mode
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_the_same_operations_at_any_size(
    platform: str, options: dict[str, Any]
) -> None:
    """No loops over blocks, and at most one gather and one scatter for each tap and use."""

    def program(size: int) -> str:
        shapes = [(size, size, 3), (size, size, 2), (size, size, 3)]
        given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        traced = jax.jit(functools.partial(with_gradients, **options)).trace(*given)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    small, large = (program(size) for size in (8, 256))
    for operation in ("gather", "scatter", "while", "add", "multiply"):
        count = functools.partial(count_operations, f"stablehlo.{operation}")
        assert count(large) == count(small)
    assert "while" not in large
    taps = {"nearest": 1, "bilinear": 2, "bicubic": 4}[options["mode"]] ** 2
    assert 0 < count_operations("stablehlo.scatter", large) <= taps


def count_operations(name: str, program: str) -> int:
    return program.count(f"{name} ") + program.count(f'"{name}"')
