"""T and TC: translated images, without and with clutter."""

import operator

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import check_shape, one_line
from stn_jax._sharding import run_on_auto_axes
from stn_jax._types import Array
from stn_jax.distortions._common import (
    Image,
    Output,
    Shape,
    check_canvas,
    check_image,
    draw_place,
    output_to_image_px,
)
from stn_jax.poses import affine_from_pixels
from stn_jax.transforms import affine
from stn_jax.warping import spatial_transform


def draw_translation(
    key: PRNGKeyArray, image_shape: Shape, *, canvas: Shape = (84, 84)
) -> Float[jax.Array, "6"]:
    """Draws the theta of T (affine): a random place on the canvas.

    Args:
        key: the source of the random place.
        image_shape: (height, width), at most that of the canvas. Static.
        canvas: as for `random_translation`.

    Returns:
        `[6]`, from canvas to image.

    Raises:
        ValueError: unless `image_shape` is two non-negative integers and the canvas is valid for
            `random_translation`.
    """
    place = draw_place(key, image_shape, canvas)
    return affine_from_pixels(output_to_image_px(jnp.zeros(()), 1.0, place), image_shape, canvas)


def random_translation(key: PRNGKeyArray, image: Image, *, canvas: Shape = (84, 84)) -> Output:
    """Puts an image at a random place on a larger canvas: the paper's T.

    Args:
        key: the source of the random place.
        image: `[h, w, c]`, floating.
        canvas: (height, width) of the output. Static.

    Returns:
        `[*canvas, c]`.

    Raises:
        ValueError: if the image has another rank or is larger than the canvas.

    Example:
        >>> random_translation(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (84, 84, 1)
    """
    theta = draw_translation(key, check_image(image), canvas=canvas)
    return spatial_transform(image, theta, affine, output_shape=canvas)


def random_clutter(
    key: PRNGKeyArray,
    image: Image,
    others: Float[Array, "crops h w c"],
    *,
    canvas: Shape = (60, 60),
    crop_size: int = 6,
) -> Output:
    """Translates an image and adds clutter, small square crops of other images: the paper's TC.

    Args:
        key: the source of the random places. `draw_translation` draws the image's place from
            `image_key(key)`.
        image: `[h, w, c]`, floating.
        others: images with one crop each: six in the paper's classification experiments, sixteen
            in its co-localisation experiments.
        canvas: (height, width) of the output. Static.
        crop_size: side of a crop in pixels. Static.

    Returns:
        `[*canvas, c]`: the maximum of the image and the crops at each pixel.

    Raises:
        ValueError: if the image has another rank or is larger than the canvas, `others` are not
            images with the same channels, or `crop_size` is not an integer between 1 and the
            largest side that fits in them and on the canvas.

    Example:
        >>> others = jnp.ones((6, 28, 28, 1))
        >>> random_clutter(jax.random.key(0), jnp.ones((28, 28, 1)), others).shape
        (60, 60, 1)
    """
    canvas = check_canvas(canvas, check_image(image))
    fits = others.ndim == 4 and others.shape[-1] == image.shape[-1]
    check_shape("others", others.shape, f"[crops, h, w, {image.shape[-1]}]", fits)
    _check_crop_size(crop_size, min(*canvas, *others.shape[1:3]))
    placed = random_translation(image_key(key), image, canvas=canvas)
    others = jnp.asarray(others, placed.dtype)
    clutter = run_on_auto_axes(
        _draw_clutter, jax.random.fold_in(key, 1), others, canvas=canvas, crop_size=crop_size
    )
    # Without the barrier XLA fuses the sampler into each reader of the output and runs it several
    # times: an image takes 270 us on a CPU core, 50 us with the barrier.
    return jnp.maximum(*jax.lax.optimization_barrier((placed, clutter)))


def image_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """The key from which `random_clutter` draws the place of its image.

    Args:
        key: the key passed to `random_clutter`.

    Returns:
        A key from which `draw_translation`, with the canvas of `random_clutter`, draws the place of
        the image.
    """
    return jax.random.fold_in(key, 0)


def _check_crop_size(crop_size: int, largest: int) -> None:
    """Raises `ValueError` unless `crop_size` is an integer between 1 and `largest`."""
    try:
        side = operator.index(crop_size)
    except TypeError:
        side = 0
    if not 1 <= side <= largest:
        allowed = f"a whole number between 1 and {largest}"
        raise ValueError(f"crop_size must be {allowed}; got {one_line(crop_size)}")


def _draw_clutter(
    key: PRNGKeyArray, others: Float[jax.Array, "crops h w c"], *, canvas: Shape, crop_size: int
) -> Output:
    """Puts a random crop of each of the images at a random place on an empty canvas."""

    def draw_crop(key: PRNGKeyArray, other: jax.Array) -> tuple[jax.Array, jax.Array]:
        from_key, to_key = jax.random.split(key)
        start = jax.random.randint(from_key, (2,), 0, jnp.asarray(other.shape[:2]) - crop_size + 1)
        size = (crop_size, crop_size, other.shape[-1])
        crop = jax.lax.dynamic_slice(other, (start[0], start[1], 0), size)
        return crop, jax.random.randint(to_key, (2,), 0, jnp.asarray(canvas) - crop_size + 1)

    crops, places = jax.vmap(draw_crop)(jax.random.split(key, len(others)), others)
    rows, columns = (places[:, axis, None] + jnp.arange(crop_size)[None] for axis in range(2))
    clutter = jnp.zeros((*canvas, others.shape[-1]), others.dtype)
    return clutter.at[rows[:, :, None], columns[:, None, :]].max(crops)
