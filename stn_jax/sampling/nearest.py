"""Nearest-neighbour sampling in any number of dimensions, without weights."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from stn_jax.sampling.linear_pair import Axes, Tangents, linear_pair
from stn_jax.sampling.pixels import is_worth_a_copy, merge_axes, pixel_reader
from stn_jax.sampling.splat import Windows, splat


def nearest(image: jax.Array, points: Sequence[jax.Array], fill: jax.Array | None) -> jax.Array:
    """Samples the pixel whose centre is nearest to each point; halves are rounded to even.

    Args:
        image: `[*spatial, c]`, of any dtype.
        points: x, y[, z] in pixels. Points outside the image, and NaN, read `fill`.
        fill: one number per channel, in the dtype of the image; None if no point is outside.

    Returns:
        `[*out, c]` in the dtype of the image.
    """
    *spatial, channels = image.shape
    pixel, inside, stride = jnp.int32(0), jnp.bool_(True), 1
    for p, size in zip(points, reversed(spatial), strict=True):
        position = jnp.round(lax.stop_gradient(p))
        reached = (position >= 0) & (position <= size - 1)
        pixel += jnp.where(reached, position, 0).astype(jnp.int32) * stride
        inside &= reached
        stride *= size
    if padded := fill is not None:
        pixel = jnp.where(inside, pixel, stride)
    else:
        fill = jnp.zeros(channels, image.dtype)
    merged = merge_axes(pixel)
    shape = (*merged.shape, channels)
    samples = _read(image, merged, fill, result_shape=shape, layout=padded)
    return samples.reshape(*pixel.shape, channels)


def _values(image: jax.Array, pixel: jax.Array, fill: jax.Array, *, layout: bool) -> jax.Array:
    """The pixels. Static: `layout`, whether the index behind the last pixel stands for `fill`."""
    return _read_pixels(image, pixel, fill if layout else None, copy=False)


def _values_on_cpu(
    image: jax.Array, pixel: jax.Array, fill: jax.Array, *, layout: bool, copies: Any
) -> jax.Array:
    copy = is_worth_a_copy(image, pixel.size)
    return _read_pixels(image, pixel, fill if layout else None, copy=copy)


def _read_pixels(
    image: jax.Array, pixel: jax.Array, fill: jax.Array | None, *, copy: bool
) -> jax.Array:
    inside = pixel < math.prod(image.shape[:-1])
    return pixel_reader(image, fill, copy=copy)(pixel, inside)


def _splat(
    samples: jax.Array,
    pixel: jax.Array,
    fill: jax.Array,
    *,
    layout: bool,
    linear_shape: tuple[Any, ...],
    copies: Any,
) -> jax.Array:
    """The transpose of `_values`: adds each sample to the pixel that it reads."""

    def windows() -> Windows:
        return (None,), ()

    channels, size = linear_shape[-1], math.prod(linear_shape)
    behind = channels if layout else 0  # samples of `fill` are added behind the image
    base = pixel * channels
    flat = splat(samples, base, (), windows, size=size + behind, taps=1, copies=copies)
    return flat[:size].reshape(linear_shape)


def _change_by_fill(
    image: jax.Array,
    others: tuple[jax.Array, jax.Array],
    tangents: Tangents,
    *,
    layout: bool,
    plain: bool,
) -> jax.Array:
    (pixel, _), (_, fill_tangent) = others, tangents
    outside = pixel == math.prod(image.shape[:-1])
    # Select, so that in reverse mode samples inside add exactly nothing, even if NaN.
    return jnp.where(outside[..., None] & layout, 0 if fill_tangent is None else fill_tangent, 0)


_read = linear_pair(
    "stn_jax_nearest",
    _values,
    Axes(linear=None, others=(0, None), result=0),
    on_cpu=_values_on_cpu,
    transpose_on_cpu=_splat,
    others_jvp=_change_by_fill,
    homogeneous=lambda pixel, fill: (pixel, jnp.zeros_like(fill)),
)
