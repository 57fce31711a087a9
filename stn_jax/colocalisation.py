"""Co-localisation: finding what a set of images has in common, from the images alone.

Each image has a window, which a network places. What is seen in it is to be nearer, in the features
of some encoder, to what is seen in the windows of the other images than to a patch of its own image
at a random place. Windows are thetas of `stn_jax.transforms.translation_scale`, the paper's
attention.

Source: Jaderberg et al. (2015), appendix A.2.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import check_floating, check_shape, check_sizes
from stn_jax._types import Array
from stn_jax.coordinates import target_points
from stn_jax.transforms import Transform, translation_scale

Boxes = Float[Array, "*batch 4"]

# The upper left and the lower right corner of a frame.
_CORNERS = np.asarray([[-1.0, -1.0], [1.0, 1.0]], np.float32)


def triplet_loss(
    crops: Float[Array, "b d"], patches: Float[Array, "b d"], *, margin: float = 1.0
) -> Float[jax.Array, " b"]:
    """How much nearer each crop should be to the other crops than to a patch of its own image.

    The hinge `max(0, |crop_n - crop_m|² - |crop_n - patch_n|² + margin)`, its mean over m != n. The
    paper's sum is b - 1 times that.

    Args:
        crops: features of a crop of each image.
        patches: features of a patch of the same images.
        margin: how much nearer, in squared distance.

    Returns:
        The loss of each image.

    Raises:
        ValueError: if the shapes differ, or there are fewer than two images.

    Example:
        >>> alike = jnp.asarray([[0.0, 1.0], [0.0, 1.0]])
        >>> triplet_loss(alike, jnp.asarray([[0.0, 1.0], [2.0, 1.0]]))
        Array([1., 0.], dtype=float32)
    """
    shape = jnp.shape(crops)
    check_shape("crops", shape, "[b, d] with b > 1", len(shape) == 2 and shape[0] > 1)
    check_shape("patches", jnp.shape(patches), f"{list(shape)}", jnp.shape(patches) == shape)
    # |a - b|² = |a|² + |b|² - 2ab: all pairs by one product, not by an array of b x b x d.
    squares = jnp.sum(crops**2, axis=1)
    products = jnp.matmul(crops, crops.T, precision=jax.lax.Precision.HIGHEST)
    to_others = squares[:, None] + squares[None] - 2 * products
    to_patch = jnp.sum((crops - patches) ** 2, axis=-1)
    hinge = jnp.maximum(0.0, to_others - to_patch[:, None] + margin)
    return jnp.sum(hinge * (1 - jnp.eye(len(crops), dtype=hinge.dtype)), axis=1) / (len(crops) - 1)


def random_patch(
    key: PRNGKeyArray, image: Float[Array, "h w c"], shape: Sequence[int]
) -> Float[jax.Array, "out_h out_w c"]:
    """A patch of an image, at a place that is drawn uniformly among those inside it.

    Args:
        key: what the place is drawn from.
        image: `[h, w, c]`.
        shape: (height, width) of the patch in pixels. Static.

    Returns:
        `[*shape, c]` in the image's dtype.

    Raises:
        ValueError: on an image of another rank, or a shape that is no two sizes or larger than the
            image.

    Example:
        >>> random_patch(jax.random.key(0), jnp.ones((84, 84, 1)), (28, 28)).shape
        (28, 28, 1)
    """
    check_shape("image", jnp.shape(image), "[h, w, c]", jnp.ndim(image) == 3)
    sizes = check_sizes("shape", shape, 2)
    room = [whole - size for whole, size in zip(image.shape, sizes, strict=False)]
    if min(room) < 0:
        raise ValueError(f"shape must be at most the image's {list(image.shape[:2])}; got {shape}")
    start = jax.random.randint(key, (2,), 0, jnp.asarray(room) + 1)
    return jax.lax.dynamic_slice(image, (start[0], start[1], 0), (*sizes, image.shape[-1]))


def centre_of_mass(weights: Float[Array, "h w"]) -> Float[jax.Array, "2"]:
    """The mean place of weights that sum to 1: of a softmax, its soft argmax.

    Args:
        weights: `[h, w]`, floating.

    Returns:
        (x, y), normalised: -1 and 1 are the outer edges, as without `align_corners`.

    Raises:
        ValueError: on weights of another rank, or that are not floating.

    Example:
        >>> centre_of_mass(jnp.asarray([[0.0, 1.0], [0.0, 0.0]]))
        Array([ 0.5, -0.5], dtype=float32)
    """
    check_shape("weights", jnp.shape(weights), "[h, w]", jnp.ndim(weights) == 2)
    check_floating("weights", weights)
    points = target_points(weights.shape, align_corners=False)
    return jnp.einsum("hw,hwn->n", weights, jnp.asarray(points, weights.dtype))


def frame_box(
    theta: Float[Array, " num_params"], transform: Transform = translation_scale
) -> Float[jax.Array, "4"]:
    """The box that a frame covers in the image, if it is not turned.

    Args:
        theta: flat, `[transform.num_params]`; a negative scale mirrors what is in the box.
        transform: a planar family whose frames have sides along the axes. Static.

    Returns:
        (left, top, right, bottom), normalised; left <= right and top <= bottom.

    Raises:
        ValueError: on a theta that does not fit the transformation.

    Example:
        >>> frame_box(jnp.asarray([0.5, 0.25, 0.0]))
        Array([-0.25, -0.5 ,  0.75,  0.5 ], dtype=float32)
    """
    corners = transform.warp(jnp.asarray(theta), jnp.asarray(_CORNERS))
    return jnp.concatenate([jnp.min(corners, axis=0), jnp.max(corners, axis=0)])


def iou(boxes: Boxes, others: Boxes) -> Float[jax.Array, "*batch"]:
    """Intersection over union of boxes (left, top, right, bottom), in any unit.

    Args:
        boxes: `[*batch, 4]`; left <= right and top <= bottom, as `frame_box` makes them.
        others: `[*batch, 4]`, or of a shape that broadcasts.

    Returns:
        `[*batch]`, 0 to 1; 0 of two empty boxes.

    Example:
        >>> iou(jnp.asarray([0.0, 0.0, 2.0, 1.0]), jnp.asarray([1.0, 0.0, 3.0, 1.0]))
        Array(0.33333334, dtype=float32)
    """
    first = jnp.maximum(boxes[..., :2], others[..., :2])
    last = jnp.minimum(boxes[..., 2:], others[..., 2:])
    common = jnp.prod(jnp.maximum(0.0, last - first), axis=-1)
    areas = [jnp.prod(each[..., 2:] - each[..., :2], axis=-1) for each in (boxes, others)]
    union = areas[0] + areas[1] - common
    return common / jnp.where(union > 0, union, 1)
