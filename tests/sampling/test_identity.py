"""The identity returns the image bit for bit, for every size, dtype, mode and align_corners.

A wrong formula for the source points fails at most widths but not at all, so many are tested. To
limit compilation, each image tests two sizes, and each program both values of align_corners.
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

OPTIMISED = True  # the programs that users run

SIZES = [*range(1, 258), 511, 512, 1000, 1024]
# Small sizes are paired with large ones, so that no image is large in both directions.
SHAPES = list(zip(SIZES, SIZES[::-1], strict=True))[: len(SIZES) // 2 + 1]
DTYPES = ["float32", "bfloat16", "float16", "float64"]
# Sizes at which formulas that go through [-1, 1] failed most often.
SOME_SHAPES = [(13, 224), (1, 33), (97, 64), (50, 83)]


@functools.partial(jax.jit, static_argnames=("mode", "transform"))
def warp_both(image: jax.Array, theta: jax.Array, mode: str, transform: Any) -> list[jax.Array]:
    """Warps with both values of align_corners; theta is an argument to prevent constant folding."""
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


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(start, marks=[] if start % 60 == 0 else [pytest.mark.slow])
        for start in range(0, len(SHAPES), 10)
    ],
)
def test_identity_is_exact_at_every_size(start: int) -> None:
    for shape in SHAPES[start : start + 10]:
        image = random_image(shape, "float32")
        for output in warp_both(
            image, identity(transforms.affine, "float32"), "bilinear", transforms.affine
        ):
            assert_bitwise(output, image)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", oracles.MODES)
def test_identity_is_exact_for_every_mode_and_dtype(mode: str, dtype: str) -> None:
    with jax.enable_x64(dtype == "float64"):
        theta = identity(transforms.affine, dtype)
        for shape in SOME_SHAPES:
            image = random_image(shape, dtype)
            for output in warp_both(image, theta, mode, transforms.affine):
                assert_bitwise(output, image)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_identity_in_half_precision_is_exact(dtype: str) -> None:
    image = random_image((61, 300), dtype)
    theta = jnp.asarray(transforms.affine.identity, dtype)
    for output in warp_both(image, theta, "bilinear", transforms.affine):
        assert_bitwise(output, image)


@pytest.mark.parametrize("mode", oracles.MODES)
@pytest.mark.parametrize("shape", [(7, 83, 12), (1, 3, 50)], ids=str)
def test_identity_is_exact_for_volumes(mode: str, shape: tuple[int, ...]) -> None:
    image = random_image(shape, "float32")
    theta = identity(transforms.affine_3d, "float32")
    for output in warp_both(image, theta, mode, transforms.affine_3d):
        assert_bitwise(output, image)


@pytest.mark.parametrize(
    "name",
    ["translation", "rotation", "translation_scale", "similarity", "affine", "projective"],
)
def test_identity_is_exact_for_every_linear_transform(name: str) -> None:
    transform = getattr(transforms, name)
    for shape in [(13, 224), (97, 83)]:
        image = random_image(shape, "float32")
        for output in warp_both(image, identity(transform, "float32"), "bilinear", transform):
            assert_bitwise(output, image)


def test_identity_is_exact_without_jit() -> None:
    """Without jit no multiply-adds are fused, so the rounding differs."""
    theta = identity(transforms.affine, "float32")
    for shape, mode in itertools.product([(13, 224), (97, 83)], oracles.MODES):
        image = random_image(shape, "float32")
        assert_bitwise(stn_jax.spatial_transform(image, theta, transforms.affine, mode=mode), image)


def test_identity_is_exact_under_vmap() -> None:
    """Each example has its own theta."""
    images = jnp.stack([random_image((29, 83), "float32") * k for k in (1.0, -2.0, 3.0)])
    thetas = jnp.tile(identity(transforms.affine, "float32"), (3, 1))
    for output in jax.vmap(lambda i, t: warp_both(i, t, "bilinear", transforms.affine))(
        images, thetas
    ):
        assert_bitwise(output, images)


@pytest.mark.parametrize("value", [3e38, -3e38, 65504.0, 1.2e-38])
def test_identity_is_exact_for_extreme_values(value: float) -> None:
    """The difference of neighbouring pixels overflows; their weighted sum does not."""
    image = jnp.asarray(np.where(np.indices((12, 50)).sum(0) % 2, value, -value), jnp.float32)
    theta = identity(transforms.affine, "float32")
    for output in warp_both(image[..., None], theta, "bilinear", transforms.affine):
        np.testing.assert_array_equal(output, image[..., None])


@pytest.mark.parametrize("mode", oracles.MODES)
@pytest.mark.parametrize(
    ("shape", "transform"),
    [((5, 7), transforms.affine), ((3, 4, 5), transforms.affine_3d)],
    ids=["2-D", "3-D"],
)
def test_identity_is_exact_with_a_fill_of_nan(
    mode: str, shape: tuple[int, ...], transform: Any
) -> None:
    image = random_image(shape, "float32").at[(1,) * len(shape)].set(jnp.inf)
    theta = identity(transform, "float32")
    output = stn_jax.spatial_transform(image, theta, transform, mode=mode, fill=jnp.nan)
    assert_bitwise(output, image)
