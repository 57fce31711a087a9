"""Images extruded to solids, and rotated and placed in a volume.

A solid has a given depth and is centred. Each of its voxels holds an equal part of the pixel in
front of it, so the sum along the depth is the image again: the view from the front.

Source: Jaderberg et al. (2015), appendix A.3. The paper leaves some details open. Here the axis of
the rotation is uniform over all directions. A "random place" means a uniform shift that keeps a
cube, as large as the image's larger side, on the canvas.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import check_sizes
from stn_jax._types import Array, Number
from stn_jax.distortions._common import Image, Shape, check_image, draw_angle
from stn_jax.sampling import grid_sample
from stn_jax.transforms import affine_3d, rigid_3d
from stn_jax.transforms.base import matmul
from stn_jax.warping import transform_grid

Volume = Float[jax.Array, "out_d out_h out_w c"]


def extrude(
    image: Image, theta: Float[Array, "12"], *, canvas: Shape = (32, 32, 32), depth: int = 8
) -> Volume:
    """Extrudes an image to a solid and warps it into a volume by trilinear sampling.

    All layers of the solid are equal, so the trilinear sample is the bilinear sample of the image
    times a weight that depends on the depth. The solid itself is never stored, and the image is
    sampled by the 2-D sampler, at no extra cost.

    Args:
        image: `[h, w, c]`, floating.
        theta: of `affine_3d`, from the canvas to the solid `[depth, h, w]`.
        canvas: (depth, height, width) of the output. Static.
        depth: thickness of the solid in voxels. Static.

    Returns:
        `[*canvas, c]` in the image's dtype.

    Raises:
        ValueError: if the image has another rank, `canvas` is not three non-negative integers or
            `depth` is not a positive integer.

    Example:
        >>> volume = extrude(jnp.ones((28, 28, 1)), affine_3d.identity, canvas=(8, 28, 28))
        >>> round(float(volume[0, 14, 14, 0]), 4)
        0.125
    """
    check_image(image)
    depth = _check_depth(depth)
    points = transform_grid(jnp.asarray(theta), affine_3d, check_sizes("canvas", canvas, 3))
    from_middle_px = jnp.abs(points[..., 2:]) * depth / 2
    weight = jnp.clip((depth + 1) / 2 - from_middle_px, 0, 1) / depth
    sampled = grid_sample(image, points[..., :2])
    return sampled * weight.astype(sampled.dtype)


def draw_extrusion(
    key: PRNGKeyArray,
    image_shape: Shape,
    *,
    canvas: Shape = (32, 32, 32),
    depth: int = 8,
    max_angle_rad: Number = math.pi / 2,
) -> Float[jax.Array, "12"]:
    """Draws the theta of `random_extrusion` (affine_3d): a rotation and a random place.

    Args:
        key: the source of the random axis, angle and place.
        image_shape: (height, width). Static.
        canvas, depth, max_angle_rad: as for `random_extrusion`.

    Returns:
        `[12]`, from canvas to solid, for `extrude`.

    Raises:
        ValueError: unless `image_shape` is two non-negative integers and the options are valid for
            `random_extrusion`.
    """
    sizes = check_sizes("canvas", canvas, 3)
    height, width = check_sizes("image_shape", image_shape, 2)
    side = max(height, width, _check_depth(depth))
    if min(sizes) < side:
        raise ValueError(f"canvas must be at least {side} on each axis; got {list(sizes)}")
    axis_key, angle_key, place_key = jax.random.split(key, 3)
    linear = _rotation(jax.random.normal(axis_key, (3,)), draw_angle(angle_key, max_angle_rad))
    room = (jnp.asarray(sizes[::-1], jnp.float32) - side) / 2
    shift_px = jax.random.uniform(place_key, (3,), minval=-room, maxval=room)
    # Undo the shift, then the rotation, in pixels.
    matrix_px = jnp.concatenate([linear, -matmul(linear, shift_px[:, None])], axis=1)
    # Normalised coordinates count in halves of the canvas and of the solid.
    to_canvas_px = jnp.asarray([*(size / 2 for size in reversed(sizes)), 1.0])
    to_solid_px = jnp.asarray([width / 2, height / 2, depth / 2])
    return (matrix_px * to_canvas_px[None] / to_solid_px[:, None]).ravel()


def random_extrusion(
    key: PRNGKeyArray,
    image: Image,
    *,
    canvas: Shape = (32, 32, 32),
    depth: int = 8,
    max_angle_rad: Number = math.pi / 2,
) -> Volume:
    """Extrudes an image to a solid, rotated about a random axis, at a random place of a volume.

    Args:
        key: the source of the random axis, angle and place.
        image: `[h, w, c]`, floating.
        canvas: (depth, height, width) of the output; 60 each in the paper. Static.
        depth: thickness of the solid in voxels. Static.
        max_angle_rad: the largest angle, in radians.

    Returns:
        `[*canvas, c]`.

    Raises:
        ValueError: if the image has another rank or is larger than the canvas, the depth is not a
            positive integer, or the angle is negative or not finite.

    Example:
        >>> random_extrusion(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (32, 32, 32, 1)
    """
    shape = check_image(image)
    theta = draw_extrusion(key, shape, canvas=canvas, depth=depth, max_angle_rad=max_angle_rad)
    return extrude(image, theta, canvas=canvas, depth=depth)


def _rotation(axis: Float[jax.Array, "3"], angle_rad: jax.Array) -> Float[jax.Array, "3 3"]:
    """The matrix of a rotation about an axis of any length."""
    theta = jnp.concatenate([angle_rad * axis / jnp.linalg.norm(axis), jnp.zeros(3)])
    return rigid_3d.warp(theta, jnp.eye(3)).T


def _check_depth(depth: int) -> int:
    """Returns `depth` as an int, or raises `ValueError` unless it is a positive integer."""
    (size,) = check_sizes("depth", (depth,), 1)
    if size == 0:
        raise ValueError("depth must be positive; got 0")
    return size
