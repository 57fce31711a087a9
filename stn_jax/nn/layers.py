"""Functions that the modules of both Flax APIs share: dtypes, dropout, heads and initialisers."""

from collections.abc import Callable
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import check_sizes
from stn_jax._types import Array, Number
from stn_jax.transforms.base import at_least_float32

Images = Float[Array, "b h w c"]
Features = Float[jax.Array, "b features"]
Logits = Float[jax.Array, "b classes"]
# A layer with its parameters, such as a bound linen module or an NNX module.
Layer = Callable[..., jax.Array]

# PyTorch's default: uniform within 1 / sqrt(fan-in).
torch_init = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def flatten(x: Float[Array, "b *shape"]) -> Features:
    """Flattens all axes but the first."""
    return jnp.reshape(x, (x.shape[0], prod(x.shape[1:])))  # -1 fails for an empty batch


def classify(x: Float[Array, "b *shape"], dense: Layer) -> Logits:
    """Applies a linear classifier to flat features. The logits are at least float32."""
    return at_least_float32(dense(flatten(x)))


def dropout(
    key: PRNGKeyArray, x: Float[Array, "b *shape"], rate: Number, *, by_channel: bool
) -> Float[jax.Array, "b *shape"]:
    """Sets values to zero at random and scales up the others to keep the mean.

    Args:
        key: random key.
        x: a batch of arrays, channels last.
        rate: the probability of zero, at least 0 and below 1. It may be traced.
        by_channel: whether to drop whole channels of an example.

    Returns:
        An array like `x`.
    """
    shape = (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1]) if by_channel else x.shape
    kept = 1.0 - rate
    mask = jax.random.bernoulli(key, kept, shape)
    return jnp.where(mask, x / jnp.asarray(kept, x.dtype), 0)


def promote_dtype(
    *arrays: Array | None, dtype: DTypeLike | None = None, inexact: bool = True
) -> list[Any]:
    """Casts arrays to a common dtype, as Flax does, also if JAX's promotion is strict.

    Args:
        arrays: arrays, or None for an array that a layer does not have.
        dtype: the dtype; None promotes the dtypes of the arrays.
        inexact: whether integers become floating. Flax passes this argument.

    Returns:
        The arrays in the same order.
    """
    if dtype is None:
        with jax.numpy_dtype_promotion("standard"):
            dtype = jnp.result_type(*(array for array in arrays if array is not None))
            if inexact and not jnp.issubdtype(dtype, jnp.inexact):
                dtype = jnp.promote_types(dtype, jnp.float32)
    return [array if array is None else jnp.asarray(array, dtype) for array in arrays]


def check_positive(argument: str, sizes: object, ndim: int) -> tuple[int, ...]:
    """Returns `sizes` as a tuple of `ndim` positive integers, or raises `ValueError`."""
    values = check_sizes(argument, sizes, ndim)
    if min(values) < 1:
        raise ValueError(f"{argument} must be positive; got {sizes!r}")
    return values
