"""Errors that name the argument, what was given and what is allowed."""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def check_choice(argument: str, value: object, allowed: Iterable[str]) -> None:
    """Raises `ValueError` unless `value` is one of `allowed`."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}; got {value!r}")


def check_shape(argument: str, shape: Sequence[int], expected: str, ok: bool) -> None:
    """Raises `ValueError` saying that `argument` must have the `expected` shape, unless `ok`."""
    if not ok:
        raise ValueError(f"{argument} must have shape {expected}; got {list(shape)}")


def one_example(ndim: int) -> str:
    """The shape of an image or volume, for an error that a batch may have led to."""
    return f"{'[h, w, c]' if ndim == 2 else '[d, h, w, c]'} (one example; jax.vmap makes batches)"


def check_sizes(argument: str, sizes: object, ndim: int) -> tuple[int, ...]:
    """`sizes` as a tuple of `ndim` non-negative integers, or `ValueError`."""
    try:
        values = tuple(int(np.asarray(size).__index__()) for size in sizes)  # type: ignore[attr-defined]
    except TypeError:
        values = (-1,)
    if len(values) != ndim or min(values, default=0) < 0:
        raise ValueError(f"{argument} must be {ndim} non-negative integers; got {sizes!r}")
    return values


def is_floating(dtype: np.dtype) -> bool:
    """Whether values are real floating-point numbers that JAX computes with: not float8."""
    return jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits >= 16


def check_floating(argument: str, array: jax.Array | np.ndarray) -> None:
    """Raises `ValueError` unless `array` holds real floating-point numbers."""
    if not is_floating(array.dtype):
        narrow = jnp.issubdtype(array.dtype, jnp.floating)
        reason = ", which is too narrow to compute in" if narrow else ""
        raise ValueError(f"{argument} must be of a floating dtype; got {array.dtype}{reason}")


def check_bool(argument: str, value: object) -> None:
    """Raises `ValueError` unless `value` is a bool, which a number or a string is not."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{argument} must be True or False; got {value!r}")


def is_traced(values: object) -> bool:
    """Whether any of `values` is known only when the program runs, so that none can be checked."""
    return any(isinstance(value, jax.core.Tracer) for value in jax.tree.leaves(values))


def as_numbers(values: object) -> np.ndarray | None:
    """`values` as an array; None where they are no real numbers."""
    try:
        array = np.asarray(values)
    except ValueError:  # of sequences that are no array
        return None
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    return array if any(jnp.issubdtype(array.dtype, kind) for kind in kinds) else None


def check_at_least_0(argument: str, value: object) -> None:
    """Raises `ValueError` unless `value` is traced, or a finite number of at least 0."""
    if is_traced(value):
        return
    number = as_numbers(value)
    if number is None or number.shape != () or not 0 <= number < np.inf:
        raise ValueError(f"{argument} must be finite and at least 0; got {value!r}")
