"""Bilinear sampling of images: the sampler that spatial transformers train with.

The values are plain operations. What is particular are the derivatives, in which the time of a
sampler goes; CONTRIBUTING.md has the measurements behind each choice.

- Source points are one complex number each, x + iy, and so are the slopes of the image: a kernel
  that yields one array reads the taps once for both directions, where XLA would otherwise compute
  them again for every array and for every sum over it.
- Between the passes nothing is kept but the image and the points.
- Reading an image at given points is linear in the image. Its transpose, which adds up what each
  pixel receives, is an algorithm of its own (`_splat`), far quicker than the transposed reading.
"""

import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Complex, Float

from stn_jax.sampling.linear_pair import linear_pair

# Up to here, channels are unrolled where the image's slopes are summed over them: a sum over a
# short last axis takes several times as long.
FEW_CHANNELS = 4
# `_splat` writes about so many numbers at a time, so that they are still in the cache when they are
# added up, and at most in so many parts, so that programs stay small.
PART_SIZE = 1 << 16
MAX_PARTS = 8
LARGEST_INDEX = 2**31 - 1


@jax.custom_jvp
def bilinear(
    image: Float[jax.Array, "h w c"],
    points: Complex[jax.Array, "*out"],
    fill: Float[jax.Array, " c"],
) -> Float[jax.Array, "*out c"]:
    """Samples an image at points in pixels, x + iy; pixels outside the image read as `fill`.

    Points that are far outside, infinite or NaN read `fill` and have no slope. At whole
    coordinates slopes are those to the right and downwards.

    Args:
        image: float32 or wider.
        points: of the image's precision.
        fill: of the image's dtype, one number for each channel.
    """
    return _values(image, points, fill)


@functools.partial(bilinear.defjvp, symbolic_zeros=True)
def _bilinear_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    image, points, fill = primals
    change, step, fill_change = tangents
    output = bilinear(image, points, fill)
    terms = []
    if not _is_zero(fill_change):
        blank = jnp.zeros((*image.shape[:2], 1), image.dtype)
        outside = _values(blank, points, jnp.ones(1, image.dtype))  # the weight of taps outside
        # A selection, not a product, so that in reverse no sample inside adds to the fill's.
        terms.append(jnp.where(outside > 0, outside * fill_change, 0))
    if not _is_zero(change):
        terms.append(_read(change, points))
    if not _is_zero(step):
        terms.append(_shift(image, points, step, fill))
    # No sum that starts at zero: reverse mode would keep the zeros.
    return output, sum(terms[1:], terms[0]) if terms else jnp.zeros_like(output)


def _is_zero(tangent: object) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _near(position: jax.Array, size: int) -> jax.Array:
    """Whether a pixel may be within reach: not so far outside, infinite or NaN."""
    return (position > -2) & (position < size + 1)


