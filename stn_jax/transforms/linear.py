"""Transformations that are linear in homogeneous coordinates, in 2-D and 3-D.

Coordinates are normalised per axis, so rotating a non-square image also shears it. The y axis
points down: a positive angle rotates the sampled frame clockwise on screen, and therefore rotates
the content of the output anticlockwise.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax._types import Array
from stn_jax.transforms.base import (
    Transform,
    apply_matrix,
    as_points,
    as_theta,
    homogeneous,
    inverse_matrix,
    matmul,
    warp_by_matrix,
)


def _linear_transform(
    name: str,
    identity: Sequence[float],
    matrix: Callable[[jax.Array], jax.Array],
    compose: Callable[[jax.Array, jax.Array], jax.Array],
    inverse: Callable[[jax.Array], jax.Array],
    ndim: int = 2,
) -> Transform:
    """Makes a `Transform` from functions of theta, and adds the checks of arguments."""

    def checked(theta: Array) -> jax.Array:
        return as_theta(theta, len(identity), name)

    return Transform(
        name=name,
        ndim=ndim,
        identity=np.asarray(identity),
        warp=lambda theta, points: warp_by_matrix(
            matrix(checked(theta)), as_points(points, ndim, name)
        ),
        matrix=lambda theta: matrix(checked(theta)),
        compose=lambda a, b: compose(checked(a), checked(b)),
        inverse=lambda theta: inverse(checked(theta)),
        check=False,
    )


def _matrix_2x3(rows: Sequence[Sequence[Array | float]], dtype: jnp.dtype) -> jax.Array:
    return jnp.stack([jnp.stack([jnp.asarray(entry, dtype) for entry in row]) for row in rows])


# --- translation: theta = (tx, ty) ---------------------------------------------------------------


def _translation_matrix(theta: jax.Array) -> jax.Array:
    tx, ty = theta
    return _matrix_2x3([[1, 0, tx], [0, 1, ty]], theta.dtype)


translation = _linear_transform(
    "translation",
    identity=[0, 0],
    matrix=_translation_matrix,
    compose=jnp.add,
    inverse=jnp.negative,
)

# --- rotation: theta = (angle in radians,) --------------------------------------------------------


def _rotation_matrix(theta: jax.Array) -> jax.Array:
    cos, sin = jnp.cos(theta[0]), jnp.sin(theta[0])
    return _matrix_2x3([[cos, -sin, 0], [sin, cos, 0]], theta.dtype)


rotation = _linear_transform(
    "rotation",
    identity=[0],
    matrix=_rotation_matrix,
    compose=jnp.add,
    inverse=jnp.negative,
)

# --- translation_scale, the attention of the paper: theta = (s, tx, ty) ---------------------------


def _translation_scale_matrix(theta: jax.Array) -> jax.Array:
    scale, tx, ty = theta
    return _matrix_2x3([[scale, 0, tx], [0, scale, ty]], theta.dtype)


def _translation_scale_inverse(theta: jax.Array) -> jax.Array:
    inverse = jnp.concatenate([1 / theta[:1], -theta[1:] / theta[0]])
    return jnp.where(jnp.isfinite(inverse[0]), inverse, jnp.nan)


translation_scale = _linear_transform(
    "translation_scale",
    identity=[1, 0, 0],
    matrix=_translation_scale_matrix,
    compose=lambda a, b: jnp.concatenate([a[:1] * b[:1], a[0] * b[1:] + a[1:]]),
    inverse=_translation_scale_inverse,
)

# --- similarity: theta = (angle in radians, log s, tx, ty) ---------------------------------------


def _similarity_matrix(theta: jax.Array, max_log_scale: float = math.inf) -> jax.Array:
    angle, log_scale, tx, ty = theta
    scale = jnp.exp(jnp.minimum(log_scale, max_log_scale))
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    return _matrix_2x3([[cos, -sin, tx], [sin, cos, ty]], theta.dtype)


def _bounded_similarity_matrix(theta: jax.Array) -> jax.Array:
    """The matrix with a scale of at most 1.8e19 (in float32), so that gradients are finite."""
    return _similarity_matrix(theta, math.log(float(jnp.finfo(theta.dtype).max)) / 2)


def _similarity_compose(a: jax.Array, b: jax.Array) -> jax.Array:
    shift = jnp.stack(apply_matrix(_similarity_matrix(a), (b[2], b[3])))
    return jnp.concatenate([a[:2] + b[:2], shift])


def _similarity_inverse(theta: jax.Array) -> jax.Array:
    linear_inverse = jnp.concatenate([-theta[:2], jnp.zeros_like(theta[2:])])
    shift = jnp.stack(apply_matrix(_similarity_matrix(linear_inverse), (theta[2], theta[3])))
    return jnp.concatenate([-theta[:2], -shift])


similarity = _linear_transform(
    "similarity",
    identity=[0, 0, 0, 0],
    matrix=_bounded_similarity_matrix,
    compose=_similarity_compose,
    inverse=_similarity_inverse,
)

# --- affine, 2-D and 3-D: theta = the matrix [n, n + 1], row by row ------------------------------


def _affine(name: str, ndim: int) -> Transform:
    def matrix(theta: jax.Array) -> jax.Array:
        return theta.reshape(ndim, ndim + 1)

    def compose(a: jax.Array, b: jax.Array) -> jax.Array:
        return matmul(matrix(a), homogeneous(matrix(b))).ravel()

    def inverse(theta: jax.Array) -> jax.Array:
        linear, shift = matrix(theta)[:, :ndim], matrix(theta)[:, ndim:]
        linear_inverse = inverse_matrix(linear)
        return jnp.concatenate([linear_inverse, -matmul(linear_inverse, shift)], axis=1).ravel()

    identity = np.eye(ndim, ndim + 1).ravel().tolist()
    return _linear_transform(name, identity, matrix, compose, inverse, ndim)


affine = _affine("affine", 2)
affine_3d = _affine("affine_3d", 3)

# --- rigid_3d: theta = (rx, ry, rz, tx, ty, tz), a rotation vector in radians and a shift --------


def _rotation_matrix_from_vector(vector: jax.Array) -> jax.Array:
    """Rodrigues' formula. A series in the squared angle makes it smooth at zero."""
    # Fourth powers stay finite. Larger angles are rounded by more than a turn.
    limit = float(jnp.finfo(vector.dtype).max) ** 0.2
    vector = jnp.clip(vector, -limit, limit)
    squared = jnp.sum(vector**2)
    small = squared < 1e-4
    angle = jnp.sqrt(jnp.where(small, 1.0, squared))
    first = jnp.where(small, 1 - squared / 6 + squared**2 / 120, jnp.sin(angle) / angle)
    second = jnp.where(
        small, 0.5 - squared / 24 + squared**2 / 720, (1 - jnp.cos(angle)) / angle**2
    )
    x, y, z = vector
    zero = jnp.zeros_like(x)
    cross = jnp.stack(
        [jnp.stack([zero, -z, y]), jnp.stack([z, zero, -x]), jnp.stack([-y, x, zero])]
    )
    return jnp.eye(3, dtype=vector.dtype) + first * cross + second * matmul(cross, cross)


