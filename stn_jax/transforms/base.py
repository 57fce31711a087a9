"""The `Transform` interface, and the matrix arithmetic that the families share."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_floating, check_shape
from stn_jax._types import Array

# Coordinate of points on or behind the horizon of a projective warp. It lies outside any image
# that float32 indices can address, so zero padding reads it as background.
FAR = 2.0**24
# The smallest homogeneous coordinate in front of the horizon. It bounds the gradient of a point
# inside the image by 1000 times the gradient of its numerator.
MIN_DEPTH = 1e-3


class Transform(NamedTuple):
    """A family of geometric transformations, given by pure functions of its parameters theta.

    Convention: theta is flat, `[num_params]`, and maps *target* points (in the output) to
    *source* points (in the input). Points are normalised; their last axis is ordered (x, y[, z]).

    Attributes:
        name: name in command-line flags, records and errors.
        ndim: number of spatial dimensions, 2 or 3.
        identity: the theta that maps every point to itself, `[num_params]`, float32, read-only.
        warp: `(theta, points [..., ndim]) -> points [..., ndim]`; exact at the identity.
        matrix: `theta -> [ndim, ndim + 1]` (linear families) or `[ndim + 1, ndim + 1]`
            (projective), or None if the family has no matrix.
        compose: `(a, b) -> theta` of the warp that applies `b` first and then `a`, or None.
        inverse: `theta -> theta` of the inverse warp, or None.

    A composition or an inverse is NaN if the result is not in the family. Examples are the inverse
    of a theta that is singular to working precision, and a homography that maps the centre to the
    horizon or behind it.
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
        """The number of parameters, the length of theta."""
        return self.identity.shape[0]

    # Compared by object identity, so that a Transform can be a static argument and a module field:
    # the field `identity` is an array, which has no hash and no boolean equality.
    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    # A copy would be an unequal family and cause recompilation, so copying returns the object.
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


def read_only_vector(values: Sequence[float]) -> np.ndarray:
    """Returns a read-only float32 vector."""
    array = np.asarray(values, np.float32)
    array.setflags(write=False)
    return array


def at_least_float32(array: Array) -> jax.Array:
    """Casts `array` to float32 unless its dtype is wider."""
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def as_theta(theta: Array, num_params: int, name: str) -> jax.Array:
    """Checks that theta is floating and has shape `[num_params]`; casts it to at least float32."""
    shape = jnp.shape(theta)
    check_shape(f"theta of {name}", shape, f"[{num_params}]", shape == (num_params,))
    theta = jnp.asarray(theta)
    check_floating(f"theta of {name}", theta)
    return at_least_float32(theta)


def as_points(points: Array, ndim: int, name: str) -> jax.Array:
    """Checks that points are floating `[..., ndim]`; casts them to at least float32."""
    shape = jnp.shape(points)
    check_shape(f"points of {name}", shape, f"[..., {ndim}]", bool(shape) and shape[-1] == ndim)
    points = jnp.asarray(points)
    check_floating(f"points of {name}", points)
    return at_least_float32(points)


def inverse_matrix(matrix: Float[Array, "n n"]) -> Float[jax.Array, "n n"]:
    """Inverts a matrix. The result is NaN if the matrix is singular to working precision.

    The determinant of a singular matrix is rarely exactly 0 in floating point; elimination then
    returns large, finite, meaningless numbers. The condition number detects this.
    """
    inverse = jnp.linalg.inv(matrix)

    def norm(matrix: Array) -> jax.Array:
        return jnp.max(jnp.sum(jnp.abs(matrix), axis=0))

    regular = norm(matrix) * norm(inverse) < 1 / jnp.finfo(matrix.dtype).eps
    return jnp.where(regular, inverse, jnp.nan)


def apply_matrix(
    matrix: Float[Array, "rows columns"], coordinates: Sequence[Array]
) -> tuple[jax.Array, ...]:
    """Maps points by a matrix. Each coordinate is an array of its own.

    Uses multiply-adds, because a matrix product may run in reduced precision on an accelerator.
    Separate coordinates avoid a reduction over an axis of length 2 in the gradient.

    Args:
        matrix: `[n, n + 1]`, or `[n + 1, n + 1]` for a projective map.
        coordinates: x, y[, z], with shapes that broadcast together.

    Returns:
        The mapped coordinates x, y[, z].
    """
    ndim = len(coordinates)

    def row(i: int) -> jax.Array:
        terms = [matrix[i, j] * coordinates[j] for j in range(ndim)]
        return sum(terms[1:], terms[0]) + matrix[i, ndim]

    return dehomogenise([row(i) for i in range(matrix.shape[0])], ndim)


def dehomogenise(rows: Sequence[jax.Array], ndim: int) -> tuple[jax.Array, ...]:
    """Divides the first `ndim` rows by the last one if there are `ndim + 1`.

    Points with a depth below `MIN_DEPTH` are mapped to distance `FAR`, with gradient 0.
    """
    numerators = tuple(rows[:ndim])
    if len(rows) == ndim:
        return numerators
    depth = rows[ndim]
    visible = depth >= MIN_DEPTH
    safe_depth = jnp.where(visible, depth, 1.0)
    return tuple(
        jnp.where(visible, p / safe_depth, jnp.where(p < 0, -FAR, FAR)) for p in numerators
    )


def warp_by_matrix(matrix: Array, points: jax.Array) -> jax.Array:
    """Maps points `[..., n]` by a matrix, as `apply_matrix`."""
    coordinates = [points[..., i] for i in range(points.shape[-1])]
    return jnp.stack(apply_matrix(matrix, coordinates), axis=-1)


def homogeneous(matrix: jax.Array) -> jax.Array:
    """Appends the row (0, ..., 0, 1) to a matrix `[n, n + 1]`."""
    n = matrix.shape[0]
    return jnp.concatenate([matrix, jnp.eye(n + 1, dtype=matrix.dtype)[n:]])


def matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a @ b` in full precision, even if the default precision of the device is lower."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
