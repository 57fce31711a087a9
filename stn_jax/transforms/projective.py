"""The plane projective transformation (homography).

theta is the matrix divided by its last entry, the depth of the centre, so it has none for a matrix
whose last entry is 0 or negative: divided by it, every depth would change its sign, and what is
visible would lie behind the horizon. `compose` and `inverse` then return NaN.
"""

import jax
import jax.numpy as jnp

from stn_jax._types import Array
from stn_jax.transforms.base import (
    Transform,
    as_points,
    as_theta,
    constant,
    inverse_matrix,
    matmul,
    warp_by_matrix,
)


def _matrix(theta: Array) -> jax.Array:
    theta = as_theta(theta, 8, "projective")
    return jnp.concatenate([theta, jnp.ones(1, theta.dtype)]).reshape(3, 3)


def _theta(matrix: jax.Array) -> jax.Array:
    """The matrix with 1 as its last entry; NaN where only a negative factor, or none, does that."""
    last = matrix[2, 2]
    return jnp.where(last > 0, matrix / last, jnp.nan).ravel()[:8]


projective = Transform(
    name="projective",
    ndim=2,
    identity=constant([1, 0, 0, 0, 1, 0, 0, 0]),
    warp=lambda theta, points: warp_by_matrix(_matrix(theta), as_points(points, 2, "projective")),
    matrix=_matrix,
    compose=lambda a, b: _theta(matmul(_matrix(a), _matrix(b))),
    inverse=lambda theta: _theta(inverse_matrix(_matrix(theta))),
)
