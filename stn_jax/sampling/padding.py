"""What lies outside the image: rules that bring coordinates and taps back to it, on one axis.

Every rule is total: it maps NaN, infinities and coordinates beyond any index to something that can
be converted to an index, and passes no gradient to them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Bounds = tuple[float, float]

# Farther than any tap reaches: a coordinate this far out reads nothing but padding.
REACH = 4.0
# Coordinates beyond this have no 32-bit index.
LARGEST = 2.0**31


def clip(p: jax.Array, low: float, high: float) -> jax.Array:
    """`p` clipped; its gradient is 0 outside and, as in torch, at the bounds themselves."""
    return lax.clamp(jnp.asarray(low, p.dtype), p, jnp.asarray(high, p.dtype))


def reflect(p: jax.Array, bounds: Bounds) -> jax.Array:
    """`p` mirrored at both bounds until it lies between them."""
    low, high = bounds
    span = high - low
    if span == 0:
        return jnp.zeros_like(p)
    distance = jnp.abs(p - low)
    # The remainder of two spans is exact however large the coordinate; a count of spans is not.
    around = lax.rem(distance, jnp.asarray(2 * span, p.dtype))
    return jnp.where(around > span, 2 * span - around, around) + low


def _bring_near(p: jax.Array, size: int) -> jax.Array:
    return clip(p, -REACH, size - 1 + REACH)


class Padding(NamedTuple):
    """How one axis of `size` pixels continues outside.

    Attributes:
        tame: `(p, size) -> p`, finite and indexable, equal to `p` as far as sampling can tell.
        fold: `(p, size, bounds) -> p`, inside `[0, size - 1]`; None where taps outside read the
            fill value instead.
    """

    tame: Callable[[jax.Array, int], jax.Array]
    fold: Callable[[jax.Array, int, Bounds], jax.Array] | None


PADDINGS = {
    "zeros": Padding(
        tame=lambda p, size: _bring_near(jnp.where(jnp.isnan(p), -REACH, p), size),
        fold=None,
    ),
    "border": Padding(
        tame=lambda p, size: _bring_near(jnp.where(jnp.isnan(p), 0.0, p), size),
        fold=lambda p, size, bounds: clip(p, 0, size - 1),
    ),
    "reflection": Padding(
        tame=lambda p, size: jnp.where(jnp.abs(p) < LARGEST, p, 0.0),  # NaN compares false
        fold=lambda p, size, bounds: clip(reflect(p, bounds), 0, size - 1),
    ),
}
