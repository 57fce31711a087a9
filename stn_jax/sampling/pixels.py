"""Reading pixels at flat indices, of which two special ones stand for pixels outside the image."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from stn_jax._checks import is_static

# With so many channels, a CPU reads a copy of the image with the special pixels appended, because
# selections, of which each channel needs one, take longer. With more channels, the copy does.
COPIED_CHANNELS = (2, 3, 4)


def merge_axes(array: jax.Array) -> jax.Array:
    """Merges the last two axes of points: a vector loop over each short row takes longer.

    Other axes are kept, because they may be spread over devices.
    """
    return array.reshape(*array.shape[:-2], math.prod(array.shape[-2:]))


def is_worth_a_copy(image: jax.Array, num_points: Any) -> bool:
    """Whether a CPU should copy the image before it reads pixels at this many points."""
    *spatial, channels = image.shape
    if not is_static(*image.shape, num_points):
        return False
    return channels in COPIED_CHANNELS and 4 * num_points >= math.prod(spatial)


def pixel_reader(
    image: jax.Array, fill: jax.Array | None, *, copy: bool
) -> Callable[..., jax.Array]:
    """Prepares an image for reading its pixels by their flat indices.

    Args:
        image: `[*spatial, c]`.
        fill: one number per channel, or None if all pixels are inside.
        copy: whether to copy the image instead of selecting values.

    Returns:
        `(index, inside, skipped=None) -> pixels [*out, c]`: zeros where `skipped`, otherwise
        `fill` where not `inside`. Selected, not multiplied by 0: a pixel may be NaN.
    """
    pixels = image.reshape(-1, image.shape[-1])
    count = pixels.shape[0]

    def select(index: jax.Array, inside: jax.Array, skipped: jax.Array | None = None) -> jax.Array:
        if fill is None:
            return _take(pixels, index)
        values = _take(pixels, jnp.clip(index, 0, count - 1))
        values = jnp.where(inside[..., None], values, fill)
        return values if skipped is None else jnp.where(skipped[..., None], 0, values)

    if fill is None or not copy:
        return select
    extended = jnp.concatenate([pixels, fill[None], jnp.zeros_like(fill)[None]])
    extended = lax.optimization_barrier(extended)  # otherwise it is computed for each tap

    def read(index: jax.Array, inside: jax.Array, skipped: jax.Array | None = None) -> jax.Array:
        index = jnp.where(inside, index, count)
        index = index if skipped is None else jnp.where(skipped, count + 1, index)
        return _take(extended, index)

    return read


def _take(pixels: jax.Array, index: jax.Array) -> jax.Array:
    # Not `pixels.at[index]`, which allows for negative indices.
    numbers = lax.GatherDimensionNumbers((index.ndim,), (0,), (0,))
    size = (1, pixels.shape[1])
    return lax.gather(pixels, index[..., None], numbers, size, mode="promise_in_bounds")
