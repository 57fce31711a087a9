"""`affine_grid`, `transform_grid` and `outside_frame`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax
from stn_jax import coordinates, transforms
from tests import oracles
from tests.warping.families import both_corners, near_identity

SHAPES = [(2, 2), (5, 3), (1, 4), (6, 1), (1, 1), (0, 3), (2, 3, 4), (1, 5, 1)]


def random_matrix(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, n + 1))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_affine_grid_equals_oracle(shape: tuple[int, ...], align_corners: bool) -> None:
    theta = random_matrix(len(shape))
    expected = oracles.affine_grid(theta, shape, align_corners)
    with jax.enable_x64(True):
        grid = stn_jax.affine_grid(jnp.asarray(theta), shape, align_corners=align_corners)
        assert grid.shape == (*shape, len(shape))
        assert grid.dtype == jnp.float64
        np.testing.assert_allclose(grid, expected, rtol=0, atol=1e-14)
    grid = stn_jax.affine_grid(jnp.asarray(theta, jnp.float32), shape, align_corners=align_corners)
    assert grid.dtype == jnp.float32
    np.testing.assert_allclose(grid, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("align_corners", "expected"),
    [
        (True, [[[0, -3], [2, 5]], [[4, 7], [6, 15]]]),
        (False, [[[1.5, 1.5], [2.5, 5.5]], [[3.5, 6.5], [4.5, 10.5]]]),
    ],
)
def test_affine_grid_equals_torch_in_2d(align_corners: bool, expected: list) -> None:
    """Values computed by PyTorch, exact in any precision."""
    theta = jnp.arange(1.0, 7.0).reshape(2, 3)
    grid = stn_jax.affine_grid(theta, (2, 2), align_corners=align_corners)
    np.testing.assert_array_equal(grid, expected)


@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_grid_orders_xyz_in_3d(align_corners: bool) -> None:
    """With theta = 1 … 12, rows give x, y, z and columns multiply x, y, z, 1."""
    theta = jnp.arange(1.0, 13.0).reshape(3, 4)
    grid = stn_jax.affine_grid(theta, (2, 2, 2), align_corners=align_corners)
    far = 1.0 if align_corners else 0.5
    first = np.array([4 - 6 * far, 8 - 18 * far, 12 - 30 * far])
    np.testing.assert_array_equal(grid[0, 0, 0], first)
    np.testing.assert_array_equal(grid[0, 0, 1], first + 2 * far * np.array([1, 5, 9]))
    np.testing.assert_array_equal(grid[0, 1, 0], first + 2 * far * np.array([2, 6, 10]))
    np.testing.assert_array_equal(grid[1, 0, 0], first + 2 * far * np.array([3, 7, 11]))


@pytest.mark.parametrize("align_corners", [False, True])
def test_points_of_an_axis_of_size_1_are_at_its_centre(align_corners: bool) -> None:
    theta = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    row = stn_jax.affine_grid(theta, (1, 2), align_corners=align_corners)
    np.testing.assert_array_equal(row[..., 1], [[0.0, 0.0]])
    column = stn_jax.affine_grid(theta, (2, 1), align_corners=align_corners)
    np.testing.assert_array_equal(column[..., 0], [[0.0], [0.0]])


@pytest.mark.parametrize("align_corners", [False, True])
def test_affine_grid_gradient(align_corners: bool) -> None:
    """The grid is linear in theta, so its transpose is known: cotangents times target points."""
    theta, shape = random_matrix(2), (3, 4)
    cotangent = np.random.default_rng(0).normal(size=(*shape, 2))
    base = oracles.affine_grid(np.eye(2, 3), shape, align_corners)
    ones = np.concatenate([base, np.ones((*shape, 1))], axis=-1)
    with jax.enable_x64(True):
        _, vjp = jax.vjp(
            lambda t: stn_jax.affine_grid(t, shape, align_corners=align_corners),
            jnp.asarray(theta),
        )
        (gradient,) = vjp(jnp.asarray(cotangent))
        np.testing.assert_allclose(
            gradient, np.einsum("hwi,hwj->ij", cotangent, ones), rtol=0, atol=1e-13
        )


def test_half_precision_theta_is_multiplied_in_float32() -> None:
    """The only errors that bfloat16 may add are the rounding of theta and of the result."""
    theta = jnp.asarray(random_matrix(2), jnp.bfloat16)
    exact = oracles.affine_grid(np.asarray(theta, np.float64), (64, 512))
    grid = stn_jax.affine_grid(theta, (64, 512))
    # Half an ulp of an 8-bit significand, for coordinates up to 4.
    np.testing.assert_allclose(np.asarray(grid, np.float64), exact, rtol=2**-8, atol=1e-6)


def test_affine_grid_under_jit_and_vmap_equals_eager() -> None:
    batch = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2, 3)), jnp.float32)

    def grid(theta: jax.Array) -> jax.Array:
        return stn_jax.affine_grid(theta, (4, 5))

    loop = np.stack([grid(theta) for theta in batch])
    np.testing.assert_allclose(jax.vmap(grid)(batch), loop, rtol=0, atol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(grid))(batch), loop, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("theta", "shape", "argument"),
    [
        (jnp.ones((3, 3)), (2, 2), "theta"),
        (jnp.ones((2, 2)), (2, 2), "theta"),
        (jnp.ones(6), (2, 2), "theta"),
        (jnp.ones((1, 2, 3)), (2, 2), "theta"),
        (jnp.ones((2, 3), jnp.int32), (2, 2), "theta"),
        (jnp.ones((2, 3)), (2, 2, 2), "theta|output_shape"),
        (jnp.ones((3, 4)), (2, 2), "theta|output_shape"),
        (jnp.ones((2, 3)), (2,), "output_shape"),
        (jnp.ones((2, 3)), (2, -1), "output_shape"),
    ],
)
def test_affine_grid_errors_name_the_argument(
    theta: jax.Array, shape: tuple[int, ...], argument: str
) -> None:
    with pytest.raises(ValueError, match=argument):
        stn_jax.affine_grid(theta, shape)


def test_affine_grid_equals_transform_grid_of_affine() -> None:
    theta = near_identity(transforms.affine)
    np.testing.assert_array_equal(
        stn_jax.affine_grid(theta.reshape(2, 3), (4, 5)),
        stn_jax.transform_grid(theta, transforms.affine, (4, 5)),
    )


def test_outside_frame_counts_nan_as_outside() -> None:
    grid = jnp.asarray([[0.0, 0.0], [1.0, -1.0], [1.01, 0.0], [0.0, -2.0], [jnp.nan, 0.0]])
    np.testing.assert_array_equal(stn_jax.outside_frame(grid), [False, False, True, True, True])


@both_corners
@pytest.mark.parametrize("shape", [(4, 7), (1, 4, 7)], ids=str)
def test_a_grid_in_pixels_reads_the_pixels(shape: tuple[int, ...], align_corners: bool) -> None:
    image = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    pixels = np.stack(np.indices(shape)[::-1], axis=-1).astype(np.float32)
    grid = coordinates.to_normalised(pixels, shape, align_corners=align_corners)
    found = stn_jax.grid_sample(image, grid, mode="nearest", align_corners=align_corners)
    np.testing.assert_array_equal(found, image)
    back = coordinates.to_pixels(grid, shape, align_corners=align_corners)
    inside = [size > 1 or not align_corners for size in reversed(shape)]
    np.testing.assert_allclose(back[..., inside], pixels[..., inside], atol=1e-5)
