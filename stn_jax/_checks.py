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


def check_sizes(argument: str, sizes: object, ndim: int) -> tuple[int, ...]:
    """`sizes` as a tuple of `ndim` non-negative integers, or `ValueError`."""
    try:
        values = tuple(int(np.asarray(size).__index__()) for size in sizes)  # type: ignore[attr-defined]
    except TypeError:
        values = (-1,)
    if len(values) != ndim or min(values, default=0) < 0:
        raise ValueError(f"{argument} must be {ndim} non-negative integers; got {sizes!r}")
    return values


def check_floating(argument: str, array: jax.Array | np.ndarray) -> None:
    """Raises `ValueError` unless `array` holds real floating-point numbers."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{argument} must be of a floating dtype; got {array.dtype}")
