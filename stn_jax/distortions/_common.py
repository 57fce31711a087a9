"""Checks and random draws that the distortions share."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import (
    as_numbers,
    check_at_least_0,
    check_shape,
    check_sizes,
    describe_image_shape,
    is_traced,
    one_line,
)
from stn_jax._types import Array, Number
from stn_jax.transforms.base import matmul

Shape = Sequence[int]
Image = Float[Array, "h w c"]
Output = Float[jax.Array, "out_h out_w c"]


def check_image(image: Array) -> tuple[int, int]:
    """Returns the height and width of an image, or raises `ValueError` unless it is `[h, w, c]`."""
    shape = np.shape(image)
    check_shape("image", shape, describe_image_shape(2), len(shape) == 3)
    return shape[0], shape[1]


def check_canvas(canvas: Shape, image_shape: Shape) -> tuple[int, ...]:
    """Returns `canvas` as a tuple, or raises `ValueError` if the image does not fit on it."""
    sizes, least = check_sizes("canvas", canvas, 2), check_sizes("image_shape", image_shape, 2)
    if sizes[0] < least[0] or sizes[1] < least[1]:
        raise ValueError(f"canvas must be at least the image's {list(least)}; got {list(sizes)}")
    return sizes


def draw_scale(key: PRNGKeyArray, scale: tuple[Number, Number]) -> Float[jax.Array, ""]:
    """Draws a scale factor, uniform between the smallest and the largest scale."""
    if not is_traced(scale):
        pair = as_numbers(scale)
        if pair is None or pair.shape != (2,) or not 0 < pair[0] <= pair[1] < math.inf:
            allowed = "two finite numbers, 0 < low <= high"
            raise ValueError(f"scale must be {allowed}; got {one_line(scale)}")
    return jax.random.uniform(key, (), minval=scale[0], maxval=scale[1])


def draw_angle(key: PRNGKeyArray, max_angle_rad: Number) -> Float[jax.Array, ""]:
    """Draws an angle in radians, uniform in [-max_angle_rad, max_angle_rad)."""
    check_at_least_0("max_angle_rad", max_angle_rad)
    return jax.random.uniform(key, (), minval=-max_angle_rad, maxval=max_angle_rad)


def draw_point_shifts(
    key: PRNGKeyArray, image_shape: Shape, sigma_px: Number, count: int
) -> Float[jax.Array, "count 2"]:
    """Draws shifts N(0, sigma_px²) of points on each axis, and returns them in normalised units."""
    check_at_least_0("sigma_px", sigma_px)
    height, width = check_sizes("image_shape", image_shape, 2)
    half = jnp.asarray([width, height]) / 2
    return jax.random.normal(key, (count, 2)) * sigma_px / half[None]


def draw_place(key: PRNGKeyArray, image_shape: Shape, canvas: Shape) -> Float[jax.Array, "2"]:
    """Draws a shift (x, y) in pixels that keeps the whole image on the canvas."""
    canvas = check_canvas(canvas, image_shape)
    room = jnp.asarray([canvas[1] - image_shape[1], canvas[0] - image_shape[0]]) / 2
    return jax.random.uniform(key, (2,), minval=-room, maxval=room)


def output_to_image_px(
    angle_rad: jax.Array, scale: jax.Array | float, shift_px: jax.Array
) -> Float[jax.Array, "2 3"]:
    """The map from output to image in pixels: it undoes the shift, then the scale and rotation."""
    cos, sin = jnp.cos(angle_rad) / scale, jnp.sin(angle_rad) / scale
    linear = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    return jnp.concatenate([linear, -matmul(linear, shift_px[:, None])], axis=1)
