"""Poses: the similarity, in pixels, that is closest to a transformation.

A pose is laid out like a theta of `stn_jax.transforms.similarity`, (angle, log s, tx, ty), but it
acts on pixels from the centre of each image instead of normalised coordinates. Angles and scales
are therefore those seen on screen, even if images are not square. `similarity.compose`, `inverse`
and `warp` also work on poses.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_shape, check_sizes
from stn_jax._sharding import run_on_auto_axes
from stn_jax._types import Array, Number, float_dtype
from stn_jax.transforms import Transform, similarity
from stn_jax.transforms.base import as_theta, at_least_float32, check_transform
from stn_jax.warping import warp_points


def affine_from_pixels(
    matrix_px: Float[jax.Array, "2 3"], input_shape: Sequence[int], output_shape: Sequence[int]
) -> Float[jax.Array, "6"]:
    """Converts an affine map from pixels to a theta of `transforms.affine`.

    Convention: the map goes from output pixels to input pixels, each from the centre of its image.

    Args:
        matrix_px: matrix of the map; its rows give x and y.
        input_shape: (height, width) of the image that is warped. Static.
        output_shape: (height, width) of the output. Static.

    Returns:
        `[6]`, for `spatial_transform` without `align_corners`.

    Raises:
        ValueError: unless both shapes are two non-negative integers.

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
    return (matrix_px * to_output_px[None] / to_input_px[:, None]).ravel()


def affine_from_pose(
    pose: Float[Array, "4"], input_shape: Sequence[int], output_shape: Sequence[int]
) -> Float[jax.Array, "6"]:
    """Converts a pose to a theta of `transforms.affine`.

    Convention: the pose maps output pixels to input pixels, each from the centre of its image.

    Args:
        pose: (angle in radians, log s, tx, ty), with tx and ty in pixels.
        input_shape: (height, width) of the image that is warped. Static.
        output_shape: (height, width) of the output. Static.

    Returns:
        `[6]`, for `spatial_transform` without `align_corners`.

    Raises:
        ValueError: if the pose has another shape, or unless both shapes are two non-negative
            integers.

    Example:
        >>> affine_from_pose(jnp.asarray([0.0, 0.0, 3.0, 0.0]), (8, 6), (8, 6))[2]
        Array(1., dtype=float32)
    """
    return affine_from_pixels(similarity.matrix(jnp.asarray(pose)), input_shape, output_shape)


def affine_about(
    angle_deg: Number | np.floating,
    input_shape: Sequence[int],
    *,
    centre: Float[Array, "2"] | Sequence[float] | None = None,
    scale: Number | np.floating = 1.0,
    output_shape: Sequence[int] | None = None,
) -> Float[jax.Array, "6"]:
    """Makes the theta of `transforms.affine` that rotates and scales an image about a point.

    Angles and scales are those seen on screen, even if the image is not square. The rotation by a
    multiple of 90 degrees is exact. The content at the point does not move, relative to the centre
    of the image.

    Args:
        angle_deg: angle in degrees by which the content rotates, anticlockwise on screen. May be
            traced, as may `centre` and `scale`.
        input_shape: (height, width) of the image. Static.
        centre: the point (x, y) in pixels of the image; the centre of the first pixel is the
            origin. By default the centre of the image.
        scale: factor by which the content is enlarged.
        output_shape: (height, width) of the output, by default that of the image. Static.

    Returns:
        `[6]`, for `spatial_transform` without `align_corners`.

    Raises:
        ValueError: unless both shapes are two non-negative integers, and the point is two numbers.

    Example:
        >>> from stn_jax import spatial_transform, transforms
        >>> image = jnp.arange(6.0).reshape(2, 3, 1)
        >>> theta = affine_about(90.0, (2, 3), output_shape=(3, 2))
        >>> spatial_transform(image, theta, transforms.affine, output_shape=(3, 2))[..., 0]
        Array([[2., 5.],
               [1., 4.],
               [0., 3.]], dtype=float32)
    """
    height, width = check_sizes("input_shape", input_shape, 2)
    given = (height, width) if output_shape is None else output_shape
    output_sizes = check_sizes("output_shape", given, 2)
    image_centre = ((width - 1) / 2, (height - 1) / 2)
    given_numbers = (angle_deg, image_centre if centre is None else centre, scale)
    arrays = [
        each for each in given_numbers if isinstance(each, jax.Array | np.ndarray | np.generic)
    ]
    dtypes = [each.dtype for each in arrays] or [jnp.result_type(float)]
    dtype = float_dtype(*dtypes)  # that of the arrays, whatever Python's numbers become
    angle, pixel, factor = (jnp.asarray(each, dtype) for each in given_numbers)
    check_shape("centre", pixel.shape, "[2]", pixel.shape == (2,))
    shapes = {"input_shape": (height, width), "output_shape": output_sizes}
    return run_on_auto_axes(_affine_about, angle, pixel, factor, **shapes)


def _affine_about(
    angle_deg: jax.Array,
    centre: jax.Array,
    scale: jax.Array,
    *,
    input_shape: tuple[int, int],
    output_shape: tuple[int, int],
) -> jax.Array:
    """`affine_about` without checks."""
    height, width = input_shape
    x, y = centre[0] - (width - 1) / 2, centre[1] - (height - 1) / 2
    cos, sin = (each / scale for each in _cos_and_sin_deg(angle_deg))
    rows = [
        jnp.stack([cos, -sin, x - (cos * x - sin * y)]),
        jnp.stack([sin, cos, y - (sin * x + cos * y)]),
    ]
    return affine_from_pixels(jnp.stack(rows), input_shape, output_shape)


