"""Sampling with any separable kernel, in two or three dimensions.

The taps of a sample form a window of the image (`windows.py`), a few rows of consecutive numbers:
all channels of all taps along x. First the rows of a window are added, with their weights along y
and z, and then the taps along x.

Only the image and the points are stored between the forward and the reverse pass.
docs/performance.md has the measurements behind each choice.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from stn_jax._checks import is_static
from stn_jax.sampling.bilinear import MAX_UNROLLED_CHANNELS
from stn_jax.sampling.blocks import map_blocks
from stn_jax.sampling.linear_pair import (
    Axes,
    Tangents,
    apply_transpose,
    equally_varying,
    linear_pair,
)
from stn_jax.sampling.padding import Bounds
from stn_jax.sampling.pixels import merge_axes
from stn_jax.sampling.splat import Windows, splat
from stn_jax.sampling.windows import (
    LONGEST_ROW,
    Layout,
    Points,
    Source,
    WindowFinder,
    are_few,
    extend,
    extended_shape,
    locate_windows,
    window_finder,
)

Weights = Sequence[jax.Array]

# On a CPU, the rows of a window together have at least this many numbers, or each row fewer than 8.
# LLVM replaces a short loop over the numbers of a row by scalar instructions. A longer loop, or one
# that adds more rows, gets vector instructions: 4 rows of 24 numbers take half as long as 4 of 12.
VECTORISED_ROWS = LONGEST_ROW
# Sums of rows are stored for blocks of points with about this many numbers, and at most MAX_BLOCKS
# of them, which keeps programs small.
STORED_NUMBERS = 1 << 20
MAX_BLOCKS = 8


def interpolate(
    image: jax.Array,
    points: Sequence[jax.Array],
    fill: jax.Array,
    *,
    mode: str,
    padding_mode: str,
    bounds: Sequence[Bounds],
) -> jax.Array:
    """Samples an image with a separable kernel.

    Args:
        image: `[*spatial, c]`, float32 or wider.
        points: x, y[, z] in pixels, as located by the padding.
        fill: one number per channel, the value outside the image if the padding folds no taps.
        mode, padding_mode: as in `grid_sample`.
        bounds: (low, high) per coordinate in pixels, the points about which `reflection` mirrors,
            symmetric about the centre of the image.

    Returns:
        `[*out, c]` in the dtype of the image.
    """
    # A barrier for the same reason as in `bilinear`. The coordinates are separate arrays: the axis
    # of a stack would have to trade places with the axis of a batch.
    merged = lax.optimization_barrier([merge_axes(p) for p in points])
    layout = Layout(mode, padding_mode, tuple(low for low, _ in bounds))
    shape = (*merged[0].shape, image.shape[-1])
    samples = _READ[len(points)](image, *merged, fill, result_shape=shape, layout=layout)
    return samples.reshape(*points[0].shape, image.shape[-1])


def _values(image: jax.Array, *others: jax.Array, layout: Layout) -> jax.Array:
    *points, fill = others
    find = window_finder(image, points, fill, layout)
    return _sample(find, points, image.shape[-1], layout, on_cpu=False)


def _values_on_cpu(image: jax.Array, *others: jax.Array, layout: Layout, copies: Any) -> jax.Array:
    """The values in blocks of points."""
    *points, fill = others
    channels = image.shape[-1]
    find = window_finder(image, points, fill, layout)
    count = _count_blocks(points, _row_length(layout, 1, channels), copies)

    def sample(*points: jax.Array) -> jax.Array:
        return _sample(find, points, channels, layout, on_cpu=True)

    return map_blocks(sample, points, count)


def _sample(
    find: WindowFinder, points: Points, channels: Any, layout: Layout, on_cpu: bool
) -> jax.Array:
    below, fractions = _floor(points)
    x, *outer = map(layout.kernel.weights, fractions)
    # A tap of weight 0 adds nothing, even if it is infinite or NaN.
    (rows,) = _sum_rows(find(below), [outer], channels, layout, on_cpu, skip_zeros=True)
    return _sum_taps(_store(rows, on_cpu), x, channels, skip_zeros=True)


def _floor(points: Points) -> tuple[list[jax.Array], list[jax.Array]]:
    """The integer and the fractional parts."""
    below = [lax.stop_gradient(jnp.floor(p)) for p in points]
    return below, [p - each for p, each in zip(points, below, strict=True)]


def _changes(
    tangents: jax.Array, image: jax.Array, *others: jax.Array, layout: Layout
) -> jax.Array:
    """The derivative of the values along tangents `[n, *out]` of the points."""
    *points, fill = others
    channels = image.shape[-1]
    find = window_finder(image, points, fill, layout)
    terms = _slopes(find, points, channels, layout, on_cpu=False)

    def change(channel: int | None) -> jax.Array:
        add_axis = (..., None) if channel is None else ()
        changes = [
            _sum_taps(rows, weights, channels, channel) * tangent[add_axis]
            for (rows, weights), tangent in zip(terms, tangents, strict=True)
        ]
        return sum(changes[1:], changes[0])

    if not 0 < channels <= MAX_UNROLLED_CHANNELS:
        return change(None)
    return jnp.stack([change(channel) for channel in range(channels)], axis=-1)


def _projections_on_cpu(
    samples: jax.Array,
    image: jax.Array,
    *others: jax.Array,
    layout: Layout,
    linear_shape: tuple[Any, ...],
    copies: Any,
) -> jax.Array:
    """The transpose of `_changes`, in blocks: derivatives times samples, added over channels."""
    *points, fill = others
    channels = image.shape[-1]
    find = window_finder(image, points, fill, layout)

    def project(samples: jax.Array, *points: jax.Array) -> list[jax.Array]:
        terms = _slopes(find, points, channels, layout, on_cpu=True)
        return [_project(samples, *term) for term in terms]

    count = _count_blocks(points, 2 * _row_length(layout, 2, channels), copies)
    return jnp.stack(map_blocks(project, (samples, *points), count))


def _project(samples: jax.Array, rows: jax.Array, weights: Sequence[jax.Array]) -> jax.Array:
    channels = samples.shape[-1]
    if not 0 < channels <= MAX_UNROLLED_CHANNELS:
        return jnp.sum(_sum_taps(rows, weights, channels) * samples, axis=-1)
    terms = [_sum_taps(rows, weights, channels, i) * samples[..., i] for i in range(channels)]
    return sum(terms[1:], terms[0])


def _slopes(
    find: WindowFinder, points: Points, channels: Any, layout: Layout, on_cpu: bool
) -> list[tuple[jax.Array, Weights]]:
    """For x, y[, z], sums of rows and the weights of their taps, which give the derivative."""
    below, fractions = _floor(points)
    source = find(below)
    x, y, *z = map(layout.kernel.weights, fractions)
    dx, dy, *dz = map(layout.kernel.slopes, fractions)
    # One complex array for both, so that each row is read once.
    both = _sum_rows(source, [(y, *z), (dy, *z)], channels, layout, on_cpu, 1)
    along_xy = _store(lax.complex(*both), on_cpu)
    terms: list[tuple[jax.Array, Weights]]
    terms = [(jnp.real(along_xy), dx), (jnp.imag(along_xy), x)]
    for each in dz:
        (rows,) = _sum_rows(source, [(y, each)], channels, layout, on_cpu, 2)
        terms.append((_store(rows, on_cpu), x))
    return terms


def _changes_along(
    image: jax.Array,
    others: tuple[jax.Array, ...],
    tangents: Tangents,
    *,
    layout: Layout,
    plain: bool,
) -> jax.Array:
    """The derivative of the values along tangents of points and fill."""
    points, (*given, fill_tangent) = others[:-1], tangents
    terms = []
    if any(each is not None for each in given):
        zeros = jnp.zeros_like(points[0])
        stacked = jnp.stack([zeros if each is None else each for each in given])
        shape, change = (*points[0].shape, image.shape[-1]), _CHANGE[len(points)]
        change = _changes if plain else functools.partial(change, result_shape=shape)
        terms.append(change(stacked, image, *others, layout=layout))
    if fill_tangent is not None:
        blank = jnp.zeros((*image.shape[:-1], 1), image.dtype)
        weights = jnp.ones(1, image.dtype)
        outside = _values(blank, *points, weights, layout=layout)  # weight of taps outside
        # Select, so that in reverse mode samples inside add exactly nothing, even if NaN.
        terms.append(jnp.where(outside != 0, outside * fill_tangent, 0))
    return sum(terms[1:], terms[0])  # not `sum(terms)`, which starts at 0


def _splat(
    samples: jax.Array,
    *others: jax.Array,
    layout: Layout,
    linear_shape: tuple[Any, ...],
    copies: Any,
) -> jax.Array:
    """The transpose of `_values`: adds the weighted samples to the pixels that they read."""
    *points, fill = others
    image = jax.ShapeDtypeStruct(linear_shape, samples.dtype)
    if are_few(points, linear_shape, layout):

        def read(image: jax.Array) -> jax.Array:
            return _values(image, *others, layout=layout)

        return apply_transpose(read, image, samples)
    below, fractions = _floor(points)
    shape = extended_shape(linear_shape, layout)
    base, steps = locate_windows(below, shape, layout)

    def windows(*fractions: jax.Array) -> Windows:
        x, *outer = map(layout.kernel.weights, fractions)
        return x, list(zip(steps[1:], outer, strict=True))

    table = splat(
        samples,
        base,
        fractions,
        windows,
        size=math.prod(shape),
        taps=layout.kernel.taps,
        copies=copies,
    )
    return apply_transpose(lambda image: extend(image, fill, layout), image, table.reshape(shape))


def _row_length(layout: Layout, sums: int, channels: int) -> Any:
    """How many numbers of each row are read on a CPU; see `VECTORISED_ROWS`."""
    length = layout.kernel.taps * channels
    if not is_static(length) or length < 8:
        return length
    rows = layout.kernel.taps ** (len(layout.lows) - 1)
    return math.ceil(max(length, VECTORISED_ROWS / (sums * rows)) / 8) * 8  # whole vectors


def _count_blocks(points: Points, numbers_per_point: Any, copies: Any) -> Any:
    """The number of blocks of points that are processed one after the other."""
    shape = points[0].shape
    if not is_static(*shape, numbers_per_point, copies) or 0 in shape:
        return 1
    numbers = copies * math.prod(shape) * numbers_per_point
    return max(1, min(MAX_BLOCKS, math.ceil(numbers / STORED_NUMBERS)))  # 0 copies need none


def _sum_rows(
    source: Source,
    weights: Sequence[Sequence[Weights]],
    channels: Any,
    layout: Layout,
    on_cpu: bool,
    use: int = 0,
    skip_zeros: bool = False,
) -> list[jax.Array]:
    """Sums of the rows of each window, `[*out, length]`.

    The length is at least that of a row. Each use of the same windows has another number.

    Args:
        weights: for each sum, the weights of the taps along y[, z].
    """
    length = (
        _row_length(layout, len(weights), channels) if on_cpu else layout.kernel.taps * channels
    )
    # XLA would otherwise store rows that several kernels read: many numbers for each point.
    base, _ = lax.optimization_barrier((source.base, jnp.int32(use)))

    def sum_slice(base: jax.Array) -> list[jax.Array]:
        offsets = [i * source.steps[1] for i in range(layout.kernel.taps)]
        rows = [_read_rows(source.numbers, base + offset, length) for offset in offsets]
        return [_weighted_sum(rows, y, skip_zeros) for y, *_ in weights]

    if len(source.steps) == 2:
        return sum_slice(base)
    z_weights = [z for _, z in weights]
    offsets = [i * source.steps[2] for i in range(layout.kernel.taps)]
    if len(offsets) <= 2:
        slices = [sum_slice(base + offset) for offset in offsets]
        sums = zip(zip(*slices, strict=True), z_weights, strict=True)
        return [_weighted_sum(each, z, skip_zeros) for each, z in sums]

    # A loop, because many rows take long to compile.
    def add(totals: Sequence[jax.Array], each: tuple) -> tuple[list[jax.Array], None]:
        offset, z = each
        sums = zip(sum_slice(base + offset), z, strict=True)
        terms = [_weigh(each, weight, skip_zeros) for each, weight in sums]
        return [total + term for total, term in zip(totals, terms, strict=True)], None

    zeros = jnp.zeros((*base.shape, length), source.numbers.dtype)
    zeros, *_ = equally_varying(zeros, source.numbers, base)
    stacked = [jnp.stack(z) for z in z_weights]
    return lax.scan(add, [zeros] * len(weights), (jnp.asarray(offsets, jnp.int32), stacked))[0]


def _read_rows(numbers: jax.Array, index: jax.Array, length: int) -> jax.Array:
    """Rows of consecutive numbers, `[*out, length]`."""
    axes = lax.GatherDimensionNumbers((index.ndim,), (), (0,))
    return lax.gather(numbers, index[..., None], axes, (length,), mode="promise_in_bounds")


def _weigh(numbers: jax.Array, weight: jax.Array, skip_zeros: bool) -> jax.Array:
    """Weight times numbers; if zeros are skipped, 0 for a weight of 0, whatever the numbers."""
    product = numbers * weight[..., None]
    return jnp.where(weight[..., None] == 0, 0, product) if skip_zeros else product


def _weighted_sum(arrays: Sequence[jax.Array], weights: Weights, skip_zeros: bool) -> jax.Array:
    terms = [_weigh(a, w, skip_zeros) for a, w in zip(arrays, weights, strict=True)]
    return sum(terms[1:], terms[0])


def _sum_taps(
    rows: jax.Array,
    weights: Weights,
    channels: Any,
    channel: int | None = None,
    skip_zeros: bool = False,
) -> jax.Array:
    """The weighted sum of the taps along x, `[*out, c]`, or `[*out]` for one channel."""
    if channel is None:
        taps = [rows[..., i * channels : (i + 1) * channels] for i in range(len(weights))]
        return _weighted_sum(taps, weights, skip_zeros)
    terms = [rows[..., i * channels + channel] * w for i, w in enumerate(weights)]
    return sum(terms[1:], terms[0])


def _store(array: jax.Array, on_cpu: bool) -> jax.Array:
    """On a CPU, stops XLA from fusing a sum over rows into the sum over taps."""
    return lax.optimization_barrier(array) if on_cpu else array


_CHANGE = {
    ndim: linear_pair(
        f"stn_jax_window_change_{ndim}d",
        _changes,
        Axes(linear=1, others=(None, *[0] * ndim, None), result=0),
        transpose_on_cpu=_projections_on_cpu,
    )
    for ndim in (2, 3)
}
_READ = {
    ndim: linear_pair(
        f"stn_jax_window_{ndim}d",
        _values,
        Axes(linear=None, others=(*[0] * ndim, None), result=0),
        on_cpu=_values_on_cpu,
        transpose_on_cpu=_splat,
        others_jvp=_changes_along,
        homogeneous=lambda *others: (*others[:-1], jnp.zeros_like(others[-1])),
    )
    for ndim in (2, 3)
}
