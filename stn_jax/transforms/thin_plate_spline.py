"""The thin plate spline: the smoothest warp that moves given control points as told."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._types import Array
from stn_jax.transforms.base import Transform, as_points, as_theta, constant


def control_point_grid(rows: int, columns: int) -> Float[np.ndarray, "k 2"]:
    """A regular grid of control points over [-1, 1]², row by row, (x, y) each, float64."""
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def thin_plate_spline(
    control_points: Sequence[int] | Sequence[Sequence[float]] = (4, 4),
    regularisation: float = 0.0,
) -> Transform:
    """Makes the thin plate spline transformation of a set of control points.

    The source of a target point p is p plus a smooth displacement, whose value at target control
    point k is the k-th source offset (exactly so without regularisation). The linear system is
    solved once, here, in float64; a warp is then one matrix product.

    Convention: theta is flat, (dx, dy) of each of the K control points in normalised units,
    zeros being the identity.

    Args:
        control_points: (rows, columns) of a regular grid over [-1, 1]², at least 2 x 2; or K >= 3
            points of one's own, `[K, 2]`, (x, y) each, normalised.
        regularisation: Tikhonov's lambda >= 0, added to the diagonal of the kernel matrix: with
            it the displacement approximates the offsets, more smoothly, and control points may
            coincide.

    Returns:
        A `Transform` with 2K parameters, without matrix, composition or inverse; the same
        object for the same arguments.

    Raises:
        ValueError: if control points are too few, all on one line, or coincide without
            regularisation; if `regularisation` is negative or not finite.

    Example:
        >>> transform = thin_plate_spline((3, 3))
        >>> transform.num_params
        18

    Source: Bookstein (1989); Jaderberg et al. (2015), section 3.2.
    """
    points = np.asarray(control_points, np.float64)
    if points.shape == (2,):
        rows, columns = (int(size) for size in points)
        if (rows, columns) != tuple(points) or min(rows, columns) < 2:
            raise ValueError(
                "control_points must be (rows, columns), whole numbers of at least 2 each, or "
                f"[K, 2] points; got {control_points!r}"
            )
        points = control_point_grid(rows, columns)
    if not (np.isfinite(regularisation) and regularisation >= 0):
        raise ValueError(f"regularisation must be finite and at least 0; got {regularisation!r}")
    return _thin_plate_spline(
        tuple(map(tuple, _check_points(points, regularisation))), float(regularisation)
    )


def _check_points(points: np.ndarray, regularisation: float) -> np.ndarray:
    if (
        points.ndim != 2
        or points.shape[-1] != 2
        or len(points) < 3
        or not np.isfinite(points).all()
    ):
        raise ValueError(
            "control_points must be (rows, columns) or finite points of shape [K, 2] with K >= 3; "
            f"got shape {list(points.shape)}"
        )
    if np.linalg.matrix_rank(points - points.mean(axis=0), tol=1e-6) < 2:
        raise ValueError("control_points must not all lie on one line; got collinear points")
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(len(points))
    if regularisation == 0 and distances.min() < 1e-6:
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        raise ValueError(
            "control_points must be distinct where regularisation is 0; got "
            f"{points[i].tolist()} and {points[j].tolist()}"
        )
    return points


@functools.cache  # one object for equal arguments: a Transform is compared by identity
def _thin_plate_spline(points: tuple[tuple[float, float], ...], regularisation: float) -> Transform:
    controls = np.asarray(points)
    count = len(controls)
    solved = _solve(controls, regularisation)
    name = "thin_plate_spline"

    def warp(theta: Array, targets: Array) -> jax.Array:
        theta, targets = as_theta(theta, 2 * count, name), as_points(targets, 2, name)
        influence = jnp.matmul(  # of each control point on each target, [..., K]
            _basis(targets, controls),
            solved.astype(targets.dtype),
            precision=jax.lax.Precision.HIGHEST,
        )
        displacement = jnp.matmul(
            influence, theta.reshape(count, 2), precision=jax.lax.Precision.HIGHEST
        )
        return targets + displacement

    return Transform(name=name, ndim=2, identity=constant([0.0] * (2 * count)), warp=warp)


def _radial(squared: jax.Array) -> jax.Array:
    """r² log r², and 0 with gradient 0 at r = 0."""
    return squared * jnp.log(jnp.where(squared > 0, squared, 1.0))


def _basis(points: jax.Array, controls: np.ndarray) -> Float[jax.Array, "*shape terms"]:
    """Radial functions of the distances to the control points, then 1, x, y."""
    centres = jnp.asarray(controls, points.dtype)
    x, y = points[..., :1], points[..., 1:]
    squared = (x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2
    return jnp.concatenate([_radial(squared), jnp.ones_like(x), x, y], axis=-1)


def _solve(controls: np.ndarray, regularisation: float) -> Float[np.ndarray, "terms k"]:
    """The matrix that turns offsets of the control points into coefficients of the basis."""
    count = len(controls)
    squared = np.sum((controls[:, None] - controls[None]) ** 2, axis=-1)
    kernel = squared * np.log(np.where(squared > 0, squared, 1.0)) + regularisation * np.eye(count)
    polynomial = np.concatenate([np.ones((count, 1)), controls], axis=1)
    system = np.block([[kernel, polynomial], [polynomial.T, np.zeros((3, 3))]])
    return np.linalg.solve(system, np.eye(count + 3))[:, :count]