def _cos_and_sin_deg(angle_deg: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of an angle in degrees, exact for multiples of 90."""
    quarters = jax.lax.stop_gradient(jnp.round(angle_deg / 90))
    rest = (angle_deg - 90 * quarters) * (jnp.pi / 180)
    cos, sin, quarter = jnp.cos(rest), jnp.sin(rest), jnp.mod(quarters, 4)
    return (
        jnp.select([quarter == 0, quarter == 1, quarter == 2], [cos, -sin, -cos], sin),
        jnp.select([quarter == 0, quarter == 1, quarter == 2], [sin, cos, -sin], -cos),
    )


def pose_at_centre(
    theta: Float[Array, " num_params"],
    transform: Transform,
    input_shape: Sequence[int],
    *,
    output_shape: Sequence[int] | None = None,
    align_corners: bool = False,
) -> Float[jax.Array, "4"]:
    """Computes the pose of the similarity closest to a planar transformation at its centre.

    It is the least-squares fit to the Jacobian at the centre of the output, which homographies and
    splines have too. If the image is warped by a similarity first, the pose is composed with that
    of the similarity. Poses therefore show whether frames follow their images.

    Args:
        theta: flat parameters, `[transform.num_params]`.
        transform: a planar family. Static.
        input_shape: (height, width) of the image that is warped. Static.
        output_shape: (height, width) of the output, by default `input_shape`. Static.
        align_corners: as in `spatial_transform`. Static.

    Returns:
        (angle in radians, log s, tx, ty), from centred output pixels to centred input pixels. For
        a reflection, which no similarity approximates, log s is -inf up to rounding, the angle is
        meaningless and gradients are NaN.

    Raises:
        ValueError: if the transformation is not planar, unless both shapes are two non-negative
            integers, and as `warp_points`.

    Example:
        >>> from stn_jax.transforms import rotation
        >>> angle, log_scale, *_ = pose_at_centre(jnp.asarray([0.5]), rotation, (28, 28))
        >>> bool(jnp.allclose(angle, 0.5)), bool(jnp.allclose(log_scale, 0.0, atol=1e-6))
        (True, True)
    """
    check_transform(transform)
    if transform.ndim != 2:
        raise ValueError(f"transform must be planar; got {transform!r}")
    input_shape = check_sizes("input_shape", input_shape, 2)
    given = input_shape if output_shape is None else output_shape
    output_shape = check_sizes("output_shape", given, 2)
    theta = as_theta(theta, transform.num_params, transform.name)
    return run_on_auto_axes(
        _pose_at_centre,
        theta,
        transform=transform,
        input_shape=input_shape,
        output_shape=output_shape,
        align_corners=align_corners,
    )


def _pose_at_centre(
    theta: jax.Array,
    *,
    transform: Transform,
    input_shape: tuple[int, ...],
    output_shape: tuple[int, ...],
    align_corners: bool,
) -> jax.Array:
    """`pose_at_centre` without checks."""
    (height, width), (out_height, out_width), dtype = input_shape, output_shape, theta.dtype
    centre = jnp.asarray([(out_width - 1) / 2, (out_height - 1) / 2], dtype)

    def source_of(point: jax.Array) -> jax.Array:
        return warp_points(
            point,
            theta,
            transform,
            input_shape,
            to="input",
            output_shape=output_shape,
            align_corners=align_corners,
        )

    shift = source_of(centre) - jnp.asarray([(width - 1) / 2, (height - 1) / 2], dtype)
    (xx, xy), (yx, yy) = jax.jacfwd(source_of)(centre)
    cos, sin = (xx + yy) / 2, (yx - xy) / 2
    angle_and_log_scale = jnp.stack([jnp.arctan2(sin, cos), jnp.log(jnp.hypot(cos, sin))])
    return jnp.concatenate([angle_and_log_scale, shift])


def equivariance_error(
    applied: Float[Array, "4"], before: Float[Array, "4"], after: Float[Array, "4"]
) -> Float[jax.Array, "3"]:
    """Measures how far a transformer is from following the motion of its image.

    A transformer that follows exactly produces the same output before and after the image moves,
    and has error 0.

    Args:
        applied: pose of the warp that moved the image: pixel p of the moved image shows what the
            original image shows at `similarity.warp(applied, p)`.
        before: pose of the transformer's frame on the original image.
        after: pose of the transformer's frame on the moved image.

    Returns:
        Angle in radians in (-pi, pi], log of the scale, and distance of the centres in pixels,
        between the frame on the moved image, mapped back to the original image, and the frame
        before. If the transformer ignores its input, angle and log scale are those of `applied`.

    Example:
        >>> still = jnp.zeros(4)
        >>> equivariance_error(jnp.asarray([0.5, 0.0, 3.0, 4.0]), still, still)
        Array([0.5, 0. , 5. ], dtype=float32)
    """
    return run_on_auto_axes(_equivariance_error, applied, before, after)


def _equivariance_error(applied: Array, before: Array, after: Array) -> jax.Array:
    difference = similarity.compose(jnp.asarray(applied), jnp.asarray(after)) - before
    angle, log_scale, x, y = difference
    wrapped = jnp.arctan2(jnp.sin(angle), jnp.cos(angle))
    return jnp.stack([wrapped, log_scale, jnp.hypot(x, y)])
