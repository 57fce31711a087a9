"""Sampling an image at arbitrary points: the sampler of a spatial transformer."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Shaped

from stn_jax._checks import (
    as_numbers,
    check_bool,
    check_choice,
    check_floating,
    check_shape,
    is_floating,
    is_traced,
    one_example,
)
from stn_jax._types import Array
from stn_jax.coordinates import pixel_bounds, to_pixels
from stn_jax.sampling.bilinear import bilinear
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS, Bounds


def grid_sample(
    image: Shaped[Array, "*spatial c"],
    grid: Float[Array, "*out n"],
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float | Sequence[float] | Array = 0.0,
) -> Shaped[jax.Array, "*out c"]:
    """Samples an image at the points of a grid.

    Convention: grid holds normalised source coordinates, in the order (x, y[, z]): x runs along the
    width, the image's last spatial axis. One example; `jax.vmap` makes batches.

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`, of any real dtype for `nearest`, floating otherwise.
        grid: `[*out, n]` with n = 2 or 3, floating. Positions and weights are computed in its
            precision, at least float32, whatever the image's.
        mode: `nearest` (ties to even, no gradient to the grid), `bilinear` (trilinear in 3-D) or
            `bicubic` (tricubic; cubic convolution with A = -0.75, may overshoot). Static.
        padding_mode: what lies outside the image: `zeros` (that is, `fill`), `border` (the nearest
            pixel) or `reflection` (about the bounds of the normalised interval). Static.
        align_corners: whether -1 and 1 are the centres of the outermost pixels, or their outer
            edges. Static.
        fill: the value of everything outside under `zeros`: a number, or one for each channel.

    Returns:
        `[*out, c]` in the image's dtype. No coordinate, however large, infinite or NaN, gives
        anything but a value that the padding allows, and a gradient of 0.

    Raises:
        ValueError: on a mode or padding that does not exist, shapes that do not fit, an empty
            spatial axis, a grid that is not floating, an integer image in another mode than
            `nearest`, or a fill that is no number or that the image's dtype cannot hold.

    Example:
        >>> image = jnp.arange(4.0).reshape(2, 2, 1)
        >>> grid = jnp.asarray([[0.0, 0.0], [0.5, -0.5]])  # the middle; upper right pixel
        >>> grid_sample(image, grid)[:, 0]
        Array([1.5, 1. ], dtype=float32)

    Source: Jaderberg et al. (2015), section 3.3; values and gradients as torch's `grid_sample`.
    """
    check_bool("align_corners", align_corners)
    ndim = jnp.ndim(image) - 1
    check_shape("image", jnp.shape(image), "[h, w, c] or [d, h, w, c]", ndim in (2, 3))
    shape = jnp.shape(grid)
    expected = f"[..., {ndim}] for an image {one_example(ndim)}"
    check_shape("grid", shape, expected, shape[-1:] == (ndim,))
    source = jnp.asarray(grid)
    check_floating("grid", source)
    source = source.astype(jnp.promote_types(source.dtype, jnp.float32))
    sizes = tuple(reversed(jnp.shape(image)[:-1]))
    points = tuple(
        to_pixels(source[..., i], size, align_corners=align_corners) for i, size in enumerate(sizes)
    )
    bounds = tuple(pixel_bounds(size, align_corners=align_corners) for size in sizes)
    return sample(image, points, bounds, mode=mode, padding_mode=padding_mode, fill=fill)


def sample(
    image: Shaped[Array, "*spatial c"],
    points: Sequence[Float[jax.Array, "*out"]],
    bounds: Sequence[Bounds],
    *,
    mode: str,
    padding_mode: str,
    fill: float | Sequence[float] | Array = 0.0,
) -> Shaped[jax.Array, "*out c"]:
    """Samples an image at points given in pixels, one array for each of x, y[, z].

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`.
        points: pixel coordinates, at least float32, all of the output's shape.
        bounds: (low, high) of each coordinate in pixels: where reflection mirrors.
        mode, padding_mode, fill: as for `grid_sample`.

    Returns:
        `[*out, c]` in the image's dtype.
    """
    check_choice("mode", mode, KERNELS)
    check_choice("padding_mode", padding_mode, PADDINGS)
    image = jnp.asarray(image)
    *spatial, channels = image.shape
    check_shape("image", image.shape, "[*spatial, c] without empty spatial axes", min(spatial) > 0)
    if mode != "nearest" and not is_floating(image.dtype):
        raise ValueError(
            f"image must be of a floating dtype for mode {mode}; got {image.dtype} "
            "(nearest takes any dtype)"
        )
    # Sums are taken in float32 or wider, and so is, by transposition, the image's gradient.
    values = image.astype(_accumulator(image, points, mode))
    check_fill(fill, image.dtype, channels)
    background = jnp.broadcast_to(jnp.asarray(fill, values.dtype), (channels,))
    axes = [
        Axis(size, bound, mode, padding_mode)
        for size, bound in zip(reversed(spatial), bounds, strict=True)
    ]
    if mode == "bilinear" and len(axes) == 2:
        if padding_mode != "zeros":  # for which the function takes any point
            points = [_tamed(p, axis) for p, axis in zip(points, axes, strict=True)]
            background = jnp.zeros_like(background)  # a tap outside has weight 0 then
        x, y = (p.astype(values.dtype) for p in points)
        output = bilinear(values, lax.optimization_barrier(lax.complex(x, y)), background)
    else:
        tamed = tuple(_tamed(p, axis) for p, axis in zip(points, axes, strict=True))
        output = _sample(values, lax.optimization_barrier(tamed), background, tuple(axes))
    return output.astype(image.dtype)


def check_fill(fill: object, dtype: np.dtype, channels: int) -> None:
    """Raises `ValueError` unless `fill` is a number or one for each channel, and fits `dtype`."""
    values = jnp.asarray(fill) if is_traced(fill) else as_numbers(fill)
    if values is None or values.shape not in ((), (channels,)):
        raise ValueError(f"fill must be a number or one per channel, [{channels}]; got {fill!r}")
    if not is_traced(fill) and not jnp.issubdtype(dtype, jnp.floating):
        with np.errstate(all="ignore"):  # what is changed by the cast is refused
            fits = (values.astype(dtype) == values).all()
        if not fits:
            raise ValueError(f"fill must be a value of the image's dtype, {dtype}; got {fill!r}")


class Axis(NamedTuple):
    """What the taps on an axis depend on besides the coordinate: its size and bounds in pixels."""

    size: int
    bounds: Bounds
    mode: str
    padding_mode: str


def _tamed(p: jax.Array, axis: Axis) -> jax.Array:
    """Coordinates that can be indexed, on the image already where it is they that padding folds.

    What follows stands behind a barrier, so that they are computed in one kernel: contracted to one
    rounding in some kernels and not in others, a position near a whole number would have its index
    from one pixel and its weight from the next.
    """
    padding = PADDINGS[axis.padding_mode]
    p = padding.tame(p, axis.size)
    if padding.fold and not KERNELS[axis.mode].folds_taps:
        p = padding.fold(p, axis.size, axis.bounds)
    return p


# The taps' values are read again for the reverse pass rather than kept.
@functools.partial(jax.checkpoint, static_argnums=(3,))
def _sample(
    values: jax.Array, points: tuple[jax.Array, ...], background: jax.Array, axes: tuple[Axis, ...]
) -> jax.Array:
    """Any mode and number of dimensions: a sum over the taps of all axes."""
    taps = [_taps(p, axis) for p, axis in zip(points, axes, strict=True)]
    terms = [
        _read(values, each, background)
        for each in itertools.product(*reversed(taps))  # axes in the image's order
    ]
    return sum(terms[1:], terms[0])


class Tap(NamedTuple):
    """One pixel that every point reads on one axis.

    Attributes:
        index: int32, inside the image.
        inside: whether the tap lies on the image; None where padding leaves no other case.
        weight: None for 1.
    """

    index: jax.Array
    inside: jax.Array | None
    weight: jax.Array | None


def _taps(p: jax.Array, axis: Axis) -> list[Tap]:
    """The taps of coordinates on an axis."""
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


def _read(values: jax.Array, taps: Sequence[Tap], background: jax.Array) -> jax.Array:
    """Weight times value of one tap of every point."""
    index = tuple(tap.index for tap in taps)
    read = values.at[index].get(mode="promise_in_bounds")
    insides = [tap.inside for tap in taps if tap.inside is not None]
    if insides:
        # A selection, not a product: what lies under a tap outside may be NaN.
        read = jnp.where(math.prod(insides[1:], start=insides[0])[..., None], read, background)
    weights = [tap.weight for tap in taps if tap.weight is not None]
    return math.prod(weights[1:], start=weights[0])[..., None] * read if weights else read


def _accumulator(image: jax.Array, points: Sequence[jax.Array], mode: str) -> jnp.dtype:
    if mode == "nearest":  # which has no weights, and takes what nobody computes with
        exact = not is_floating(image.dtype)
        return image.dtype if exact else jnp.promote_types(image.dtype, jnp.float32)
    return jnp.promote_types(image.dtype, jnp.result_type(jnp.float32, *(p.dtype for p in points)))
