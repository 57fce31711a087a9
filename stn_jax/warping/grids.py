"""Grids of source points: where each pixel of the output reads the input."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from stn_jax._checks import (
    as_array,
    check_bool,
    check_floating,
    check_shape,
    check_sizes,
    is_traced,
)
from stn_jax._sharding import run_on_auto_axes
from stn_jax._types import Array, float_dtype
from stn_jax.coordinates import centred_pixels, half_extent, target_point_array, target_scale
from stn_jax.transforms.base import (
    Transform,
    as_points,
    as_theta,
    at_least_float32,
    check_transform,
    dehomogenise,
    matmul,
    warp_by_matrix,
)


def affine_grid(
    theta: Float[Array, "n m"], output_shape: Sequence[int], *, align_corners: bool = False
) -> Float[jax.Array, "*out n"]:
    """Computes the source grid of an affine transformation, for `grid_sample`.

    Convention: theta maps target points to source points in normalised coordinates; its rows give
    x, y[, z]. Use `transform_grid` for other transformations. To warp an image, prefer
    `spatial_transform`: it is exact at the identity, which a grid in [-1, 1] cannot be.

    Args:
        theta: matrix, `[2, 3]` or `[3, 4]`.
        output_shape: (height, width) or (depth, height, width) of the output. Static.
        align_corners: as in `grid_sample`. Static.

    Returns:
        `[h, w, 2]` or `[d, h, w, 3]`, in the dtype of theta, at least float32.

    Raises:
        ValueError: if theta has another shape or is not floating, if `output_shape` does not have
            one size per row of theta, or if `align_corners` is not a bool.

    Example:
        >>> affine_grid(jnp.asarray([[1.0, 0, 0], [0, 1, 0]]), (1, 2))
        Array([[[-0.5,  0. ],
                [ 0.5,  0. ]]], dtype=float32)

    Source: Jaderberg et al. (2015), equation 1; same values as torch's `affine_grid`.
    """
    check_bool("align_corners", align_corners)
    shape = np.shape(theta)
    check_shape("theta", shape, "[2, 3] or [3, 4]", shape in ((2, 3), (3, 4)))
    matrix = as_array("theta", theta)
    check_floating("theta", matrix)
    matrix = at_least_float32(matrix)
    sizes = check_sizes("output_shape", output_shape, matrix.shape[0])
    points = target_point_array(sizes, matrix.dtype, align_corners=align_corners)
    return run_on_auto_axes(warp_by_matrix, matrix, points)


def transform_grid(
    theta: Float[Array, " num_params"],
    transform: Transform,
    output_shape: Sequence[int] | None = None,
    *,
    target: Float[Array, "*out n"] | None = None,
    align_corners: bool = False,
) -> Float[jax.Array, "*out n"]:
    """Computes the source grid of any transformation (the grid generator of the paper).

    Convention: theta maps target points to source points in normalised coordinates.

    Args:
        theta: flat parameters, `[transform.num_params]`.
        transform: the family of theta. Static.
        output_shape: (height, width) or (depth, height, width) of the output. Static.
        target: normalised target points, floating, instead of the pixels of an output of
            `output_shape`; for example from `stn_jax.targets`.
        align_corners: as in `grid_sample`. Static.

    Returns:
        `[*output_shape, transform.ndim]`, normalised, for `grid_sample` and `outside_frame`; with
        `target`, an array of its shape.

    Raises:
        ValueError: if theta, `output_shape` or `target` does not fit the transformation, unless
            exactly one of `output_shape` and `target` is given, if `transform` is not a
            `Transform`, or if `align_corners` is not a bool.

    Example:
        >>> from stn_jax.transforms import rotation
        >>> transform_grid(jnp.asarray([0.0]), rotation, (1, 2))
        Array([[[-0.5,  0. ],
                [ 0.5,  0. ]]], dtype=float32)

    Source: Jaderberg et al. (2015), section 3.2.
    """
    check_transform(transform)
    check_bool("align_corners", align_corners)
    theta = as_theta(theta, transform.num_params, transform.name)
    if (output_shape is None) == (target is None):
        given = "neither" if target is None else "both"
        raise ValueError(f"either output_shape or target must be given; got {given}")
    if target is not None:
        points = as_points(target, transform.ndim, transform.name)
        dtype = float_dtype(theta.dtype, points.dtype)
        return transform.warp(theta.astype(dtype), points.astype(dtype))
    sizes = check_sizes("output_shape", output_shape, transform.ndim)
    points = target_point_array(sizes, theta.dtype, align_corners=align_corners)
    return transform.warp(theta, points)


def outside_frame(grid: Float[Array, "*out n"]) -> Bool[jax.Array, "*out"]:
    """Marks the points of a normalised grid that lie outside the image. NaN counts as outside.

    The mean of the result is the fraction of samples that read padding. If it is close to 1, the
    transformer has left the image and receives no gradient.

    Args:
        grid: normalised points, `[..., n]`, for example from `transform_grid`.

    Returns:
        Boolean, `[...]`.

    Example:
        >>> outside_frame(jnp.asarray([[0.5, 1.0], [0.5, 1.1]]))
        Array([False,  True], dtype=bool)
    """
    return jnp.any(~(jnp.abs(grid) <= 1), axis=-1)  # negated, so that NaN counts as outside


def source_pixels(
    theta: jax.Array,
    transform: Transform,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    align_corners: bool,
    *,
    oversample: int = 1,
) -> tuple[jax.Array, ...]:
    """Computes where each target pixel reads the input, in pixels of the input.

    Everything is computed in pixels from the image centres, which floats hold exactly, with the
    change of units folded into the transformation. The identity is therefore free of rounding;
    through [-1, 1], nine widths in ten would be off by an ulp or more.

    XLA recomputes a position in each kernel that needs it, and may fuse a product and a sum into
    one rounding in only some of them. If a position is a whole number, the kernel that computes
    the indices and the one that computes the weights could then differ by a pixel. Products are
    therefore hidden behind (tiny) matrix products, which are computed once; only sums and
    quotients follow them.

    Args:
        theta: flat parameters, `[transform.num_params]`.
        transform: the family of theta.
        input_shape, output_shape: spatial shapes.
        align_corners: as in `grid_sample`.
        oversample: number of points per target pixel and axis.

    Returns:
        One array of shape `output_shape`, times `oversample`, each for x, y[, z].
    """
    source_scales = [half_extent(s, align_corners=align_corners) for s in reversed(input_shape)]
    target_scales = [
        oversample * target_scale(s, align_corners=align_corners) for s in reversed(output_shape)
    ]
    ndim, dense_shape = len(output_shape), tuple(oversample * size for size in output_shape)
    if transform.has_matrix:
        matrix = _matrix_in_pixels(transform.matrix(theta), source_scales, target_scales)
        rows = _matrix_times_points(matrix, centred_pixels(dense_shape))
        centred = dehomogenise(rows, ndim)
    else:
        dtype = float_dtype(theta.dtype)
        points = dense_target_points(output_shape, dtype, align_corners, oversample)
        displacement = transform.warp(theta, points) - points  # exactly 0 at the identity
        # Not a matrix product: it would double the time of a 28 x 28 spline on a CPU core, from
        # 7.5 to 15 us. The optimization barrier in `sample` keeps the positions consistent here.
        displacement *= number_array(source_scales, points.dtype).reshape([1] * ndim + [ndim])
        centred = [
            centres.astype(points.dtype) * (source / target) + displacement[..., i]
            for i, (centres, source, target) in enumerate(
                zip(centred_pixels(dense_shape), source_scales, target_scales, strict=True)
            )
        ]
    return tuple(
        jnp.broadcast_to(p + (size - 1) / 2, dense_shape)
        for p, size in zip(centred, reversed(input_shape), strict=True)
    )


def dense_target_points(
    output_shape: Sequence[int], dtype: np.dtype, align_corners: bool, oversample: int
) -> jax.Array:
    """The normalised coordinates of `oversample` points per target pixel and axis, `[*dense, n]`.

    Each is at the centre of its part of the pixel.
    """
    if oversample == 1:
        return target_point_array(output_shape, dtype, align_corners=align_corners)
    dense = tuple(oversample * size for size in output_shape)
    coordinates = [
        jnp.asarray(centres, dtype) / (oversample * target_scale(size, align_corners=align_corners))
        for centres, size in zip(centred_pixels(dense), reversed(output_shape), strict=True)
    ]
    return jnp.stack([jnp.broadcast_to(each, dense) for each in coordinates], axis=-1)


def _matrix_in_pixels(
    matrix: jax.Array,
    source_scales: Sequence[float | jax.Array],
    target_scales: Sequence[float | jax.Array],
) -> jax.Array:
    """Converts a matrix from normalised units to one from centred target to source pixels."""
    rows = number_array([*source_scales, 1.0])[: matrix.shape[0], None]
    columns = number_array([*target_scales, 1.0])[None]
    return matrix * (rows / columns).astype(matrix.dtype)


def number_array(values: Sequence[float | jax.Array], dtype: np.dtype | None = None) -> Array:
    """Makes a vector, a NumPy array unless a value is traced because a size is symbolic."""
    if is_traced(values):
        return jnp.stack([jnp.asarray(value, dtype or jnp.float32) for value in values])
    return np.asarray(values, dtype)


def _matrix_times_points(matrix: jax.Array, coordinates: Sequence[Array]) -> list[jax.Array]:
    """Each row of `matrix` times (x, y[, z], 1), if each coordinate varies along one axis only."""
    terms = []
    for j, values in enumerate(coordinates):
        # The constant joins the first coordinate: XLA rewrites a matrix product over an axis of
        # length 1 as a plain product.
        constant = matrix[:, -1] if j == 0 else jnp.zeros_like(matrix[:, -1])
        factors = jnp.stack([matrix[:, j], constant], axis=1)
        xp = np if isinstance(values, np.ndarray) else jnp
        basis = xp.stack([values.ravel(), xp.ones_like(values).ravel()])
        term = matmul(factors, jnp.asarray(basis, matrix.dtype))
        terms.append(term.reshape(len(matrix), *values.shape))
    return [sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True)]
