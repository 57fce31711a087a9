"""Geometry of warps: directions, axis order, exact motions and composition."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from tests import oracles

both_corners = pytest.mark.parametrize("align_corners", [False, True])
every_mode = pytest.mark.parametrize("mode", oracles.MODES)


def random_image(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def warp(image: jax.Array, matrix: Any, **options: Any) -> np.ndarray:
    """Warps `image` by a 2 x 3 matrix."""
    theta = jnp.asarray(matrix, jnp.float32).ravel()
    return np.asarray(stn_jax.spatial_transform(image, theta, stn_jax.transforms.affine, **options))


@every_mode
@both_corners
def test_identity_through_a_normalised_grid_is_close(mode: str, align_corners: bool) -> None:
    """Rounding of the grid in [-1, 1] limits the accuracy of float32 to 1e-4."""
    image = random_image(37, 301, 2)
    grid = stn_jax.affine_grid(jnp.eye(2, 3), (37, 301), align_corners=align_corners)
    output = stn_jax.grid_sample(
        image, grid, mode=mode, padding_mode="border", align_corners=align_corners
    )
    # 1e-4 of the largest value, times the largest derivative of the bicubic kernel (below 3).
    np.testing.assert_allclose(output, image, rtol=0, atol=3e-4 * float(abs(image).max()))


@every_mode
@both_corners
@pytest.mark.parametrize("shift", [(1, 0), (0, -2), (3, 1)])
def test_translation_by_whole_pixels_is_exact(
    mode: str, align_corners: bool, shift: tuple[int, int]
) -> None:
    """The sizes make theta exact. Pixels from outside are zeros or the edge."""
    size = 9 if align_corners else 8
    scale = 2 / (size - 1) if align_corners else 2 / size
    image = random_image(size, size, 2)
    dx, dy = shift
    matrix = [[1, 0, dx * scale], [0, 1, dy * scale]]
    rows, columns = np.arange(size) + dy, np.arange(size) + dx
    edge = np.asarray(image)[np.clip(rows, 0, size - 1)][:, np.clip(columns, 0, size - 1)]
    inside = ((rows >= 0) & (rows < size))[:, None] & ((columns >= 0) & (columns < size))
    options = {"mode": mode, "align_corners": align_corners}
    np.testing.assert_array_equal(warp(image, matrix, padding_mode="border", **options), edge)
    np.testing.assert_array_equal(
        warp(image, matrix, padding_mode="zeros", **options), np.where(inside[..., None], edge, 0)
    )


@every_mode
@both_corners
@pytest.mark.parametrize("shape", [(5, 8), (7, 1), (64, 33)], ids=str)
def test_flips_are_exact(mode: str, align_corners: bool, shape: tuple[int, int]) -> None:
    image = random_image(*shape, 2)
    options = {"mode": mode, "align_corners": align_corners}
    across = warp(image, [[-1, 0, 0], [0, 1, 0]], **options)
    np.testing.assert_array_equal(across, image[:, ::-1])
    down = warp(image, [[1, 0, 0], [0, -1, 0]], **options)
    np.testing.assert_array_equal(down, image[::-1])


# Matrices that rotate the content by multiples of 90 degrees anticlockwise, as np.rot90.
RIGHT_ANGLES = {
    1: [[0, -1, 0], [1, 0, 0]],
    2: [[-1, 0, 0], [0, -1, 0]],
    3: [[0, 1, 0], [-1, 0, 0]],
}


@every_mode
@both_corners
@pytest.mark.parametrize("count", RIGHT_ANGLES)
@pytest.mark.parametrize("shape", [(6, 6), (4, 7), (32, 19)], ids=str)
def test_rotations_by_right_angles_are_exact(
    mode: str, align_corners: bool, count: int, shape: tuple[int, int]
) -> None:
    image = random_image(*shape, 1)
    expected = np.rot90(np.asarray(image), count)
    output = warp(
        image,
        RIGHT_ANGLES[count],
        output_shape=expected.shape[:2],
        mode=mode,
        align_corners=align_corners,
    )
    np.testing.assert_array_equal(output, expected)


@every_mode
def test_x_runs_along_the_last_axis(mode: str) -> None:
    """(1, -1) is the top right pixel."""
    image = jnp.arange(6.0).reshape(2, 3, 1)
    corners = jnp.asarray([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    output = stn_jax.grid_sample(image, corners, mode=mode, align_corners=True)
    np.testing.assert_array_equal(output.ravel(), [0, 2, 3, 5])


@every_mode
def test_xyz_index_width_height_and_depth(mode: str) -> None:
    """Depth 0, row 1, column 2 of a 2 x 3 x 5 volume."""
    volume = jnp.zeros((2, 3, 5, 1)).at[0, 1, 2].set(1.0)
    x, y, z = (0.0, 0.0, -1.0)
    points = jnp.asarray([[x, y, z], [z, y, x], [x, z, y], [x, y, 1.0]])
    output = stn_jax.grid_sample(volume, points, mode=mode, align_corners=True)
    np.testing.assert_array_equal(output.ravel(), [1, 0, 0, 0])


def test_mixing_align_corners_scales_the_image() -> None:
    """An align_corners grid that is sampled without align_corners scales by W / (W - 1)."""
    width = 8
    ramp = jnp.arange(width, dtype=jnp.float32).reshape(1, width, 1)
    grid = stn_jax.affine_grid(jnp.eye(2, 3), (1, width), align_corners=True)
    output = stn_jax.grid_sample(ramp, grid, padding_mode="border", align_corners=False)
    centre = (width - 1) / 2
    scaled = (np.arange(width) - centre) * width / (width - 1) + centre
    np.testing.assert_allclose(output.ravel(), np.clip(scaled, 0, width - 1), rtol=0, atol=1e-5)


@every_mode
@both_corners
@pytest.mark.parametrize("padding_mode", ["border", "reflection"])
def test_weights_sum_to_one(mode: str, align_corners: bool, padding_mode: str) -> None:
    image = jnp.full((5, 7, 1), 3.7, jnp.float32)
    points = jnp.asarray(np.random.default_rng(0).uniform(-4, 4, (500, 2)), jnp.float32)
    output = stn_jax.grid_sample(
        image, points, mode=mode, padding_mode=padding_mode, align_corners=align_corners
    )
    # A few rounding errors of the sum; terms of the cubic polynomials reach 6 before they cancel.
    roundings = 32 if mode == "bicubic" else 4
    np.testing.assert_allclose(output, np.full((500, 1), 3.7), rtol=roundings * 2.0**-23)


@both_corners
def test_bilinear_reproduces_a_linear_ramp(align_corners: bool) -> None:
    """Bicubic does not: that would need a kernel with A = -0.5."""
    height, width = 11, 9
    y, x = np.mgrid[:height, :width].astype(float)
    image = (2 * x - 3 * y + 1)[..., None]
    position = np.random.default_rng(1).uniform(1, [width - 2, height - 2], (100, 2))
    grid = np.stack(
        [oracles.normalise(position[:, i], (width, height)[i], align_corners) for i in (0, 1)], -1
    )
    with jax.enable_x64(True):
        output = stn_jax.grid_sample(
            jnp.asarray(image), jnp.asarray(grid), align_corners=align_corners
        )
        expected = 2 * position[:, :1] - 3 * position[:, 1:] + 1
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)


def test_cubic_kernel_has_the_parameter_of_torch() -> None:
    """The weights half-way between pixels; A = -0.5 would give (-0.0625, 0.5625)."""
    delta = jnp.zeros((1, 8, 1)).at[0, 3].set(1.0)
    x = oracles.normalise(np.array([1.5, 2.5, 3.5, 4.5]), 8, False)
    points = jnp.asarray(np.stack([x, np.zeros(4)], axis=-1), jnp.float32)
    output = stn_jax.grid_sample(delta, points, mode="bicubic")
    np.testing.assert_array_equal(output.ravel(), [-0.09375, 0.59375, 0.59375, -0.09375])


def test_two_warps_equal_one_warp_by_the_product() -> None:
    """A warp by A, then by B, equals one by A @ B (target to source), up to interpolation."""
    size = 64
    y, x = np.mgrid[:size, :size] / size
    image = jnp.asarray(np.sin(5 * x + 1) * np.cos(4 * y), jnp.float32)[..., None]
    a = np.array([[0.9, 0.2, 0.05], [-0.1, 0.8, 0.1], [0, 0, 1]])
    b = np.array([[0.8, -0.1, 0.02], [0.2, 0.7, -0.1], [0, 0, 1]])
    twice = warp(jnp.asarray(warp(image, a[:2])), b[:2])
    once = warp(image, (a @ b)[:2])
    other = warp(image, (b @ a)[:2])
    inner = (slice(4, -4), slice(4, -4))
    # The bilinear error is h^2 / 8 times the second derivatives (25 + 16), for each of two warps.
    assert abs(twice[inner] - once[inner]).max() < 2 * 41 / 8 / size**2 * 1.5
    assert abs(twice[inner] - other[inner]).max() > 0.05


@pytest.mark.parametrize("output_shape", [(14, 10), (3, 2), (9, 5)], ids=str)
def test_identity_at_another_size_equals_jax_image_resize(output_shape: tuple[int, int]) -> None:
    """Half-pixel centres, no antialiasing."""
    image = random_image(7, 5, 2)
    run = functools.partial(
        stn_jax.spatial_transform,
        transform=stn_jax.transforms.affine,
        output_shape=output_shape,
        padding_mode="border",
    )
    output = jax.jit(run)(image, jnp.eye(2, 3).ravel())
    expected = jax.image.resize(image, (*output_shape, 2), "bilinear", antialias=False)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5)


@every_mode
@pytest.mark.parametrize("padding_mode", oracles.PADDING_MODES)
def test_channels_do_not_mix(mode: str, padding_mode: str) -> None:
    image = random_image(5, 6, 3)
    points = jnp.asarray(np.random.default_rng(2).uniform(-2, 2, (20, 2)), jnp.float32)
    sample = functools.partial(stn_jax.grid_sample, mode=mode, padding_mode=padding_mode)
    together = sample(image, points)
    apart = [sample(image[..., i : i + 1], points) for i in range(3)]
    # The same products and sums, which XLA may fuse and round differently.
    np.testing.assert_allclose(together, np.concatenate(apart, axis=-1), rtol=0, atol=1e-6)


@every_mode
def test_output_has_the_shape_of_the_grid(mode: str) -> None:
    """For a point, a list, an image or a volume of points; the values do not depend on it."""
    image = random_image(5, 6, 3)
    points = jnp.asarray(np.random.default_rng(4).uniform(-1, 1, (24, 2)), jnp.float32)
    sample = functools.partial(stn_jax.grid_sample, image, mode=mode)
    flat = sample(points)
    assert flat.shape == (24, 3)
    for shape in [(4, 6), (2, 3, 4), (24, 1)]:
        output = sample(points.reshape(*shape, 2))
        assert output.shape == (*shape, 3)
        np.testing.assert_allclose(output.reshape(24, 3), flat, rtol=0, atol=1e-6)
    np.testing.assert_allclose(sample(points[3]), flat[3], rtol=0, atol=1e-6)
