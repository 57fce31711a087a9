"""Padding: rules that map coordinates and taps outside the image back into it, on one axis.

Every rule is total: NaN, infinities and coordinates beyond the index range are mapped to valid
indices and receive gradient 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from stn_jax.coordinates import one_if_0

# A number of an axis, which may be traced.
Extent = float | jax.Array
Bounds = tuple[Extent, Extent]

# A coordinate this many pixels outside the image reads only padding, whatever the kernel.
FAR_OUTSIDE = 4.0
# Coordinates from here on have no 32-bit index.
INDEX_LIMIT = 2.0**31


def clip(p: jax.Array, low: Extent, high: Extent) -> jax.Array:
    """Clips `p`. As in torch, the gradient is 0 outside the bounds and at the bounds."""
    return lax.clamp(jnp.asarray(low, p.dtype), p, jnp.asarray(high, p.dtype))


def reflect(p: jax.Array, bounds: Bounds) -> jax.Array:
    """Reflects `p` at both bounds until it lies between them."""
    low, high = bounds
    span = high - low
    distance = jnp.abs(p - low)
    # The remainder is exact for coordinates of any size; the number of reflections is not.
    remainder = lax.rem(distance, jnp.asarray(2 * one_if_0(span), p.dtype))
    reflected = jnp.where(remainder > span, 2 * span - remainder, remainder) + low
    return jnp.where(span == 0, 0.0, reflected)


def _clip_far_outside(p: jax.Array, size: Extent) -> jax.Array:
    return clip(p, -FAR_OUTSIDE, size - 1 + FAR_OUTSIDE)


class Padding(NamedTuple):
    """How an axis of `size` pixels continues outside the image.

    Attributes:
        sanitise: `(p, size) -> p`, finite and indexable, without changing any sampled value.
        fold: `(p, size, bounds) -> p`, mapped into `[0, size - 1]`; None if taps outside read the
            fill value.
    """

    sanitise: Callable[[jax.Array, Extent], jax.Array]
    fold: Callable[[jax.Array, Extent, Bounds], jax.Array] | None


PADDINGS = {
    "zeros": Padding(
        sanitise=lambda p, size: _clip_far_outside(jnp.where(jnp.isnan(p), -FAR_OUTSIDE, p), size),
        fold=None,
    ),
    "border": Padding(
        sanitise=lambda p, size: _clip_far_outside(jnp.where(jnp.isnan(p), 0.0, p), size),
        fold=lambda p, size, bounds: clip(p, 0, size - 1),
    ),
    "reflection": Padding(
        sanitise=lambda p, size: jnp.where(jnp.abs(p) < INDEX_LIMIT, p, 0.0),  # NaN becomes 0
        fold=lambda p, size, bounds: clip(reflect(p, bounds), 0, size - 1),
    ),
}
