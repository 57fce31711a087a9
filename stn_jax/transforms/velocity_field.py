"""The velocity field: a smooth, invertible warp that integrates velocities on a coarse grid."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax import fields
from stn_jax._checks import as_numbers, one_line
from stn_jax._types import Array
from stn_jax.sampling import grid_sample
from stn_jax.transforms.base import Transform, as_points, as_theta, cache_one_object

# Cells of the grid on which velocities are integrated, per cell of the control grid.
REFINEMENT = 4


def velocity_field(control_shape: Sequence[int] = (5, 5)) -> Transform:
    """Makes the diffeomorphic transformation of velocities at the points of a regular grid.

    The velocity is a cubic B-spline with the control points' velocities as coefficients; outside
    the grid it continues as at the border. The source of a target point is where the flow carries
    it in one unit of time. The flow does not fold, and minus theta is its inverse, both up to
    discretisation: the velocity is integrated by `fields.exponential` on a grid with four cells per
    cell of the control grid.

    Convention: theta is flat and holds the velocities (vx, vy[, vz]) of the control points, in
    normalised units per unit of time; row by row, as the pixels of an image. Zeros are the
    identity.

    Args:
        control_shape: (rows, columns) of the control grid over [-1, 1]², or (slices, rows, columns)
            over [-1, 1]³ for volumes; at least 2 each.

    Returns:
        A `Transform` with as many parameters as velocity components and an inverse, without matrix
        and composition. Equal arguments return the same object.

    Raises:
        ValueError: unless `control_shape` is two or three whole numbers of at least 2.

    Example:
        >>> flow = velocity_field((3, 3))
        >>> theta, point = jnp.full(18, 0.25), jnp.asarray([0.5, 0.0])
        >>> bool(jnp.allclose(flow.warp(theta, point), point + 0.25))
        True

    Source: Arsigny et al. (2006); Dalca et al. (2018).
    """
    sizes = as_numbers(control_shape)
    if sizes is None or sizes.dtype.kind not in "iu" or sizes.shape not in ((2,), (3,)):
        sizes = np.zeros(2, int)  # rejected below
    if sizes.min() < 2:
        raise ValueError(
            "control_shape must be two or three whole numbers of at least 2; "
            f"got {one_line(control_shape)}"
        )
    return _cached_field(tuple(sizes.tolist()))


@cache_one_object
def _cached_field(control_shape: tuple[int, ...]) -> Transform:
    name, ndim = "velocity_field", len(control_shape)
    num_params = ndim * int(np.prod(control_shape))
    weights = [_spline_matrix(size) for size in control_shape]
    # Pixels of the fine grid per normalised unit, for x, y[, z].
    scale = np.asarray([(len(each) - 1) / 2 for each in reversed(weights)])

    def warp(theta: Array, points: Array) -> jax.Array:
        theta, points = as_theta(theta, num_params, name), as_points(points, ndim, name)
        velocity = theta.reshape(*control_shape, ndim)
        for axis, matrix in enumerate(weights):
            fine = jnp.tensordot(
                jnp.asarray(matrix, theta.dtype),
                velocity,
                axes=(1, axis),
                precision=jax.lax.Precision.HIGHEST,
            )
            velocity = jnp.moveaxis(fine, 0, axis)
        unit = jnp.asarray(scale, theta.dtype).reshape([1] * ndim + [ndim])
        displacement = fields.exponential(velocity * unit) / unit
        return points + grid_sample(displacement, points, padding_mode="border", align_corners=True)

    return Transform(
        name=name,
        ndim=ndim,
        identity=np.zeros(num_params),
        warp=warp,
        inverse=lambda theta: -as_theta(theta, num_params, name),
        origin=(velocity_field, (control_shape,)),
        check=False,
    )


def _spline_matrix(size: int) -> Float[np.ndarray, "fine size"]:
    """The weights of `size` control points at the points of the fine grid, on one axis.

    Control points beyond the ends continue the last two linearly, so that linear velocities are
    reproduced exactly.
    """
    fine = np.linspace(0, size - 1, (size - 1) * REFINEMENT + 1)
    distance = np.abs(fine[:, None] - np.arange(-1, size + 1))
    near, far = (4 - 6 * distance**2 + 3 * distance**3) / 6, np.maximum(0, 2 - distance) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    continued = np.zeros((size + 2, size))
    continued[1:-1] = np.eye(size)
    continued[0, :2], continued[-1, -2:] = (2, -1), (-1, 2)
    return weights @ continued