def _cell(position: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """The whole position at or below, and the distance from it.

    For a position that reads no pixel at all, -2, whose taps have none.
    """
    position = jnp.where(_near(position, size), position, -2)
    below = jnp.floor(position)
    return below.astype(jnp.int32), position - below


def _cells(
    points: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Row and column of the pixel above and left of each point; how far right and down it is."""
    column, right = _cell(jnp.real(points), width)
    row, down = _cell(jnp.imag(points), height)
    return row, column, right, down


def _taps(
    image: jax.Array, points: jax.Array, fill: jax.Array | float, channel: int | None = None
) -> tuple[jax.Array, ...]:
    """The four pixels around each point, how far right and down it is; of one channel, or all."""
    height, width, _ = image.shape
    row, column, right, down = _cells(points, height, width)
    last, rest = ((..., None), ()) if channel is None else ((), (channel,))
    if channel is not None and not isinstance(fill, (int, float)):
        fill = fill[channel]

    def tap(dy: int, dx: int) -> jax.Array:
        y, x = row + dy, column + dx
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        index = (jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1), *rest)
        # A selection, not a product: what lies under a tap outside may be NaN.
        return jnp.where(inside[last], image.at[index].get(mode="promise_in_bounds"), fill)

    return tap(0, 0), tap(0, 1), tap(1, 0), tap(1, 1), right[last], down[last]


def _values(image: jax.Array, points: jax.Array, fill: jax.Array | float) -> jax.Array:
    """The values as plain operations, which JAX can differentiate and transpose by itself."""
    top_left, top_right, bottom_left, bottom_right, right, down = _taps(image, points, fill)
    left, up = 1 - right, 1 - down
    top = top_left * (up * left) + top_right * (up * right)
    return top + (bottom_left * (down * left) + bottom_right * (down * right))


def _slopes(
    image: jax.Array, points: jax.Array, fill: jax.Array | float, channel: int | None = None
) -> jax.Array:
    """The slopes to x and, imaginary, to y."""
    top_left, top_right, bottom_left, bottom_right, right, down = _taps(
        image, points, fill, channel
    )
    to_right = (1 - down) * (top_right - top_left) + down * (bottom_right - bottom_left)
    downwards = (1 - right) * (bottom_left - top_left) + right * (bottom_right - top_right)
    return lax.complex(to_right, downwards)


def _along(step: jax.Array, slopes: jax.Array) -> jax.Array:
    """The change of values along a step dx + i dy.

    Not the real part of a complex product, which would mix one direction's infinity into the other.
    """
    step = jnp.broadcast_to(step, slopes.shape)  # as one array, so that its gradient is summed once
    return jnp.real(slopes) * jnp.real(step) + jnp.imag(slopes) * jnp.imag(step)


# Nothing is kept for the reverse pass but the arguments: the taps are read again. Shared with the
# forward pass they would stay in memory, 5.5 times image, output and grid at 64 channels, not 3.
@jax.checkpoint
def _shift(image: jax.Array, points: jax.Array, step: jax.Array, fill: jax.Array) -> jax.Array:
    """The change of the values when each point takes a step, x + iy; linear in the step."""
    height, width, channels = image.shape
    near = _near(jnp.real(points), width) & _near(jnp.imag(points), height)
    step = jnp.where(near, step, 0)  # elsewhere there is no slope, and a step may not be finite
    if not 0 < channels <= FEW_CHANNELS:
        return _along(step[..., None], _slopes(image, points, fill))
    changes = [_along(step, _slopes(image, points, fill, k)) for k in range(channels)]
    return jnp.stack(changes, axis=-1)


def _plain_read(image: jax.Array, points: jax.Array) -> jax.Array:
    """The values where outside is zero: linear in the image."""
    return _values(image, points, 0)


def _plain_shift(image: jax.Array, points: jax.Array, step: jax.Array) -> jax.Array:
    return _shift(image, points, step, jnp.zeros(image.shape[-1], image.dtype))


def _splat(samples: jax.Array, points: jax.Array, height: int, width: int) -> jax.Array:
    """What each pixel receives when every sample is shared out among the pixels that it reads."""
    channels = samples.shape[-1]
    if samples.size == 0:
        return jnp.zeros((height, width, channels), samples.dtype)
    if (height + 1) * (width + 1) > LARGEST_INDEX:  # then rows and columns, but no flat index
        image = jax.ShapeDtypeStruct((height, width, channels), samples.dtype)
        return jax.linear_transpose(lambda image: _values(image, points, 0), image)(samples)[0]
    if channels == 1 and 4 * points.size >= height * width:  # or the table would be most of it
        return _splat_plane(samples[..., 0], points, height, width)[..., None]
    return _splat_channels(samples, points, height, width)


def _splat_plane(samples: jax.Array, points: jax.Array, height: int, width: int) -> jax.Array:
    """A single channel: the four shares of a sample stay together, as a row of a table of cells.

    A cell lies between four pixels, to which its shares go in the end.
    """
    cells = jnp.zeros((height + 1, width + 1, 4), samples.dtype)
    for part, at in _parts(samples, points, 4):
        row, column, right, down = _cells(_after(cells, at), height, width)
        corner = lax.broadcasted_iota(jnp.int32, (len(at), 4), 1)
        across = jnp.where(corner % 2 == 1, right[:, None], 1 - right[:, None])
        along = jnp.where(corner >= 2, down[:, None], 1 - down[:, None])
        cells = _add_rows(cells, row + 1, column + 1, part[:, None] * (along * across))
    return cells[1:, 1:, 0] + cells[1:, :-1, 1] + cells[:-1, 1:, 2] + cells[:-1, :-1, 3]


def _splat_channels(samples: jax.Array, points: jax.Array, height: int, width: int) -> jax.Array:
    """Several channels: tap by tap, the channels being a row, padded to whole vectors."""
    channels = samples.shape[-1]
    padded = channels if channels < 3 else -(-channels // 4) * 4
    table = jnp.zeros((height, width, padded), samples.dtype)
    for part, at in _parts(samples, points, padded):
        for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
            row, column, right, down = _cells(_after(table, at), height, width)
            weight = (down if dy else 1 - down) * (right if dx else 1 - right)
            shares = jnp.pad(part * weight[:, None], ((0, 0), (0, padded - channels)))
            table = _add_rows(table, row + dy, column + dx, shares)
    return table[..., :channels]


def _parts(
    samples: jax.Array, points: jax.Array, size: int
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """Samples and points in parts, of which each point makes `size` numbers."""
    trailing = samples.shape[points.ndim :]
    points = points.reshape(-1)
    samples = samples.reshape(len(points), *trailing)
    parts = min(MAX_PARTS, math.ceil(len(points) * size / PART_SIZE))
    length = math.ceil(len(points) / parts)
    for start in range(0, len(points), length):
        yield samples[start : start + length], points[start : start + length]


def _add_rows(table: jax.Array, row: jax.Array, column: jax.Array, addends: jax.Array) -> jax.Array:
    """table[row, column] += addends; places outside the table are left out."""
    height, width, channels = table.shape
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = jnp.where(inside, row * width + column, height * width)
    numbers = lax.ScatterDimensionNumbers((row.ndim,), (0,), (0,))
    flat = table.reshape(-1, channels)
    return lax.scatter_add(flat, place[..., None], addends, numbers, mode="drop").reshape(
        table.shape
    )


def _after(table: jax.Array, points: jax.Array) -> jax.Array:
    """The points, but not before the table is there: the memory of one part serves the next.

    XLA orders operations by their data alone, so a zero is added that it cannot know to be one.
    """
    first = jnp.abs(table[0, 0, 0])
    bits = lax.bitcast_convert_type(first, jnp.dtype(f"int{8 * table.dtype.itemsize}"))
    return points + jnp.minimum(bits, 0).astype(table.dtype)  # never negative, a NaN's neither


_read = linear_pair("stn_jax", _plain_read, _splat, _plain_shift)
