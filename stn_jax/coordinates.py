"""Pixels and normalised coordinates.

The only file that knows `align_corners`. Two units are used in this package:

- *pixel* coordinates: the centre of the first pixel of an axis is 0, of the last `size - 1`;
- *normalised* coordinates: the axis runs from -1 to 1, from the outer edges of its outermost
  pixels (`align_corners=False`) or from their centres (`align_corners=True`).

Points list their coordinates in the order (x, y[, z]), the reverse of an image's axes
(..., height, width): x belongs to the width.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

__all__ = ["pixel_bounds", "target_points", "to_normalised", "to_pixels"]


def half_extent(size: int, *, align_corners: bool) -> float:
    """Half the length in pixels that the normalised interval [-1, 1] covers on an axis."""
    return (size - 1) / 2 if align_corners else size / 2


def pixel_bounds(size: int, *, align_corners: bool) -> tuple[float, float]:
    """The pixel coordinates of -1 and of 1 on an axis.

    Args:
        size: pixels on the axis.
        align_corners: whether -1 and 1 are the outermost pixels' centres, not their outer edges.

    Returns:
        Those of -1 and of 1.

    Example:
        >>> pixel_bounds(4, align_corners=False)
        (-0.5, 3.5)
    """
    centre, half = (size - 1) / 2, half_extent(size, align_corners=align_corners)
    return centre - half, centre + half


def to_pixels(
    normalised: Float[jax.Array, "*shape"], size: int, *, align_corners: bool
) -> Float[jax.Array, "*shape"]:
    """Normalised coordinates on one axis, in pixels.

    Args:
        normalised: of any shape.
        size, align_corners: as for `pixel_bounds`. Static.

    Returns:
        Pixel coordinates, of that shape.

    Example:
        >>> to_pixels(jnp.asarray([-1.0, 0.0]), 4, align_corners=False)
        Array([-0.5,  1.5], dtype=float32)
    """
    return normalised * half_extent(size, align_corners=align_corners) + (size - 1) / 2


def to_normalised(
    pixels: Float[jax.Array, "*shape"], size: int, *, align_corners: bool
) -> Float[jax.Array, "*shape"]:
    """Pixel coordinates on one axis, normalised.

    Args:
        pixels: of any shape.
        size, align_corners: as for `pixel_bounds`. Static.

    Returns:
        Normalised coordinates, of that shape; all 0 on an axis of one pixel with `align_corners`.

    Example:
        >>> to_normalised(jnp.asarray([-0.5, 1.5]), 4, align_corners=False)
        Array([-1.,  0.], dtype=float32)
    """
    half = half_extent(size, align_corners=align_corners)
    return (pixels - (size - 1) / 2) / half if half else jnp.zeros_like(pixels)


def centred_pixels(shape: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Pixel centres of an image of `shape`, measured from its middle.

    They are whole or half numbers, hence exact in floating point, which normalised coordinates
    are not: what is to be exact at the identity is computed from these.

    Returns:
        One float32 array for x, y[, z], in that order; each has `len(shape)` axes, all but its
        own of length 1, so that together they broadcast to `shape`.
    """
    ndim = len(shape)
    planes = []
    for axis in reversed(range(ndim)):
        offsets = (2.0 * np.arange(shape[axis]) + 1 - shape[axis]) / 2
        planes.append(
            offsets.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(ndim)])
        )
    return tuple(planes)


def centred_scale(size: int, *, align_corners: bool) -> float:
    """Centred pixels per normalised unit on a target axis; 1 where the axis is a single point."""
    return half_extent(size, align_corners=align_corners) or 1.0


def target_points(shape: Sequence[int], *, align_corners: bool) -> Float[np.ndarray, "*shape n"]:
    """The normalised coordinates of every pixel of an image.

    Args:
        shape: (height, width) or (depth, height, width).
        align_corners: as for `pixel_bounds`.

    Returns:
        `[*shape, n]`, (x, y[, z]) on the last axis, float64 of NumPy.

    Example:
        >>> target_points((1, 2), align_corners=False)[0, :, 0]
        array([-0.5,  0.5])
    """
    planes = [
        plane.astype(np.float64) / centred_scale(size, align_corners=align_corners)
        for plane, size in zip(centred_pixels(shape), reversed(shape), strict=True)
    ]
    return np.stack(np.broadcast_arrays(*planes), axis=-1)


def computed_target_points(shape: Sequence[int], dtype: np.dtype) -> Float[jax.Array, "*shape n"]:
    """`target_points` between outer edges, of `dtype`, by the program that uses them.

    As a constant, those of a photograph are megabytes of a program, and XLA takes seconds over it.
    """

    def plane(axis: int) -> jax.Array:
        numbers = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        return (2 * numbers + 1 - shape[axis]).astype(dtype) / shape[axis]

    return jnp.stack([plane(axis) for axis in reversed(range(len(shape)))], axis=-1)
