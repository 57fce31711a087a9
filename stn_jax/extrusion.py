"""Images extruded to solids and turned in a volume: pure functions, as those of `distortions`.

A solid is as deep as told, and centred; each of its voxels holds an equal part of the pixel that it
stands behind. Seen from the front, which is summed along its depth, it is the image again.

Source: Jaderberg et al. (2015), appendix A.3. Where the paper is silent: the axis of the rotation
is uniform over all directions; "a random place" puts the solid's centre anywhere that leaves a cube
of the image's larger side on the canvas.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray

from stn_jax._checks import check_at_least_0, check_shape, check_sizes
from stn_jax._types import Array, Number
from stn_jax.sampling import grid_sample
from stn_jax.transforms import affine_3d, rigid_3d
from stn_jax.transforms.base import matmul
from stn_jax.warping import transform_grid

Shape = Sequence[int]
Image = Float[Array, "h w c"]
Volume = Float[jax.Array, "out_d out_h out_w c"]


def extrude(
    image: Image, theta: Float[Array, "12"], *, canvas: Shape = (32, 32, 32), depth: int = 8
) -> Volume:
    """A volume with a solid in it: a trilinear warp of the extruded image.

    All layers of a solid being equal, what its eight taps add up to is the bilinear sample of the
    image times a weight in depth. No solid is stored, and images are sampled as fast as ever.

    Args:
        image: `[h, w, c]`, floating.
        theta: of `affine_3d`, from the canvas to the solid `[depth, h, w]`.
        canvas: (depth, height, width) of the output. Static.
        depth: thickness of the solid in voxels. Static.

    Returns:
        `[*canvas, c]` in the image's dtype.

    Raises:
        ValueError: on an image of another rank, or sizes that are no positive integers.

    Example:
        >>> volume = extrude(jnp.ones((28, 28, 1)), affine_3d.identity, canvas=(8, 28, 28))
        >>> float(volume[0, 0, 0, 0])
        0.125
    """
    check_shape("image", jnp.shape(image), "[h, w, c]", jnp.ndim(image) == 3)
    depth = _check_depth(depth)
    points = transform_grid(jnp.asarray(theta), affine_3d, check_sizes("canvas", canvas, 3))
    from_middle_px = jnp.abs(points[..., 2:]) * depth / 2
    weight = jnp.clip((depth + 1) / 2 - from_middle_px, 0, 1) / depth
    sampled = grid_sample(image, points[..., :2])
    return sampled * weight.astype(sampled.dtype)


def draw_extruded(
    key: PRNGKeyArray,
    image_shape: Shape,
    *,
    canvas: Shape = (32, 32, 32),
    depth: int = 8,
    max_angle_rad: Number = math.pi / 2,
) -> Float[jax.Array, "12"]:
    """Theta (affine_3d, canvas to solid) of `extruded`: a rotation and a random place.

    Args:
        key: what they are drawn from.
        image_shape: (height, width). Static.
        canvas, depth, max_angle_rad: as for `extruded`.

    Returns:
        `[12]`, from canvas to solid, for `extrude`.

    Raises:
        ValueError: on an `image_shape` that is no two sizes, and on what `extruded` refuses.
    """
    sizes = check_sizes("canvas", canvas, 3)
    height, width = check_sizes("image_shape", image_shape, 2)
    side = max(height, width, _check_depth(depth))
    if min(sizes) < side:
        raise ValueError(f"canvas must be at least {side} on each axis; got {list(sizes)}")
    check_at_least_0("max_angle_rad", max_angle_rad)
    axis_key, angle_key, place_key = jax.random.split(key, 3)
    axis = jax.random.normal(axis_key, (3,))
    angle = jax.random.uniform(angle_key, (), minval=-max_angle_rad, maxval=max_angle_rad)
    turn = jnp.concatenate([angle * axis / jnp.linalg.norm(axis), jnp.zeros(3)])
    linear = rigid_3d.warp(turn, jnp.eye(3)).T
    room = (jnp.asarray(sizes[::-1], jnp.float32) - side) / 2
    shift_px = jax.random.uniform(place_key, (3,), minval=-room, maxval=room)
    # In pixels: undo the shift, then the rotation. Then in units of half a canvas and half a solid.
    matrix_px = jnp.concatenate([linear, -matmul(linear, shift_px[:, None])], axis=1)
    to_canvas_px = jnp.asarray([*(size / 2 for size in reversed(sizes)), 1.0])
    to_solid_px = jnp.asarray([width / 2, height / 2, depth / 2])
    return (matrix_px * to_canvas_px / to_solid_px[:, None]).ravel()


def extruded(
    key: PRNGKeyArray,
    image: Image,
    *,
    canvas: Shape = (32, 32, 32),
    depth: int = 8,
    max_angle_rad: Number = math.pi / 2,
) -> Volume:
    """The image as a solid, turned about a random axis, at a random place of a volume.

    Args:
        key: what axis, angle and place are drawn from.
        image: `[h, w, c]`, floating.
        canvas: (depth, height, width) of the output; 60 each in the paper.
        depth: thickness of the solid in voxels.
        max_angle_rad: the largest angle, in radians.

    Returns:
        `[*canvas, c]`.

    Raises:
        ValueError: on an image of another rank or larger than the canvas, a depth that is no
            positive integer, or an angle that is negative or not finite.

    Example:
        >>> extruded(jax.random.key(0), jnp.ones((28, 28, 1))).shape
        (32, 32, 32, 1)
    """
    shape = jnp.shape(image)
    check_shape("image", shape, "[h, w, c]", len(shape) == 3)
    options = {"canvas": canvas, "depth": depth}
    theta = draw_extruded(key, shape[:2], max_angle_rad=max_angle_rad, **options)
    return extrude(image, theta, **options)


def _check_depth(depth: int) -> int:
    (size,) = check_sizes("depth", (depth,), 1)
    if size == 0:
        raise ValueError("depth must be positive; got 0")
    return size
