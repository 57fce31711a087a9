"""R: rotated images."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import check_sizes
from stn_jax._types import Number
from stn_jax.distortions._common import (
    Image,
    Output,
    Shape,
    check_image,
    draw_angle,
    output_to_image_px,
)
from stn_jax.poses import affine_from_pixels
from stn_jax.transforms import affine
from stn_jax.warping import spatial_transform


def draw_rotation(
    key: PRNGKeyArray, image_shape: Shape, *, max_angle_rad: Number = math.pi / 2
) -> Float[jax.Array, "6"]:
    """Draws the theta of R (affine): a rotation by U(-max_angle_rad, max_angle_rad).

    Args:
        key: the source of the random angle.
        image_shape: (height, width). Static.
        max_angle_rad: as for `random_rotation`.

    Returns:
        `[6]`, from output to image. Both have the same shape.

    Raises:
        ValueError: unless `image_shape` is two non-negative integers and the angle is valid for
            `random_rotation`.
    """
    image_shape = check_sizes("image_shape", image_shape, 2)
    angle = draw_angle(key, max_angle_rad)
    matrix = output_to_image_px(angle, 1.0, jnp.zeros(2))
    return affine_from_pixels(matrix, image_shape, image_shape)


def random_rotation(
    key: PRNGKeyArray, image: Image, *, max_angle_rad: Number = math.pi / 2
) -> Output:
    """Rotates an image by a uniform random angle: the paper's R, with ±90°.

    Args:
        key: the source of the random angle.
        image: `[h, w, c]`, floating.
        max_angle_rad: the largest angle, in radians.

    Returns:
        `[h, w, c]`.

    Raises:
        ValueError: if the image has another rank, or the angle is negative or not finite.

    Example:
        >>> random_rotation(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (28, 28, 1)
    """
    theta = draw_rotation(key, check_image(image), max_angle_rad=max_angle_rad)
    return spatial_transform(image, theta, affine)
