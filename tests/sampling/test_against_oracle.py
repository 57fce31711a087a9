"""Values and both gradients in float64, for every mode, padding and align_corners."""

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

# Images: non-square, one pixel, a row, a column; volumes, one of them a row of pixels. The points
# are as many for all, so that operations on them are compiled once.
SHAPES = [(5, 4), (1, 1), (1, 6), (7, 1), (2, 3, 4), (1, 4, 1)]
POINTS = (4, 5)

# Five points a row, as in PyTorch's own test of a 2 x 5 image of 1, 2, …, 10.
KNOWN_GRID = [
    [[-0.9, -4.1], [0, 0.2], [1, -1], [-0.333, 1e-6], [0.5, 1.0]],
    [[-1.0, -0.5], [0, 0.3333], [1, -1], [-0.2, 1e-6], [1.5, 0.5]],
]
# Computed by PyTorch 2.13 on the CPU in float64, six decimals.
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
    """`function` run in float64, its result as NumPy arrays.

    Not jitted: operations on arrays of one shape are shared by the cases, whole programs are not,
    and compiling takes most of the time.
    """
    with jax.enable_x64(True):
        result = function(*(jnp.asarray(a, jnp.float64) for a in arrays))
        return jax.tree.map(np.asarray, result)


def assert_agrees(
    image: np.ndarray, grid: np.ndarray, options: dict[str, Any], atol: float = 1e-12
) -> None:
    """Values, image gradient and grid gradient for a random cotangent."""
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
def test_known_values(options: dict[str, Any], subject: str) -> None:
    image, grid = np.arange(1.0, 11.0).reshape(2, 5, 1), np.array(KNOWN_GRID)
    expected = np.array([float(v) for v in KNOWN_OUTPUT[tuple(options.values())].split()])
    if subject == "oracle":
        output = oracles.grid_sample(image, grid, **options)
    else:
        output = in_float64(functools.partial(stn_jax.grid_sample, **options), image, grid)
    np.testing.assert_allclose(output.ravel(), expected, rtol=0, atol=1e-6)


@every_option
@pytest.mark.parametrize("spatial", SHAPES, ids=str)
def test_random(options: dict[str, Any], spatial: tuple[int, ...]) -> None:
    random = np.random.default_rng(len(spatial) * 100 + spatial[0])
    image = random.normal(size=(*spatial, 2))
    # Two images' widths to either side: inside, at the edge, and folded more than once.
    assert_agrees(image, random.uniform(-3.0, 3.0, (*POINTS, len(spatial))), options)


@every_option
def test_exactly_on_pixels_and_borders(options: dict[str, Any]) -> None:
    """Where the derivative jumps: whole and half pixels, the border, the mirrors, beyond."""
    height, width = (3, 5) if options["align_corners"] else (2, 4)
    image = np.random.default_rng(3).normal(size=(height, width, 2))
    # Half-pixel steps of a power of two are exact in every formula, so one answer is right.
    y = oracles.normalise(np.arange(-6, 12) / 2, height, options["align_corners"])
    x = oracles.normalise(np.arange(-8, 18) / 2, width, options["align_corners"])
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    assert_agrees(image, grid, options)


@every_option
def test_column_ramp_at_the_corners(options: dict[str, Any]) -> None:
    """The edge gradients of a 5 x 5 ramp; (1, 1) lies on the last pixel of the last row."""
    image = np.broadcast_to(np.arange(5.0)[:, None], (5, 5, 5)).swapaxes(0, 1)[..., :1]
    corners = itertools.product((-1.0, 1.0, -0.75, 0.75), (-1.0, 1.0, -0.75, 0.75, 0.0))
    assert_agrees(image, np.array(list(corners)).reshape(*POINTS, 2), options)


def test_corner_gradient_known() -> None:
    """PyTorch's number: 4 falls to 0 in one pixel to the right and below, two pixels a unit."""
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
def test_large_rotated(mode: str) -> None:
    """345 x 456 pixels of a wrapped ramp, turned by 45 degrees and zoomed unequally."""
    height, width = 345, 456
    image = (np.arange(height * width) % 256).reshape(height, width, 1).astype(float)
    c = s = np.sqrt(0.5)
    theta = np.array([[1.23 * c, -1.34 * s, 0.0], [1.23 * s, 1.34 * c, 0.0]])
    grid = oracles.affine_grid(theta, (height, width))
    output = in_float64(functools.partial(stn_jax.grid_sample, mode=mode), image, grid)
    # Positions are a few hundred pixels and jumps 255: 1e-13 px of rounding is 3e-11 here.
    np.testing.assert_allclose(output, oracles.grid_sample(image, grid, mode), rtol=0, atol=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 45.0, 90.0, 28.3])
@pytest.mark.parametrize("output_shape", [(4, 9), (11, 5)])
def test_scipy_affine_transform(degrees: float, output_shape: tuple[int, int]) -> None:
    """Border padding with align_corners is SciPy's `mode="nearest"`, order 1."""
    image = np.random.default_rng(5).normal(size=(6, 8))
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    theta = np.array([[c, -s, 0.1], [s, c, -0.2]])
    # Pixels of the output -> [-1, 1] -> theta -> pixels of the input, rows and columns swapped.
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
def test_spatial_transform_affine(
    options: dict[str, Any], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """One call equals affine_grid followed by grid_sample, input and output shapes apart."""
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
def test_float32(options: dict[str, Any]) -> None:
    """The default precision keeps float32's accuracy: positions of a few pixels, values near 1."""
    random = np.random.default_rng(17)
    image = random.normal(size=(9, 6, 3)).astype(np.float32)
    grid = random.uniform(-2.0, 2.0, (8, 5, 2)).astype(np.float32)
    output = stn_jax.grid_sample(jnp.asarray(image), jnp.asarray(grid), **options)
    np.testing.assert_allclose(
        output, oracles.grid_sample(image, grid, **options), rtol=0, atol=2e-5
    )
