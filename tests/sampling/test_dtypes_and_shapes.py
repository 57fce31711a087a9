"""Dtypes of inputs, outputs and intermediate results; empty and unusual shapes."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from tests import oracles

HALVES = ["bfloat16", "float16"]
every_mode = pytest.mark.parametrize("mode", oracles.MODES)
every_padding = pytest.mark.parametrize("padding_mode", oracles.PADDING_MODES)


def random_array(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).uniform(-1, 1, shape), dtype)


def assert_within_one_ulp(actual: jax.Array, exact: jax.Array, dtype: str) -> None:
    """Compares with a wider result, to one ulp and an absolute error for cancellation near 0."""
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        np.asarray(actual, np.float32), np.asarray(exact, np.float32), rtol=eps, atol=1e-6
    )


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("width", [64, 333, 1024])
def test_half_precision_image_is_rounded_once(dtype: str, width: int) -> None:
    """Coordinates, weights and sums are float32; only the result is rounded."""
    image, grid = random_array(8, width, 2, dtype=dtype), random_array(5, 40, 2)
    for mode in ("bilinear", "bicubic"):
        output = stn_jax.grid_sample(image, grid, mode=mode)
        assert output.dtype == dtype
        exact = stn_jax.grid_sample(image.astype(jnp.float32), grid, mode=mode)
        assert_within_one_ulp(output, exact, dtype)


@pytest.mark.parametrize("dtype", HALVES)
@every_mode
def test_half_precision_image_gradient_is_summed_in_float32(dtype: str, mode: str) -> None:
    """10,000 samples of one pixel. Sums of ones saturate at 256 in bfloat16, at 2048 in float16."""
    points = jnp.full((10_000, 2), -0.25)  # the centre of a pixel

    def total(image: jax.Array) -> jax.Array:
        return jnp.sum(stn_jax.grid_sample(image, points, mode=mode).astype(jnp.float32))

    gradient = jax.grad(total)(jnp.zeros((4, 4, 1), dtype))
    assert gradient.dtype == dtype
    assert gradient[1, 1, 0] == jnp.asarray(10_000, dtype)


@pytest.mark.parametrize("dtype", HALVES)
@every_mode
def test_half_precision_works_with_strict_dtype_promotion(dtype: str, mode: str) -> None:
    image, theta = random_array(4, 5, 2, dtype=dtype), random_array(6, dtype=dtype)

    def total(image: jax.Array, theta: jax.Array) -> jax.Array:
        affine = stn_jax.transforms.affine
        return jnp.sum(stn_jax.spatial_transform(image, theta, affine, mode=mode, fill=0.5))

    with jax.numpy_dtype_promotion("strict"):
        gradients = jax.eval_shape(jax.grad(total, (0, 1)), image, theta)
    assert [gradient.dtype for gradient in gradients] == [dtype, dtype]


@pytest.mark.parametrize("dtype", HALVES)
@every_padding
def test_half_precision_grid_is_converted_to_float32(dtype: str, padding_mode: str) -> None:
    """Half precision could not represent positions in an image of 512 pixels."""
    image, grid = random_array(512, 512, 1), random_array(30, 30, 2, dtype=dtype) * 2
    sample = functools.partial(stn_jax.grid_sample, padding_mode=padding_mode)
    output = sample(image, grid)
    assert output.dtype == jnp.float32
    np.testing.assert_array_equal(output, sample(image, grid.astype(jnp.float32)))
    both = sample(image.astype(dtype), grid)
    assert both.dtype == dtype
    assert np.isfinite(np.asarray(both, np.float32)).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_theta_is_converted_to_float32(dtype: str) -> None:
    image = random_array(512, 512, 1)
    theta = jnp.asarray([0.8, 0.31, -0.2, -0.27, 0.9, 0.11], dtype)
    affine = stn_jax.transforms.affine
    output = stn_jax.spatial_transform(image, theta, affine)
    assert output.dtype == jnp.float32
    exact = stn_jax.spatial_transform(image, theta.astype(jnp.float32), affine)
    # Float32 positions up to 512 px have errors of 3e-5 px; derivatives reach 2 per pixel and axis.
    np.testing.assert_allclose(output, exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_image_gradient_at_the_centre_is_summed_in_float32(dtype: str) -> None:
    """10,000 samples at the centre of an image of odd size."""
    image, grid = jnp.zeros((3, 3, 1), dtype), jnp.zeros((10_000, 2))
    gradient = jax.grad(lambda i: stn_jax.grid_sample(i, grid).astype(jnp.float32).sum())(image)
    assert gradient.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(float(gradient[1, 1, 0]), 10_000, rtol=eps)
    np.testing.assert_allclose(np.asarray(gradient, np.float32).sum(), 10_000, rtol=eps)


@pytest.mark.parametrize("image_dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("grid_dtype", ["bfloat16", "float32", "float64"])
@every_mode
def test_output_has_the_dtype_of_the_image(image_dtype: str, grid_dtype: str, mode: str) -> None:
    """Gradients have the dtypes of their arguments, even if x64 is enabled."""
    with jax.enable_x64(True):
        image, grid = random_array(3, 4, 1, dtype=image_dtype), random_array(5, 2, dtype=grid_dtype)
        sample = functools.partial(stn_jax.grid_sample, mode=mode)
        output = jax.eval_shape(sample, image, grid)
        assert output.dtype == image_dtype
        gradients = jax.eval_shape(lambda i, g, c: jax.vjp(sample, i, g)[1](c), image, grid, output)
        assert [g.dtype for g in gradients] == [image_dtype, grid_dtype]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_spatial_transform_keeps_the_dtype_of_the_image(dtype: str) -> None:
    with jax.enable_x64(True):
        image = random_array(3, 4, 1, dtype=dtype)
        for name in ("affine", "translation", "rotation", "similarity", "projective"):
            transform = getattr(stn_jax.transforms, name)
            for theta_dtype in ("float32", "float64"):
                theta = jnp.asarray(transform.identity, theta_dtype)
                output = jax.eval_shape(
                    lambda i, t, transform=transform: stn_jax.spatial_transform(i, t, transform),
                    image,
                    theta,
                )
                assert output.dtype == dtype


def test_float64_is_computed_in_float64() -> None:
    with jax.enable_x64(True):
        image, grid = (
            random_array(7, 9, 1, dtype=jnp.float64),
            random_array(50, 2, dtype=jnp.float64),
        )
        output = stn_jax.grid_sample(image, grid)
        expected = oracles.grid_sample(np.asarray(image), np.asarray(grid))
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-14)


@every_mode
@every_padding
@pytest.mark.parametrize(
    ("image_shape", "grid_shape"),
    [
        ((3, 4, 0), (5, 2)),
        ((3, 4, 2), (0, 2)),
        ((3, 4, 2), (0, 5, 2)),
        ((3, 4, 2), (5, 0, 2)),
        ((3, 4, 0), (0, 2)),
        ((2, 3, 4, 1), (2, 0, 3, 3)),
    ],
    ids=str,
)
def test_empty_arrays_give_empty_outputs_and_zero_gradients(
    image_shape: tuple[int, ...], grid_shape: tuple[int, ...], mode: str, padding_mode: str
) -> None:
    sample = functools.partial(stn_jax.grid_sample, mode=mode, padding_mode=padding_mode)

    @jax.jit
    def run(image: jax.Array, grid: jax.Array) -> tuple[jax.Array, ...]:
        output, vjp = jax.vjp(sample, image, grid)
        return output, *vjp(output)

    output, to_image, to_grid = run(jnp.ones(image_shape), jnp.zeros(grid_shape))
    assert output.shape == (*grid_shape[:-1], image_shape[-1])
    np.testing.assert_array_equal(to_image, np.zeros(image_shape))
    np.testing.assert_array_equal(to_grid, np.zeros(grid_shape))


def test_empty_batch() -> None:
    output = jax.vmap(stn_jax.grid_sample)(jnp.zeros((0, 3, 4, 2)), jnp.zeros((0, 5, 6, 2)))
    assert output.shape == (0, 5, 6, 2)
    affine = stn_jax.transforms.affine
    output = jax.vmap(lambda i, t: stn_jax.spatial_transform(i, t, affine))(
        jnp.zeros((0, 3, 4, 2)), jnp.zeros((0, 6))
    )
    assert output.shape == (0, 3, 4, 2)


def test_empty_output_shape() -> None:
    affine = stn_jax.transforms.affine
    theta = jnp.asarray(affine.identity)
    output = stn_jax.spatial_transform(jnp.ones((3, 4, 2)), theta, affine, output_shape=(0, 5))
    assert output.shape == (0, 5, 2)


@pytest.mark.parametrize("output_shape", [(1, 1), (1, 7), (9, 1), (3, 11)], ids=str)
@pytest.mark.parametrize("align_corners", [False, True])
@every_mode
def test_output_shape_may_differ_from_the_input(
    output_shape: tuple[int, int], align_corners: bool, mode: str
) -> None:
    """Smaller, larger, and single rows, columns and pixels."""
    image = random_array(5, 6, 2)
    # Irregular, so that no position is a tie for nearest.
    theta = np.array([[0.91, 0.23, 0.113], [-0.31, 0.83, -0.057]])
    output = stn_jax.spatial_transform(
        image,
        jnp.asarray(theta.ravel(), jnp.float32),
        stn_jax.transforms.affine,
        output_shape=output_shape,
        mode=mode,
        align_corners=align_corners,
    )
    grid = oracles.affine_grid(theta, output_shape, align_corners)
    expected = oracles.grid_sample(np.asarray(image), grid, mode, "zeros", align_corners)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


def test_output_shape_defaults_to_that_of_the_image() -> None:
    affine, image = stn_jax.transforms.affine, random_array(5, 6, 2)
    theta = jnp.asarray([0.9, 0.2, 0.1, -0.3, 0.8, -0.05])
    np.testing.assert_array_equal(
        stn_jax.spatial_transform(image, theta, affine),
        stn_jax.spatial_transform(image, theta, affine, output_shape=(5, 6)),
    )
