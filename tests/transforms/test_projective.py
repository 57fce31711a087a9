"""Homographies: the horizon, inverses outside the family, and affine special cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import spatial_transform, transform_grid, transforms

# The denominator, 1 + 2x, is zero inside the frame, at x = -1/2.
HORIZON_IN_FRAME = jnp.asarray([1.0, 0.0, 0.3, 0.0, 1.0, 0.2, 2.0, 0.0])


def test_homography_without_perspective_equals_affine() -> None:
    rng = np.random.default_rng(0)
    affine = jnp.asarray(rng.normal(size=6), jnp.float32)
    points = jnp.asarray(rng.uniform(-1, 1, (20, 2)), jnp.float32)
    as_projective = jnp.concatenate([affine, jnp.zeros(2)])
    np.testing.assert_allclose(
        transforms.projective.warp(as_projective, points),
        transforms.affine.warp(affine, points),
        atol=1e-6,
    )


def test_points_behind_the_horizon_are_finite_and_outside_the_image() -> None:
    grid = transform_grid(HORIZON_IN_FRAME, transforms.projective, (8, 64))
    x = (2 * np.arange(64) + 1) / 64 - 1
    behind = 1 + 2 * x <= 0
    assert behind.any()
    assert np.isfinite(grid).all()
    assert (np.abs(grid[:, behind]) > 1e6).all()
    image = jnp.ones((8, 64, 1))
    output = spatial_transform(image, HORIZON_IN_FRAME, transforms.projective)
    assert (output[:, behind] == 0).all()
    assert (output[:, ~behind] > 0).any()


def test_gradients_across_the_horizon_are_finite() -> None:
    image = jnp.asarray(np.random.default_rng(0).normal(size=(16, 64, 2)), jnp.float32)

    def loss(theta: jax.Array) -> jax.Array:
        return jnp.sum(spatial_transform(image, theta, transforms.projective) ** 2)

    def warp_sum(theta: jax.Array) -> jax.Array:
        return jnp.sum(transform_grid(theta, transforms.projective, (8, 64)))

    for derivative in (jax.grad(loss), jax.hessian(loss), jax.grad(warp_sum)):
        assert np.isfinite(jax.jit(derivative)(HORIZON_IN_FRAME)).all()


@pytest.mark.parametrize(
    ("theta", "point"),
    [
        # The last entry of the inverse is positive, negative, and 0.
        ([-0.2, 0.0, 0.1, 0.0, 1.0, 0.0, -0.6, 0.0], (0.1, 0.2)),
        ([-0.2, 0.0, 2.0, 0.0, 1.0, 0.0, -0.6, 0.0], (0.1, 0.2)),
        ([0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], (0.1, 0.2)),
    ],
)
def test_inverse_undoes_the_warp_or_is_nan(theta: list[float], point: tuple[float, ...]) -> None:
    theta, point = jnp.asarray(theta), jnp.asarray(point)
    inverse = transforms.projective.inverse(theta)
    if np.linalg.inv(transforms.projective.matrix(theta))[2, 2] > 0:
        warped = transforms.projective.warp(theta, point)
        np.testing.assert_allclose(transforms.projective.warp(inverse, warped), point, atol=1e-5)
    else:
        assert np.isnan(inverse).all()


@pytest.mark.parametrize("shift", [1.0, 10 / 9, 2.0])
def test_composition_equals_two_warps_or_is_nan(shift: float) -> None:
    # The last entry of the product of a and b is positive, about 0, and negative.
    a = jnp.asarray([1.0, 0, 0, 0, 1, 0, -0.9, 0])
    b = jnp.asarray([1.0, 0, shift, 0, 1, 0, 0, 0])
    composed, point = transforms.projective.compose(a, b), jnp.asarray([-1.2, 0.2])
    if shift < 1.1:
        twice = transforms.projective.warp(a, transforms.projective.warp(b, point))
        np.testing.assert_allclose(transforms.projective.warp(composed, point), twice, atol=1e-5)
    elif shift > 1.2:
        assert np.isnan(composed).all()
    centre_to_infinity = transforms.projective.compose(a.at[6].set(-1.0), b.at[2].set(1.0))
    assert np.isnan(centre_to_infinity).all()
