"""The windows of samples: the pixels that a kernel reads, as rows of consecutive numbers.

An image is extended on all sides by its padding and stored as one row of numbers. If the points are
few, their windows are copied instead of the whole image.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stn_jax._checks import is_static
from stn_jax._types import Array
from stn_jax.sampling.kernels import KERNELS, Kernel
from stn_jax.sampling.padding import PADDINGS

# The windows are copied if they hold fewer pixels than this fraction of the image.
FEW_PIXELS = 0.25
# Rows may be read so many numbers beyond their window.
LONGEST_ROW = 96


class Layout(NamedTuple):
    """The static options of a sampler.

    Attributes:
        mode, padding_mode: as in `grid_sample`.
        lows: for x, y[, z], the lower of two points about which `reflection` mirrors, in pixels.
            They are symmetric about the centre of the image.
    """

    mode: str
    padding_mode: str
    lows: tuple[float, ...]

    @property
    def kernel(self) -> Kernel:
        """The kernel on one axis."""
        return KERNELS[self.mode]

    def fold(self) -> Callable[[Array, int, float], Array] | None:
        """`(index, size, low) -> index`, mapped into the image, if the padding folds taps."""
        fold = PADDINGS[self.padding_mode].fold_taps
        if fold is None or not self.kernel.folds_taps:
            return None
        return lambda index, size, low: fold(index, size, (low, size - 1 - low))


class Source(NamedTuple):
    """Where the windows of all points are.

    Attributes:
        numbers: the pixels, as one row.
        base: int32 `[*out]`, the index of the first number of each window.
        steps: the distances of neighbouring taps along x, y[, z].
    """

    numbers: jax.Array
    base: jax.Array
    steps: tuple[Any, ...]


Points = Sequence[jax.Array]  # x, y[, z]
WindowFinder = Callable[[Points], Source]


def are_few(points: Points, image_shape: Sequence[Any], layout: Layout) -> bool:
    """Whether the windows of the points have far fewer pixels than the image."""
    if not is_static(*points[0].shape, *image_shape):
        return False
    pixels = points[0].size * layout.kernel.taps ** len(points)
    return pixels < FEW_PIXELS * math.prod(image_shape[:-1])


def window_finder(
    image: jax.Array, points: Points, fill: jax.Array, layout: Layout
) -> WindowFinder:
    """Prepares the image for points, or some of them, whose coordinates are rounded down."""
    if are_few(points, image.shape, layout):
        return lambda below: _copy_windows(image, below, fill, layout)
    # Stored, because XLA would otherwise compute the padding again for each number that is read.
    extended = lax.optimization_barrier(extend(image, fill, layout))
    numbers = extended.reshape(-1)
    return lambda below: Source(numbers, *locate_windows(below, extended.shape, layout))


def locate_windows(
    below: Points, shape: Sequence[Any], layout: Layout
) -> tuple[jax.Array, tuple[Any, ...]]:
    """The base and the steps of windows in an extended image of a shape."""
    half = layout.kernel.taps // 2
    steps = [math.prod(shape[axis:]) for axis in range(len(below), 0, -1)]
    # The first tap is at `below - half + 1`, and `2 half - 1` pixels precede the image.
    terms = [(p.astype(jnp.int32) + half) * step for p, step in zip(below, steps, strict=True)]
    return sum(terms[1:], terms[0]), tuple(steps)


def _margins(ndim: int, layout: Layout) -> tuple[list[int], list[int]]:
    """The number of pixels that `extend` adds on each axis, before and behind the image."""
    taps = layout.kernel.taps
    # One more slice at the end, because rows may be read beyond their window.
    return [taps - 1] * ndim, [taps + 1, *[taps] * (ndim - 1)]


def extended_shape(image_shape: Sequence[Any], layout: Layout) -> tuple[Any, ...]:
    """The shape of `extend(image)`."""
    *spatial, channels = image_shape
    margins = zip(spatial, *_margins(len(spatial), layout), strict=True)
    return *(before + size + after for size, before, after in margins), channels


def extend(image: jax.Array, fill: jax.Array, layout: Layout) -> jax.Array:
    """The image, continued on all sides by its padding."""
    *spatial, _ = image.shape
    befores, afters = _margins(len(spatial), layout)
    if fold := layout.fold():
        for axis, low in enumerate(reversed(layout.lows)):
            outside = np.r_[-befores[axis] : 0, 0 : afters[axis]]
            index = outside + np.where(outside < 0, 0, 1) * spatial[axis]
            image = _surround(image, axis, fold(index, spatial[axis], low), befores[axis])
        return image
    config = [(before, after, 0) for before, after in zip(befores, afters, strict=True)]
    source = lax.pad(image, jnp.zeros((), image.dtype), [*config, (0, 0, 0)])
    inside = jnp.bool_(True)
    for axis, size in enumerate(spatial):
        position = lax.broadcasted_iota(jnp.int32, (*source.shape[:-1], 1), axis) - befores[axis]
        inside &= (position >= 0) & (position < size)
    return jnp.where(inside, source, fill)


def _surround(image: jax.Array, axis: int, index: Array, before: int) -> jax.Array:
    """Adds the slices at `index` along an axis: the first `before` in front, the others behind."""
    parts = _slices(image, axis, index[:before]), _slices(image, axis, index[before:])
    return jnp.concatenate([parts[0], image, parts[1]], axis)


def _slices(image: jax.Array, axis: int, index: Array) -> jax.Array:
    """The slices at `index`: one operation, if possible, because each has a transpose."""
    if not isinstance(index, np.ndarray):
        return jnp.concatenate([lax.dynamic_index_in_dim(image, i, axis) for i in index], axis)
    first, last = int(index[0]), int(index[-1])
    if (index == first).all():
        shape = (*image.shape[:axis], len(index), *image.shape[axis + 1 :])
        return jnp.broadcast_to(lax.slice_in_dim(image, first, first + 1, axis=axis), shape)
    if (np.diff(index) == -1).all():
        return lax.rev(lax.slice_in_dim(image, last, first + 1, axis=axis), [axis])
    parts = [lax.slice_in_dim(image, i, i + 1, axis=axis) for i in index.tolist()]
    return jnp.concatenate(parts, axis)


def _copy_windows(image: jax.Array, below: Points, fill: jax.Array, layout: Layout) -> Source:
    """Reads the window of each point from the image, one after the other."""
    *spatial, channels = image.shape
    kernel, fold, ndim = layout.kernel, layout.fold(), len(spatial)
    pixel, inside, stride = jnp.int32(0), jnp.bool_(True), 1
    for i, (p, size, low) in enumerate(zip(below, reversed(spatial), layout.lows, strict=True)):
        axes = [-1 if axis == ndim - 1 - i else 1 for axis in range(ndim)]
        taps = (jnp.arange(kernel.taps, dtype=p.dtype) - (kernel.taps // 2 - 1)).reshape(axes)
        index = p.reshape(*p.shape, *[1] * ndim) + taps
        if fold:
            index = fold(index, size, low)
        inside &= (index >= 0) & (index <= size - 1)
        pixel += jnp.clip(index, 0, size - 1).astype(jnp.int32) * stride
        stride *= size
    values = image.reshape(-1, channels).at[pixel].get(mode="promise_in_bounds")
    numbers = jnp.where(inside[..., None], values, fill).reshape(-1)
    steps = [channels * kernel.taps**axis for axis in range(ndim + 1)]
    base = jnp.arange(below[0].size, dtype=jnp.int32).reshape(below[0].shape)
    # Rows may be read beyond their window.
    numbers = jnp.pad(numbers, (0, LONGEST_ROW))
    return Source(numbers, base * steps[-1], tuple(steps[:-1]))
