"""Argument checks. Errors name the argument, what is allowed and what was given."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.export import is_symbolic_dim


def one_line(value: object) -> str:
    """Describes a value in an error message. Arrays are printed on one line and abbreviated."""
    return textwrap.shorten(repr(value), 200, placeholder=" ...")


def as_array(argument: str, value: Any) -> jax.Array:
    """Returns an array as JAX stores it, or raises `ValueError` as `check_dtype`."""
    return jnp.asarray(check_dtype(argument, value))


def check_dtype(argument: str, value: Any) -> Any:
    """Returns an array that JAX accepts. Other byte orders are converted.

    Raises:
        ValueError: if JAX has no such dtype, or would cut off integers.
    """
    if is_traced(value) or isinstance(value, jax.Array) or hasattr(value, "__jax_array__"):
        return value
    try:
        array = np.asarray(value)
    except ValueError:  # nested sequences of different lengths
        array = np.empty((), object)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        stored = jax.typeof(array).dtype
    except TypeError:
        raise ValueError(
            f"{argument} must be of a dtype of JAX; got {array.dtype}; "
            "if it holds numbers, convert it with astype(np.float32)"
        ) from None
    if array.dtype.kind in "iu" and stored != array.dtype and array.size:
        limits, least, largest = jnp.iinfo(stored), array.min(), array.max()
        if least < limits.min or largest > limits.max:
            raise ValueError(
                f"{argument} must be integers that fit in {stored}; got {least} to {largest}"
            )
    return array


def check_integer(argument: str, value: Any, allowed: str, least: int, most: float = np.inf) -> int:
    """Returns an integer, or raises `ValueError` unless it is one between two bounds."""
    try:
        number = int(np.asarray(value).__index__())  # rejects bools
    except (TypeError, ValueError):  # not a number; sequences of different lengths
        number = None
    if number is None or not least <= number <= most:
        raise ValueError(f"{argument} must be {allowed}; got {one_line(value)}")
    return number


def check_choice(argument: str, value: object, allowed: Iterable[str]) -> None:
    """Raises `ValueError` unless `value` is one of `allowed`."""
    allowed = tuple(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}; got {one_line(value)}")


def check_shape(argument: str, shape: Sequence[int], expected: str, ok: bool) -> None:
    """Raises `ValueError` unless `ok`. The message gives the `expected` and the actual shape."""
    if not ok:
        raise ValueError(f"{argument} must have shape {expected}; got {list(shape)}")


def describe_image_shape(ndim: int) -> str:
    """The shape of one image or volume, for error messages; it points to `vmap` for batches."""
    return f"{'[h, w, c]' if ndim == 2 else '[d, h, w, c]'} (one example; jax.vmap makes batches)"


def check_sizes(argument: str, sizes: object, ndim: int) -> tuple[int, ...]:
    """Returns `sizes` as a tuple of `ndim` non-negative integers, or raises `ValueError`.

    Symbolic dimensions of `jax.export` are returned unchanged.
    """
    try:
        values: tuple[Any, ...] = tuple(
            size if is_symbolic_dim(size) else int(np.asarray(size).__index__())
            for size in sizes  # type: ignore[attr-defined]
        )
    except TypeError:
        values = (-1,)
    if len(values) != ndim or any(size < 0 for size in values if is_static(size)):
        raise ValueError(f"{argument} must be {ndim} non-negative integers; got {one_line(sizes)}")
    return values


def is_static(*sizes: object) -> bool:
    """Whether all sizes are integers, and none is a symbolic dimension of `jax.export`."""
    return all(isinstance(size, int) for size in sizes)


def is_floating(dtype: np.dtype) -> bool:
    """Whether `dtype` is a real floating dtype of at least 16 bits, which excludes float8."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 16


def check_floating(argument: str, array: jax.Array | np.ndarray) -> None:
    """Raises `ValueError` unless the dtype of `array` satisfies `is_floating`."""
    if not is_floating(array.dtype):
        narrow = jnp.issubdtype(array.dtype, jnp.floating)
        reason = ", which is too narrow to compute in" if narrow else ""
        raise ValueError(f"{argument} must be of a floating dtype; got {array.dtype}{reason}")


def check_bool(argument: str, value: object) -> None:
    """Raises `ValueError` unless `value` is a Python or NumPy bool. Integers are rejected."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{argument} must be True or False; got {one_line(value)}")


def is_traced(values: object) -> bool:
    """Whether any leaf of `values` is a tracer, whose value cannot be checked."""
    return any(isinstance(value, jax.core.Tracer) for value in jax.tree.leaves(values))


def as_numbers(values: object) -> np.ndarray | None:
    """Returns `values` as a real NumPy array, or None if they are not real numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged sequences
        return None
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    return array if any(jnp.issubdtype(array.dtype, kind) for kind in kinds) else None


def check_at_least_0(argument: str, value: object) -> None:
    """Raises `ValueError` unless `value` is a finite number >= 0. Tracers pass unchecked."""
    if is_traced(value):
        return
    number = as_numbers(value)
    if number is None or number.shape != () or not 0 <= number < np.inf:
        raise ValueError(f"{argument} must be finite and at least 0; got {one_line(value)}")
