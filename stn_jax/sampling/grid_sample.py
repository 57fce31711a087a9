"""Sampling an image at arbitrary points: the sampler of a spatial transformer."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Shaped

from stn_jax._checks import check_choice, check_floating, check_shape
from stn_jax._types import Array
from stn_jax.coordinates import pixel_bounds, to_pixels
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS, Bounds


def grid_sample(
    image: Shaped[Array, "*spatial c"],
    grid: Float[Array, "*out n"],
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float | Sequence[float] = 0.0,
) -> Shaped[jax.Array, "*out c"]:
    """Samples an image at the points of a grid.

    Convention: grid holds normalised source coordinates, in the order (x, y[, z]): x runs along the
    width, the image's last spatial axis. One example; `jax.vmap` makes batches.

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`, of any real dtype for `nearest`, floating otherwise.
        grid: `[*out, n]` with n = 2 or 3, floating. Positions and weights are computed in its
            precision, at least float32, whatever the image's.
        mode: `nearest` (ties to even), `bilinear` (trilinear in 3-D) or `bicubic` (tricubic;
            cubic convolution with A = -0.75, may overshoot). Static.
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
            spatial axis, a grid that is not floating, or an integer image in another mode
            than `nearest`.

    Example:
        >>> image = jnp.arange(4.0).reshape(2, 2, 1)
        >>> grid = jnp.asarray([[0.0, 0.0], [0.5, -0.5]])  # the middle; upper right pixel
        >>> grid_sample(image, grid)[:, 0]
        Array([1.5, 1. ], dtype=float32)

    Source: Jaderberg et al. (2015), section 3.3; values and gradients as torch's `grid_sample`.
    """
    ndim = jnp.ndim(image) - 1
    check_shape("image", jnp.shape(image), "[h, w, c] or [d, h, w, c]", ndim in (2, 3))
    shape = jnp.shape(grid)
    check_shape(
        "grid", shape, f"[..., {ndim}] for an image of rank {ndim + 1}", shape[-1:] == (ndim,)
    )
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
    fill: float | Sequence[float] = 0.0,
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
    if mode != "nearest" and not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"image must be of a floating dtype for mode {mode}; got {image.dtype} "
            "(nearest takes any dtype)"
        )
    # One kernel for the positions: contracted to one rounding in some kernels and not in others, a
    # position near a whole number would have its index from one pixel and its weight from the next.
    points = jax.lax.optimization_barrier(tuple(points))
    axes = [
        _taps(p, size, bound, mode, padding_mode)
        for p, size, bound in zip(points, reversed(spatial), bounds, strict=True)
    ]
    # Sums are taken in float32 or wider, and so is, by transposition, the image's gradient.
    values = image if mode == "nearest" else image.astype(_accumulator(image, points))
    background = jnp.asarray(fill, values.dtype)
    if background.shape not in ((), (channels,)):
        raise ValueError(f"fill must be a number or one per channel, [{channels}]; got {fill!r}")
    terms = [
        _read(values, taps, background)
        for taps in itertools.product(*reversed(axes))  # axes in the image's order
    ]
    return sum(terms[1:], terms[0]).astype(image.dtype)


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


def _taps(p: jax.Array, size: int, bounds: Bounds, mode: str, padding_mode: str) -> list[Tap]:
    """The taps of coordinates on an axis of `size` pixels."""
    kernel, padding = KERNELS[mode], PADDINGS[padding_mode]
    p = padding.tame(p, size)
    if padding.fold and not kernel.folds_taps:
        p = padding.fold(p, size, bounds)
    first = jax.lax.stop_gradient(kernel.first(p))
    weights = kernel.weights(p - first) if kernel.weights else (None,)
    taps = []
    for offset, weight in enumerate(weights):
        position = first + offset
        inside = None
        if padding.fold is None:
            inside = (position >= 0) & (position <= size - 1)
        elif kernel.folds_taps:
            position = padding.fold(position, size, bounds)
        index = jnp.clip(position.astype(jnp.int32), 0, size - 1)
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


def _accumulator(image: jax.Array, points: Sequence[jax.Array]) -> jnp.dtype:
    return jnp.promote_types(image.dtype, jnp.result_type(jnp.float32, *(p.dtype for p in points)))
