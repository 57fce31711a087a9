"""E: elastic deformations of images, by random thin plate splines."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from stn_jax._types import Number
from stn_jax.distortions._common import (
    Image,
    Output,
    Shape,
    check_image,
    draw_point_shifts,
    draw_scale,
)
from stn_jax.transforms import thin_plate_spline
from stn_jax.transforms.thin_plate_spline import control_point_grid
from stn_jax.warping import spatial_transform

ELASTIC_CONTROL_POINTS = (4, 4)


def draw_elastic(
    key: PRNGKeyArray,
    image_shape: Shape,
    *,
    scale: tuple[Number, Number] = (0.75, 1.0),
    sigma_px: Number = 1.5,
) -> Float[jax.Array, "32"]:
    """Draws the theta of E (thin plate spline): a scale, and a random shift of each control point.

    Args:
        key: the source of the random scale and shifts.
        image_shape: (height, width). Static.
        scale, sigma_px: as for `random_elastic`.

    Returns:
        `[32]`, from output to image, for `thin_plate_spline(ELASTIC_CONTROL_POINTS)`. Output and
        image have the same shape.

    Raises:
        ValueError: unless `image_shape` is two non-negative integers and the options are valid for
            `random_elastic`.
    """
    scale_key, noise_key = jax.random.split(key)
    factor = draw_scale(scale_key, scale)
    controls = elastic_control_points()
    shifts = draw_point_shifts(noise_key, image_shape, sigma_px, len(controls))
    # A spline reproduces an affine map of its control points exactly, so it scales the image too.
    return ((controls + shifts) / factor - controls).ravel()


def random_elastic(
    key: PRNGKeyArray,
    image: Image,
    *,
    scale: tuple[Number, Number] = (0.75, 1.0),
    sigma_px: Number = 1.5,
) -> Output:
    """Scales an image and deforms it by a thin plate spline: the paper's E.

    Args:
        key: the source of the random scale and shifts.
        image: `[h, w, c]`, floating.
        scale: the smallest and the largest scale.
        sigma_px: standard deviation of the shift of each control point on each axis, in pixels of
            the output. (The noise of `random_perspective` is in pixels of the image.)

    Returns:
        `[h, w, c]`.

    Raises:
        ValueError: if the image has another rank, the deviation is negative or not finite, or the
            scale is not 0 < low <= high.

    Example:
        >>> random_elastic(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (28, 28, 1)
    """
    theta = draw_elastic(key, check_image(image), scale=scale, sigma_px=sigma_px)
    return spatial_transform(image, theta, thin_plate_spline(ELASTIC_CONTROL_POINTS))


def elastic_control_points() -> Float[jax.Array, "16 2"]:
    """The control points of the elastic deformations, in normalised coordinates (x, y)."""
    return jnp.asarray(control_point_grid(*ELASTIC_CONTROL_POINTS))
