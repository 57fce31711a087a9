"""The `Transform` interface, and the matrix arithmetic that the families share."""

import dataclasses
import functools
import importlib
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import as_array, check_floating, check_shape, one_line
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Array, float_dtype
from stn_jax.transforms.validation import MissingOperation, check_fields, check_operations

# Coordinate of points on or behind the horizon of a projective warp. It lies outside any image
# that float32 indices can address, so zero padding reads it as background.
FAR = 2.0**24
# The smallest homogeneous coordinate in front of the horizon. It bounds the gradient of a point
# inside the image by 1000 times the gradient of its numerator.
MIN_DEPTH = 1e-3


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, eq=False)
class Transform:
    """A family of geometric transformations, given by pure functions of its parameters theta.

    Convention: theta is flat, `[num_params]`, and maps *target* points (in the output) to
    *source* points (in the input). Points are normalised; their last axis is ordered (x, y[, z]).

    A `Transform` is a static value: an argument of `jax.jit`, an attribute of a Flax or Equinox
    module, or a key of a dictionary. It is compared by identity. Copying returns the same object,
    and so does unpickling, also in another process: a `Transform` is pickled as a call of its
    `origin`, or as the name of the module-level variable that holds it.

    Attributes:
        name: name in command-line flags, records and errors.
        ndim: number of spatial dimensions, 2 or 3.
        identity: the theta that maps every point to itself, `[num_params]`, real numbers; stored
            as a read-only float32 array.
        warp: `(theta, points [..., ndim]) -> points [..., ndim]`; exact at the identity if
            possible, so that `spatial_transform` is.
        matrix: `theta -> [ndim, ndim + 1]` (linear families) or `[ndim + 1, ndim + 1]`
            (projective). Optional, as are `compose` and `inverse`: `has_matrix`, `has_compose`
            and `has_inverse` tell which are defined, and calling another one raises
            `NotImplementedError`.
        compose: `(a, b) -> theta` of the warp that applies `b` first and then `a`.
        inverse: `theta -> theta` of the inverse warp.
        origin: `(function, arguments)` for families that a function makes. The function must return
            the same object for equal arguments, so it needs a cache.
        check: whether the constructor evaluates the operations once to check them, which starts
            JAX. Pass False to define a family before `jax.distributed.initialize`.

    A composition or an inverse is NaN if the result is not in the family. Examples are the inverse
    of a theta that is singular to working precision, and a homography that maps the centre to the
    horizon or behind it.

    Raises:
        ValueError: if a field is invalid, an operation returns another shape, or `identity` does
            not map points to themselves.

    Example:
        >>> def shear_points(theta, points):
        ...     x, y = points[..., 0], points[..., 1]
        ...     return jnp.stack([x + theta[0] * y, y], axis=-1)
        >>> shear = Transform("shear", 2, np.zeros(1), shear_points)
        >>> shear.warp(jnp.asarray([0.5]), jnp.asarray([0.0, 1.0]))
        Array([0.5, 1. ], dtype=float32)
    """

    name: str
    ndim: int
    identity: np.ndarray
    warp: Callable[[Array, Array], jax.Array]
    matrix: Callable[[Array], jax.Array] = None  # type: ignore[assignment]  # see __post_init__
    compose: Callable[[Array, Array], jax.Array] = None  # type: ignore[assignment]
    inverse: Callable[[Array], jax.Array] = None  # type: ignore[assignment]
    origin: tuple[Callable[..., "Transform"], tuple[Any, ...]] | None = dataclasses.field(
        default=None, kw_only=True
    )
    check: dataclasses.InitVar[bool] = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self, check: bool) -> None:
        check_fields(self.name, self.ndim, self.identity, self.warp)
        identity = np.array(self.identity, np.float32)
        identity.setflags(write=False)
        operations = {}
        for name in ("warp", "matrix", "compose", "inverse"):
            function = getattr(self, name)
            if function is None or isinstance(function, MissingOperation):
                object.__setattr__(self, name, MissingOperation(self.name, name))
            elif callable(function):
                operations[name] = _on_auto_axes(function)
            else:
                raise ValueError(f"{name} must be a function or None; got {one_line(function)}")
        fields = {"ndim": int(self.ndim), "identity": identity, **operations}
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        if check:
            check_operations(self.name, self.ndim, identity, operations)

    @property
    def num_params(self) -> int:
        """The number of parameters, the length of theta."""
        return self.identity.shape[0]

    @property
    def has_matrix(self) -> bool:
        """Whether the family defines `matrix`."""
        return not isinstance(self.matrix, MissingOperation)

    @property
    def has_compose(self) -> bool:
        """Whether the family defines `compose`."""
        return not isinstance(self.compose, MissingOperation)

    @property
    def has_inverse(self) -> bool:
        """Whether the family defines `inverse`."""
        return not isinstance(self.inverse, MissingOperation)

    # A copy would be an unequal family and cause recompilation, so copying returns the object.
    def __copy__(self) -> "Transform":
        return self

    def __deepcopy__(self, memo: object) -> "Transform":
        return self

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        if self.origin is not None and self.origin[0](*self.origin[1]) is self:
            return self.origin
        home = getattr(self.warp, "__module__", "")
        for module in dict.fromkeys(("stn_jax.transforms", home, *sys.modules)):
            for name, value in tuple(getattr(sys.modules.get(module), "__dict__", {}).items()):
                if value is self:
                    return _find_by_name, (module, name)
        raise TypeError(
            f"cannot pickle {self!r}, because no variable of a module holds it and its origin, if "
            "it has one, returns another object"
        )

    def __repr__(self) -> str:
        return f"Transform({self.name!r}, num_params={self.num_params})"


