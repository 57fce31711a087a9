"""The plane projective transformation (homography)."""

import jax
import jax.numpy as jnp

from stn_jax._types import Array
from stn_jax.transforms.base import (
    Transform,
    as_points,
    as_theta,
    constant,
    matmul,
    warp_by_matrix,
)


def _matrix(theta: Array) -> jax.Array:
    theta = as_theta(theta, 8, "projective")
    return jnp.concatenate([theta, jnp.ones(1, theta.dtype)]).reshape(3, 3)


def _theta(matrix: jax.Array) -> jax.Array:
    """A homography is defined up to a factor; this one makes its last entry 1.

    One whose last entry is 0 sends the centre to infinity and has no theta: it stays finite.
    """
    last = matrix[2, 2]
    tiny = jnp.finfo(matrix.dtype).eps
    return (matrix / jnp.where(jnp.abs(last) < tiny, tiny, last)).ravel()[:8]


projective = Transform(
    name="projective",
    ndim=2,
    identity=constant([1, 0, 0, 0, 1, 0, 0, 0]),
    warp=lambda theta, points: warp_by_matrix(_matrix(theta), as_points(points, 2, "projective")),
    matrix=_matrix,
    compose=lambda a, b: _theta(matmul(_matrix(a), _matrix(b))),
    inverse=lambda theta: _theta(jnp.linalg.inv(_matrix(theta))),
)
