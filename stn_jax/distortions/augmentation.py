"""Small random motions and deformations that augment the training data."""

import math

import jax
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import as_numbers, check_at_least_0, check_sizes, is_traced, one_line
from stn_jax._types import Number
from stn_jax.distortions._common import (
    Image,
    Output,
    Shape,
    check_image,
    draw_angle,
    draw_point_shifts,
    output_to_image_px,
)
from stn_jax.distortions.elastic import ELASTIC_CONTROL_POINTS, elastic_control_points
from stn_jax.poses import affine_from_pixels
from stn_jax.transforms import affine, thin_plate_spline
from stn_jax.warping import spatial_transform


def draw_jitter(
    key: PRNGKeyArray,
    image_shape: Shape,
    *,
    max_angle_rad: Number = 0.0,
    max_scale: Number = 1.0,
    max_shift_px: Number = 0.0,
) -> Float[jax.Array, "6"]:
    """Draws the affine part of `random_jitter`: the theta of a rotation, a scale and a shift.

    Args:
        key: the source of the random angle, scale and shift.
        image_shape: (height, width). Static.
        max_angle_rad, max_scale, max_shift_px: as for `random_jitter`.

    Returns:
        `[6]`, from output to image. Both have the same shape.

    Raises:
        ValueError: unless `image_shape` is two non-negative integers and the options are valid for
            `random_jitter`.
    """
    image_shape = check_sizes("image_shape", image_shape, 2)
    check_at_least_0("max_shift_px", max_shift_px)
    _check_max_scale(max_scale)
    angle_key, scale_key, place_key = jax.random.split(key, 3)
    angle = draw_angle(angle_key, max_angle_rad)
    # Uniform on a log scale, so that an image grows as often as it shrinks.
    exponent = jax.random.uniform(scale_key, (), minval=-1.0, maxval=1.0)
    shift = jax.random.uniform(place_key, (2,), minval=-max_shift_px, maxval=max_shift_px)
    matrix = output_to_image_px(angle, max_scale**exponent, shift)
    return affine_from_pixels(matrix, image_shape, image_shape)


def random_jitter(
    key: PRNGKeyArray,
    image: Image,
    *,
    max_angle_rad: Number = 0.0,
    max_scale: Number = 1.0,
    max_shift_px: Number = 0.0,
    sigma_px: Number = 0.0,
) -> Output:
    """Moves and deforms an image a little, to augment training data. The edge is repeated outside.

    Args:
        key: the source of the random angle, scale, shift and control points.
        image: `[h, w, c]`, floating.
        max_angle_rad: the largest angle, in radians.
        max_scale: the largest scale, at least 1; the smallest is its inverse.
        max_shift_px: the largest shift along each axis, in pixels.
        sigma_px: standard deviation of the shift of each of the 4 x 4 control points of a thin
            plate spline on each axis, in pixels. 0 deforms nothing and takes less time.

    Returns:
        `[h, w, c]`.

    Raises:
        ValueError: if the image has another rank, the angle, the shift or the deviation is negative
            or not finite, or the scale is below 1 or not finite.

    Example:
        >>> random_jitter(jax.random.key(0), jnp.ones((32, 32, 3)), max_shift_px=2.0).shape
        (32, 32, 3)
    """
    shape = check_image(image)
    bounds = {"max_angle_rad": max_angle_rad, "max_scale": max_scale, "max_shift_px": max_shift_px}
    theta = draw_jitter(key, shape, **bounds)
    if not is_traced(sigma_px) and sigma_px == 0:
        return spatial_transform(image, theta, affine, padding_mode="border")
    controls = elastic_control_points()
    # `draw_jitter` splits the key into the parts 0, 1 and 2.
    shifts = draw_point_shifts(jax.random.fold_in(key, 3), shape, sigma_px, len(controls))
    # A spline reproduces an affine map of its control points exactly, so one warp does both.
    bent = (affine.warp(theta, controls) + shifts - controls).ravel()
    spline = thin_plate_spline(ELASTIC_CONTROL_POINTS)
    return spatial_transform(image, bent, spline, padding_mode="border")


def _check_max_scale(max_scale: Number) -> None:
    """Raises `ValueError` unless `max_scale` is traced, or a finite number of at least 1."""
    if is_traced(max_scale):
        return
    number = as_numbers(max_scale)
    if number is None or number.shape != () or not 1 <= number < math.inf:
        raise ValueError(f"max_scale must be finite and at least 1; got {one_line(max_scale)}")
