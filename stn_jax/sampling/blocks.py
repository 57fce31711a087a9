"""Splitting points into blocks, so that a computation on a CPU reuses the memory of one block.

The numbers of all points at once would need fresh pages from the operating system, which cost more
than the arithmetic (docs/performance.md).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


class Blocks:
    """A split of points `[*shape]` along their last axis.

    Other axes are kept, because they may be spread over devices.

    Attributes:
        count: the number of blocks.
        length: the number of points of a block along the split axis.
    """

    def __init__(self, shape: Sequence[Any], count: int, apart: int = 1) -> None:
        """Splits points of a shape.

        Args:
            shape: the axes that enumerate points, of static size.
            count: the number of blocks wanted, at least 1.
            apart: points that follow each other in a block are this many points apart.
        """
        *lead, self.points = shape
        self.lead = tuple(lead)
        self.apart = apart
        self.rows = math.ceil(self.points / (count * apart))
        self.length = self.rows * apart
        self.count = math.ceil(self.points / self.length)

    def split(self, array: jax.Array) -> jax.Array:
        """Splits an array `[*shape, ...]`, filled up with zeros.

        Returns:
            `[*lead, blocks, length, ...]`, where `lead` are all axes of points but the last.
        """
        axis, rest = len(self.lead), array.shape[len(self.lead) + 1 :]
        missing = self.count * self.length - self.points
        array = jnp.pad(array, [(0, missing if i == axis else 0) for i in range(array.ndim)])
        array = array.reshape(*self.lead, self.count, self.rows, self.apart, *rest)
        array = array.swapaxes(axis + 1, axis + 2)
        return array.reshape(*self.lead, self.count, self.length, *rest)

    def take(self, split: jax.Array, block: jax.Array | int) -> jax.Array:
        """A block of a split array."""
        return lax.dynamic_index_in_dim(split, block, len(self.lead), keepdims=False)


def map_blocks(function: Callable[..., Any], arrays: Sequence[jax.Array], count: int) -> Any:
    """Applies a function to blocks of points, one after the other.

    Not in a loop, whose body XLA runs on one core.

    Args:
        function: maps one block of each array to a tree of arrays.
        arrays: `[*shape, ...]`, and the last one `[*shape]`, split along the last axis of `shape`;
            so are the results.
        count: the number of blocks wanted, at least 1.
    """
    if count == 1:  # also for no points, and for an unknown number
        return function(*arrays)
    axis = arrays[-1].ndim - 1
    points = arrays[-1].shape[axis]
    length = math.ceil(points / count)
    results: list[Any] = []
    for start in range(0, points, length):
        stop = min(start + length, points)
        blocks = [lax.slice_in_dim(array, start, stop, axis=axis) for array in arrays]
        if results:  # depends on the previous block, whose memory it can then reuse
            blocks, _ = lax.optimization_barrier((blocks, results[-1]))
        results.append(function(*blocks))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis), *results)