def _quaternion(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Converts a rotation vector to a unit quaternion (scalar, vector part), smooth at zero."""
    squared = jnp.sum(vector**2)
    small = squared < 1e-4
    angle = jnp.sqrt(jnp.where(small, 1.0, squared))
    half_sinc = jnp.where(small, 0.5 - squared / 48 + squared**2 / 3840, jnp.sin(angle / 2) / angle)
    scalar = jnp.where(small, 1 - squared / 8 + squared**2 / 384, jnp.cos(angle / 2))
    return scalar, half_sinc * vector


def _rotation_vector(scalar: jax.Array, imaginary: jax.Array) -> jax.Array:
    """Converts a unit quaternion to a rotation vector of length at most pi."""
    sign = jnp.where(scalar < 0, -1.0, 1.0)
    scalar, imaginary = sign * scalar, sign * imaginary
    squared = jnp.sum(imaginary**2)
    small = squared < 1e-4
    length = jnp.sqrt(jnp.where(small, 1.0, squared))
    series = 2 * (1 + squared / 6 + 3 * squared**2 / 40)  # 2 asin(length) / length
    return jnp.where(small, series, 2 * jnp.arctan2(length, scalar) / length) * imaginary


def _rigid_3d_matrix(theta: jax.Array) -> jax.Array:
    return jnp.concatenate([_rotation_matrix_from_vector(theta[:3]), theta[3:, None]], axis=1)


def _rigid_3d_compose(a: jax.Array, b: jax.Array) -> jax.Array:
    scalar_a, vector_a = _quaternion(a[:3])
    scalar_b, vector_b = _quaternion(b[:3])
    rotation_vector = _rotation_vector(
        scalar_a * scalar_b - jnp.sum(vector_a * vector_b),
        scalar_a * vector_b + scalar_b * vector_a + jnp.cross(vector_a, vector_b),
    )
    shift = jnp.stack(apply_matrix(_rigid_3d_matrix(a), (b[3], b[4], b[5])))
    return jnp.concatenate([rotation_vector, shift])


def _rigid_3d_inverse(theta: jax.Array) -> jax.Array:
    rotation_inverse = _rigid_3d_matrix(jnp.concatenate([-theta[:3], jnp.zeros_like(theta[3:])]))
    shift = jnp.stack(apply_matrix(rotation_inverse, (theta[3], theta[4], theta[5])))
    return jnp.concatenate([-theta[:3], -shift])


rigid_3d = _linear_transform(
    "rigid_3d",
    identity=[0] * 6,
    matrix=_rigid_3d_matrix,
    compose=_rigid_3d_compose,
    inverse=_rigid_3d_inverse,
    ndim=3,
)
