"""What a transformation is, and the matrix arithmetic that its members share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_floating, check_shape
from stn_jax._types import Array

# Where a projective warp puts a point that lies on or behind its horizon: farther out than any
# image that float32 indices can address, so that zero padding reads it as background.
FAR = 2.0**24
# The least homogeneous coordinate that still counts as before the horizon. It bounds the
# gradient of a point inside the image by 1000 times the gradient of its numerator.
HORIZON = 1e-3


class Transform(NamedTuple):
    """A family of geometric transformations: pure functions of its parameters theta.

    Convention: theta is flat, `[num_params]`, and maps *target* points (of the output) to
    *source* points (of the input); points are normalised, their last axis ordered (x, y[, z]).

    Attributes:
        name: what flags and records call it.
        ndim: spatial dimensions of the points, 2 or 3.
        identity: the theta that maps every point to itself, float32, read-only.
        warp: `(theta, points [..., ndim]) -> points [..., ndim]`; exactly `points` at the identity.
        matrix: `theta -> [ndim, ndim + 1]` (linear ones) or `[ndim + 1, ndim + 1]` (projective);
            None where the family has none.
        compose: `(a, b) -> theta` of the warp that applies `b` first and then `a`, or None.
        inverse: `theta -> theta` of the inverse warp, or None.

    Where a composition or an inverse has no theta in the family, it is NaN: the inverse of a theta
    that is singular (to the precision it is computed in), and a homography that brings the centre
    to the horizon or behind it.
    """

    name: str
    ndim: int
    identity: np.ndarray
    warp: Callable[[jax.Array, jax.Array], jax.Array]
    matrix: Callable[[jax.Array], jax.Array] | None = None
    compose: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    inverse: Callable[[jax.Array], jax.Array] | None = None

    @property
    def num_params(self) -> int:
        """The length of theta."""
        return self.identity.shape[0]

    # By identity of the object: `identity` is an array, which neither hashes nor compares to a
    # truth value, and a Transform has to serve as a static argument and as a field of a module.
    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    # A copy would be another family, and a module that has it another static argument.
    def __copy__(self) -> "Transform":
        return self

    def __deepcopy__(self, memo: object) -> "Transform":
        return self

    def __repr__(self) -> str:
        return f"Transform({self.name!r}, num_params={self.num_params})"


def check_transform(transform: object) -> None:
    """Raises `ValueError` unless `transform` is a `Transform`."""
    if not isinstance(transform, Transform):
        raise ValueError(
            "transform must be one of stn_jax.transforms, or made by calling thin_plate_spline; "
            f"got {transform!r}"
        )


def constant(values: Sequence[float]) -> np.ndarray:
    """A read-only float32 vector."""
    array = np.asarray(values, np.float32)
    array.setflags(write=False)
    return array


def at_least_float32(array: Array) -> jax.Array:
    """`array` in its own precision or float32, whichever is wider."""
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def as_theta(theta: Array, num_params: int, name: str) -> jax.Array:
    """`theta` checked to be flat, of `num_params` and floating; at least float32."""
    check_shape(
        f"theta of {name}", jnp.shape(theta), f"[{num_params}]", jnp.shape(theta) == (num_params,)
    )
    theta = jnp.asarray(theta)
    check_floating(f"theta of {name}", theta)
    return at_least_float32(theta)


def as_points(points: Array, ndim: int, name: str) -> jax.Array:
    """`points` checked to have `ndim` coordinates on the last axis; at least float32."""
    shape = jnp.shape(points)
    check_shape(f"points of {name}", shape, f"[..., {ndim}]", bool(shape) and shape[-1] == ndim)
    points = jnp.asarray(points)
    check_floating(f"points of {name}", points)
    return at_least_float32(points)


def inverse_matrix(matrix: Float[Array, "n n"]) -> Float[jax.Array, "n n"]:
    """The inverse; NaN where the matrix is singular to working precision.

    A matrix without an inverse seldom has a determinant of exactly 0 in floating point, and what
    elimination then returns is large, finite and meaningless. The condition number tells.
    """
    inverse = jnp.linalg.inv(matrix)

    def norm(matrix: Array) -> jax.Array:
        return jnp.max(jnp.sum(jnp.abs(matrix), axis=0))

    regular = norm(matrix) * norm(inverse) < 1 / jnp.finfo(matrix.dtype).eps
    return jnp.where(regular, inverse, jnp.nan)


def apply_matrix(
    matrix: Float[Array, "rows columns"], coordinates: Sequence[Array]
) -> tuple[jax.Array, ...]:
    """Maps points, given as one array for each coordinate, by a matrix.

    Written as multiply-adds: a matrix product may run in reduced precision on an accelerator,
    and separate coordinates keep the gradient free of a reduction over an axis of two.

    Args:
        matrix: `[n, n + 1]`, or `[n + 1, n + 1]` for a projective map.
        coordinates: x, y[, z], of shapes that broadcast together.

    Returns:
        The mapped coordinates, as given.
    """
    ndim = len(coordinates)

    def row(i: int) -> jax.Array:
        terms = [matrix[i, j] * coordinates[j] for j in range(ndim)]
        return sum(terms[1:], terms[0]) + matrix[i, ndim]

    return dehomogenise([row(i) for i in range(matrix.shape[0])], ndim)


def dehomogenise(rows: Sequence[jax.Array], ndim: int) -> tuple[jax.Array, ...]:
    """The first `ndim` of the rows, divided by one more, if there is one.

    Points whose divisor is below `HORIZON` have no image: they go `FAR` away, with gradient 0.
    """
    mapped = tuple(rows[:ndim])
    if len(rows) == ndim:
        return mapped
    depth = rows[ndim]
    visible = depth >= HORIZON
    safe_depth = jnp.where(visible, depth, 1.0)
    return tuple(jnp.where(visible, p / safe_depth, jnp.where(p < 0, -FAR, FAR)) for p in mapped)


def warp_by_matrix(matrix: Array, points: jax.Array) -> jax.Array:
    """Maps points `[..., n]` by a matrix; see `apply_matrix`."""
    planes = [points[..., i] for i in range(points.shape[-1])]
    return jnp.stack(apply_matrix(matrix, planes), axis=-1)


def homogeneous(matrix: jax.Array) -> jax.Array:
    """`[n, n + 1]` with the row (0, ..., 0, 1) below it."""
    n = matrix.shape[0]
    return jnp.concatenate([matrix, jnp.eye(n + 1, dtype=matrix.dtype)[n:]])


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b` in full precision, also where the default of the device is less."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
