"""CPAB: agreement with a numerical integration, group laws, edges, and errors."""

import copy
import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from stn_jax import fields, transform_grid
from stn_jax.transforms import cpab
from stn_jax.transforms.cpab import tessellation_vertices

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1, 1, (60, 2))


def integrate(theta: np.ndarray, rows: int, columns: int, points: np.ndarray) -> np.ndarray:
    """Runge and Kutta's method, with the velocity by barycentric weights in the unit square."""
    corners, centres = np.split(theta.reshape(-1, 2), [(rows + 1) * (columns + 1)])
    corners = corners.reshape(rows + 1, columns + 1, 2)
    centres = centres.reshape(rows, columns, 2)

    def velocity(points: np.ndarray) -> np.ndarray:
        scaled = (np.clip(points, -1, 1) + 1) / 2 * [columns, rows]
        i, j = (np.minimum(scaled.astype(int), [columns - 1, rows - 1]).T)[::-1]
        u, v = (scaled - np.stack([j, i], axis=-1)).T[..., None]
        at_centre = 2 * np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
        return (
            np.maximum(0, 1 - u - v) * corners[i, j]
            + np.maximum(0, u - v) * corners[i, j + 1]
            + np.maximum(0, v - u) * corners[i + 1, j]
            + np.maximum(0, u + v - 1) * corners[i + 1, j + 1]
            + at_centre * centres[i, j]
        )

    h = 1 / 200
    for _ in range(200):
        first = velocity(points)
        second = velocity(points + h / 2 * first)
        third = velocity(points + h / 2 * second)
        fourth = velocity(points + h * third)
        points = points + h / 6 * (first + 2 * second + 2 * third + fourth)
    return points


def test_warp_equals_a_numerical_integration(x64: None) -> None:
    transform = cpab((2, 3), zero_boundary=False)
    theta = 0.3 * RNG.normal(size=transform.num_params)
    expected = integrate(theta, 2, 3, POINTS)
    found = transform.warp(jnp.asarray(theta), jnp.asarray(POINTS))
    assert np.abs(expected - POINTS).max() > 0.2
    np.testing.assert_allclose(found, expected, atol=5e-3)  # of steps that change the triangle
    assert np.median(np.abs(found - expected)) < 2e-4


@pytest.mark.parametrize("tessellation", [(1, 1), (2, 3)])
def test_affine_velocities_give_the_matrix_exponential(
    tessellation: tuple[int, int], x64: None
) -> None:
    matrix = np.asarray([[-0.5, 0.3, 0.05], [-0.2, -0.4, -0.1]])
    vertices = tessellation_vertices(*tessellation)
    theta = vertices @ matrix[:, :2].T + matrix[:, 2]
    exponential = scipy.linalg.expm(np.concatenate([matrix, np.zeros((1, 3))]))
    transform = cpab(tessellation, zero_boundary=False)
    found = transform.warp(jnp.asarray(theta.ravel()), jnp.asarray(POINTS))
    expected = POINTS @ exponential[:2, :2].T + exponential[:2, 2]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_minus_theta_undoes_the_warp_and_two_warps_are_one_of_twice_theta(x64: None) -> None:
    transform = cpab((2, 3))
    theta = jnp.asarray(0.2 * RNG.normal(size=transform.num_params))
    warped = transform.warp(theta, jnp.asarray(POINTS))
    assert np.abs(warped - POINTS).max() > 0.1
    np.testing.assert_allclose(transform.warp(transform.inverse(theta), warped), POINTS, atol=5e-3)
    twice = transform.warp(2 * theta, jnp.asarray(POINTS))
    np.testing.assert_allclose(transform.warp(theta, warped), twice, atol=5e-3)


def test_points_on_an_edge_stay_on_it_and_points_inside_stay_inside(x64: None) -> None:
    transform = cpab((2, 3))
    theta = jnp.asarray(0.5 * RNG.normal(size=transform.num_params))
    warp = jax.jit(transform.warp)
    for axis, side in ((0, -1), (0, 1), (1, -1), (1, 1)):
        points = POINTS.copy()
        points[:, axis] = side
        moved = warp(theta, jnp.asarray(points))
        np.testing.assert_allclose(moved[:, axis], side, atol=1e-12)
        assert np.abs(moved - points).max() > 0.05  # along the edge
    assert np.abs(warp(theta, jnp.asarray(POINTS))).max() <= 1


def test_a_large_warp_does_not_fold(x64: None) -> None:
    transform, size = cpab((3, 3)), 48
    theta = jnp.asarray(0.25 * RNG.normal(size=transform.num_params))
    identity = transform_grid(jnp.zeros_like(theta), transform, (size, size))
    displacement = (transform_grid(theta, transform, (size, size)) - identity) * size / 2
    assert np.abs(displacement).max() > 3
    assert fields.folding_fraction(displacement) == 0


def test_points_outside_move_with_the_nearest_point_of_the_frame() -> None:
    transform = cpab((2, 2))
    theta = jnp.asarray(0.2 * RNG.normal(size=transform.num_params), jnp.float32)
    near, far = jnp.asarray([[1.0, 0.3]]), jnp.asarray([[1.7, 0.3]])
    moves = [transform.warp(theta, points) - points for points in (near, far)]
    np.testing.assert_allclose(*moves, atol=1e-6)


def test_equal_arguments_return_the_same_object() -> None:
    transform = cpab((2, 3), zero_boundary=False)
    assert cpab([2, 3], zero_boundary=False) is transform
    assert cpab((2, 3)) is not transform
    assert pickle.loads(pickle.dumps(transform)) is copy.deepcopy(transform) is transform


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("tessellation", [(0, 3), (3,), (2.5, 3), "ab", None, (2, 2, 2)])
def test_invalid_tessellations_are_rejected(tessellation: Any) -> None:
    with pytest.raises(ValueError, match="tessellation must be two whole numbers of at least 1"):
        cpab(tessellation)