def _find_by_name(module: str, name: str) -> Transform:
    """Returns a variable of a module, to unpickle a `Transform`."""
    return getattr(importlib.import_module(module), name)


def _on_auto_axes(operation: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Makes an operation of a family work on meshes with Explicit axes."""

    @functools.wraps(operation)
    def call(*arguments: Array) -> jax.Array:
        # The last argument is the points of a warp, or else a theta.
        spec = partition_spec(arguments[-1]) if arguments else ()
        return run_on_auto_axes(operation, *arguments, out_spec=spec[:-1])

    return call


def cache_one_object(make: Callable[..., Transform]) -> Callable[..., Transform]:
    """Caches a function, so that equal arguments give one object, also in several threads.

    A `Transform` is compared by identity, so a second object would be another family.
    """
    cached, lock = functools.cache(make), threading.RLock()

    @functools.wraps(make)
    def make_once(*arguments: Any) -> Transform:
        with lock:
            return cached(*arguments)

    return make_once


def check_transform(transform: object) -> None:
    """Raises `ValueError` unless `transform` is a `Transform`."""
    if not isinstance(transform, Transform):
        raise ValueError(
            "transform must be one of stn_jax.transforms, or made by calling thin_plate_spline; "
            f"got {one_line(transform)}"
        )


def at_least_float32(array: Array) -> jax.Array:
    """Casts `array` to float32 unless its dtype is wider."""
    array = as_array("array", array)
    return array.astype(float_dtype(array.dtype))


def as_theta(theta: Array, num_params: int, name: str) -> jax.Array:
    """Checks that theta is floating and has shape `[num_params]`; casts it to at least float32."""
    shape = np.shape(theta)
    check_shape(f"theta of {name}", shape, f"[{num_params}]", shape == (num_params,))
    theta = as_array(f"theta of {name}", theta)
    check_floating(f"theta of {name}", theta)
    return at_least_float32(theta)


def as_points(points: Array, ndim: int, name: str) -> jax.Array:
    """Checks that points are floating `[..., ndim]`; casts them to at least float32."""
    shape = np.shape(points)
    check_shape(f"points of {name}", shape, f"[..., {ndim}]", bool(shape) and shape[-1] == ndim)
    points = as_array(f"points of {name}", points)
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
