"""What is only so of homographies: a horizon, and affine maps among them."""

import jax
import jax.numpy as jnp
import numpy as np

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


def test_a_composition_without_theta_stays_finite() -> None:
    # a after b has 0 as the last entry of its matrix: it sends the centre to infinity.
    a = jnp.asarray([1.0, 0, 0, 0, 1, 0, -1, 0])
    b = jnp.asarray([1.0, 0, 1, 0, 1, 0, 0, 0])
    assert np.isfinite(transforms.projective.compose(a, b)).all()
