"""Crops of many boxes from one image or feature map."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from stn_jax._checks import as_array, check_floating, check_shape, check_sizes
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Array, Mode, PaddingMode, float_dtype
from stn_jax.coordinates import centred_pixels, pixel_bounds
from stn_jax.sampling.grid_sample import check_sampling, sample, sampled_spec


def crop_boxes(
    image: Shaped[Array, "*spatial c"],
    boxes: Float[Array, "*count sides"],
    output_shape: Sequence[int],
    *,
    mode: Mode = "bilinear",
    padding_mode: PaddingMode = "zeros",
    fill: float | Sequence[float] | Array = 0.0,
) -> Shaped[jax.Array, "*crops c"]:
    """Crops boxes from one image and resizes each crop to the same shape.

    The image is not copied for each box, and its gradient is the sum over the boxes. Each output
    pixel is one sample at its centre in the box; large boxes alias as in `spatial_transform`.

    Convention: the sides of a box are measured from the outer edge of the image, as in detection
    data sets. The first pixel covers 0 to 1, and the box (0, 0, width, height) is the whole image,
    which is returned bit for bit if `output_shape` is its shape. Boxes may extend over the image.

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`.
        boxes: (x_min, y_min, x_max, y_max), or (x_min, y_min, z_min, x_max, y_max, z_max) for
            volumes, in pixels, floating, `[*count, 4]` or `[*count, 6]`. A box with x_max < x_min
            is mirrored.
        output_shape: spatial shape of each crop. Static.
        mode, padding_mode, fill: as in `grid_sample`; `reflection` is about the outer edges.

    Returns:
        `[*count, *output_shape, c]` in the dtype of the image.

    Raises:
        ValueError: if shapes do not fit or the boxes are not floating; also as `grid_sample`.

    Example:
        >>> image = jnp.arange(12.0).reshape(3, 4, 1)
        >>> crop_boxes(image, jnp.asarray([[0.0, 0, 2, 2], [2, 1, 4, 3]]), (2, 2))[..., 0]
        Array([[[ 0.,  1.],
                [ 4.,  5.]],
        <BLANKLINE>
               [[ 6.,  7.],
                [10., 11.]]], dtype=float32)

    Source: He et al. (2017), RoIAlign with one sample per bin.
    """
    ndim = np.ndim(image) - 1
    check_shape("image", np.shape(image), "[h, w, c] or [d, h, w, c]", ndim in (2, 3))
    shape = np.shape(boxes)
    check_shape("boxes", shape, f"[..., {2 * ndim}] for this image", shape[-1:] == (2 * ndim,))
    boxes = as_array("boxes", boxes)
    check_floating("boxes", boxes)
    sizes = check_sizes("output_shape", output_shape, ndim)
    image, fill = check_sampling(image, mode, padding_mode, fill, boxes.dtype)
    spec = (*partition_spec(boxes)[:-1], *[None] * ndim)
    return run_on_auto_axes(
        _crop_boxes,
        image,
        boxes.astype(float_dtype(boxes.dtype)),
        fill,
        out_spec=sampled_spec(image, spec),
        output_shape=sizes,
        mode=mode,
        padding_mode=padding_mode,
    )


def _crop_boxes(
    image: jax.Array,
    boxes: jax.Array,
    fill: jax.Array,
    *,
    output_shape: tuple[int, ...],
    mode: Mode,
    padding_mode: PaddingMode,
) -> jax.Array:
    """`crop_boxes` without checks."""
    ndim, count = len(output_shape), boxes.shape[:-1]
    lower, upper = boxes[..., :ndim], boxes[..., ndim:]
    points = []
    for i, centred in enumerate(centred_pixels(output_shape)):
        size = output_shape[ndim - 1 - i]
        # From the centre of the box, so that the whole image is read without rounding.
        centre = ((lower[..., i] + upper[..., i]) / 2 - 0.5).reshape(*count, *[1] * ndim)
        scale = ((upper[..., i] - lower[..., i]) / max(size, 1)).reshape(*count, *[1] * ndim)
        offsets = jnp.asarray(centred, boxes.dtype).reshape([1] * len(count) + [*centred.shape])
        points.append(jnp.broadcast_to(centre + scale * offsets, (*count, *output_shape)))
    bounds = [pixel_bounds(size, align_corners=False) for size in reversed(image.shape[:-1])]
    return sample(image, points, fill, bounds=bounds, mode=mode, padding_mode=padding_mode)
