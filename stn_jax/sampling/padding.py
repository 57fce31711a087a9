"""Padding: rules that map coordinates and taps outside the image back into it, on one axis.

Every rule is total: NaN, infinities and coordinates beyond the index range are mapped to
coordinates whose taps have valid indices, and receive gradient 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stn_jax._types import Array
from stn_jax.coordinates import one_if_0

# A number of an axis, which may be traced.
Extent = int | float | jax.Array
Extents = tuple[Extent, Extent]
Bounds = tuple[float, float]

# Coordinates from here on have no 32-bit index.
INDEX_LIMIT = 2.0**31


def clip(p: jax.Array, low: Extent, high: Extent) -> jax.Array:
    """Clips `p`. As in torch, the gradient is 0 outside the bounds and at the bounds."""
    return lax.clamp(jnp.asarray(low, p.dtype), p, jnp.asarray(high, p.dtype))


def reflect(p: jax.Array, bounds: Extents) -> jax.Array:
    """Reflects `p` at both bounds until it lies between them."""
    low, high = bounds
    span = high - low
    distance = jnp.abs(p - low)
    # The remainder is exact for coordinates of any size; the number of reflections is not.
    remainder = lax.rem(distance, jnp.asarray(2 * one_if_0(span), p.dtype))
    reflected = jnp.where(remainder > span, 2 * span - remainder, remainder) + low
    return jnp.where(span == 0, 0.0, reflected)


def _skip_outside(
    p: jax.Array, size: Extent, bounds: Extents, reach: int, overhang: int
) -> jax.Array:
    """Moves coordinates that read no pixel, and NaN, to the first such one behind the image."""
    return jnp.where((p >= -reach) & (p < size - 1 + reach), p, size - 1 + reach)


def _clip(p: jax.Array, size: Extent, bounds: Extents, reach: int, overhang: int) -> jax.Array:
    return clip(jnp.where(jnp.isnan(p), 0.0, p), -overhang, size - 1 + overhang)


def _reflect(p: jax.Array, size: Extent, bounds: Extents, reach: int, overhang: int) -> jax.Array:
    p = reflect(jnp.where(jnp.abs(p) < INDEX_LIMIT, p, 0.0), bounds)  # NaN becomes 0
    return p if overhang else clip(p, 0, size - 1)


def _clip_taps(index: Array, size: Extent, bounds: Extents) -> Array:
    return index.clip(0, size - 1)


def _reflect_taps(index: Array, size: Extent, bounds: Extents) -> Array:
    low, high = bounds
    span = high - low
    xp = np if isinstance(index, np.ndarray) else jnp
    distance = (index - low) % (2 * xp.where(span == 0, 1.0, span))
    folded = xp.minimum(distance, 2 * span - distance) + low
    # If the ends are between pixels, as in `straighten`, a pixel behind them is still itself.
    inside = (index >= 0) & (index <= size - 1)
    return xp.where(inside, index, xp.where(span == 0, 0, folded)).astype(np.int32)


class Padding(NamedTuple):
    """How an axis of `size` pixels continues outside the image.

    Attributes:
        locate: `(p, size, bounds, reach, overhang) -> p`, a coordinate with the same sampled value,
            at most `reach` pixels outside the image. A kernel reads pixels less than `reach` away.
            `overhang` is equal to `reach` if the kernel folds taps instead of coordinates,
            otherwise 0.
        fold_taps: `(index, size, bounds) -> index`, mapped into the image; None if taps outside
            read the fill value.
    """

    locate: Callable[[jax.Array, Extent, Extents, int, int], jax.Array]
    fold_taps: Callable[[Array, Extent, Extents], Array] | None


PADDINGS = {
    "zeros": Padding(_skip_outside, fold_taps=None),
    "border": Padding(_clip, _clip_taps),
    "reflection": Padding(_reflect, _reflect_taps),
}
