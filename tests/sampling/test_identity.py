"""The identity returns the image bit for bit, whatever its size, type, mode or align_corners.

A wrong formula for the source points is off on most widths, not on all, so every width counts.
Two widths share one image, and one program answers both values of align_corners, because the time
goes into compiling.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import transforms
from tests import oracles

SIZES = [*range(1, 258), 511, 512, 1000, 1024]
# Small with large, so that no image is large in both directions.
SHAPES = list(zip(SIZES, SIZES[::-1], strict=True))[: len(SIZES) // 2 + 1]
DTYPES = ["float32", "bfloat16", "float16", "float64"]
# Sizes at which formulas that pass through [-1, 1] went wrong most often.
SOME_SHAPES = [(13, 224), (1, 33), (97, 64), (50, 83)]


@functools.partial(jax.jit, static_argnames=("mode", "transform"))
def warp_both(image: jax.Array, theta: jax.Array, mode: str, transform: Any) -> list[jax.Array]:
    """One program for both conventions; theta is an argument, so nothing folds it away."""
    return [
        stn_jax.spatial_transform(image, theta, transform, mode=mode, align_corners=corners)
        for corners in (False, True)
    ]


def random_image(shape: tuple[int, ...], dtype: str) -> jax.Array:
    values = np.random.default_rng(shape[0]).normal(size=(*shape, 1)).astype(np.float32)
    return jnp.asarray(values).astype(dtype)


def assert_bitwise(actual: jax.Array, expected: jax.Array) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert np.asarray(actual).tobytes() == np.asarray(expected).tobytes()


def identity(transform: Any, dtype: str) -> jax.Array:
    return jnp.asarray(transform.identity, jnp.promote_types(dtype, jnp.float32))


@pytest.mark.parametrize("start", range(0, len(SHAPES), 10))
def test_every_size(start: int) -> None:
    for shape in SHAPES[start : start + 10]:
        image = random_image(shape, "float32")
        for output in warp_both(
            image, identity(transforms.affine, "float32"), "bilinear", transforms.affine
        ):
            assert_bitwise(output, image)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", oracles.MODES)
def test_every_mode_and_type(mode: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        theta = identity(transforms.affine, dtype)
        for shape in SOME_SHAPES:
            image = random_image(shape, dtype)
            for output in warp_both(image, theta, mode, transforms.affine):
                assert_bitwise(output, image)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_theta_of_half_precision(dtype: str) -> None:
    """The identity's ones and zeros are exact in any type, so the image must be too."""
    image = random_image((61, 300), dtype)
    theta = jnp.asarray(transforms.affine.identity, dtype)
    for output in warp_both(image, theta, "bilinear", transforms.affine):
        assert_bitwise(output, image)


@pytest.mark.parametrize("mode", oracles.MODES)
@pytest.mark.parametrize("shape", [(7, 83, 12), (1, 3, 50)], ids=str)
def test_volumes(mode: str, shape: tuple[int, ...]) -> None:
    image = random_image(shape, "float32")
    theta = identity(transforms.affine_3d, "float32")
    for output in warp_both(image, theta, mode, transforms.affine_3d):
        assert_bitwise(output, image)


@pytest.mark.parametrize(
    "name",
    ["translation", "rotation", "translation_scale", "similarity", "affine", "projective"],
)
def test_every_linear_transform(name: str) -> None:
    transform = getattr(transforms, name)
    for shape in [(13, 224), (97, 83)]:
        image = random_image(shape, "float32")
        for output in warp_both(image, identity(transform, "float32"), "bilinear", transform):
            assert_bitwise(output, image)


def test_without_jit() -> None:
    """Operation by operation no multiply-add is fused, so the rounding differs from jit's."""
    theta = identity(transforms.affine, "float32")
    for shape, mode in itertools.product([(13, 224), (97, 83)], oracles.MODES):
        image = random_image(shape, "float32")
        assert_bitwise(stn_jax.spatial_transform(image, theta, transforms.affine, mode=mode), image)


def test_batches() -> None:
    """Under vmap, each example with a theta of its own."""
    images = jnp.stack([random_image((29, 83), "float32") * k for k in (1.0, -2.0, 3.0)])
    thetas = jnp.tile(identity(transforms.affine, "float32"), (3, 1))
    for output in jax.vmap(lambda i, t: warp_both(i, t, "bilinear", transforms.affine))(
        images, thetas
    ):
        assert_bitwise(output, images)


@pytest.mark.parametrize("value", [3e38, -3e38, 65504.0, 1.2e-38])
def test_extreme_values(value: float) -> None:
    """Neighbours of opposite extremes: a difference of them overflows, a weighted sum does not."""
    image = jnp.asarray(np.where(np.indices((12, 50)).sum(0) % 2, value, -value), jnp.float32)
    theta = identity(transforms.affine, "float32")
    for output in warp_both(image[..., None], theta, "bilinear", transforms.affine):
        np.testing.assert_array_equal(output, image[..., None])
