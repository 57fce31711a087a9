"""RTS: rotated, scaled and translated images."""

import math

import jax
from jaxtyping import Float, PRNGKeyArray

from stn_jax._types import Number
from stn_jax.distortions._common import (
    Image,
    Output,
    Shape,
    check_image,
    draw_angle,
    draw_place,
    draw_scale,
    output_to_image_px,
)
from stn_jax.poses import affine_from_pixels
from stn_jax.transforms import affine
from stn_jax.warping import spatial_transform


def draw_similarity(
    key: PRNGKeyArray,
    image_shape: Shape,
    *,
    canvas: Shape = (42, 42),
    max_angle_rad: Number = math.pi / 4,
    scale: tuple[Number, Number] = (0.7, 1.2),
) -> Float[jax.Array, "6"]:
    """Draws the theta of RTS (affine): a rotation, a uniform scale and a random place.

    Args:
        key: the source of the random angle, scale and place.
        image_shape: (height, width), at most that of the canvas. Static.
        canvas, max_angle_rad, scale: as for `random_similarity`.

    Returns:
        `[6]`, from canvas to image.

    Raises:
        ValueError: unless `image_shape` is two non-negative integers and the options are valid for
            `random_similarity`.
    """
    angle_key, scale_key, place_key = jax.random.split(key, 3)
    angle, factor = draw_angle(angle_key, max_angle_rad), draw_scale(scale_key, scale)
    place = draw_place(place_key, image_shape, canvas)
    return affine_from_pixels(output_to_image_px(angle, factor, place), image_shape, canvas)


def random_similarity(
    key: PRNGKeyArray,
    image: Image,
    *,
    canvas: Shape = (42, 42),
    max_angle_rad: Number = math.pi / 4,
    scale: tuple[Number, Number] = (0.7, 1.2),
) -> Output:
    """Rotates and scales an image, and puts it at a random place on a larger canvas.

    Args:
        key: the source of the random angle, scale and place.
        image: `[h, w, c]`, floating.
        canvas: (height, width) of the output. Static.
        max_angle_rad: the largest angle, in radians.
        scale: the smallest and the largest scale.

    Returns:
        `[*canvas, c]`.

    Raises:
        ValueError: if the image has another rank or is larger than the canvas, the angle is
            negative or not finite, or the scale is not 0 < low <= high.

    Example:
        >>> random_similarity(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (42, 42, 1)
    """
    theta = draw_similarity(
        key, check_image(image), canvas=canvas, max_angle_rad=max_angle_rad, scale=scale
    )
    return spatial_transform(image, theta, affine, output_shape=canvas)
