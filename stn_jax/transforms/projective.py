"""The plane projective transformation (homography).

Theta holds the matrix divided by its last entry, the depth of the centre. A matrix whose last entry
is 0 or negative has no theta: the division would flip the sign of every depth, and visible points
would move behind the horizon. `compose` and `inverse` return NaN in that case.
"""

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax._types import Array
from stn_jax.transforms.base import (
    Transform,
    as_points,
    as_theta,
    inverse_matrix,
    matmul,
    warp_by_matrix,
)


def _matrix(theta: Array) -> jax.Array:
    theta = as_theta(theta, 8, "projective")
    matrix = jnp.concatenate([theta, jnp.ones(1, theta.dtype)]).reshape(3, 3)
    # Very large entries would overflow in gradients. A factor changes no point, so it is constant.
    largest, limit = jnp.max(jnp.abs(matrix)), float(jnp.finfo(theta.dtype).max) ** 0.25
    return matrix / jax.lax.stop_gradient(jnp.where(largest > limit, largest / limit, 1.0))


def _theta_from_matrix(matrix: jax.Array) -> jax.Array:
    """Normalises the last entry of the matrix to 1; NaN unless that entry is positive."""
    last = matrix[2, 2]
    return jnp.where(last > 0, matrix / last, jnp.nan).ravel()[:8]


projective = Transform(
    name="projective",
    ndim=2,
    identity=np.eye(3).ravel()[:8],
    warp=lambda theta, points: warp_by_matrix(_matrix(theta), as_points(points, 2, "projective")),
    matrix=_matrix,
    compose=lambda a, b: _theta_from_matrix(matmul(_matrix(a), _matrix(b))),
    inverse=lambda theta: _theta_from_matrix(inverse_matrix(_matrix(theta))),
    check=False,
)
