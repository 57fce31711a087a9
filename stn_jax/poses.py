"""Poses of images: the similarity that a transformation is nearest to, in pixels.

A pose is a theta of `stn_jax.transforms.similarity`, (angle, log s, tx, ty), but for pixels that
are counted from the middle of each image in place of normalised coordinates: angles and scales are
those that one sees, also where images are not square. `similarity.compose`, `inverse` and `warp`
serve poses as well.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stn_jax._checks import check_sizes
from stn_jax._types import Array
from stn_jax.transforms import Transform, similarity
from stn_jax.transforms.base import at_least_float32, check_transform
from stn_jax.warping import warp_points


def affine_from_pixels(
    matrix_px: Float[jax.Array, "2 3"], input_shape: Sequence[int], output_shape: Sequence[int]
) -> Float[jax.Array, "6"]:
    """Theta of `affine` for a map from centred output pixels to centred input pixels.

    Args:
        matrix_px: of that map, its rows giving x and y.
        input_shape: (height, width) of the image that is warped. Static.
        output_shape: (height, width) of the output. Static.

    Returns:
        `[6]`, for `spatial_transform` without `align_corners`.

    Raises:
        ValueError: on a shape that is no two sizes.

    Example:
        >>> shift = jnp.asarray([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0]])
        >>> affine_from_pixels(shift, (8, 6), (8, 6))[2]
        Array(1., dtype=float32)
    """
    input_shape = check_sizes("input_shape", input_shape, 2)
    output_shape = check_sizes("output_shape", output_shape, 2)
    matrix_px = at_least_float32(matrix_px)
    to_output_px = jnp.asarray([output_shape[1] / 2, output_shape[0] / 2, 1.0], matrix_px.dtype)
    to_input_px = jnp.asarray([input_shape[1] / 2, input_shape[0] / 2], matrix_px.dtype)
    return (matrix_px * to_output_px / to_input_px[:, None]).ravel()


def affine_from_pose(
    pose: Float[Array, "4"], input_shape: Sequence[int], output_shape: Sequence[int]
) -> Float[jax.Array, "6"]:
    """Theta of `affine` for what a pose says, from output to input.

    Args:
        pose: (angle in radians, log s, tx, ty), the shift in pixels.
        input_shape: (height, width) of the image that is warped. Static.
        output_shape: (height, width) of the output. Static.

    Returns:
        `[6]`, for `spatial_transform` without `align_corners`.

    Raises:
        ValueError: on a pose of another shape, or a shape that is no two sizes.

    Example:
        >>> affine_from_pose(jnp.asarray([0.0, 0.0, 3.0, 0.0]), (8, 6), (8, 6))[2]
        Array(1., dtype=float32)
    """
    assert similarity.matrix is not None
    return affine_from_pixels(similarity.matrix(jnp.asarray(pose)), input_shape, output_shape)


def pose_at_centre(
    theta: Float[Array, " num_params"],
    transform: Transform,
    input_shape: Sequence[int],
    *,
    output_shape: Sequence[int] | None = None,
    align_corners: bool = False,
) -> Float[jax.Array, "4"]:
    """The pose of the similarity that a planar transformation is nearest to at its centre.

    Nearest (in the sum of squares) to the linear part at the centre of the output, which has a
    homography and a spline too. That of a similarity before or after a transformation is composed
    with the pose of the transformation, so that poses show whether frames follow images.

    Args:
        theta: flat, `[transform.num_params]`.
        transform: a planar family. Static.
        input_shape: (height, width) of the image that is warped. Static.
        output_shape: (height, width) of the output, by default the input's. Static.
        align_corners: as for `spatial_transform`. Static.

    Returns:
        (angle in radians, log s, tx, ty) from centred output pixels to centred input pixels; log s
        is -inf, up to rounding, for a mirror, to which no similarity is near: its angle means
        nothing, and slopes are NaN.

    Raises:
        ValueError: on a transformation that is not planar, a shape that is no two sizes, and as
            `warp_points`.

    Example:
        >>> from stn_jax.transforms import rotation
        >>> angle, log_scale, *_ = pose_at_centre(jnp.asarray([0.5]), rotation, (28, 28))
        >>> bool(jnp.allclose(angle, 0.5)), bool(jnp.allclose(log_scale, 0.0, atol=1e-6))
        (True, True)
    """
    check_transform(transform)
    if transform.ndim != 2:
        raise ValueError(f"transform must be planar; got {transform!r}")
    height, width = input_shape = check_sizes("input_shape", input_shape, 2)
    given = input_shape if output_shape is None else output_shape
    out_height, out_width = output_shape = check_sizes("output_shape", given, 2)
    dtype = at_least_float32(theta).dtype
    middle = jnp.asarray([(out_width - 1) / 2, (out_height - 1) / 2], dtype)

    def source(point: jax.Array) -> jax.Array:
        return warp_points(
            point,
            theta,
            transform,
            input_shape,
            to="input",
            output_shape=output_shape,
            align_corners=align_corners,
        )

    shift = source(middle) - jnp.asarray([(width - 1) / 2, (height - 1) / 2], dtype)
    (xx, xy), (yx, yy) = jax.jacfwd(source)(middle)
    cos, sin = (xx + yy) / 2, (yx - xy) / 2
    turned = jnp.stack([jnp.arctan2(sin, cos), jnp.log(jnp.hypot(cos, sin))])
    return jnp.concatenate([turned, shift])


def equivariance_error(
    applied: Float[Array, "4"], before: Float[Array, "4"], after: Float[Array, "4"]
) -> Float[jax.Array, "3"]:
    """How far a transformer is from following its image: 0 if it sees the same as before.

    Args:
        applied: the pose of the warp that the image was moved by: the moved image's pixel p shows
            what the image shows at `similarity.warp(applied, p)`.
        before: the pose of the transformer's frame on the image.
        after: that on the moved image.

    Returns:
        Angle in radians in (-pi, pi], log of the scale, and distance of the frames' centres in
        pixels, between the frame on the moved image, as seen in the image, and that before. Of a
        transformer that ignores its input it is what was applied.

    Example:
        >>> still = jnp.zeros(4)
        >>> equivariance_error(jnp.asarray([0.5, 0.0, 3.0, 4.0]), still, still)
        Array([0.5, 0. , 5. ], dtype=float32)
    """
    assert similarity.compose is not None
    difference = similarity.compose(jnp.asarray(applied), jnp.asarray(after)) - before
    angle, log_scale, x, y = difference
    wrapped = jnp.arctan2(jnp.sin(angle), jnp.cos(angle))
    return jnp.stack([wrapped, log_scale, jnp.hypot(x, y)])
