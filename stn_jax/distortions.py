"""The paper's distorted images, drawn at random: pure functions of a key and an image.

Each is one warp of `stn_jax.spatial_transform`, with a theta drawn from the key (`draw_r`, ...).
Angles, shifts and noise are in pixels, rigid also where the image is not square. What comes from
outside the image is 0, the background of a digit.

Source: Jaderberg et al. (2015), section 4.1 and appendix A.4. Where the paper is silent: R, P and E
keep the image's own shape as canvas; "a uniform random place" puts the centre of the undistorted
image anywhere that leaves all of it on the canvas; P moves the corners of the sampled frame.

`extruded` (appendix A.3), from an image to a volume, is defined in `stn_jax.extrusion`.
"""

import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import as_numbers, check_at_least_0, check_shape, check_sizes, is_traced
from stn_jax._types import Array, Number
from stn_jax.extrusion import draw_extruded, extrude, extruded
from stn_jax.poses import affine_from_pixels
from stn_jax.transforms import affine, projective, thin_plate_spline
from stn_jax.transforms.base import homogeneous, matmul
from stn_jax.transforms.thin_plate_spline import control_point_grid
from stn_jax.warping import spatial_transform

Shape = Sequence[int]
Image = Float[Array, "h w c"]
Output = Float[jax.Array, "out_h out_w c"]

__all__ = [
    "ELASTIC_CONTROL_POINTS",
    "draw_e",
    "draw_extruded",
    "draw_jitter",
    "draw_p",
    "draw_r",
    "draw_rts",
    "draw_t",
    "e",
    "extrude",
    "extruded",
    "image_key",
    "jitter",
    "p",
    "r",
    "rts",
    "t",
    "tc",
]

ELASTIC_CONTROL_POINTS = (4, 4)


def _image_shape(image: Array) -> tuple[int, int]:
    """Height and width of an image `[h, w, c]`."""
    shape = jnp.shape(image)
    check_shape("image", shape, "[h, w, c]", len(shape) == 3)
    return shape[0], shape[1]


def _check_canvas(canvas: Shape, image_shape: Shape) -> tuple[int, ...]:
    """`canvas` as a tuple, or `ValueError` where an image does not fit on it whole."""
    sizes, least = check_sizes("canvas", canvas, 2), check_sizes("image_shape", image_shape, 2)
    if sizes[0] < least[0] or sizes[1] < least[1]:
        raise ValueError(f"canvas must be at least the image's {list(least)}; got {list(sizes)}")
    return sizes


def _draw_scale(key: PRNGKeyArray, scale: tuple[Number, Number]) -> Float[jax.Array, ""]:
    """A factor between the smallest and the largest scale."""
    if not is_traced(scale):
        pair = as_numbers(scale)
        if pair is None or pair.shape != (2,) or not 0 < pair[0] <= pair[1] < math.inf:
            raise ValueError(f"scale must be two finite numbers, 0 < low <= high; got {scale!r}")
    return jax.random.uniform(key, (), minval=scale[0], maxval=scale[1])


def _draw_angle(key: PRNGKeyArray, max_angle_rad: Number) -> Float[jax.Array, ""]:
    check_at_least_0("max_angle_rad", max_angle_rad)
    return jax.random.uniform(key, (), minval=-max_angle_rad, maxval=max_angle_rad)


def _draw_noise(
    key: PRNGKeyArray, image_shape: Shape, sigma_px: Number, count: int
) -> Float[jax.Array, "count 2"]:
    """Shifts N(0, sigma_px) of points of an image, in normalised units."""
    check_at_least_0("sigma_px", sigma_px)
    height, width = check_sizes("image_shape", image_shape, 2)
    half = jnp.asarray([width, height]) / 2
    return jax.random.normal(key, (count, 2)) * sigma_px / half


def _rotate_scale_shift(
    angle_rad: jax.Array, scale: jax.Array | float, shift_px: jax.Array
) -> Float[jax.Array, "2 3"]:
    """From canvas to image, in pixels: undo the shift, then the scale and the rotation."""
    cos, sin = jnp.cos(angle_rad) / scale, jnp.sin(angle_rad) / scale
    linear = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    return jnp.concatenate([linear, -matmul(linear, shift_px[:, None])], axis=1)


