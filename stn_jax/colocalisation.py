"""Co-localisation: finding the object that a set of images shares, without labels.

A network places a window on each image. In the feature space of an encoder, the crop in a window
should be closer to the crops of the other images than to a random patch of its own image. Windows
are thetas of `stn_jax.transforms.translation_scale`, the attention of the paper.

Source: Jaderberg et al. (2015), appendix A.2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import check_floating, check_shape, check_sizes
from stn_jax._sharding import run_on_auto_axes
from stn_jax._types import Array
from stn_jax.coordinates import target_points
from stn_jax.transforms import Transform, translation_scale
from stn_jax.transforms.base import as_theta

Boxes = Float[Array, "*batch 4"]

# The upper left and the lower right corner of the target frame.
_FRAME_CORNERS = np.asarray([[-1.0, -1.0], [1.0, 1.0]])


def triplet_loss(
    crops: Float[Array, "b d"], patches: Float[Array, "b d"], *, margin: float = 1.0
) -> Float[jax.Array, " b"]:
    """Triplet loss that draws each crop to the other crops and away from its own image's patch.

    The loss of image n is the mean of the hinge
    `max(0, |crop_n - crop_m|² - |crop_n - patch_n|² + margin)` over m != n. The paper uses the
    sum, which is b - 1 times as large.

    Args:
        crops: features of one crop per image, `[b, d]`.
        patches: features of one random patch per image, `[b, d]`, in the same order.
        margin: required difference of the squared distances.

    Returns:
        The loss per image, `[b]`.

    Raises:
        ValueError: if the shapes differ or there are fewer than two images.

    Example:
        >>> alike = jnp.asarray([[0.0, 1.0], [0.0, 1.0]])
        >>> triplet_loss(alike, jnp.asarray([[0.0, 1.0], [2.0, 1.0]]))
        Array([1., 0.], dtype=float32)
    """
    shape = jnp.shape(crops)
    check_shape("crops", shape, "[b, d] with b > 1", len(shape) == 2 and shape[0] > 1)
    check_shape("patches", jnp.shape(patches), f"{list(shape)}", jnp.shape(patches) == shape)
    # |a - b|² = |a|² + |b|² - 2ab: one matrix product instead of an array of b x b x d.
    squares = jnp.sum(crops**2, axis=1)
    products = jnp.matmul(crops, crops.T, precision=jax.lax.Precision.HIGHEST)
    to_others = squares[:, None] + squares[None] - 2 * products
    to_patch = jnp.sum((crops - patches) ** 2, axis=-1)
    hinge = jnp.maximum(0.0, to_others - to_patch[:, None] + margin)
    return jnp.sum(hinge * (1 - jnp.eye(len(crops), dtype=hinge.dtype)), axis=1) / (len(crops) - 1)


def random_patch(
    key: PRNGKeyArray, image: Float[Array, "h w c"], shape: Sequence[int]
) -> Float[jax.Array, "out_h out_w c"]:
    """Crops a patch at a uniformly random position inside an image.

    Args:
        key: random key for the position.
        image: `[h, w, c]`.
        shape: (height, width) of the patch in pixels. Static.

    Returns:
        `[*shape, c]` in the dtype of the image.

    Raises:
        ValueError: if the image has another rank, or unless `shape` is two non-negative integers
            that are at most the size of the image.

    Example:
        >>> random_patch(jax.random.key(0), jnp.ones((84, 84, 1)), (28, 28)).shape
        (28, 28, 1)
    """
    check_shape("image", jnp.shape(image), "[h, w, c]", jnp.ndim(image) == 3)
    sizes = check_sizes("shape", shape, 2)
    max_start = [whole - size for whole, size in zip(image.shape, sizes, strict=False)]
    if min(max_start) < 0:
        raise ValueError(f"shape must be at most the image's {list(image.shape[:2])}; got {shape}")
    start = jax.random.randint(key, (2,), 0, jnp.asarray(max_start) + 1)
    return run_on_auto_axes(_crop, jnp.asarray(image), start, sizes=sizes)


def _crop(image: jax.Array, start: jax.Array, *, sizes: tuple[int, ...]) -> jax.Array:
    return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (*sizes, image.shape[-1]))


def centre_of_mass(weights: Float[Array, "h w"]) -> Float[jax.Array, "2"]:
    """Computes the weighted mean position. For the output of a softmax, this is the soft argmax.

    Args:
        weights: `[h, w]`, floating, with sum 1.

    Returns:
        (x, y), normalised: -1 and 1 are the outer edges (`align_corners=False`).

    Raises:
        ValueError: if the weights have another rank or are not floating.

    Example:
        >>> centre_of_mass(jnp.asarray([[0.0, 1.0], [0.0, 0.0]]))
        Array([ 0.5, -0.5], dtype=float32)
    """
    check_shape("weights", jnp.shape(weights), "[h, w]", jnp.ndim(weights) == 2)
    check_floating("weights", weights)
    points = target_points(weights.shape, align_corners=False)
    points = jnp.asarray(points, weights.dtype)
    return jnp.einsum("hw,hwn->n", weights, points, precision=jax.lax.Precision.HIGHEST)


def frame_box(
    theta: Float[Array, " num_params"], transform: Transform = translation_scale
) -> Float[jax.Array, "4"]:
    """Computes the box that the sampled frame covers in the image, if it is not rotated.

    Args:
        theta: flat parameters, `[transform.num_params]`. A negative scale mirrors the contents of
            the box but not the box.
        transform: a planar family whose frames have axis-parallel sides. Static.

    Returns:
        (left, top, right, bottom), normalised; left <= right and top <= bottom.

    Raises:
        ValueError: if theta does not fit the transformation.

    Example:
        >>> frame_box(jnp.asarray([0.5, 0.25, 0.0]))
        Array([-0.25, -0.5 ,  0.75,  0.5 ], dtype=float32)
    """
    theta = as_theta(theta, transform.num_params, transform.name)
    corners = transform.warp(theta, jnp.asarray(_FRAME_CORNERS, theta.dtype))
    return jnp.concatenate([jnp.min(corners, axis=0), jnp.max(corners, axis=0)])


def iou(boxes: Boxes, others: Boxes) -> Float[jax.Array, "*batch"]:
    """Intersection over union of boxes (left, top, right, bottom), in any unit.

    Args:
        boxes: `[*batch, 4]`; left <= right and top <= bottom, as `frame_box` returns them.
        others: `[*batch, 4]`, or a shape that broadcasts to it.

    Returns:
        `[*batch]`, between 0 and 1; 0 if both boxes are empty.

    Example:
        >>> iou(jnp.asarray([0.0, 0.0, 2.0, 1.0]), jnp.asarray([1.0, 0.0, 3.0, 1.0]))
        Array(0.33333334, dtype=float32)
    """
    top_left = jnp.maximum(boxes[..., :2], others[..., :2])
    bottom_right = jnp.minimum(boxes[..., 2:], others[..., 2:])
    intersection = jnp.prod(jnp.maximum(0.0, bottom_right - top_left), axis=-1)
    areas = [jnp.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (boxes, others)]
    union = areas[0] + areas[1] - intersection
    return intersection / jnp.where(union > 0, union, 1)
