"""Warping a full-resolution image by a theta that was predicted at a lower resolution."""

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stn_jax._checks import check_shape, check_sizes, describe_image_shape
from stn_jax._sharding import run_on_auto_axes
from stn_jax._types import Array, Mode, PaddingMode
from stn_jax.coordinates import computed_target_points, pixel_bounds, to_pixels
from stn_jax.sampling.grid_sample import check_sampling, sample
from stn_jax.transforms.base import Transform, at_least_float32, check_transform
from stn_jax.warping.points import convert_units, warp_points

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
    ndim, shape = transform.ndim, jnp.shape(image)
    expected = describe_image_shape(ndim)
    check_shape(f"image for {transform.name}", shape, expected, len(shape) == ndim + 1)
    image, fill = check_sampling(image, mode, padding_mode, fill)
    full, small = shape[:-1], check_sizes("network_input_shape", network_input_shape, ndim)
    if 0 in small:
        raise ValueError(f"network_input_shape must be positive; got {network_input_shape!r}")
    given = small if network_output_shape is None else network_output_shape
    small_out = check_sizes("network_output_shape", given, ndim)
    ratios = zip(full, small, small_out, strict=True)
    full_out = tuple(max(1, round(size * out / seen)) for size, seen, out in ratios)
    targets = computed_target_points(full_out, at_least_float32(theta).dtype)
    targets = convert_units(to_pixels, targets, small_out, False)
    # A spline needs several numbers per control point and pixel, so it is warped in parts.
    warp = warp_points if transform.has_matrix else _warp_points_by_rows
    points = warp(
        targets,
        theta,
        transform,
        small,
        to="input",
        output_shape=small_out,
        align_corners=align_corners,
    )
    coordinates, bounds = [], []
    for i, (seen, size) in enumerate(zip(reversed(small), reversed(full), strict=True)):
        coordinates.append(_resize_coordinate(points[..., i], seen, size))
        # The full image is reflected about the same positions as the small one.
        low, high = pixel_bounds(seen, align_corners=align_corners)
        bounds.append((_resize_coordinate(low, seen, size), _resize_coordinate(high, seen, size)))
    return run_on_auto_axes(
        sample,
        image,
        coordinates,
        fill,
        bounds=tuple(bounds),
        mode=mode,
        padding_mode=padding_mode,
    )


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


def _resize_coordinate(pixels: _Pixels, old_size: int, new_size: int) -> _Pixels:
    """Maps pixel coordinates when an axis is resized, outer edges to outer edges."""
    return (pixels + 0.5) * (new_size / old_size) - 0.5
