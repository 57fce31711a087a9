"""Checks of the fields and operations of a user-defined `Transform`."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax._checks import as_numbers, check_integer, one_line

# Largest error of a point in [-1, 1] under the identity. Rounding in float32 stays below it.
IDENTITY_TOLERANCE = 1e-4


class MissingOperation:
    """An operation that a family does not define. Calling it raises `NotImplementedError`."""

    def __init__(self, family: str, operation: str) -> None:
        self.message = f"the family {family} defines no {operation}"

    def __call__(self, *arguments: object) -> jax.Array:
        """Raises `NotImplementedError`."""
        raise NotImplementedError(self.message)


def check_fields(name: object, ndim: object, identity: object, warp: object) -> None:
    """Raises `ValueError` unless the required fields of a `Transform` are valid."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"name must be a string that is not empty; got {one_line(name)}")
    check_integer("ndim", ndim, "2 or 3", 2, 3)
    theta = as_numbers(identity)
    if theta is None or theta.ndim != 1 or theta.size == 0 or not np.isfinite(theta).all():
        raise ValueError(f"identity must be a vector of finite numbers; got {one_line(identity)}")
    if not callable(warp):
        raise ValueError(f"warp must be a function of theta and points; got {one_line(warp)}")


def check_operations(
    name: str, ndim: int, identity: np.ndarray, operations: Mapping[str, Callable[..., jax.Array]]
) -> None:
    """Raises `ValueError` unless operations return the right shapes and the identity is one.

    Args:
        name, ndim, identity: fields of the `Transform`.
        operations: the operations that the family defines, by the names of their fields.
    """
    theta = jax.ShapeDtypeStruct(identity.shape, jnp.float32)
    matrices, thetas = [(ndim, ndim + 1), (ndim + 1, ndim + 1)], [theta.shape]
    expected = {"matrix": (1, matrices), "compose": (2, thetas), "inverse": (1, thetas)}
    for field in operations.keys() & expected.keys():
        count, shapes = expected[field]
        _check_result(f"{field} of {name}", operations[field], [theta] * count, shapes)
    for shape in ((ndim,), (2, 3, ndim)):
        points = jax.ShapeDtypeStruct(shape, jnp.float32)
        _check_result(f"warp of {name}", operations["warp"], [theta, points], [shape])
    _check_identity(name, ndim, identity, operations["warp"])


def _check_result(
    operation: str,
    function: Callable[..., jax.Array],
    arguments: Sequence[jax.ShapeDtypeStruct],
    shapes: Sequence[tuple[int, ...]],
) -> None:
    """Raises `ValueError` unless a function returns a floating array of one of the shapes."""
    given = " and ".join(str(list(argument.shape)) for argument in arguments)
    try:
        result = jax.eval_shape(function, *arguments)
    except Exception as error:
        cause = (str(error).splitlines() or [""])[0]
        raise ValueError(
            f"{operation} must accept arrays of shape {given}; got {type(error).__name__}: {cause}"
        ) from error
    expected = " or ".join(str(list(shape)) for shape in shapes)
    found = getattr(result, "shape", None)
    if found not in shapes or not jnp.issubdtype(result.dtype, jnp.floating):
        actual = type(result).__name__ if found is None else f"{result.dtype}{list(found)}"
        raise ValueError(
            f"{operation} must return floating {expected} for arrays of shape {given}; got {actual}"
        )


def _check_identity(
    name: str, ndim: int, identity: np.ndarray, warp: Callable[..., jax.Array]
) -> None:
    """Raises `ValueError` unless the identity maps some points to themselves."""
    points = np.linspace(-0.9, 0.8, 3 * ndim, dtype=np.float32).reshape(3, ndim)
    with jax.ensure_compile_time_eval():  # a family may be made inside a traced function
        warped = np.asarray(warp(jnp.asarray(identity), jnp.asarray(points)))
    distances = np.abs(warped - points).max(axis=1)
    if not (distances <= IDENTITY_TOLERANCE).all():  # also if NaN
        i = int(np.argmax(distances))
        raise ValueError(
            f"identity of {name} must map points to themselves; "
            f"got {points[i].tolist()} -> {warped[i].tolist()}"
        )
