"""The thin plate spline: the smoothest warp that moves control points by given offsets."""

from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_at_least_0, one_line
from stn_jax._types import Array
from stn_jax.transforms.base import (
    Transform,
    as_points,
    as_theta,
    cache_one_object,
)

# Largest error of a control point, per unit of offset, for a spline without regularisation.
OFFSET_TOLERANCE = 1e-3


def control_point_grid(rows: int, columns: int) -> Float[np.ndarray, "k 2"]:
    """Makes a regular grid of control points (x, y) over [-1, 1]², row by row, in float64."""
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def thin_plate_spline(
    control_points: Sequence[int] | Sequence[Sequence[float]] = (4, 4),
    regularisation: float = 0.0,
) -> Transform:
    """Makes the thin plate spline transformation of a set of control points.

    The source of a target point p is p plus a smooth displacement. At target control point k the
    displacement equals the k-th source offset, exactly if there is no regularisation. The linear
    system is solved once, here, in float64, so that each warp is one matrix product.

    Convention: theta is flat and holds (dx, dy) per control point in normalised units; zeros are
    the identity.

    Args:
        control_points: (rows, columns) of a regular grid over [-1, 1]², at least 2 x 2; or K >= 3
            normalised points (x, y), `[K, 2]`.
        regularisation: Tikhonov's lambda >= 0, added to the diagonal of the kernel matrix. With
            regularisation the displacement is smoother and only approximates the offsets, and
            control points may coincide. Without it, control points must be far enough apart that
            float32 reproduces their offsets to 1e-3; for a few points over [-1, 1]², a distance of
            0.01 suffices.

    Returns:
        A `Transform` with 2K parameters, without matrix, composition or inverse. Equal arguments
        return the same object.

    Raises:
        ValueError: if there are too few control points, if they are collinear, or if they
            (nearly) coincide without regularisation; if `regularisation` is negative or not finite.

    Example:
        >>> transform = thin_plate_spline((3, 3))
        >>> transform.num_params
        18

    Source: Bookstein (1989); Jaderberg et al. (2015), section 3.2.
    """
    try:
        points = np.asarray(control_points, np.float64)
    except (TypeError, ValueError):
        points = np.full(2, np.nan)  # rejected below
    if points.shape == (2,):
        if not (np.isfinite(points).all() and min(points) >= 2 and (points % 1 == 0).all()):
            raise ValueError(
                "control_points must be (rows, columns), whole numbers of at least 2 each, or "
                f"[K, 2] points; got {one_line(control_points)}"
            )
        points = control_point_grid(*(int(size) for size in points))
    check_at_least_0("regularisation", regularisation)
    return _cached_spline(tuple(map(tuple, _check_points(points))), float(regularisation))


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


@cache_one_object
def _cached_spline(points: tuple[tuple[float, float], ...], regularisation: float) -> Transform:
    controls = np.asarray(points)
    count = len(controls)
    try:
        coefficients = _coefficient_matrix(controls, regularisation)
    except np.linalg.LinAlgError:
        coefficients = np.full((count + 3, count), np.nan)
    if regularisation == 0:
        _check_distinct(controls, coefficients)
    name = "thin_plate_spline"

    def warp(theta: Array, targets: Array) -> jax.Array:
        theta, targets = as_theta(theta, 2 * count, name), as_points(targets, 2, name)
        influence = jnp.matmul(  # of each control point on each target, [..., K]
            _basis(targets, controls, jnp),
            coefficients.astype(targets.dtype),
            precision=jax.lax.Precision.HIGHEST,
        )
        # Theta comes first so that the product of a batch is laid out image by image.
        displacement = jnp.tensordot(
            theta.reshape(count, 2), influence, axes=(0, -1), precision=jax.lax.Precision.HIGHEST
        )
        return targets + jnp.moveaxis(displacement, 0, -1)

    return Transform(
        name=name,
        ndim=2,
        identity=np.zeros(2 * count),
        warp=warp,
        origin=(thin_plate_spline, (points, regularisation)),
        check=False,
    )


def _check_distinct(controls: np.ndarray, coefficients: np.ndarray) -> None:
    """Raises `ValueError` unless float32 reproduces the offsets of the control points."""
    influence = _basis(controls.astype(np.float32), controls, np) @ coefficients.astype(np.float32)
    if not np.abs(influence - np.eye(len(controls))).max() <= OFFSET_TOLERANCE:  # or NaN
        distances = np.linalg.norm(controls[:, None] - controls[None], axis=-1)
        np.fill_diagonal(distances, np.inf)
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        raise ValueError(
            "control_points must be distinct in float32 precision if regularisation is 0; "
            f"got {controls[i].tolist()} and {controls[j].tolist()}"
        )


def _basis(points: Array, controls: np.ndarray, xp: ModuleType) -> Float[Array, "*shape terms"]:
    """Evaluates the basis at points: a radial function per control point, then 1, x, y.

    The radial function is r² log r², with value 0 and gradient 0 at r = 0. `xp` is the array
    module, `numpy` or `jax.numpy`.
    """
    shape = (1,) * (points.ndim - 1) + (-1,)  # spelled out for strict rank promotion
    centre_x, centre_y = xp.asarray(controls.T, points.dtype)
    x, y = points[..., :1], points[..., 1:]
    squared = (x - centre_x.reshape(shape)) ** 2 + (y - centre_y.reshape(shape)) ** 2
    radial = squared * xp.log(xp.where(squared > 0, squared, xp.ones_like(squared)))
    return xp.concatenate([radial, xp.ones_like(x), x, y], axis=-1)


def _coefficient_matrix(
    controls: np.ndarray, regularisation: float
) -> Float[np.ndarray, "terms k"]:
    """Computes the matrix that maps offsets of the control points to basis coefficients."""
    count = len(controls)
    basis = _basis(controls, controls, np)
    polynomial = basis[:, count:]
    system = np.block(
        [[basis + regularisation * np.eye(count, count + 3)], [polynomial.T, np.zeros((3, 3))]]
    )
    return np.linalg.solve(system, np.eye(count + 3))[:, :count]
