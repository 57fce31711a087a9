"""Velocity fields: exponentials of known velocities, group laws, invertibility and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from stn_jax import fields, transform_grid
from stn_jax.transforms import velocity_field

SHAPES = [(3, 4), (2, 3, 3)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def velocities(shape: tuple[int, ...], matrix: np.ndarray) -> jax.Array:
    """The theta whose velocity at a point is a matrix times (x, y[, z], 1)."""
    axes = [np.linspace(-1, 1, size) for size in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    return jnp.asarray(points @ matrix[:, :-1].T + matrix[:, -1]).ravel()


def points_inside(ndim: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).uniform(-0.6, 0.6, (20, ndim)))


@every_shape
def test_linear_velocities_give_the_matrix_exponential(shape: tuple[int, ...], x64: None) -> None:
    ndim = len(shape)
    matrix = np.random.default_rng(0).uniform(-0.2, 0.2, (ndim, ndim + 1)) - np.eye(ndim, ndim + 1)
    expected = scipy.linalg.expm(np.concatenate([0.3 * matrix, np.zeros((1, ndim + 1))]))
    points = points_inside(ndim)
    warped = velocity_field(shape).warp(0.3 * velocities(shape, matrix), points)
    np.testing.assert_allclose(warped, points @ expected[:-1, :-1].T + expected[:-1, -1], atol=5e-4)


def test_minus_theta_undoes_the_warp_and_two_warps_are_one_of_twice_theta(x64: None) -> None:
    flow = velocity_field((4, 5))
    theta = jnp.asarray(0.15 * np.random.default_rng(0).normal(size=flow.num_params))
    points = points_inside(2)
    warped = flow.warp(theta, points)
    assert np.abs(warped - points).max() > 0.1
    np.testing.assert_allclose(flow.warp(flow.inverse(theta), warped), points, atol=5e-3)
    np.testing.assert_allclose(flow.warp(theta, warped), flow.warp(2 * theta, points), atol=1e-2)


def test_a_flow_does_not_fold_where_its_velocity_as_a_displacement_does(x64: None) -> None:
    flow, size = velocity_field((5, 5)), 33
    theta = jnp.asarray(0.4 * np.random.default_rng(0).normal(size=flow.num_params))
    identity = transform_grid(jnp.zeros_like(theta), flow, (size, size))
    displacement = (transform_grid(theta, flow, (size, size)) - identity) * size / 2
    assert fields.folding_fraction(displacement) == 0
    velocity = fields.resize(theta.reshape(5, 5, 2), (size, size)) * 5 / 2
    assert fields.folding_fraction(velocity) > 0.05


def test_equal_arguments_return_the_same_field() -> None:
    assert velocity_field((3, 4)) is velocity_field([3, 4])
    assert velocity_field((3, 4)) is not velocity_field((4, 3))
    assert velocity_field((3, 3, 3)).ndim == 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(1, 3), (3,), (2, 2, 2, 2), (2.5, 3), "ab", None, 3])
def test_invalid_control_shapes_are_rejected(shape: object) -> None:
    with pytest.raises(ValueError, match="control_shape must be two or three whole numbers"):
        velocity_field(shape)
