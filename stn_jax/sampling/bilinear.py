"""Bilinear sampling of images, with fast derivatives.

docs/performance.md has the measurements behind each choice.

- A source point is one complex number x + iy, and so is a spatial derivative of the image. A
  kernel with a single output array reads the taps once for both directions; with two arrays, XLA
  reads them again for each array and each reduction of it.
- Only the image and the points are stored between the forward and the reverse pass.
- Reading an image at given points is linear in the image. Its transpose, the gradient to the image,
  has its own algorithm on CPUs (`_splat`), which is much faster than transposing the gathers.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Complex, Float

from stn_jax._checks import is_static
from stn_jax.sampling.linear_pair import Axes, Tangents, apply_transpose, linear_pair
from stn_jax.sampling.pixels import is_worth_a_copy, merge_axes, pixel_reader

# Up to this many channels, sums of spatial derivatives over the channels are unrolled, because a
# reduction over a short last axis takes several times as long.
MAX_UNROLLED_CHANNELS = 4
# `_splat` processes chunks of about this many numbers, which stay in the cache until they are
# added, and at most MAX_CHUNKS of them, which keeps programs small.
CHUNK_SIZE = 1 << 16
MAX_CHUNKS = 8
LARGEST_INDEX = 2**31 - 1


def bilinear(
    image: Float[jax.Array, "h w c"],
    points: Complex[jax.Array, "*out"],
    fill: Float[jax.Array, " c"],
) -> Float[jax.Array, "*out c"]:
    """Samples an image at points x + iy in pixels. Taps outside the image read `fill`.

    Points far outside, infinite or NaN read `fill` and have gradient 0. At integer coordinates the
    derivatives are one-sided, to the right and downwards.

    Args:
        image: float32 or wider.
        points: complex, of the same precision as the image.
        fill: one number per channel, in the dtype of the image.

    Returns:
        `[*out, c]` in the dtype of the image.
    """
    # A barrier, because XLA may otherwise round positions differently in kernels for indices and
    # for weights: the index of one pixel with the weight of the next.
    merged = lax.optimization_barrier(merge_axes(points))
    channels = image.shape[-1]
    samples = _read(image, merged, fill, result_shape=(*merged.shape, channels))
    return samples.reshape(*points.shape, channels)


def _within_reach(position: jax.Array, size: int) -> jax.Array:
    """Whether a coordinate is finite and close enough to the image to read a pixel."""
    return (position > -2) & (position < size + 1)


def _floor_and_fraction(position: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The integer and the fractional part; (-2, 0) if the coordinate reads no pixel.

    Both taps of position -2, at -2 and -1, lie outside the image.
    """
    position = jnp.where(_within_reach(position, size), position, -2)
    below = jnp.floor(position)
    return below.astype(jnp.int32), position - below


