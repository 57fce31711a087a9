"""Conversion between pixel coordinates and normalised coordinates.

This is the only module that interprets `align_corners`. The package uses two units:

- *pixel* coordinates: the centre of the first pixel of an axis is 0, that of the last `size - 1`;
- *normalised* coordinates: -1 and 1 are the outer edges of the outermost pixels of an axis
  (`align_corners=False`) or their centres (`align_corners=True`).

The coordinates of a point are ordered (x, y[, z]), the reverse of the axes of an image
(..., height, width): x runs along the width.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_shape, is_static, is_traced
from stn_jax._types import Array

__all__ = ["pixel_bounds", "target_points", "to_normalised", "to_pixels"]


def half_extent(size: int, *, align_corners: bool) -> float:
    """Half the length, in pixels, of the normalised interval [-1, 1] on an axis."""
    return (size - 1) / 2 if align_corners else size / 2


def pixel_bounds(size: int, *, align_corners: bool) -> tuple[float, float]:
    """The pixel coordinates of -1 and of 1 on an axis.

    Args:
        size: number of pixels on the axis.
        align_corners: whether -1 and 1 are the centres of the outermost pixels or their outer
            edges.

    Returns:
        The pixel coordinate of -1 and that of 1.

    Example:
        >>> pixel_bounds(4, align_corners=False)
        (-0.5, 3.5)
    """
    low = 0.0 if align_corners else -0.5
    return low, size - 1 - low


def to_pixels(
    normalised: Float[Array, "*shape"], size: int | Sequence[int], *, align_corners: bool
) -> Float[jax.Array, "*shape"]:
    """Converts normalised coordinates to pixels, on one axis or as points.

    Args:
        normalised: normalised coordinates of any shape; points `[..., n]` with (x, y[, z]) on the
            last axis if `size` is a shape.
        size: number of pixels on the axis, or the spatial shape of the image. Static.
        align_corners: as in `pixel_bounds`. Static.

    Returns:
        Pixel coordinates of the same shape.

    Example:
        >>> to_pixels(jnp.asarray([-1.0, 0.0]), 4, align_corners=False)
        Array([-0.5,  1.5], dtype=float32)
    """
    if isinstance(size, Sequence):
        return _convert_points(to_pixels, normalised, size, align_corners=align_corners)
    half = half_extent(size, align_corners=align_corners)
    return jnp.asarray(normalised) * half + (size - 1) / 2


def _convert_points(
    convert: Callable[..., jax.Array], points: Array, shape: Sequence[int], *, align_corners: bool
) -> jax.Array:
    """Applies `to_pixels` or `to_normalised` to each coordinate of points `[..., n]`."""
    given = jnp.shape(points)
    check_shape("points", given, f"[..., {len(shape)}]", given[-1:] == (len(shape),))
    coordinates = [
        convert(points[..., i], size, align_corners=align_corners)
        for i, size in enumerate(reversed(shape))
    ]
    return jnp.stack(coordinates, axis=-1)


def to_normalised(
    pixels: Float[Array, "*shape"], size: int | Sequence[int], *, align_corners: bool
) -> Float[jax.Array, "*shape"]:
    """Converts pixel coordinates to normalised coordinates, on one axis or as points.

    With a shape, it makes grids for `grid_sample` from grids in pixels.

    Args:
        pixels: pixel coordinates of any shape; points `[..., n]` with (x, y[, z]) on the last axis
            if `size` is a shape.
        size: number of pixels on the axis, or the spatial shape of the image. Static.
        align_corners: as in `pixel_bounds`. Static.

    Returns:
        Normalised coordinates of the same shape; 0 on axes of one pixel if `align_corners`.

    Example:
        >>> to_normalised(jnp.asarray([-0.5, 1.5]), 4, align_corners=False)
        Array([-1.,  0.], dtype=float32)
        >>> to_normalised(jnp.asarray([3.5, 0.5]), (2, 4), align_corners=False)  # (x, y)
        Array([1., 0.], dtype=float32)
    """
    if isinstance(size, Sequence):
        return _convert_points(to_normalised, pixels, size, align_corners=align_corners)
    half = half_extent(size, align_corners=align_corners)
    centred = jnp.asarray(pixels) - (size - 1) / 2
    if is_static(size):
        return centred / half if half else jnp.zeros_like(centred)
    return jnp.where(half == 0, 0, centred / one_if_0(half))


def centred_pixels(shape: Sequence[int]) -> tuple[Array, ...]:
    """Pixel centres of an image of `shape`, in pixels from the centre of the image.

    They are integers or half-integers, which floating point represents exactly; normalised
    coordinates are rounded. Computations that must be exact at the identity start from these.

    Returns:
        One float32 array each for x, y[, z]. Each has `len(shape)` axes, all but its own of
        length 1, so that together they broadcast to `shape`. NumPy arrays, unless the size is
        symbolic.
    """

    def centres(axis: int) -> Array:
        along_axis = [size if i == axis else 1 for i, size in enumerate(shape)]
        if is_static(shape[axis]):
            index = np.arange(shape[axis]).reshape(along_axis)
        else:
            index = jax.lax.broadcasted_iota(jnp.int32, along_axis, axis)
        return ((2 * index + 1 - shape[axis]) / 2).astype(np.float32)

    return tuple(centres(axis) for axis in reversed(range(len(shape))))


def one_if_0(length: float | jax.Array) -> float | jax.Array:
    """A length, or 1 if it is 0. The length of an axis of symbolic size is traced."""
    return jnp.where(length == 0, 1.0, length) if is_traced(length) else length or 1.0


def target_scale(size: int, *, align_corners: bool) -> float | jax.Array:
    """Pixels per normalised unit on a target axis; 1 if [-1, 1] has length 0."""
    return one_if_0(half_extent(size, align_corners=align_corners))


def target_points(shape: Sequence[int], *, align_corners: bool) -> Float[np.ndarray, "*shape n"]:
    """The normalised coordinates of every pixel of an image.

    Args:
        shape: (height, width) or (depth, height, width).
        align_corners: as in `pixel_bounds`.

    Returns:
        `[*shape, n]`, a float64 NumPy array with (x, y[, z]) on the last axis.

    Example:
        >>> target_points((1, 2), align_corners=False)[0, :, 0]
        array([-0.5,  0.5])
    """
    coordinates = [
        centres.astype(np.float64) / target_scale(size, align_corners=align_corners)
        for centres, size in zip(centred_pixels(shape), reversed(shape), strict=True)
    ]
    return np.stack(np.broadcast_arrays(*coordinates), axis=-1)


def target_point_array(
    shape: Sequence[int], dtype: np.dtype, *, align_corners: bool
) -> Float[jax.Array, "*shape n"]:
    """`target_points` as a JAX array. Sizes may be symbolic."""
    if is_static(*shape):
        return jnp.asarray(target_points(shape, align_corners=align_corners), dtype)
    coordinates = [
        jnp.asarray(centres, dtype) / target_scale(size, align_corners=align_corners)
        for centres, size in zip(centred_pixels(shape), reversed(shape), strict=True)
    ]
    return jnp.stack([jnp.broadcast_to(each, shape) for each in coordinates], axis=-1)


def computed_target_points(
    shape: Sequence[int], dtype: np.dtype, sizes: Sequence[int | jax.Array] | None = None
) -> Float[jax.Array, "*shape n"]:
    """`target_points` without `align_corners`, computed at run time instead of stored.

    As a constant, the points of a photograph add megabytes to a program and seconds to its
    compilation.

    Args:
        shape: the shape of the result.
        dtype: the dtype of the result.
        sizes: the shape of the image, if the result has more points. They may be traced.
    """
    sizes = sizes or shape

    def coordinate(axis: int) -> jax.Array:
        index = jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        return (2 * index + 1 - sizes[axis]).astype(dtype) / sizes[axis]

    return jnp.stack([coordinate(axis) for axis in reversed(range(len(shape)))], axis=-1)