def _draw_place(key: PRNGKeyArray, image_shape: Shape, canvas: Shape) -> Float[jax.Array, "2"]:
    """A shift (x, y) in pixels that keeps an image of `image_shape` whole on the canvas."""
    canvas = _check_canvas(canvas, image_shape)
    room = jnp.asarray([canvas[1] - image_shape[1], canvas[0] - image_shape[0]]) / 2
    return jax.random.uniform(key, (2,), minval=-room, maxval=room)


def draw_r(
    key: PRNGKeyArray, image_shape: Shape, *, max_angle_rad: Number = math.pi / 2
) -> Float[jax.Array, "6"]:
    """Theta (affine) of R: a rotation by U(-max_angle_rad, max_angle_rad).

    Args:
        key: what the angle is drawn from.
        image_shape: (height, width). Static.
        max_angle_rad: as for `r`.

    Returns:
        `[6]`, from output to image, which are of one shape.

    Raises:
        ValueError: on an `image_shape` that is no two sizes, or an angle that `r` refuses.
    """
    image_shape = check_sizes("image_shape", image_shape, 2)
    angle = _draw_angle(key, max_angle_rad)
    matrix = _rotate_scale_shift(angle, 1.0, jnp.zeros(2))
    return affine_from_pixels(matrix, image_shape, image_shape)


def r(key: PRNGKeyArray, image: Image, *, max_angle_rad: Number = math.pi / 2) -> Output:
    """R: the image rotated by a uniform angle, ±90° in the paper.

    Args:
        key: what the angle is drawn from.
        image: `[h, w, c]`, floating.
        max_angle_rad: the largest angle, in radians.

    Returns:
        `[h, w, c]`.

    Raises:
        ValueError: on an image of another rank, or an angle that is negative or not finite.

    Example:
        >>> r(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (28, 28, 1)
    """
    theta = draw_r(key, _image_shape(image), max_angle_rad=max_angle_rad)
    return spatial_transform(image, theta, affine)


def draw_rts(
    key: PRNGKeyArray,
    image_shape: Shape,
    *,
    canvas: Shape = (42, 42),
    max_angle_rad: Number = math.pi / 4,
    scale: tuple[Number, Number] = (0.7, 1.2),
) -> Float[jax.Array, "6"]:
    """Theta (affine, canvas to image) of RTS: rotation, uniform scale and a random place.

    Args:
        key: what they are drawn from.
        image_shape: (height, width), at most the canvas's. Static.
        canvas, max_angle_rad, scale: as for `rts`.

    Returns:
        `[6]`, from canvas to image.

    Raises:
        ValueError: on an `image_shape` that is no two sizes, and on what `rts` refuses.
    """
    angle_key, scale_key, place_key = jax.random.split(key, 3)
    angle, factor = _draw_angle(angle_key, max_angle_rad), _draw_scale(scale_key, scale)
    place = _draw_place(place_key, image_shape, canvas)
    return affine_from_pixels(_rotate_scale_shift(angle, factor, place), image_shape, canvas)


def rts(
    key: PRNGKeyArray,
    image: Image,
    *,
    canvas: Shape = (42, 42),
    max_angle_rad: Number = math.pi / 4,
    scale: tuple[Number, Number] = (0.7, 1.2),
) -> Output:
    """RTS: the image rotated, scaled and put at a random place of a larger canvas.

    Args:
        key: what angle, scale and place are drawn from.
        image: `[h, w, c]`, floating.
        canvas: (height, width) of the output.
        max_angle_rad: the largest angle, in radians.
        scale: the smallest and the largest scale.

    Returns:
        `[*canvas, c]`.

    Raises:
        ValueError: on an image of another rank or larger than the canvas, an angle that is
            negative or not finite, or a scale that is not 0 < low <= high.

    Example:
        >>> rts(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (42, 42, 1)
    """
    theta = draw_rts(
        key, _image_shape(image), canvas=canvas, max_angle_rad=max_angle_rad, scale=scale
    )
    return spatial_transform(image, theta, affine, output_shape=canvas)


