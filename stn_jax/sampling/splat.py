"""The transpose of reading pixels: adds samples to the pixels that they read, on a CPU.

For each sample and row of taps, a scatter adds a row of consecutive numbers to a flat image: all
channels of all taps along x. XLA runs a scatter on one core and adds such rows with vector
instructions. docs/performance.md has the measurements behind each choice.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from stn_jax._checks import is_static
from stn_jax.sampling.blocks import Blocks
from stn_jax.sampling.linear_pair import equally_varying

# Samples are added in blocks of about this many numbers, whose memory is reused. The addends of a
# whole batch would need fresh pages from the operating system, which cost more than the additions.
BLOCK_NUMBERS = 1 << 20
# Samples that follow each other in a scatter are this many samples apart in the image. The rows of
# adjacent samples overlap, and a load that overlaps a store in flight waits for it: a row of 16
# numbers takes 4 ns instead of 10.
SAMPLES_APART = 8
# More rows become a loop, because the compilation of each scatter takes time.
MAX_UNROLLED_ROWS = 4

Weight = jax.Array | None
# The weights of the taps along x, of which None means 1. Then, for y[, z], the step in numbers from
# tap to tap, and the weights of the taps.
Windows = tuple[Sequence[Weight], Sequence[tuple[int, Sequence[jax.Array]]]]


def splat(
    samples: jax.Array,
    base: jax.Array,
    fractions: Sequence[jax.Array],
    windows: Callable[..., Windows],
    *,
    size: Any,
    taps: int,
    copies: Any,
) -> jax.Array:
    """Adds weighted samples to a flat image of zeros.

    Args:
        samples: `[*out, c]`.
        base: int32 `[*out]`, the index of the first number that a sample adds to. All rows must
            lie in the image.
        fractions: arrays `[*out]`, from which `windows(*fractions)` computes weights and offsets.
        windows: see `Windows`.
        size: length of the result.
        taps: number of taps along x.
        copies: the number of examples that run at once.

    Returns:
        `[size]`.
    """
    channels = samples.shape[-1]

    def add(image: jax.Array, block: Sequence[jax.Array]) -> jax.Array:
        samples, base, *fractions = block
        return _add_rows(image, samples, base, *windows(*fractions))

    spare = _filling(taps * channels)
    image, samples = equally_varying(jnp.zeros(size + spare, samples.dtype), samples)
    arrays = (samples, base, *fractions)
    if not is_static(*samples.shape, size, copies):  # symbolic sizes cannot be split
        return add(image, arrays)[:size]
    if samples.size == 0:
        return image[:size]
    count = math.ceil(copies * base.size * taps * channels / BLOCK_NUMBERS)
    blocks = Blocks(base.shape, count, SAMPLES_APART)
    # Each array is rearranged once, not in each kernel that reads it.
    arrays = lax.optimization_barrier([blocks.split(array) for array in arrays])

    def add_block(i: jax.Array | int, image: jax.Array) -> jax.Array:
        return add(image, [blocks.take(array, i) for array in arrays])

    if blocks.count == 1:
        return add_block(0, image)[:size]
    # Not a scan, which moves the axis of blocks to the front, behind which `vmap` has put its axis.
    return lax.fori_loop(0, blocks.count, add_block, image)[:size]


def _add_rows(
    image: jax.Array,
    samples: jax.Array,
    base: jax.Array,
    x_weights: Sequence[Weight],
    outer: Sequence[tuple[int, Sequence[jax.Array]]],
) -> jax.Array:
    """Adds samples `[*out, c]` to the flat image."""
    addends = jnp.concatenate([_scale(samples, weight) for weight in x_weights], axis=-1)
    filling = _filling(addends.shape[-1])
    if filling:
        addends = jnp.pad(addends, [(0, 0)] * base.ndim + [(0, filling)])

    def add(image: jax.Array, offset: Any, weights: Sequence[jax.Array]) -> jax.Array:
        weight = math.prod(weights[1:], start=weights[0]) if weights else None
        return _scatter_add(image, base + offset, _scale(addends, weight))

    steps, weights = [step for step, _ in outer], [each for _, each in outer]
    rows = list(itertools.product(*(range(len(each)) for each in weights)))
    offsets = [sum(i * step for i, step in zip(row, steps, strict=True)) for row in rows]
    if len(rows) <= MAX_UNROLLED_ROWS:
        for offset, row in zip(offsets, rows, strict=True):
            image = add(image, offset, [each[i] for i, each in zip(row, weights, strict=True)])
        return image
    addends = lax.optimization_barrier(addends)
    stacked = [jnp.stack(each) for each in weights]

    def add_row(image: jax.Array, each: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        offset, row = each
        return add(image, offset, [w[i] for i, w in zip(row, stacked, strict=True)]), None

    index = jnp.asarray(offsets, jnp.int32), jnp.asarray(rows, jnp.int32)
    return lax.scan(add_row, image, index)[0]


def _filling(length: int) -> Any:
    """How many zeros make a long row one of whole vectors of four numbers."""
    return -length % 4 if is_static(length) and length > 4 else 0


def _scale(samples: jax.Array, weight: Weight) -> jax.Array:
    return samples if weight is None else samples * weight[..., None]


def _scatter_add(image: jax.Array, index: jax.Array, addends: jax.Array) -> jax.Array:
    """Adds each row of `addends` to the numbers of the image from its index on."""
    numbers = lax.ScatterDimensionNumbers((index.ndim,), (), (0,))
    return lax.scatter_add(image, index[..., None], addends, numbers, mode="promise_in_bounds")