def _cells(
    points: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Row and column of the pixel above and left of each point, and the offset from it.

    Returns:
        (row, column, right, down); `right` and `down` are fractions of a pixel.
    """
    column, right = _floor_and_fraction(jnp.real(points), width)
    row, down = _floor_and_fraction(jnp.imag(points), height)
    return row, column, right, down


def _taps(
    image: jax.Array, points: jax.Array, fill: jax.Array, channel: int | None = None
) -> tuple[jax.Array, ...]:
    """The four pixels around each point, of one channel or all, and the fractions right and down.

    Returns:
        (top left, top right, bottom left, bottom right, right, down).
    """
    height, width, _ = image.shape
    row, column, right, down = _cells(points, height, width)
    add_axis, channel_index = ((..., None), ()) if channel is None else ((), (channel,))
    if channel is not None:
        fill = fill[channel]

    def tap(dy: int, dx: int) -> jax.Array:
        y, x = row + dy, column + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        index = (jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1), *channel_index)
        # Select instead of multiplying by 0: a clipped tap may read a NaN.
        return jnp.where(inside[add_axis], image.at[index].get(mode="promise_in_bounds"), fill)

    return tap(0, 0), tap(0, 1), tap(1, 0), tap(1, 1), right[add_axis], down[add_axis]


def _values(
    image: jax.Array, points: jax.Array, fill: jax.Array, *, layout: None = None, copy: bool = False
) -> jax.Array:
    """The sampled values. A tap of weight 0 adds nothing, even if it is infinite or NaN."""
    height, width, channels = image.shape
    row, column, right, down = _cells(points, height, width)
    whole_x, whole_y = right == 0, down == 0  # the second tap has weight 0
    read = pixel_reader(image, fill, copy=copy)

    def tap(dy: int, dx: int) -> jax.Array:
        y, x = row + dy, column + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        skipped = (whole_x & (dx == 1)) | (whole_y & (dy == 1)) if dx or dy else None
        value = read(y * width + x, inside, skipped)
        weight = (down if dy else 1 - down) * (right if dx else 1 - right)
        return value[..., 0] * weight if channels == 1 else value * weight[..., None]

    total = tap(0, 0) + tap(0, 1) + (tap(1, 0) + tap(1, 1))
    return total[..., None] if channels == 1 else total


def _values_on_cpu(
    image: jax.Array, points: jax.Array, fill: jax.Array, *, layout: None, copies: Any
) -> jax.Array:
    return _values(image, points, fill, copy=is_worth_a_copy(image, points.size))


def _spatial_derivatives(
    image: jax.Array, points: jax.Array, fill: jax.Array, channel: int | None = None
) -> jax.Array:
    """The derivatives d/dx (real part) and d/dy (imaginary part)."""
    top_left, top_right, bottom_left, bottom_right, right, down = _taps(
        image, points, fill, channel
    )
    d_dx = (1 - down) * (top_right - top_left) + down * (bottom_right - bottom_left)
    d_dy = (1 - right) * (bottom_left - top_left) + right * (bottom_right - top_right)
    return lax.complex(d_dx, d_dy)


def _directional_derivative(direction: jax.Array, derivatives: jax.Array) -> jax.Array:
    """The derivative along a direction dx + i dy.

    Not the real part of a complex product, in whose gradient an infinite derivative in one
    direction makes the other NaN.
    """
    direction = jnp.broadcast_to(direction, derivatives.shape)  # one array: its gradient sums once
    return jnp.real(derivatives) * jnp.real(direction) + jnp.imag(derivatives) * jnp.imag(direction)


def _changes(
    tangent: jax.Array,
    image: jax.Array,
    points: jax.Array,
    fill: jax.Array,
    *,
    layout: None,
) -> jax.Array:
    """The derivative of the values along a tangent x + iy of the points; linear in the tangent."""
    height, width, channels = image.shape
    reached = _within_reach(jnp.real(points), width) & _within_reach(jnp.imag(points), height)
    tangent = jnp.where(reached, tangent, 0)  # the tangent of other points may not be finite
    if not 0 < channels <= MAX_UNROLLED_CHANNELS:
        derivatives = _spatial_derivatives(image, points, fill)
        return _directional_derivative(tangent[..., None], derivatives)
    changes = [
        _directional_derivative(tangent, _spatial_derivatives(image, points, fill, channel))
        for channel in range(channels)
    ]
    return jnp.stack(changes, axis=-1)


def _changes_along(
    image: jax.Array,
    others: tuple[jax.Array, jax.Array],
    tangents: Tangents,
    *,
    layout: None,
    plain: bool,
) -> jax.Array:
    """The derivative of the values along tangents of points and fill."""
    (points, _), (points_tangent, fill_tangent) = others, tangents
    terms = []
    if points_tangent is not None:
        shape = {"result_shape": (*points.shape, image.shape[-1]), "result_dtype": image.dtype}
        change = _changes if plain else functools.partial(_change, **shape)
        terms.append(change(points_tangent, image, *others, layout=None))
    if fill_tangent is not None:
        blank = jnp.zeros((*image.shape[:2], 1), image.dtype)
        outside = _values(blank, points, jnp.ones(1, image.dtype))  # weight of taps outside
        # Select, so that in reverse mode samples inside add exactly nothing, even if NaN.
        terms.append(jnp.where(outside > 0, outside * fill_tangent, 0))
    return sum(terms[1:], terms[0])  # not `sum(terms)`, which starts at 0


def _splat(
    samples: jax.Array,
    points: jax.Array,
    fill: jax.Array,
    *,
    layout: None,
    linear_shape: tuple[Any, ...],
    copies: Any,
) -> jax.Array:
    """The transpose of `_values`: adds the weighted samples to the pixels that they read."""
    height, width, channels = linear_shape
    static = is_static(height, width, *samples.shape)
    if static and samples.size == 0:
        return jnp.zeros((height, width, channels), samples.dtype)
    # Flat indices would overflow, and symbolic sizes cannot be split into chunks.
    if not static or (height + 1) * (width + 1) > LARGEST_INDEX:
        image = jax.ShapeDtypeStruct(linear_shape, samples.dtype)
        return apply_transpose(lambda image: _values(image, points, fill), image, samples)
    if channels == 1 and 4 * points.size >= height * width:  # else the table dominates the time
        return _splat_one_channel(samples[..., 0], points, height, width)[..., None]
    return _splat_channels(samples, points, height, width)


def _splat_one_channel(samples: jax.Array, points: jax.Array, height: int, width: int) -> jax.Array:
    """Splats samples of one channel with a single scatter per chunk.

    A cell is the square between four pixels. The four weighted copies of a sample form one row of a
    table of cells; in the end each pixel sums its entries of the four cells around it.
    """
    cells = jnp.zeros((height + 1, width + 1, 4), samples.dtype)
    for chunk, chunk_points in _chunks(samples, points, 4):
        row, column, right, down = _cells(_order_after(cells, chunk_points), height, width)
        corner = lax.broadcasted_iota(jnp.int32, (len(chunk_points), 4), 1)
        weight_x = jnp.where(corner % 2 == 1, right[:, None], 1 - right[:, None])
        weight_y = jnp.where(corner >= 2, down[:, None], 1 - down[:, None])
        cells = _add_rows(cells, row + 1, column + 1, chunk[:, None] * (weight_y * weight_x))
    return cells[1:, 1:, 0] + cells[1:, :-1, 1] + cells[:-1, 1:, 2] + cells[:-1, :-1, 3]


def _splat_channels(samples: jax.Array, points: jax.Array, height: int, width: int) -> jax.Array:
    """Splats samples of several channels, one tap at a time.

    The channels of a tap form one row of the table, padded to a multiple of the vector length.
    """
    channels = samples.shape[-1]
    padded = channels if channels < 3 else -(-channels // 4) * 4
    table = jnp.zeros((height, width, padded), samples.dtype)
    for chunk, chunk_points in _chunks(samples, points, padded):
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            row, column, right, down = _cells(_order_after(table, chunk_points), height, width)
            weight = (down if dy else 1 - down) * (right if dx else 1 - right)
            addends = jnp.pad(chunk * weight[:, None], ((0, 0), (0, padded - channels)))
            table = _add_rows(table, row + dy, column + dx, addends)
    return table[..., :channels]


def _chunks(
    samples: jax.Array, points: jax.Array, numbers_per_point: Any
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Splits flattened samples and points into chunks of about `CHUNK_SIZE` numbers."""
    trailing = samples.shape[points.ndim :]
    points = points.reshape(-1)
    samples = samples.reshape(len(points), *trailing)
    count = min(MAX_CHUNKS, math.ceil(len(points) * numbers_per_point / CHUNK_SIZE))
    length = math.ceil(len(points) / count)
    for start in range(0, len(points), length):
        yield samples[start : start + length], points[start : start + length]


def _add_rows(table: jax.Array, row: jax.Array, column: jax.Array, addends: jax.Array) -> jax.Array:
    """Computes `table[row, column] += addends`; rows and columns outside the table are dropped."""
    height, width, channels = table.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = jnp.where(inside, row * width + column, height * width)
    numbers = lax.ScatterDimensionNumbers((row.ndim,), (0,), (0,))
    flat = table.reshape(-1, channels)
    return lax.scatter_add(flat, index[..., None], addends, numbers, mode="drop").reshape(
        table.shape
    )


def _order_after(table: jax.Array, points: jax.Array) -> jax.Array:
    """Returns the points, but makes them depend on the table, so that chunks reuse memory.

    XLA orders operations by data dependencies only, so this adds a zero that XLA cannot simplify.
    """
    first = jnp.abs(table[0, 0, 0])
    bits = lax.bitcast_convert_type(first, jnp.dtype(f"int{8 * table.dtype.itemsize}"))
    return points + jnp.minimum(bits, 0).astype(points.dtype)  # 0, even for a NaN


_change = linear_pair(
    "stn_jax_bilinear_change", _changes, Axes(linear=0, others=(None, 0, None), result=0)
)
_read = linear_pair(
    "stn_jax_bilinear",
    _values,
    Axes(linear=None, others=(0, None), result=0),
    on_cpu=_values_on_cpu,
    transpose_on_cpu=_splat,
    others_jvp=_changes_along,
    homogeneous=lambda points, fill: (points, jnp.zeros_like(fill)),
)