def draw_p(
    key: PRNGKeyArray,
    image_shape: Shape,
    *,
    scale: tuple[Number, Number] = (0.75, 1.0),
    sigma_px: Number = 5.0,
) -> Float[jax.Array, "8"]:
    """Theta (projective) of P: the frame's corners, scaled, then each moved by N(0, sigma_px).

    Made for shifts that are small beside the image. Where the four corners are left not convex, one
    lies behind the horizon, and the output shows nothing there: of 28 x 28 pixels and the default
    scale in 0.09 % of draws at 5 px, in 2.2 % at 7 and in 14 % at 10.

    Args:
        key: what they are drawn from.
        image_shape: (height, width). Static.
        scale, sigma_px: as for `p`.

    Returns:
        `[8]`, from output to image, which are of one shape.

    Raises:
        ValueError: on an `image_shape` that is no two sizes, and on what `p` refuses.
    """
    scale_key, noise_key = jax.random.split(key)
    factor = _draw_scale(scale_key, scale)
    noise = _draw_noise(noise_key, image_shape, sigma_px, len(_SQUARE))
    return _square_to_quadrilateral(jnp.asarray(_SQUARE) / factor + noise)


_SQUARE = np.asarray([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], np.float32)


def _square_to_quadrilateral(corners: Float[jax.Array, "4 2"]) -> Float[jax.Array, "8"]:
    """Projective theta that maps the corners of [-1, 1]², in the order of `_SQUARE`, to `corners`.

    Source: Heckbert (1989), section 2.2.3, for the unit square.
    """
    a, b, c, d = corners
    bend = a - b + c - d
    first, second = b - c, d - c
    area = first[0] * second[1] - second[0] * first[1]
    g = (bend[0] * second[1] - second[0] * bend[1]) / area
    h = (first[0] * bend[1] - bend[0] * first[1]) / area
    unit_to_corners = jnp.stack(
        [
            jnp.stack([b[0] - a[0] + g * b[0], d[0] - a[0] + h * d[0], a[0]]),
            jnp.stack([b[1] - a[1] + g * b[1], d[1] - a[1] + h * d[1], a[1]]),
            jnp.stack([g, h, jnp.ones_like(g)]),
        ]
    )
    square_to_unit = homogeneous(jnp.asarray([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]))
    matrix = matmul(unit_to_corners, square_to_unit)
    return (matrix / matrix[2, 2]).ravel()[:8]


def p(
    key: PRNGKeyArray,
    image: Image,
    *,
    scale: tuple[Number, Number] = (0.75, 1.0),
    sigma_px: Number = 5.0,
) -> Output:
    """P: the image scaled and seen in perspective.

    Args:
        key: what scale and corners are drawn from.
        image: `[h, w, c]`, floating.
        scale: the smallest and the largest scale.
        sigma_px: standard deviation of a corner's shift, in pixels of the image, on each axis; see
            `draw_p` for how large it may be.

    Returns:
        `[h, w, c]`.

    Raises:
        ValueError: on an image of another rank, a deviation that is negative or not finite, or a
            scale that is not 0 < low <= high.

    Example:
        >>> p(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (28, 28, 1)
    """
    theta = draw_p(key, _image_shape(image), scale=scale, sigma_px=sigma_px)
    return spatial_transform(image, theta, projective)


def draw_e(
    key: PRNGKeyArray,
    image_shape: Shape,
    *,
    scale: tuple[Number, Number] = (0.75, 1.0),
    sigma_px: Number = 1.5,
) -> Float[jax.Array, "32"]:
    """Theta (thin plate spline, 4 x 4) of E: a scale, control points moved by N(0, sigma_px).

    Args:
        key: what they are drawn from.
        image_shape: (height, width). Static.
        scale, sigma_px: as for `e`.

    Returns:
        `[32]`, from output to image, which are of one shape; of `thin_plate_spline` with
        `ELASTIC_CONTROL_POINTS`.

    Raises:
        ValueError: on an `image_shape` that is no two sizes, and on what `e` refuses.
    """
    scale_key, noise_key = jax.random.split(key)
    factor = _draw_scale(scale_key, scale)
    controls = jnp.asarray(control_point_grid(*ELASTIC_CONTROL_POINTS), jnp.float32)
    noise = _draw_noise(noise_key, image_shape, sigma_px, len(controls))
    # A spline follows an affine motion of its control points exactly, so the scale is one too.
    return ((controls + noise) / factor - controls).ravel()


