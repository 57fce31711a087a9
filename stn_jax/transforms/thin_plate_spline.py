"""The thin plate spline: the smoothest warp that moves given control points as told."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_at_least_0
from stn_jax._types import Array
from stn_jax.transforms.base import Transform, as_points, as_theta, constant

# How far a control point may miss an offset of 1 where the spline is to meet it exactly.
TOLERANCE = 1e-3


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
            coincide. Without it they must be so far apart that float32 meets their offsets to
            1e-3: a hundredth, for a few points over [-1, 1]².

    Returns:
        A `Transform` with 2K parameters, without matrix, composition or inverse; the same
        object for the same arguments.

    Raises:
        ValueError: if control points are too few, all on one line, or (nearly) coincide without
            regularisation; if `regularisation` is negative or not finite.

    Example:
        >>> transform = thin_plate_spline((3, 3))
        >>> transform.num_params
        18

    Source: Bookstein (1989); Jaderberg et al. (2015), section 3.2.
    """
    try:
        points = np.asarray(control_points, np.float64)
    except (TypeError, ValueError):
        points = np.full(2, np.nan)  # neither a grid nor points
    if points.shape == (2,):
        if not (np.isfinite(points).all() and min(points) >= 2 and (points % 1 == 0).all()):
            raise ValueError(
                "control_points must be (rows, columns), whole numbers of at least 2 each, or "
                f"[K, 2] points; got {control_points!r}"
            )
        points = control_point_grid(*(int(size) for size in points))
    check_at_least_0("regularisation", regularisation)
    return _thin_plate_spline(tuple(map(tuple, _check_points(points))), float(regularisation))


def _check_points(points: np.ndarray) -> np.ndarray:
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
    return points


@functools.cache  # one object for equal arguments: a Transform is compared by identity
def _thin_plate_spline(points: tuple[tuple[float, float], ...], regularisation: float) -> Transform:
    controls = np.asarray(points)
    count = len(controls)
    try:
        solved = _solve(controls, regularisation)
    except np.linalg.LinAlgError:
        solved = np.full((count + 3, count), np.nan)
    if regularisation == 0:
        _check_distinct(controls, solved)
    name = "thin_plate_spline"

    def warp(theta: Array, targets: Array) -> jax.Array:
        theta, targets = as_theta(theta, 2 * count, name), as_points(targets, 2, name)
        influence = jnp.matmul(  # of each control point on each target, [..., K]
            _basis(targets, controls, jnp),
            solved.astype(targets.dtype),
            precision=jax.lax.Precision.HIGHEST,
        )
        # Theta first: over a batch the product is then laid out image by image.
        displacement = jnp.tensordot(
            theta.reshape(count, 2), influence, axes=(0, -1), precision=jax.lax.Precision.HIGHEST
        )
        return targets + jnp.moveaxis(displacement, 0, -1)

    return Transform(name=name, ndim=2, identity=constant([0.0] * (2 * count)), warp=warp)


def _check_distinct(controls: np.ndarray, solved: np.ndarray) -> None:
    """Raises `ValueError` unless float32 meets the offsets of the control points."""
    influence = _basis(controls.astype(np.float32), controls, np) @ solved.astype(np.float32)
    if not np.abs(influence - np.eye(len(controls))).max() <= TOLERANCE:  # NaN is no better
        distances = np.linalg.norm(controls[:, None] - controls[None], axis=-1)
        np.fill_diagonal(distances, np.inf)
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        raise ValueError(
            "control_points must be distinct, as float32 tells them apart, where regularisation "
            f"is 0; got {controls[i].tolist()} and {controls[j].tolist()}"
        )


def _basis(points: Array, controls: np.ndarray, xp: Any) -> Float[Array, "*shape terms"]:
    """Radial functions of the distances to the control points, then 1, x, y; `xp` computes it.

    The radial function is r² log r², and 0 with gradient 0 at r = 0.
    """
    centres = xp.asarray(controls, points.dtype)
    x, y = points[..., :1], points[..., 1:]
    squared = (x - centres[:, 0]) ** 2 + (y - centres[:, 1]) ** 2
    radial = squared * xp.log(xp.where(squared > 0, squared, xp.ones_like(squared)))
    return xp.concatenate([radial, xp.ones_like(x), x, y], axis=-1)


def _solve(controls: np.ndarray, regularisation: float) -> Float[np.ndarray, "terms k"]:
    """The matrix that turns offsets of the control points into coefficients of the basis."""
    count = len(controls)
    basis = _basis(controls, controls, np)
    polynomial = basis[:, count:]
    system = np.block(
        [[basis + regularisation * np.eye(count, count + 3)], [polynomial.T, np.zeros((3, 3))]]
    )
    return np.linalg.solve(system, np.eye(count + 3))[:, :count]
