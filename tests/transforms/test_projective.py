"""What is only so of homographies: a horizon, and affine maps among them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stn_jax import spatial_transform, transform_grid, transforms

# Its denominator, 1 + 2x, crosses zero inside the frame at x = -1/2.
CROSSING = jnp.asarray([1.0, 0.0, 0.3, 0.0, 1.0, 0.2, 2.0, 0.0])


def test_an_affine_map_is_a_homography() -> None:
    rng = np.random.default_rng(0)
    affine = jnp.asarray(rng.normal(size=6), jnp.float32)
    points = jnp.asarray(rng.uniform(-1, 1, (20, 2)), jnp.float32)
    as_projective = jnp.concatenate([affine, jnp.zeros(2)])
    np.testing.assert_allclose(
        transforms.projective.warp(as_projective, points),
        transforms.affine.warp(affine, points),
        atol=1e-6,
    )


def test_beyond_the_horizon_is_outside_and_all_is_finite() -> None:
    grid = transform_grid(CROSSING, transforms.projective, (8, 64))
    x = (2 * np.arange(64) + 1) / 64 - 1
    behind = 1 + 2 * x <= 0
    assert behind.any()
    assert np.isfinite(grid).all()
    assert (np.abs(grid[:, behind]) > 1e6).all()
    image = jnp.ones((8, 64, 1))
    output = spatial_transform(image, CROSSING, transforms.projective)
    assert (output[:, behind] == 0).all()
    assert (output[:, ~behind] > 0).any()


def test_gradients_across_the_horizon_are_finite() -> None:
    image = jnp.asarray(np.random.default_rng(0).normal(size=(16, 64, 2)), jnp.float32)

    def loss(theta: jax.Array) -> jax.Array:
        return jnp.sum(spatial_transform(image, theta, transforms.projective) ** 2)

    def warp_sum(theta: jax.Array) -> jax.Array:
        return jnp.sum(transform_grid(theta, transforms.projective, (8, 64)))

    for derivative in (jax.grad(loss), jax.hessian(loss), jax.grad(warp_sum)):
        assert np.isfinite(jax.jit(derivative)(CROSSING)).all()


@pytest.mark.parametrize(
    ("theta", "point"),
    [
        # An inverse whose last entry is positive, one that is negative, and one that is 0.
        ([-0.2, 0.0, 0.1, 0.0, 1.0, 0.0, -0.6, 0.0], (0.1, 0.2)),
        ([-0.2, 0.0, 2.0, 0.0, 1.0, 0.0, -0.6, 0.0], (0.1, 0.2)),
        ([0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0], (0.1, 0.2)),
    ],
)
def test_an_inverse_undoes_or_is_not_finite(theta: list[float], point: tuple[float, ...]) -> None:
    theta, point = jnp.asarray(theta), jnp.asarray(point)
    inverse = transforms.projective.inverse(theta)
    if np.linalg.inv(transforms.projective.matrix(theta))[2, 2] > 0:
        there = transforms.projective.warp(theta, point)
        np.testing.assert_allclose(transforms.projective.warp(inverse, there), point, atol=1e-5)
    else:
        assert np.isnan(inverse).all()


@pytest.mark.parametrize("shift", [1.0, 10 / 9, 2.0])
def test_a_composition_warps_twice_or_is_not_finite(shift: float) -> None:
    # The last entry of a after b: positive, about 0, negative.
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
