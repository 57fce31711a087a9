"""P moves the corners of the frame by the stated deviation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax import distortions, transforms
from tests.distortions.inputs import KEYS, SHAPE, SQUARE


def test_p_moves_corners_by_sigma() -> None:
    draw = functools.partial(distortions.draw_perspective, scale=(0.8, 0.8), sigma_px=2.0)
    thetas = jax.jit(jax.vmap(lambda key: draw(key, SHAPE)))(KEYS)
    corners = jax.vmap(transforms.projective.warp, in_axes=(0, None))(thetas, SQUARE)
    shifts = (np.asarray(corners) - SQUARE / 0.8) * 14
    assert abs(shifts.mean()) < 0.15
    assert abs(shifts.std() - 2.0) < 0.1


def test_share_of_corners_behind_the_horizon_is_as_documented() -> None:
    """The docstring of `draw_p` gives these shares."""

    @jax.jit
    @jax.vmap
    def share_behind(sigma_px: jax.Array) -> jax.Array:
        draw = functools.partial(distortions.draw_perspective, image_shape=SHAPE, sigma_px=sigma_px)
        thetas = jax.vmap(lambda key: draw(key))(jax.random.split(KEYS[0], 5000))
        depths = jnp.matmul(thetas[:, 6:], SQUARE.T, precision="highest") + 1
        return jnp.mean(jnp.any(depths < 1e-3, axis=1))

    shares = share_behind(jnp.asarray([5.0, 7.0, 10.0]))
    assert np.all(np.abs(shares - np.asarray([0.0009, 0.022, 0.143])) < [0.002, 0.008, 0.02])