def e(
    key: PRNGKeyArray,
    image: Image,
    *,
    scale: tuple[Number, Number] = (0.75, 1.0),
    sigma_px: Number = 1.5,
) -> Output:
    """E: the image scaled and bent by a thin plate spline.

    Args:
        key: what scale and control points are drawn from.
        image: `[h, w, c]`, floating.
        scale: the smallest and the largest scale.
        sigma_px: standard deviation of a control point's shift, in pixels of the output (the scale
            is undone first, not as in `p`), on each axis.

    Returns:
        `[h, w, c]`.

    Raises:
        ValueError: on an image of another rank, a deviation that is negative or not finite, or a
            scale that is not 0 < low <= high.

    Example:
        >>> e(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (28, 28, 1)
    """
    theta = draw_e(key, _image_shape(image), scale=scale, sigma_px=sigma_px)
    return spatial_transform(image, theta, thin_plate_spline(ELASTIC_CONTROL_POINTS))


def draw_t(
    key: PRNGKeyArray, image_shape: Shape, *, canvas: Shape = (84, 84)
) -> Float[jax.Array, "6"]:
    """Theta (affine, canvas to image) of T: a random place.

    Args:
        key: what the place is drawn from.
        image_shape: (height, width), at most the canvas's. Static.
        canvas: as for `t`.

    Returns:
        `[6]`, from canvas to image.

    Raises:
        ValueError: on an `image_shape` that is no two sizes, or a canvas that `t` refuses.
    """
    place = _draw_place(key, image_shape, canvas)
    return affine_from_pixels(_rotate_scale_shift(jnp.zeros(()), 1.0, place), image_shape, canvas)


def t(key: PRNGKeyArray, image: Image, *, canvas: Shape = (84, 84)) -> Output:
    """T: the image at a random place of a larger canvas.

    Args:
        key: what the place is drawn from.
        image: `[h, w, c]`, floating.
        canvas: (height, width) of the output.

    Returns:
        `[*canvas, c]`.

    Raises:
        ValueError: on an image of another rank or larger than the canvas.

    Example:
        >>> t(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (84, 84, 1)
    """
    theta = draw_t(key, _image_shape(image), canvas=canvas)
    return spatial_transform(image, theta, affine, output_shape=canvas)


def tc(
    key: PRNGKeyArray,
    image: Image,
    others: Float[Array, "crops h w c"],
    *,
    canvas: Shape = (60, 60),
    crop_size: int = 6,
) -> Output:
    """TC: T with clutter, a small square cropped from each of some other images.

    Args:
        key: what the places are drawn from; the image's is `draw_t`'s for `image_key(key)`.
        image: `[h, w, c]`, floating.
        others: the images to crop from, one crop each: six in the paper's classification, sixteen
            in its co-localisation.
        canvas: (height, width) of the output.
        crop_size: side of a crop in pixels. Static.

    Returns:
        `[*canvas, c]`: at each pixel the brightest of the image and the crops.

    Raises:
        ValueError: on an image of another rank or larger than the canvas, `others` that are not
            images of the same kind, or a `crop_size` that is no whole number from 1 to what fits
            in them and on the canvas.

    Example:
        >>> others = jnp.ones((6, 28, 28, 1))
        >>> tc(jax.random.key(0), jnp.ones((28, 28, 1)), others).shape
        (60, 60, 1)
    """
    canvas = _check_canvas(canvas, _image_shape(image))
    fits = others.ndim == 4 and others.shape[-1] == image.shape[-1]
    check_shape("others", others.shape, f"[crops, h, w, {image.shape[-1]}]", fits)
    largest = min(*canvas, *others.shape[1:3])
    try:
        side = operator.index(crop_size)
    except TypeError:
        side = 0
    if not 1 <= side <= largest:
        allowed = f"a whole number between 1 and {largest}"
        raise ValueError(f"crop_size must be {allowed}; got {crop_size!r}")

    def draw_crop(key: PRNGKeyArray, other: jax.Array) -> tuple[jax.Array, jax.Array]:
        from_key, to_key = jax.random.split(key)
        start = jax.random.randint(from_key, (2,), 0, jnp.asarray(other.shape[:2]) - crop_size + 1)
        size = (crop_size, crop_size, other.shape[-1])
        crop = jax.lax.dynamic_slice(other, (start[0], start[1], 0), size)
        return crop, jax.random.randint(to_key, (2,), 0, jnp.asarray(canvas) - crop_size + 1)

    placed = t(image_key(key), image, canvas=canvas)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(others))
    crops, places = jax.vmap(draw_crop)(keys, jnp.asarray(others, placed.dtype))
    rows, columns = (places[:, axis, None] + jnp.arange(crop_size) for axis in range(2))
    clutter = jnp.zeros(placed.shape, placed.dtype)
    clutter = clutter.at[rows[:, :, None], columns[:, None, :]].max(crops)
    # Without the barrier XLA merges the sampler into what reads the clutter, and runs it several
    # times: an image takes 270 us on a CPU core, 50 with it.
    return jnp.maximum(*jax.lax.optimization_barrier((placed, clutter)))


