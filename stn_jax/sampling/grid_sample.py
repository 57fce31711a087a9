"""Sampling an image at arbitrary points, for every mode, padding and number of dimensions."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    is_traced,
    one_line,
)
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Array, Mode, PaddingMode, float_dtype
from stn_jax.coordinates import pixel_bounds, to_pixels
from stn_jax.sampling.bilinear import bilinear
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS, Bounds


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
            or `fill` is not a number that the dtype of the image can represent.

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
    image, fill = check_sampling(image, mode, padding_mode, fill)
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
    image: Array, mode: object, padding_mode: object, fill: object
) -> tuple[jax.Array, jax.Array]:
    """Checks the arguments that `grid_sample` shares with functions that sample at other points.

    Returns:
        The image as a JAX array, and `fill` as one number per channel, in the dtype of the sums.

    Raises:
        ValueError: as `grid_sample`.
    """
    check_choice("mode", mode, KERNELS)
    check_choice("padding_mode", padding_mode, PADDINGS)
    image = as_array("image", image)
    *spatial, channels = image.shape
    expected = "[*spatial, c] without empty spatial axes"
    check_shape("image", image.shape, expected, all(size > 0 for size in spatial))
    if mode != "nearest" and not is_floating(image.dtype):
        raise ValueError(
            f"image must be of a floating dtype for mode {mode}; got {image.dtype} "
            "(nearest takes any dtype)"
        )
    check_fill(fill, image.dtype, channels)
    exact = not is_floating(image.dtype)  # for the mode nearest
    dtype = image.dtype if exact else float_dtype(image.dtype, as_array("fill", fill).dtype)
    return image, jnp.broadcast_to(as_array("fill", fill).astype(dtype), (channels,))


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
    sizes: Sequence[int | jax.Array] | None = None,
) -> Shaped[jax.Array, "*out c"]:
    """Samples an image at points in pixels. Each of x, y[, z] is an array of its own.

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`.
        points: pixel coordinates, each `[*out]`, at least float32.
        fill: one number per channel. `check_sampling` returns it, and checks the other arguments.
        bounds: (low, high) per coordinate in pixels, the points about which `reflection` mirrors.
        mode, padding_mode: as in `grid_sample`.
        sizes: number of pixels per coordinate, by default those of the array. If it has more, the
            image is its first part, and the rest must hold `fill`. They may be traced.

    Returns:
        `[*out, c]` in the dtype of the image.
    """
    # Sums, and by transposition the gradient to the image, are computed in float32 or wider.
    values = image.astype(_accumulator_dtype(image, points, mode))
    background = fill.astype(values.dtype)
    axes = [
        SampledAxis(size, bound, mode, padding_mode)
        for size, bound in zip(sizes or reversed(image.shape[:-1]), bounds, strict=True)
    ]
    if mode == "bilinear" and len(axes) == 2:
        if padding_mode != "zeros":  # with zeros, `bilinear` accepts any point
            points = [_safe_coordinates(p, axis) for p, axis in zip(points, axes, strict=True)]
            background = jnp.zeros_like(background)  # taps outside have weight 0
        x, y = (p.astype(values.dtype) for p in points)
        output = bilinear(values, lax.optimization_barrier(lax.complex(x, y)), background)
    else:
        safe = tuple(_safe_coordinates(p, axis) for p, axis in zip(points, axes, strict=True))
        # The reverse pass reads the values of the taps again instead of storing them.
        sample_taps = jax.checkpoint(functools.partial(_sample_taps, axes=axes))
        output = sample_taps(values, lax.optimization_barrier(safe), background)
    return output.astype(image.dtype)


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


class SampledAxis(NamedTuple):
    """One axis of the image: size and bounds in pixels, and the sampling options."""

    size: int | jax.Array
    bounds: Bounds
    mode: Mode
    padding_mode: PaddingMode


def _safe_coordinates(p: jax.Array, axis: SampledAxis) -> jax.Array:
    """Makes coordinates indexable, and folds them into the image unless the taps are folded.

    The caller puts an optimization barrier after the result, so that it is computed in one kernel.
    XLA may fuse multiply-adds in some kernels only; a position near an integer would then take its
    index from one pixel and its weight from the next.
    """
    padding = PADDINGS[axis.padding_mode]
    p = padding.sanitise(p, axis.size)
    if padding.fold and not KERNELS[axis.mode].folds_taps:
        p = padding.fold(p, axis.size, axis.bounds)
    return p


def _sample_taps(
    values: jax.Array,
    points: tuple[jax.Array, ...],
    background: jax.Array,
    axes: Sequence[SampledAxis],
) -> jax.Array:
    """Samples in any mode and number of dimensions, as a sum over the taps of all axes."""
    taps = [_taps(p, axis) for p, axis in zip(points, axes, strict=True)]
    terms = [
        _read_weighted(values, each, background)
        for each in itertools.product(*reversed(taps))  # in the axis order of the image
    ]
    return sum(terms[1:], terms[0])


class Tap(NamedTuple):
    """One of the pixels that each point reads on one axis.

    Attributes:
        index: int32, clipped to the image.
        inside: whether the tap lies in the image; None if padding guarantees it.
        weight: interpolation weight; None means 1.
    """

    index: jax.Array
    inside: jax.Array | None
    weight: jax.Array | None


def _taps(p: jax.Array, axis: SampledAxis) -> list[Tap]:
    """The taps that coordinates read on an axis."""
    kernel, padding = KERNELS[axis.mode], PADDINGS[axis.padding_mode]
    first = lax.stop_gradient(kernel.first(p))
    weights = kernel.weights(p - first) if kernel.weights else (None,)
    taps = []
    for offset, weight in enumerate(weights):
        position = first + offset
        inside = None
        if padding.fold is None:
            inside = (position >= 0) & (position <= axis.size - 1)
        elif kernel.folds_taps:
            position = padding.fold(position, axis.size, axis.bounds)
        index = jnp.clip(position.astype(jnp.int32), 0, axis.size - 1)
        taps.append(Tap(index, inside, weight))
    return taps


def _read_weighted(values: jax.Array, taps: Sequence[Tap], background: jax.Array) -> jax.Array:
    """Weight times value of one pixel per point, given by one tap per axis."""
    index = tuple(tap.index for tap in taps)
    pixels = values.at[index].get(mode="promise_in_bounds")
    insides = [tap.inside for tap in taps if tap.inside is not None]
    if insides:
        # Select instead of multiplying by 0: a clipped tap may read a NaN.
        pixels = jnp.where(math.prod(insides[1:], start=insides[0])[..., None], pixels, background)
    weights = [tap.weight for tap in taps if tap.weight is not None]
    return math.prod(weights[1:], start=weights[0])[..., None] * pixels if weights else pixels


def _accumulator_dtype(image: jax.Array, points: Sequence[jax.Array], mode: Mode) -> jnp.dtype:
    if mode == "nearest":  # no weights, so dtypes without arithmetic are kept
        return float_dtype(image.dtype) if is_floating(image.dtype) else image.dtype
    return float_dtype(image.dtype, *(p.dtype for p in points))
