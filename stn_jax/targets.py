"""Target points that do not form a rectangle: polar and log-polar grids.

Pass them as `target` to `spatial_transform` or `transform_grid`. Rotating the image about the
origin of the grid shifts a polar output along its rows; scaling the image shifts a log-polar output
along its columns. Convolutions of the output then respond equally to all angles and scales.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from stn_jax._checks import check_sizes, one_line

__all__ = ["log_polar", "polar"]


def polar(
    shape: Sequence[int],
    *,
    min_radius: float = 0.0,
    max_radius: float = 1.0,
    input_shape: Sequence[int] | None = None,
) -> Float[np.ndarray, "angles radii 2"]:
    """Makes target points on circles: rows are angles, columns are radii.

    The first row points along x, and angles increase towards y, clockwise on screen. A row of H is
    an angle of 2π/H. The last row is one step before the first one, so that the output is periodic
    along its rows: rotating the frame by k rows rolls the output by k rows.

    Args:
        shape: (number of angles, number of radii).
        min_radius: radius of the first column, at least 0.
        max_radius: radius of the last column, larger than `min_radius`. 1 is half the shorter side
            of the image.
        input_shape: (height, width) of the image; circles are then round in pixels. By default the
            image is square.

    Returns:
        Normalised points (x, y), `[angles, radii, 2]`, a float32 NumPy array.

    Raises:
        ValueError: unless `shape` and `input_shape` are two positive integers and the radii are in
            order.

    Example:
        >>> import stn_jax
        >>> image = np.ones((5, 5, 1), np.float32)
        >>> target = polar((8, 3), max_radius=0.5)
        >>> theta = stn_jax.transforms.translation.identity
        >>> stn_jax.spatial_transform(
        ...     image, theta, stn_jax.transforms.translation, target=target
        ... ).shape
        (8, 3, 1)

    Source: Esteves et al. (2018), section 3.2.
    """
    low, high = _check_radii(min_radius, max_radius, 0.0 <= min_radius < max_radius, "0 <=")
    num_angles, num_radii = _check_shape("shape", shape)
    return _points_on_circles(num_angles, np.linspace(low, high, num_radii), input_shape)


def log_polar(
    shape: Sequence[int],
    *,
    min_radius: float = 0.05,
    max_radius: float = 1.0,
    input_shape: Sequence[int] | None = None,
) -> Float[np.ndarray, "angles radii 2"]:
    """Makes target points on circles whose radii form a geometric series.

    Rotating the image shifts the output along its rows, as with `polar`. Scaling the image by the
    ratio of two radii that are k columns apart shifts it by k columns.

    Args:
        shape: (number of angles, number of radii).
        min_radius: radius of the first column, positive.
        max_radius: radius of the last column, as in `polar`.
        input_shape: as in `polar`.

    Returns:
        Normalised points (x, y), `[angles, radii, 2]`, a float32 NumPy array.

    Raises:
        ValueError: as `polar`.

    Example:
        >>> log_polar((1, 3), min_radius=0.25)[0, :, 0]
        array([0.25, 0.5 , 1.  ], dtype=float32)

    Source: Esteves et al. (2018), section 3.2.
    """
    low, high = _check_radii(min_radius, max_radius, 0.0 < min_radius < max_radius, "0 <")
    num_angles, num_radii = _check_shape("shape", shape)
    return _points_on_circles(num_angles, np.geomspace(low, high, num_radii), input_shape)


def _check_radii(low: float, high: float, ok: bool, order: str) -> tuple[float, float]:
    if not (ok and np.isfinite(high)):
        raise ValueError(
            f"radii must be finite with {order} min_radius < max_radius; got {low} and {high}"
        )
    return float(low), float(high)


def _check_shape(argument: str, shape: Sequence[int]) -> tuple[int, ...]:
    sizes = check_sizes(argument, shape, 2)
    if 0 in sizes:
        raise ValueError(f"{argument} must be positive; got {one_line(shape)}")
    return sizes


def _points_on_circles(
    num_angles: int, radii: np.ndarray, input_shape: Sequence[int] | None
) -> np.ndarray:
    """The points of all angles and radii, in float32."""
    height, width = (1, 1) if input_shape is None else _check_shape("input_shape", input_shape)
    angles = 2 * np.pi * np.arange(num_angles)[:, None] / num_angles
    shorter = min(height, width)
    points = [radii * np.cos(angles) * shorter / width, radii * np.sin(angles) * shorter / height]
    return np.stack(points, axis=-1).astype(np.float32)
