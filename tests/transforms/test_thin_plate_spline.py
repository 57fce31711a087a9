"""Thin plate splines: control points, regularisation, caching and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax.transforms import thin_plate_spline
from stn_jax.transforms.thin_plate_spline import control_point_grid


@pytest.mark.parametrize("shape", [(2, 2), (4, 4), (3, 5), (7, 7)])
def test_control_points_move_by_their_offsets(shape: tuple[int, int]) -> None:
    controls = control_point_grid(*shape)
    offsets = np.random.default_rng(0).normal(size=controls.shape) * 0.2
    theta, points = (jnp.asarray(a, jnp.float32) for a in (offsets.ravel(), controls))
    warped = thin_plate_spline(shape).warp(theta, points)
    np.testing.assert_allclose(warped, controls + offsets, atol=1e-5)


def test_affine_offsets_give_an_affine_warp(x64: None) -> None:
    controls = control_point_grid(4, 4)
    rng = np.random.default_rng(0)
    matrix, shift = rng.normal(size=(2, 2)), rng.normal(size=2)
    offsets = controls @ matrix.T + shift - controls
    points = rng.uniform(-2, 2, (30, 2))
    warped = thin_plate_spline().warp(jnp.asarray(offsets.ravel()), jnp.asarray(points))
    np.testing.assert_allclose(warped, points @ matrix.T + shift, atol=1e-12)


def test_regularisation_reduces_the_displacement_of_a_single_point() -> None:
    offsets = np.zeros((16, 2), np.float32)
    offsets[5] = 0.5  # moves one control point against its neighbours
    controls = jnp.asarray(control_point_grid(4, 4), jnp.float32)
    displacements = [
        thin_plate_spline((4, 4), regularisation).warp(offsets.ravel(), controls)[5, 0]
        - controls[5, 0]
        for regularisation in (0.0, 0.1, 10.0)
    ]
    assert displacements[0] == pytest.approx(0.5, abs=1e-5)
    assert displacements[0] > displacements[1] > displacements[2] > 0


def test_user_defined_control_points_move_by_their_offsets() -> None:
    points = [(-1.0, -1.0), (1.0, -1.0), (0.0, 1.0), (0.2, 0.1)]
    transform = thin_plate_spline(points)
    theta = np.linspace(-0.2, 0.2, 8, dtype=np.float32)
    warped = transform.warp(theta, np.asarray(points, np.float32))
    np.testing.assert_allclose(warped, np.asarray(points) + theta.reshape(4, 2), atol=1e-5)


def test_coincident_control_points_need_regularisation() -> None:
    points = [(-1.0, -1.0), (1.0, -1.0), (0.0, 1.0), (0.0, 1.0)]
    with pytest.raises(ValueError, match="control_points must be distinct"):
        thin_plate_spline(points)
    transform = thin_plate_spline(points, regularisation=0.01)
    theta, targets = jnp.full(8, 0.1), jnp.asarray(points)
    value, gradient = jax.value_and_grad(lambda p: jnp.sum(transform.warp(theta, p)))(targets)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def points_with_a_close_pair(distance: float) -> list[tuple[float, float]]:
    """Five control points, two of which are at the given distance."""
    return [(-1.0, -1.0), (1.0, -1.0), (0.0, 1.0), (0.3, 0.1), (0.3 + distance, 0.1)]


@pytest.mark.parametrize("distance", [0.0, 2e-6, 1e-4])
def test_control_points_too_close_for_float32_are_rejected(distance: float) -> None:
    with pytest.raises(ValueError, match="control_points must be distinct") as error:
        thin_plate_spline(points_with_a_close_pair(distance))
    assert f"[0.3, 0.1] and [{0.3 + distance}, 0.1]" in str(error.value)


@pytest.mark.parametrize("distance", [1e-2, 1e-1])
def test_close_control_points_move_by_their_offsets(distance: float) -> None:
    theta = np.linspace(-1, 1, 10, dtype=np.float32)
    points = np.asarray(points_with_a_close_pair(distance), np.float32)
    warped = thin_plate_spline(points_with_a_close_pair(distance)).warp(theta, points)
    np.testing.assert_allclose(warped, points + theta.reshape(5, 2), atol=3e-3)


@pytest.mark.parametrize("shape", [(16, 16), (2, 24)])
def test_large_grids_of_control_points_are_accepted(shape: tuple[int, int]) -> None:
    assert thin_plate_spline(shape).num_params == 2 * shape[0] * shape[1]


def test_spline_can_be_made_inside_jit() -> None:
    @jax.jit
    def warp(theta: jax.Array, points: jax.Array) -> jax.Array:
        return thin_plate_spline((2, 5)).warp(theta, points)

    points = jnp.asarray([[0.3, 0.1]])
    np.testing.assert_array_equal(warp(jnp.zeros(20), points), points)


def test_gradient_at_a_control_point_is_finite() -> None:
    transform = thin_plate_spline()
    controls = jnp.asarray(control_point_grid(4, 4), jnp.float32)
    theta = jnp.linspace(-0.3, 0.3, 32)
    assert np.isfinite(jax.jacobian(lambda p: transform.warp(theta, p))(controls)).all()


@pytest.mark.parametrize(
    ("control_points", "regularisation", "message"),
    [
        ((1, 4), 0.0, "at least 2 each"),
        ((2.5, 4), 0.0, "whole numbers"),
        ([(0, 0), (1, 1)], 0.0, r"shape \[K, 2\] with K >= 3; got shape \[2, 2\]"),
        ([(0, 0), (1, 1), (2, 2)], 0.0, "collinear"),
        ([(0, 0), (1, 1), (2, 2)], 1.0, "collinear"),
        ([(0, 0), (1, 0), (0, float("nan"))], 0.0, "finite"),
        ((float("nan"), 4), 0.0, r"control_points must be \(rows, columns\).*got \(nan, 4\)"),
        ((float("inf"), 4), 0.0, r"control_points must be \(rows, columns\).*got \(inf, 4\)"),
        (("a", "b"), 0.0, r"control_points must be \(rows, columns\).*got \('a', 'b'\)"),
        (None, 0.0, r"control_points must be \(rows, columns\).*got shape \[\]"),
        ([(0, 0), (1,)], 0.0, r"control_points must be \(rows, columns\).*\(1,\)"),
        ((4, 4), "x", "regularisation must be finite and at least 0; got 'x'"),
        ((4, 4), None, "regularisation must be finite and at least 0; got None"),
        ((4, 4), -1.0, "regularisation must be finite and at least 0; got -1.0"),
        ((4, 4), float("inf"), "regularisation"),
    ],
)
def test_thin_plate_spline_rejects_invalid_arguments(
    control_points: object, regularisation: float, message: str, unchecked: None
) -> None:
    with pytest.raises(ValueError, match=message):
        thin_plate_spline(control_points, regularisation)


def test_equal_arguments_return_the_same_spline() -> None:
    assert thin_plate_spline((4, 4)) is thin_plate_spline([4, 4])
    assert thin_plate_spline((4, 4)) is not thin_plate_spline((4, 5))