def image_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """The part of a key of `tc` that places the image.

    Args:
        key: of `tc`.

    Returns:
        A key from which `draw_t`, with `tc`'s canvas, draws the place of the image.
    """
    return jax.random.fold_in(key, 0)


def _check_max_scale(max_scale: Number) -> None:
    """Raises `ValueError` unless it is traced, or a finite number of at least 1."""
    if is_traced(max_scale):
        return
    number = as_numbers(max_scale)
    if number is None or number.shape != () or not 1 <= number < math.inf:
        raise ValueError(f"max_scale must be finite and at least 1; got {max_scale!r}")


def draw_jitter(
    key: PRNGKeyArray,
    image_shape: Shape,
    *,
    max_angle_rad: Number = 0.0,
    max_scale: Number = 1.0,
    max_shift_px: Number = 0.0,
) -> Float[jax.Array, "6"]:
    """Theta (affine) of `jitter`, before it bends: a rotation, a scale and a shift.

    Args:
        key: what they are drawn from.
        image_shape: (height, width). Static.
        max_angle_rad, max_scale, max_shift_px: as for `jitter`.

    Returns:
        `[6]`, from output to image, which are of one shape.

    Raises:
        ValueError: on an `image_shape` that is no two sizes, and on what `jitter` refuses.
    """
    image_shape = check_sizes("image_shape", image_shape, 2)
    check_at_least_0("max_shift_px", max_shift_px)
    _check_max_scale(max_scale)
    angle_key, scale_key, place_key = jax.random.split(key, 3)
    angle = _draw_angle(angle_key, max_angle_rad)
    # On a log scale, so that an image grows as often as it shrinks.
    exponent = jax.random.uniform(scale_key, (), minval=-1.0, maxval=1.0)
    shift = jax.random.uniform(place_key, (2,), minval=-max_shift_px, maxval=max_shift_px)
    matrix = _rotate_scale_shift(angle, max_scale**exponent, shift)
    return affine_from_pixels(matrix, image_shape, image_shape)


def jitter(
    key: PRNGKeyArray,
    image: Image,
    *,
    max_angle_rad: Number = 0.0,
    max_scale: Number = 1.0,
    max_shift_px: Number = 0.0,
    sigma_px: Number = 0.0,
) -> Output:
    """An image moved and bent a little, to train on more than there is; the edge goes on outside.

    Args:
        key: what angle, scale, shift and control points are drawn from.
        image: `[h, w, c]`, floating.
        max_angle_rad: the largest angle, in radians.
        max_scale: the largest scale, at least 1; the smallest is its inverse.
        max_shift_px: the largest shift along each axis, in pixels.
        sigma_px: standard deviation of the shift of each of 4 x 4 control points of a thin plate
            spline, in pixels, on each axis; 0 bends nothing and takes less time.

    Returns:
        `[h, w, c]`.

    Raises:
        ValueError: on an image of another rank, an angle, a shift or a deviation that is negative
            or not finite, or a scale that is below 1 or not finite.

    Example:
        >>> jitter(jax.random.key(0), jnp.ones((32, 32, 3)), max_shift_px=2.0).shape
        (32, 32, 3)
    """
    shape = _image_shape(image)
    theta = draw_jitter(
        key,
        shape,
        max_angle_rad=max_angle_rad,
        max_scale=max_scale,
        max_shift_px=max_shift_px,
    )
    if not is_traced(sigma_px) and sigma_px == 0:
        return spatial_transform(image, theta, affine, padding_mode="border")
    controls = jnp.asarray(control_point_grid(*ELASTIC_CONTROL_POINTS), jnp.float32)
    # The parts 0, 1 and 2 of the key are those that `draw_jitter` splits it into.
    noise = _draw_noise(jax.random.fold_in(key, 3), shape, sigma_px, len(controls))
    # A spline follows an affine motion of its control points exactly, so one warp does both.
    bent = (affine.warp(theta, controls) + noise - controls).ravel()
    spline = thin_plate_spline(ELASTIC_CONTROL_POINTS)
    return spatial_transform(image, bent, spline, padding_mode="border")
