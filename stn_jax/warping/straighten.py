"""Warping a full-resolution image by a theta that was predicted at a lower resolution."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_shape, check_sizes, describe_image_shape
from stn_jax._sharding import run_on_auto_axes
from stn_jax._types import Array, Mode, PaddingMode
from stn_jax.coordinates import computed_target_points, pixel_bounds, to_pixels
from stn_jax.sampling.grid_sample import check_sampling, sample
from stn_jax.sampling.padding import Bounds
from stn_jax.transforms.base import Transform, as_theta, check_transform
from stn_jax.warping.points import warp_points

# Rows warped at a time: a spline on 3000 x 4000 pixels takes 0.12 GB instead of 1.8 GB.
ROWS_AT_A_TIME = 32

_Pixels = TypeVar("_Pixels", float, jax.Array)


def straighten(
    image: Float[Array, "*spatial c"],
    theta: Float[Array, " num_params"],
    transform: Transform,
    network_input_shape: Sequence[int],
    *,
    network_output_shape: Sequence[int] | None = None,
    mode: Mode = "bilinear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    fill: float | Sequence[float] | Array = 0.0,
) -> Float[jax.Array, "*out c"]:
    """Warps an image at full resolution by a theta that was predicted at another resolution.

    The result shows what `spatial_transform` shows of the image resized to `network_input_shape`
    (outer edges to outer edges), but with the detail of the full image. If the image already has
    that shape, the result equals `spatial_transform` up to rounding.

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`, floating.
        theta: flat parameters, `[transform.num_params]`.
        transform: the family of theta. Static.
        network_input_shape: spatial shape of the image from which theta was predicted. Static.
        network_output_shape: spatial shape of the transformer's output at that resolution, by
            default `network_input_shape`. Static.
        mode, padding_mode, align_corners, fill: as in `grid_sample`.

    Returns:
        `[*out, c]`. Each size is that of `network_output_shape`, times the ratio of the image's
        size to that of `network_input_shape`, rounded, at least 1.

    Raises:
        ValueError: as `warp_points` and `grid_sample`.

    Example:
        >>> from stn_jax.transforms import rotation
        >>> straighten(jnp.ones((90, 60, 3)), jnp.asarray([0.5]), rotation, (28, 28)).shape
        (90, 60, 3)
    """
    check_transform(transform)
    theta = as_theta(theta, transform.num_params, transform.name)
    ndim, shape = transform.ndim, np.shape(image)
    expected = describe_image_shape(ndim)
    check_shape(f"image for {transform.name}", shape, expected, len(shape) == ndim + 1)
    image, fill = check_sampling(image, mode, padding_mode, fill, theta.dtype)
    small = check_sizes("network_input_shape", network_input_shape, ndim)
    if 0 in small:
        raise ValueError(f"network_input_shape must be positive; got {network_input_shape!r}")
    given = small if network_output_shape is None else network_output_shape
    small_out = check_sizes("network_output_shape", given, ndim)
    axes = straightened_axes(shape[:-1], small, small_out, align_corners=align_corners)
    points = straightened_points(
        axes,
        theta,
        transform,
        small,
        network_output_shape=small_out,
        output_shape=tuple(axis.out_size for axis in axes),
        align_corners=align_corners,
    )
    bounds = tuple(axis.bounds for axis in reversed(axes))
    options = {"bounds": bounds, "mode": mode, "padding_mode": padding_mode}
    return run_on_auto_axes(sample, image, points, fill, **options)


class StraightenedAxis(NamedTuple):
    """An axis of an image that is straightened. As an argument of `jax.jit`, it is traced.

    Attributes:
        size: of the image.
        out_size: of the result.
        ratio: `size` divided by the size of the network's input.
        bounds: the pixels about which the image is reflected.
    """

    size: int
    out_size: int
    ratio: float
    bounds: Bounds


def straightened_axes(
    image_shape: Sequence[int],
    network_input_shape: Sequence[int],
    network_output_shape: Sequence[int],
    *,
    align_corners: bool,
) -> tuple[StraightenedAxis, ...]:
    """Computes the axes of an image that is straightened, in the order of its shape."""
    axes = []
    for size, seen, out in zip(image_shape, network_input_shape, network_output_shape, strict=True):
        ratio = size / seen
        # The full image is reflected about the same positions as the small one.
        low, high = pixel_bounds(seen, align_corners=align_corners)
        bounds = _resize_coordinate(low, ratio), _resize_coordinate(high, ratio)
        axes.append(StraightenedAxis(size, max(1, round(size * out / seen)), ratio, bounds))
    return tuple(axes)


def straightened_points(
    axes: Sequence[StraightenedAxis],
    theta: Float[jax.Array, " num_params"],
    transform: Transform,
    network_input_shape: tuple[int, ...],
    *,
    network_output_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    align_corners: bool,
) -> list[jax.Array]:
    """Computes where `straighten` reads the image.

    Args:
        axes: of the image.
        theta, transform, network_input_shape, align_corners: as in `straighten`.
        network_output_shape: as in `straighten`. Not optional.
        output_shape: spatial shape of the result. It may be larger than the axes say, so that one
            program serves several sizes. Static.

    Returns:
        x, y[, z] in pixels, `[*output_shape]` each.
    """
    out_sizes = [axis.out_size for axis in axes]
    targets = computed_target_points(output_shape, theta.dtype, out_sizes)
    targets = to_pixels(targets, network_output_shape, align_corners=False)
    # A spline needs several numbers per control point and pixel, so it is warped in parts.
    warp = warp_points if transform.has_matrix else _warp_points_by_rows
    points = warp(
        targets,
        theta,
        transform,
        network_input_shape,
        to="input",
        output_shape=network_output_shape,
        align_corners=align_corners,
    )
    return [_resize_coordinate(points[..., i], axis.ratio) for i, axis in enumerate(reversed(axes))]


@functools.partial(
    jax.jit, static_argnums=(2, 3), static_argnames=("to", "output_shape", "align_corners")
)
def _warp_points_by_rows(
    points: jax.Array,
    theta: Array,
    transform: Transform,
    input_shape: tuple[int, ...],
    **options: Any,
) -> jax.Array:
    """`warp_points`, a few rows at a time. Jitted because a bare `lax.map` compiles every call."""
    warp = functools.partial(warp_points, **options)
    return jax.lax.map(
        lambda row: warp(row, theta, transform, input_shape), points, batch_size=ROWS_AT_A_TIME
    )


def _resize_coordinate(pixels: _Pixels, ratio: Any) -> _Pixels:
    """Maps pixel coordinates when an axis is resized by a ratio, outer edges to outer edges."""
    return (pixels + 0.5) * ratio - 0.5
