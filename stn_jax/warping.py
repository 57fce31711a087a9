"""Warping images: a transformation's source points, and the image sampled there."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from stn_jax._checks import (
    check_bool,
    check_choice,
    check_floating,
    check_shape,
    check_sizes,
    one_example,
)
from stn_jax._types import Array
from stn_jax.coordinates import (
    centred_pixels,
    centred_scale,
    computed_target_points,
    half_extent,
    pixel_bounds,
    target_points,
    to_normalised,
    to_pixels,
)
from stn_jax.sampling.grid_sample import sample
from stn_jax.transforms.base import (
    Transform,
    apply_matrix,
    as_points,
    as_theta,
    at_least_float32,
    check_transform,
    dehomogenise,
    matmul,
)


def affine_grid(
    theta: Float[Array, "n m"], output_shape: Sequence[int], *, align_corners: bool = False
) -> Float[jax.Array, "*out n"]:
    """The source points of an affine transformation, for `grid_sample`.

    Convention: theta maps target to source in normalised coordinates, its rows giving x, y[, z].
    For the grid of another transformation see `transform_grid`; to warp an image see
    `spatial_transform`, which is exact at the identity where a grid in [-1, 1] cannot be.

    Args:
        theta: `[2, 3]` or `[3, 4]`.
        output_shape: (height, width) or (depth, height, width). Static.
        align_corners: as for `grid_sample`. Static.

    Returns:
        `[h, w, 2]` or `[d, h, w, 3]`, in theta's precision, at least float32.

    Raises:
        ValueError: on another shape of theta, one that is not floating, an `output_shape` that
            does not fit it, or an `align_corners` that is no bool.

    Example:
        >>> affine_grid(jnp.asarray([[1.0, 0, 0], [0, 1, 0]]), (1, 2))
        Array([[[-0.5,  0. ],
                [ 0.5,  0. ]]], dtype=float32)

    Source: Jaderberg et al. (2015), equation 1; values as torch's `affine_grid`.
    """
    check_bool("align_corners", align_corners)
    shape = jnp.shape(theta)
    check_shape("theta", shape, "[2, 3] or [3, 4]", shape in ((2, 3), (3, 4)))
    matrix = jnp.asarray(theta)
    check_floating("theta", matrix)
    matrix = at_least_float32(matrix)
    sizes = check_sizes("output_shape", output_shape, matrix.shape[0])
    points = jnp.asarray(target_points(sizes, align_corners=align_corners), matrix.dtype)
    planes = apply_matrix(matrix, [points[..., i] for i in range(len(sizes))])
    return jnp.stack(planes, axis=-1)


def transform_grid(
    theta: Float[Array, " num_params"],
    transform: Transform,
    output_shape: Sequence[int],
    *,
    align_corners: bool = False,
) -> Float[jax.Array, "*out n"]:
    """The source points of any transformation, normalised: the paper's grid generator.

    Args:
        theta: flat, `[transform.num_params]`.
        transform: the family theta belongs to. Static.
        output_shape: of the target, (height, width) or (depth, height, width). Static.
        align_corners: as for `grid_sample`. Static.

    Returns:
        `[*output_shape, transform.ndim]`, for `grid_sample` and `outside_frame`.

    Raises:
        ValueError: on a theta or `output_shape` that does not fit the transformation, one that is
            no `Transform`, or an `align_corners` that is no bool.

    Example:
        >>> from stn_jax.transforms import rotation
        >>> transform_grid(jnp.asarray([0.0]), rotation, (1, 2))
        Array([[[-0.5,  0. ],
                [ 0.5,  0. ]]], dtype=float32)
    """
    check_transform(transform)
    check_bool("align_corners", align_corners)
    theta = as_theta(theta, transform.num_params, transform.name)
    sizes = check_sizes("output_shape", output_shape, transform.ndim)
    points = target_points(sizes, align_corners=align_corners)
    return transform.warp(theta, jnp.asarray(points, theta.dtype))


def outside_frame(grid: Float[Array, "*out n"]) -> Bool[jax.Array, "*out"]:
    """Which points of a normalised grid lie outside the image, NaN among them.

    Their mean is the share of samples that read padding: where it nears 1, a transformer has left
    its image, and with it every gradient.

    Args:
        grid: `[..., n]`, as `transform_grid` makes it.

    Returns:
        Boolean `[...]`.

    Example:
        >>> outside_frame(jnp.asarray([[0.5, 1.0], [0.5, 1.1]]))
        Array([False,  True], dtype=bool)
    """
    return jnp.any(~(jnp.abs(grid) <= 1), axis=-1)  # so that NaN counts as outside


def spatial_transform(
    image: Shaped[Array, "*spatial c"],
    theta: Float[Array, " num_params"],
    transform: Transform,
    *,
    output_shape: Sequence[int] | None = None,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float | Sequence[float] | Array = 0.0,
) -> Shaped[jax.Array, "*out c"]:
    """Warps an image by a transformation: grid generation and sampling in one.

    Convention: theta maps target to source, in normalised coordinates. One example; `jax.vmap`
    makes batches. At the identity and equal sizes the output is the image, bit for bit.

    Args:
        image: `[h, w, c]`, or `[d, h, w, c]` for a 3-D transformation.
        theta: flat, `[transform.num_params]`, floating; positions and weights are computed in its
            precision, at least float32.
        transform: one of `stn_jax.transforms`. Static.
        output_shape: spatial shape of the output, by default the image's. Static.
        mode, padding_mode, align_corners, fill: as for `grid_sample`.

    Returns:
        `[*output_shape, c]` in the image's dtype.

    Raises:
        ValueError: on shapes, a mode, a padding or a fill that do not fit, a `transform` that is
            no `Transform`, or an `align_corners` that is no bool.

    Example:
        >>> image = jnp.arange(6.0).reshape(2, 3, 1)
        >>> from stn_jax.transforms import translation
        >>> spatial_transform(image, jnp.asarray([2 / 3, 0.0]), translation)[..., 0]
        Array([[1., 2., 0.],
               [4., 5., 0.]], dtype=float32)

    Source: Jaderberg et al. (2015), sections 3.2 and 3.3.
    """
    check_transform(transform)
    check_bool("align_corners", align_corners)
    theta = as_theta(theta, transform.num_params, transform.name)
    ndim = transform.ndim
    shape = jnp.shape(image)
    check_shape(f"image for {transform.name}", shape, one_example(ndim), len(shape) == ndim + 1)
    input_shape = shape[:-1]
    target = check_sizes(
        "output_shape", output_shape if output_shape is not None else input_shape, ndim
    )
    points = _source_pixels(theta, transform, input_shape, target, align_corners)
    bounds = [pixel_bounds(size, align_corners=align_corners) for size in reversed(input_shape)]
    return sample(image, points, bounds, mode=mode, padding_mode=padding_mode, fill=fill)


def straighten(
    image: Float[Array, "*spatial c"],
    theta: Float[Array, " num_params"],
    transform: Transform,
    input_shape: Sequence[int],
    *,
    output_shape: Sequence[int] | None = None,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float | Sequence[float] | Array = 0.0,
) -> Float[jax.Array, "*out c"]:
    """Warps an image, at its own resolution, by a theta that was predicted for it at another.

    As `spatial_transform` of the image resized to `input_shape`, outer edges to outer edges, but
    with the detail of the image. Where the shapes are equal, it is `spatial_transform` up to
    rounding.

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`, floating.
        theta: flat, `[transform.num_params]`.
        transform: the family theta belongs to. Static.
        input_shape: spatial shape at which theta was predicted. Static.
        output_shape: spatial shape of the output there, by default `input_shape`. Static.
        mode, padding_mode, align_corners, fill: as for `grid_sample`.

    Returns:
        `[*out, c]`, with as many pixels for each of `output_shape` as the image has for each of
        `input_shape`, rounded, at least one.

    Raises:
        ValueError: as `warp_points` and `grid_sample`.

    Example:
        >>> from stn_jax.transforms import rotation
        >>> straighten(jnp.ones((90, 60, 3)), jnp.asarray([0.5]), rotation, (28, 28)).shape
        (90, 60, 3)
    """
    check_transform(transform)
    full, ndim = jnp.shape(image), transform.ndim
    check_shape(f"image for {transform.name}", full, one_example(ndim), len(full) == ndim + 1)
    seen = check_sizes("input_shape", input_shape, transform.ndim)
    if 0 in seen:
        raise ValueError(f"input_shape must be positive; got {input_shape!r}")
    made = check_sizes("output_shape", seen if output_shape is None else output_shape, len(seen))
    sizes = zip(full[:-1], seen, made, strict=True)
    shape = tuple(max(1, round(size * out / size_seen)) for size, size_seen, out in sizes)
    points = computed_target_points(shape, at_least_float32(theta).dtype)
    points = _each_axis(to_pixels, points, made, False)
    # A spline has some numbers a control point for every pixel.
    warp = warp_points if transform.matrix is not None else _warp_points_by_rows
    points = warp(
        points,
        theta,
        transform,
        seen,
        to="input",
        output_shape=made,
        align_corners=align_corners,
    )
    planes, bounds = [], []
    for i, (size_seen, size) in enumerate(zip(reversed(seen), reversed(full[:-1]), strict=True)):
        planes.append(_resized(points[..., i], size_seen, size))
        # The image mirrors where the one that was seen did.
        low, high = pixel_bounds(size_seen, align_corners=align_corners)
        bounds.append((_resized(low, size_seen, size), _resized(high, size_seen, size)))
    return sample(image, planes, bounds, mode=mode, padding_mode=padding_mode, fill=fill)


_ROWS = 32  # of a photograph that are warped at a time: 3000 x 4000 take 0.12 GB, not 1.8


@functools.partial(
    jax.jit, static_argnums=(2, 3), static_argnames=("to", "output_shape", "align_corners")
)
def _warp_points_by_rows(
    points: jax.Array, theta: jax.Array, transform: Transform, input_shape: Any, **options: Any
) -> jax.Array:
    """As `warp_points`, some rows at a time; jitted, since a bare loop compiles at each call."""
    warp = functools.partial(warp_points, **options)
    return jax.lax.map(
        lambda row: warp(row, theta, transform, input_shape), points, batch_size=_ROWS
    )


def _resized(pixels: Any, size_seen: int, size: int) -> Any:
    """Pixel coordinates on an axis once it is resized, outer edges to outer edges."""
    return (pixels + 0.5) * (size / size_seen) - 0.5


def warp_points(
    points: Float[Array, "*shape n"],
    theta: Float[Array, " num_params"],
    transform: Transform,
    input_shape: Sequence[int],
    *,
    to: str,
    output_shape: Sequence[int] | None = None,
    align_corners: bool = False,
) -> Float[jax.Array, "*shape n"]:
    """Where points of one image lie in the other, for `spatial_transform` with the same arguments.

    Convention: points are (x, y[, z]) in pixels; the centre of the first pixel is the origin.
    theta maps target to source, so that `to="input"` warps by theta and `to="output"` by its
    inverse. A box is its four corners, which need not be a box any more.

    Args:
        points: `[*shape, n]`, of the output for `to="input"`, else of the input; floating.
        theta: flat, `[transform.num_params]`.
        transform: the family theta belongs to. Static.
        input_shape: spatial shape of the image that was warped. Static.
        to: `input` or `output`, the image whose coordinates are wanted. Static.
        output_shape: spatial shape of the warped image, by default the input's. Static.
        align_corners: as for `spatial_transform`. Static.

    Returns:
        `[*shape, n]`, in points' or theta's precision, the wider, at least float32; NaN where theta
        has no inverse in the family. What a homography has behind its horizon is far away.

    Raises:
        ValueError: on shapes that do not fit, numbers that are not floating, or `to="output"` for a
            transformation that has no `inverse`.

    Example:
        >>> from stn_jax.transforms import translation
        >>> theta = jnp.asarray([0.5, 0.0])  # the output shows what lies a quarter to the right
        >>> warp_points(jnp.asarray([3.0, 1.0]), theta, translation, (8, 8), to="output")
        Array([1., 1.], dtype=float32)
    """
    check_transform(transform)
    check_bool("align_corners", align_corners)
    check_choice("to", to, ("input", "output"))
    source = check_sizes("input_shape", input_shape, transform.ndim)
    target = check_sizes(
        "output_shape", output_shape if output_shape is not None else source, transform.ndim
    )
    points = as_points(points, transform.ndim, transform.name)
    theta = as_theta(theta, transform.num_params, transform.name)
    here, there = target, source
    if to == "output":
        here, there = source, target
        if transform.inverse is None:
            raise ValueError(
                f"to must be input for {transform.name}, which has no inverse; got 'output'"
            )
        theta = transform.inverse(theta)
    warped = transform.warp(theta, _each_axis(to_normalised, points, here, align_corners))
    if to == "output":  # a homography of NaN has its points far away
        warped = jnp.where(jnp.isfinite(theta).all(), warped, jnp.nan)
    return _each_axis(to_pixels, warped, there, align_corners)


def _each_axis(
    convert: Callable[..., jax.Array], points: jax.Array, shape: Sequence[int], align_corners: bool
) -> jax.Array:
    """Points `[..., n]` in other units, which depend on an axis's size."""
    planes = [
        convert(points[..., i], size, align_corners=align_corners)
        for i, size in enumerate(reversed(shape))
    ]
    return jnp.stack(planes, axis=-1)


def _source_pixels(
    theta: jax.Array,
    transform: Transform,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    align_corners: bool,
) -> tuple[jax.Array, ...]:
    """Where each target pixel reads, in source pixels, an array of the output's shape per axis.

    Computed from centred pixels, which floats hold exactly, with the change of units folded into
    the transformation: at the identity nothing is left to round. Through [-1, 1], nine widths in
    ten would be off by an ulp or more.

    XLA computes a position again in each kernel that needs it, and may contract a product and a sum
    into one rounding in some of them only. Where a position is a whole number, the kernel of the
    indices and that of the weights would then differ by a pixel. Products therefore stand behind
    (tiny) matrix products, which are computed once; what follows them are sums and quotients.
    """
    source_scale = [half_extent(s, align_corners=align_corners) for s in reversed(input_shape)]
    target_scale = [centred_scale(s, align_corners=align_corners) for s in reversed(output_shape)]
    if transform.matrix is not None:
        matrix = _in_pixels(transform.matrix(theta), source_scale, target_scale)
        centred = dehomogenise(_rows(matrix, centred_pixels(output_shape)), len(output_shape))
    else:
        points = target_points(output_shape, align_corners=align_corners)
        points = jnp.asarray(points, jnp.promote_types(theta.dtype, jnp.float32))
        displacement = transform.warp(theta, points) - points  # exactly 0 at the identity
        # Here the barrier of `sample` has to do: with a matrix product in place of this product,
        # 28 x 28 samples by a spline take a CPU core 15 us, 7.5 without.
        displacement *= jnp.asarray(source_scale, points.dtype)
        centred = [
            plane.astype(points.dtype) * (source / target) + displacement[..., i]
            for i, (plane, source, target) in enumerate(
                zip(centred_pixels(output_shape), source_scale, target_scale, strict=True)
            )
        ]
    return tuple(
        jnp.broadcast_to(p + (size - 1) / 2, output_shape)
        for p, size in zip(centred, reversed(input_shape), strict=True)
    )


def _rows(matrix: jax.Array, planes: Sequence[np.ndarray]) -> list[jax.Array]:
    """Each row of a matrix times (x, y[, z], 1), for coordinates that vary along one axis each."""
    terms = []
    for j, plane in enumerate(planes):
        # The constant goes with the first coordinate: a product with one term is no product to XLA.
        constant = matrix[:, -1] if j == 0 else jnp.zeros_like(matrix[:, -1])
        factors = jnp.stack([matrix[:, j], constant], axis=1)
        basis = np.stack([plane.ravel(), np.ones(plane.size)])
        term = matmul(factors, jnp.asarray(basis, matrix.dtype))
        terms.append(term.reshape(len(matrix), *plane.shape))
    return [sum(parts[1:], parts[0]) for parts in zip(*terms, strict=True)]


def _in_pixels(
    matrix: jax.Array, source_scale: Sequence[float], target_scale: Sequence[float]
) -> jax.Array:
    """A matrix in normalised units, for centred target pixels to centred source pixels."""
    rows = np.asarray([*source_scale, 1.0])[: matrix.shape[0], None]
    columns = np.asarray([*target_scale, 1.0])[None]
    return matrix * (rows / columns).astype(matrix.dtype)
