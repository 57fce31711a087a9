"""CPAB: warps that integrate a continuous velocity field, affine on each triangle."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import as_numbers, check_bool, one_line
from stn_jax._types import Array
from stn_jax.transforms.base import Transform, as_points, as_theta, cache_one_object, matmul

# Steps of the integration. A step is exact for points that stay in their triangle.
NUM_STEPS = 50
# Terms of the series of the matrix exponential. The matrix of a step is small.
NUM_TERMS = 8


def cpab(tessellation: Sequence[int] = (2, 2), *, zero_boundary: bool = True) -> Transform:
    """Makes the transformation of continuous piecewise-affine velocities (CPA-based, CPAB).

    Each rectangle of the tessellation is cut into four triangles by its diagonals. The velocity is
    given at the vertices, and is affine on each triangle. The source of a target point is where the
    flow carries it in one unit of time. Up to discretisation, the flow does not fold, and minus
    theta is its inverse. Outside of [-1, 1]², the velocity is that of the nearest point inside.

    Convention: theta is flat and holds the velocities (vx, vy) of the vertices, in normalised units
    per unit of time: first the corners of the rectangles, row by row, then their centres. Zeros are
    the identity.

    Args:
        tessellation: (rows, columns) of rectangles over [-1, 1]², at least 1 each.
        zero_boundary: whether points on the edges of [-1, 1]² stay on their edge. Theta then does
            not hold the velocity components of boundary vertices that are normal to the edge.

    Returns:
        A `Transform` with an inverse, without matrix and composition. Equal arguments return the
        same object.

    Raises:
        ValueError: unless `tessellation` is two positive integers and `zero_boundary` is a bool.

    Example:
        >>> cpab((2, 2)).num_params, cpab((2, 2), zero_boundary=False).num_params
        (14, 26)

    Source: Freifeld et al. (2017); Skafte Detlefsen et al. (2018).
    """
    sizes = as_numbers(tessellation)
    if sizes is None or sizes.dtype.kind not in "iu" or sizes.shape != (2,) or sizes.min() < 1:
        raise ValueError(
            f"tessellation must be two whole numbers of at least 1; got {one_line(tessellation)}"
        )
    check_bool("zero_boundary", zero_boundary)
    return _cached_cpab(tuple(sizes.tolist()), bool(zero_boundary))


@cache_one_object
def _cached_cpab(tessellation: tuple[int, int], zero_boundary: bool) -> Transform:
    name, (rows, columns) = "cpab", tessellation
    vertices = tessellation_vertices(rows, columns)
    free = np.ones(vertices.shape, bool)
    if zero_boundary:
        free = np.abs(vertices) < 1  # x does not move on the left and right edge, y on the others
    basis = _affine_basis(vertices, _triangles(rows, columns))[:, free.ravel()]
    num_params, num_cells = basis.shape[1], 4 * rows * columns

    def warp(theta: Array, points: Array) -> jax.Array:
        theta, points = as_theta(theta, num_params, name), as_points(points, 2, name)
        velocity = matmul(jnp.asarray(basis, theta.dtype), theta[:, None])
        flat = points.reshape(-1, 2)
        motion = _motion_of_a_step(velocity.reshape(num_cells, 2, 3) / NUM_STEPS)
        motion = motion.reshape(num_cells, 6).astype(points.dtype)

        def step(flat: jax.Array, _: None) -> tuple[jax.Array, None]:
            inside = jnp.clip(flat, -1, 1)
            own = motion[_cell(inside, rows, columns)]
            x, y = inside[:, :1], inside[:, 1:]
            moved = own[:, 0::3] * x + own[:, 1::3] * y + own[:, 2::3]
            return flat + moved, None

        # The reverse pass finds the triangles again instead of storing them for every step.
        warped, _ = jax.lax.scan(jax.checkpoint(step), flat, length=NUM_STEPS)
        return warped.reshape(points.shape)

    return Transform(
        name=name,
        ndim=2,
        identity=np.zeros(num_params),
        warp=warp,
        inverse=lambda theta: -as_theta(theta, num_params, name),
        origin=(_cached_cpab, (tessellation, zero_boundary)),
        check=False,
    )


def tessellation_vertices(rows: int, columns: int) -> Float[np.ndarray, "vertices 2"]:
    """The vertices (x, y): the corners of all rectangles row by row, then their centres."""

    def grid(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)

    y, x = np.linspace(-1, 1, rows + 1), np.linspace(-1, 1, columns + 1)
    return np.concatenate([grid(y, x), grid((y[1:] + y[:-1]) / 2, (x[1:] + x[:-1]) / 2)])


def _triangles(rows: int, columns: int) -> np.ndarray:
    """The indices of each triangle's vertices, `[cells, 3]`.

    Each rectangle has a triangle at the top, on the right, at the bottom and on the left.
    """
    row, column = (each.ravel() for each in np.indices((rows, columns)))
    upper_left = row * (columns + 1) + column
    lower_left = upper_left + columns + 1
    centre = (rows + 1) * (columns + 1) + np.arange(rows * columns)
    sides = [
        (upper_left, upper_left + 1),
        (upper_left + 1, lower_left + 1),
        (lower_left + 1, lower_left),
        (lower_left, upper_left),
    ]
    triangles = [np.stack([first, second, centre], axis=-1) for first, second in sides]
    return np.stack(triangles, axis=1).reshape(-1, 3)


def _affine_basis(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The matrix from the velocities of all vertices to the affine maps `[cells, 2, 3]`."""
    count, cells = len(vertices), len(triangles)
    corners = np.concatenate([vertices[triangles], np.ones((cells, 3, 1))], axis=-1)
    inverses = np.linalg.inv(corners)  # maps values at the three vertices to (a_x, a_y, a_1)
    basis = np.zeros((cells, 2, 3, count, 2))
    for cell, triangle in enumerate(triangles):
        for i in range(2):
            basis[cell, i][:, triangle, i] = inverses[cell]
    return basis.reshape(6 * cells, 2 * count)


def _motion_of_a_step(velocity: jax.Array) -> jax.Array:
    """exp(A) - 1 of affine velocities `[cells, 2, 3]`: the displacement of a step.

    A series instead of `expm`, so that it is exactly 0 if the velocity is.
    """
    linear = velocity[:, :, :2]
    motion = velocity / NUM_TERMS
    for term in range(NUM_TERMS - 1, 0, -1):
        motion = (velocity + matmul(linear, motion)) / term
    return motion


def _cell(points: jax.Array, rows: int, columns: int) -> jax.Array:
    """The triangle `[k]` of each point of [-1, 1]², `[k, 2]`."""
    scaled = (points + 1) * (np.asarray([[columns, rows]]) / 2).astype(points.dtype)
    last = np.asarray([[columns - 1, rows - 1]]).astype(points.dtype)
    rectangle = jax.lax.stop_gradient(jnp.minimum(jnp.floor(scaled), last))
    x, y = scaled[:, 0] - rectangle[:, 0], scaled[:, 1] - rectangle[:, 1]
    lower_left, lower_right = y > x, y > 1 - x
    triangle = jnp.where(lower_left, jnp.where(lower_right, 2, 3), jnp.where(lower_right, 1, 0))
    index = rectangle.astype(jnp.int32)
    return 4 * (index[:, 1] * columns + index[:, 0]) + triangle.astype(jnp.int32)
