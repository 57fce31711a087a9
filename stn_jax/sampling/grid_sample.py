"""Sampling an image at arbitrary points, for every mode, padding and number of dimensions."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Shaped

from stn_jax._checks import (
    as_array,
    as_numbers,
    check_bool,
    check_choice,
    check_floating,
    check_shape,
    describe_image_shape,
    is_floating,
    is_static,
    is_traced,
    one_line,
)
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Array, Mode, PaddingMode, float_dtype
from stn_jax.coordinates import pixel_bounds, to_pixels
from stn_jax.sampling.bilinear import bilinear
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.nearest import nearest
from stn_jax.sampling.padding import INDEX_LIMIT, PADDINGS, Bounds, Extent, Extents
from stn_jax.sampling.separable import interpolate

MODES = ("nearest", *KERNELS)
# The pixels that some modes add on each axis; indices of the result have 32 bits.
LARGEST_MARGIN = 2 * max(kernel.taps for kernel in KERNELS.values())


def grid_sample(
    image: Shaped[Array, "*spatial c"],
    grid: Float[Array, "*out n"],
    *,
    mode: Mode = "bilinear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    fill: float | Sequence[float] | Array = 0.0,
) -> Shaped[jax.Array, "*out c"]:
    """Samples an image at the points of a grid.

    Convention: the grid holds normalised source coordinates, ordered (x, y[, z]); x runs along the
    width, the last spatial axis of the image. The function takes one example; use `jax.vmap` for
    batches.

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`, of any real dtype for `nearest`, floating otherwise.
        grid: `[*out, n]` with n = 2 or 3, floating. Positions and weights are computed in its
            dtype, at least float32, whatever the dtype of the image.
        mode: `nearest` (rounds half to even, no gradient to the grid), `bilinear` (trilinear in
            3-D) or `bicubic` (tricubic in 3-D; cubic convolution with A = -0.75, may overshoot).
            Static.
        padding_mode: value outside the image: `zeros` (the value `fill`), `border` (the nearest
            pixel) or `reflection` (about the ends of the normalised interval). Static.
        align_corners: whether -1 and 1 are the centres of the outermost pixels or their outer
            edges. Static.
        fill: value outside the image if `padding_mode` is `zeros`: a number, or one per channel.

    Returns:
        `[*out, c]` in the dtype of the image. Coordinates that are very large, infinite or NaN
        give a value that the padding allows; infinite and NaN coordinates have gradient 0.

    Raises:
        ValueError: if `mode` or `padding_mode` is unknown, shapes do not fit, a spatial axis is
            empty, the grid is not floating, the image is not floating and `mode` is not `nearest`,
            the image has too many numbers for 32-bit indices or too many pixels on an axis for the
            dtype of the grid, or `fill` is not a number that the dtype of the image can represent.

    Example:
        >>> image = jnp.arange(4.0).reshape(2, 2, 1)
        >>> grid = jnp.asarray([[0.0, 0.0], [0.5, -0.5]])  # the centre; the upper right pixel
        >>> grid_sample(image, grid)[:, 0]
        Array([1.5, 1. ], dtype=float32)

    Source: Jaderberg et al. (2015), section 3.3; same values and gradients as
    torch's `grid_sample`.
    """
    check_bool("align_corners", align_corners)
    ndim = np.ndim(image) - 1
    check_shape("image", np.shape(image), "[h, w, c] or [d, h, w, c]", ndim in (2, 3))
    shape = np.shape(grid)
    expected = f"[..., {ndim}] for an image {describe_image_shape(ndim)}"
    check_shape("grid", shape, expected, shape[-1:] == (ndim,))
    source = as_array("grid", grid)
    check_floating("grid", source)
    image, fill = check_sampling(image, mode, padding_mode, fill, source.dtype)
    return run_on_auto_axes(
        _grid_sample,
        image,
        source,
        fill,
        out_spec=sampled_spec(image, partition_spec(source)[:-1]),
        mode=mode,
        padding_mode=padding_mode,
        align_corners=bool(align_corners),
    )


# One named call: eager calls and their transformations then run as one program.
@functools.partial(jax.jit, static_argnames=("mode", "padding_mode", "align_corners"))
def _grid_sample(
    image: jax.Array,
    grid: jax.Array,
    fill: jax.Array,
    *,
    mode: Mode,
    padding_mode: PaddingMode,
    align_corners: bool,
) -> jax.Array:
    """`grid_sample` without checks."""
    grid = grid.astype(float_dtype(grid.dtype))
    sizes = tuple(reversed(image.shape[:-1]))
    points = tuple(
        to_pixels(grid[..., i], size, align_corners=align_corners) for i, size in enumerate(sizes)
    )
    bounds = tuple(pixel_bounds(size, align_corners=align_corners) for size in sizes)
    return sample(image, points, fill, bounds=bounds, mode=mode, padding_mode=padding_mode)


def check_sampling(
    image: Array, mode: object, padding_mode: object, fill: object, coordinate_dtype: np.dtype
) -> tuple[jax.Array, jax.Array]:
    """Checks the arguments that `grid_sample` shares with functions that sample at other points.

    Returns:
        The image as a JAX array, and `fill` as one number per channel, in the dtype of the sums.

    Raises:
        ValueError: as `grid_sample`.
    """
    check_choice("mode", mode, MODES)
    check_choice("padding_mode", padding_mode, PADDINGS)
    image = as_array("image", image)
    *spatial, channels = image.shape
    expected = "[*spatial, c] without empty spatial axes"
    check_shape("image", image.shape, expected, all(size > 0 for size in spatial))
    _check_size(image.shape, float_dtype(coordinate_dtype))
    if mode != "nearest" and not is_floating(image.dtype):
        raise ValueError(
            f"image must be of a floating dtype for mode {mode}; got {image.dtype} "
            "(nearest takes any dtype)"
        )
    check_fill(fill, image.dtype, channels)
    exact = not is_floating(image.dtype)  # for the mode nearest
    dtype = image.dtype if exact else float_dtype(image.dtype, as_array("fill", fill).dtype)
    return image, jnp.broadcast_to(as_array("fill", fill).astype(dtype), (channels,))


def _check_size(shape: Sequence[int], coordinate_dtype: np.dtype) -> None:
    """Raises `ValueError` if an image is too large to address all of its numbers."""
    if not is_static(*shape):
        return
    *spatial, channels = shape
    longest = round(2 / jnp.finfo(coordinate_dtype).eps)  # the dtype holds all integers up to here
    expected = (
        f"[*spatial, c] with at most {longest} pixels an axis for {coordinate_dtype} coordinates"
    )
    check_shape("image", shape, expected, max(spatial) <= longest)
    padded = math.prod(size + LARGEST_MARGIN for size in spatial) * channels
    expected = (
        "[*spatial, c] with fewer than 2^31 numbers, counted with "
        f"{LARGEST_MARGIN} more pixels on each axis"
    )
    check_shape("image", shape, expected, padded < INDEX_LIMIT)


def sampled_spec(image: jax.Array, spec: Sequence[Any]) -> tuple[Any, ...]:
    """The sharding of samples at points that are sharded by `spec`."""
    channels = partition_spec(image)[-1]
    return (*spec, None if channels in spec else channels)


def sample(
    image: Shaped[jax.Array, "*spatial c"],
    points: Sequence[Float[jax.Array, "*out"]],
    fill: Shaped[jax.Array, " c"],
    *,
    bounds: Sequence[Bounds],
    mode: Mode,
    padding_mode: PaddingMode,
) -> Shaped[jax.Array, "*out c"]:
    """Samples an image at points in pixels. Each of x, y[, z] is an array of its own.

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`.
        points: pixel coordinates, each `[*out]`, at least float32.
        fill: one number per channel. `check_sampling` returns it, and checks the other arguments.
        bounds: (low, high) per coordinate in pixels, the points about which `reflection` mirrors.
        mode, padding_mode: as in `grid_sample`.

    Returns:
        `[*out, c]` in the dtype of the image.
    """
    if is_static(image.shape[-1]) and image.shape[-1] == 0:
        return jnp.zeros((*points[0].shape, 0), image.dtype)
    # Sums, and by transposition the gradient to the image, are computed in float32 or wider.
    values = image.astype(_accumulator_dtype(image, points, mode))
    background = fill.astype(values.dtype)
    spatial = image.shape[:-1]
    padding = PADDINGS[padding_mode]
    planar_bilinear = mode == "bilinear" and len(spatial) == 2
    if padding.fold_taps or not (mode == "nearest" or planar_bilinear):
        points = locate(points, spatial[::-1], bounds, mode=mode, padding_mode=padding_mode)
    if mode == "nearest":
        outside = None if padding.fold_taps else background
        return nearest(values, points, outside).astype(image.dtype)
    if padding.fold_taps:
        background = jnp.zeros_like(background)  # taps outside have weight 0
    points = [p.astype(values.dtype) for p in points]
    if planar_bilinear:
        output = bilinear(values, lax.complex(*points), background)
    else:
        output = interpolate(
            values, points, background, mode=mode, padding_mode=padding_mode, bounds=bounds
        )
    return output.astype(image.dtype)


def locate(
    points: Sequence[jax.Array],
    sizes: Sequence[Extent],
    bounds: Sequence[Extents],
    *,
    mode: Mode,
    padding_mode: PaddingMode,
) -> list[jax.Array]:
    """Moves points that are far outside the image to points with the same sampled value.

    Args:
        points: x, y[, z] in pixels.
        sizes: number of pixels per coordinate; may be traced.
        bounds, mode, padding_mode: as in `sample`.
    """
    kernel = KERNELS.get(mode)
    reach = kernel.taps // 2 if kernel else 0
    overhang = reach if kernel and kernel.folds_taps else 0
    move = PADDINGS[padding_mode].locate
    return [
        move(p, size, bound, reach, overhang)
        for p, size, bound in zip(points, sizes, bounds, strict=True)
    ]


def check_fill(fill: object, dtype: np.dtype, channels: int) -> None:
    """Raises `ValueError` unless `fill` is one number, or one per channel, and fits `dtype`."""
    values = jnp.asarray(fill) if is_traced(fill) else as_numbers(fill)
    if values is None or values.shape not in ((), (channels,)):
        raise ValueError(
            f"fill must be a number or one per channel, [{channels}]; got {one_line(fill)}"
        )
    if not is_traced(fill) and not jnp.issubdtype(dtype, jnp.floating):
        with np.errstate(all="ignore"):  # the comparison detects overflow
            fits = (values.astype(dtype) == values).all()
        if not fits:
            raise ValueError(
                f"fill must be a value of the image's dtype, {dtype}; got {one_line(fill)}"
            )


def _accumulator_dtype(image: jax.Array, points: Sequence[jax.Array], mode: Mode) -> jnp.dtype:
    if mode == "nearest":  # no weights, so dtypes without arithmetic are kept
        return float_dtype(image.dtype) if is_floating(image.dtype) else image.dtype
    return float_dtype(image.dtype, *(p.dtype for p in points))
