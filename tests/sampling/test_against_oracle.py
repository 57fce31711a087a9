"""Values and gradients in float64 against the oracle, PyTorch and SciPy, for all options."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import stn_jax
from tests import oracles
from tests.options import every_option

# Images (non-square, one pixel, a row, a column) and volumes (one of them a row of pixels). All
# cases have the same number of points, so that operations on them are compiled once.
SHAPES = [(5, 4), (1, 1), (1, 6), (7, 1), (2, 3, 4), (1, 4, 1)]
POINTS = (4, 5)

# The points of PyTorch's test with a 2 x 5 image of 1, 2, …, 10.
KNOWN_GRID = [
    [[-0.9, -4.1], [0, 0.2], [1, -1], [-0.333, 1e-6], [0.5, 1.0]],
    [[-1.0, -0.5], [0, 0.3333], [1, -1], [-0.2, 1e-6], [1.5, 0.5]],
]
# Computed by PyTorch 2.13 on a CPU in float64, rounded to six decimals.
KNOWN_OUTPUT = {
    ("nearest", "zeros", False): "0 8 5 7 0 1 8 5 8 0",
    ("nearest", "zeros", True): "0 8 5 7 9 1 8 5 8 0",
    ("nearest", "border", False): "1 8 5 7 9 1 8 5 8 10",
    ("nearest", "border", True): "1 8 5 7 9 1 8 5 8 10",
    ("nearest", "reflection", False): "1 8 5 7 9 1 8 5 8 9",
    ("nearest", "reflection", True): "1 8 5 7 9 1 8 5 8 9",
    ("bilinear", "zeros", False): "0 6.5 1.25 4.667505 4.625 0.5 7.1665 1.25 5.000005 0",
    ("bilinear", "zeros", True): "0 6 5 4.834003 9 2.25 6.33325 5 5.100002 0",
    ("bilinear", "border", False): "1 6.5 5 4.667505 9.25 1 7.1665 5 5.000005 10",
    ("bilinear", "border", True): "1.2 6 5 4.834003 9 2.25 6.33325 5 5.100002 8.75",
    ("bilinear", "reflection", False): "3 6.5 5 4.667505 9.25 1 7.1665 5 5.000005 9.25",
    ("bilinear", "reflection", True): "3.45 6 5 4.834003 9 2.25 6.33325 5 5.100002 7.75",
    ("bicubic", "zeros", False): (
        "0 7.62875 1.0625 5.597721 5.327026 0.40625 8.028878 1.0625 5.937507 -0.351562"
    ),
    ("bicubic", "zeros", True): ("-0.104247 7.14 5 5.784228 9 2.449219 7.481404 5 6.027753 0"),
    ("bicubic", "border", False): (
        "0.894531 6.605 4.625 4.713871 9.800781 0.90625 7.282248 4.625 5.000006 10"
    ),
    ("bicubic", "border", True): ("1.152 6.06 5 4.870929 9 2.132812 6.425836 5 5.076003 8.867188"),
    ("bicubic", "reflection", False): (
        "2.799375 6.605 4.25 4.713871 10.269531 0.8125 7.282248 4.25 5.000006 9.332031"
    ),
    ("bicubic", "reflection", True): (
        "3.18225 6.24 5 4.870929 9 1.78125 6.703593 5 5.076004 8.21875"
    ),
}


def in_float64(function: Callable[..., Any], *arrays: np.ndarray) -> Any:
    """Runs `function` in float64 and returns its results as NumPy arrays.

    Not jitted, because compilation takes most of the time: the cases share compiled operations,
    but not compiled programs.
    """
    with jax.enable_x64(True):
        result = function(*(jnp.asarray(a, jnp.float64) for a in arrays))
        return jax.tree.map(np.asarray, result)


def assert_agrees(
    image: np.ndarray, grid: np.ndarray, options: dict[str, Any], atol: float = 1e-12
) -> None:
    """Compares values and both gradients, for a random cotangent, with the oracle."""
    cotangent = np.random.default_rng(7).normal(size=(*grid.shape[:-1], image.shape[-1]))

    def run(image: jax.Array, grid: jax.Array, cotangent: jax.Array) -> Any:
        sample = functools.partial(stn_jax.grid_sample, **options)
        output, vjp = jax.vjp(sample, image, grid)
        return output, *vjp(cotangent)

    output, image_gradient, grid_gradient = in_float64(run, image, grid, cotangent)
    expected = oracles.grid_sample_vjp(image, grid, cotangent, **options)
    np.testing.assert_allclose(output, oracles.grid_sample(image, grid, **options), 0, atol)
    np.testing.assert_allclose(image_gradient, expected[0], 0, atol, err_msg="image gradient")
    np.testing.assert_allclose(grid_gradient, expected[1], 0, 10 * atol, err_msg="grid gradient")


@every_option
@pytest.mark.parametrize("subject", ["library", "oracle"])
def test_values_equal_torch(options: dict[str, Any], subject: str) -> None:
    image, grid = np.arange(1.0, 11.0).reshape(2, 5, 1), np.array(KNOWN_GRID)
    expected = np.array([float(v) for v in KNOWN_OUTPUT[tuple(options.values())].split()])
    if subject == "oracle":
        output = oracles.grid_sample(image, grid, **options)
    else:
        output = in_float64(functools.partial(stn_jax.grid_sample, **options), image, grid)
    np.testing.assert_allclose(output.ravel(), expected, rtol=0, atol=1e-6)


@every_option
@pytest.mark.parametrize("spatial", SHAPES, ids=str)
def test_random_points_equal_oracle(options: dict[str, Any], spatial: tuple[int, ...]) -> None:
    random = np.random.default_rng(len(spatial) * 100 + spatial[0])
    image = random.normal(size=(*spatial, 2))
    # Up to one image width beyond each edge, so that some points are reflected more than once.
    assert_agrees(image, random.uniform(-3.0, 3.0, (*POINTS, len(spatial))), options)


@every_option
def test_points_on_pixels_and_borders_equal_oracle(options: dict[str, Any]) -> None:
    """Positions at which the derivative jumps: whole and half pixels, borders and reflections."""
    height, width = (3, 5) if options["align_corners"] else (2, 4)
    image = np.random.default_rng(3).normal(size=(height, width, 2))
    # With sizes of powers of two, half-pixel steps are free of rounding in every formula.
    y = oracles.normalise(np.arange(-6, 12) / 2, height, options["align_corners"])
    x = oracles.normalise(np.arange(-8, 18) / 2, width, options["align_corners"])
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    assert_agrees(image, grid, options)


@every_option
def test_gradients_at_the_corners_of_a_ramp_equal_oracle(options: dict[str, Any]) -> None:
    """With align_corners, (1, 1) lies on the last pixel of the 5 x 5 ramp."""
    image = np.broadcast_to(np.arange(5.0)[:, None], (5, 5, 5)).swapaxes(0, 1)[..., :1]
    corners = itertools.product((-1.0, 1.0, -0.75, 0.75), (-1.0, 1.0, -0.75, 0.75, 0.0))
    assert_agrees(image, np.array(list(corners)).reshape(*POINTS, 2), options)


def test_corner_gradient_equals_torch() -> None:
    """The last pixel, 4, fades to 0 within one pixel; a normalised unit is two pixels."""
    image = np.broadcast_to(np.arange(5.0)[None, :, None], (5, 5, 1))
    for padding_mode, expected in {"zeros": -8.0, "border": 0.0, "reflection": 0.0}.items():
        sample = functools.partial(
            stn_jax.grid_sample, padding_mode=padding_mode, align_corners=True
        )
        gradient = in_float64(
            lambda i, g, sample=sample: jax.grad(lambda g: sample(i, g).sum())(g),
            image,
            np.ones((*POINTS, 2)),
        )
        np.testing.assert_array_equal(gradient, np.full((*POINTS, 2), expected))


@pytest.mark.parametrize("mode", oracles.MODES)
def test_large_rotated_image_equals_oracle(mode: str) -> None:
    """A ramp of 345 x 456 pixels modulo 256, rotated by 45 degrees and scaled unequally."""
    height, width = 345, 456
    image = (np.arange(height * width) % 256).reshape(height, width, 1).astype(float)
    c = s = np.sqrt(0.5)
    theta = np.array([[1.23 * c, -1.34 * s, 0.0], [1.23 * s, 1.34 * c, 0.0]])
    grid = oracles.affine_grid(theta, (height, width))
    output = in_float64(functools.partial(stn_jax.grid_sample, mode=mode), image, grid)
    # Positions reach a few hundred pixels and jumps 255: 1e-13 px of rounding gives 3e-11.
    np.testing.assert_allclose(output, oracles.grid_sample(image, grid, mode), rtol=0, atol=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 45.0, 90.0, 28.3])
@pytest.mark.parametrize("output_shape", [(4, 9), (11, 5)])
def test_affine_warp_equals_scipy(degrees: float, output_shape: tuple[int, int]) -> None:
    """Border padding with align_corners corresponds to order 1 and `mode="nearest"` in SciPy."""
    image = np.random.default_rng(5).normal(size=(6, 8))
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    theta = np.array([[c, -s, 0.1], [s, c, -0.2]])
    # Output pixels -> [-1, 1] -> theta -> input pixels, with rows and columns swapped.
    half_out = (np.array(output_shape) - 1) / 2
    half_in = (np.array(image.shape) - 1) / 2
    linear = half_in[:, None] * theta[::-1, 1::-1] / half_out
    offset = half_in * (theta[::-1, 2] + 1) - linear @ half_out
    expected = scipy.ndimage.affine_transform(
        image, linear, offset, output_shape, order=1, mode="nearest"
    )

    def run(image: jax.Array, theta: jax.Array) -> jax.Array:
        grid = stn_jax.affine_grid(theta, output_shape, align_corners=True)
        return stn_jax.grid_sample(image, grid, padding_mode="border", align_corners=True)

    output = in_float64(run, image[..., None], theta)
    np.testing.assert_allclose(output[..., 0], expected, rtol=0, atol=1e-12)


@every_option
@pytest.mark.parametrize("shapes", [((5, 4), (6, 5)), ((3, 2, 4), (2, 5, 3))], ids=str)
def test_spatial_transform_equals_oracle(
    options: dict[str, Any], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """Equals affine_grid followed by grid_sample, with different input and output shapes."""
    spatial, out = shapes
    n = len(spatial)
    random = np.random.default_rng(n)
    image, theta = random.normal(size=(*spatial, 2)), random.normal(size=(n, n + 1))
    transform = stn_jax.transforms.affine if n == 2 else stn_jax.transforms.affine_3d

    def run(image: jax.Array, theta: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(
            image, theta, transform, output_shape=out, fill=0.25, **options
        )

    grid = oracles.affine_grid(theta, out, options["align_corners"])
    expected = oracles.grid_sample(image, grid, fill=0.25, **options)
    np.testing.assert_allclose(in_float64(run, image, theta.ravel()), expected, 0, 1e-12)


@every_option
def test_float32_is_accurate(options: dict[str, Any]) -> None:
    """Positions are a few pixels and values about 1."""
    random = np.random.default_rng(17)
    image = random.normal(size=(9, 6, 3)).astype(np.float32)
    grid = random.uniform(-2.0, 2.0, (8, 5, 2)).astype(np.float32)
    output = stn_jax.grid_sample(jnp.asarray(image), jnp.asarray(grid), **options)
    np.testing.assert_allclose(
        output, oracles.grid_sample(image, grid, **options), rtol=0, atol=2e-5
    )
