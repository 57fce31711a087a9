"""Displacement fields: warping, composition, integration of velocities, and measures.

A displacement `[*shape, n]` tells, in pixels, how far from each pixel of the output the input is
read: the output at x shows the input at x + u(x). The last axis is ordered (x, y[, z]), the reverse
of the axes of the image. Zeros are the identity.

Optical flow from one frame to the next, as networks predict it, is a displacement that warps the
second frame back to the first. Between pixels, a field is interpolated linearly; outside, it
continues as at its border.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from stn_jax._checks import (
    as_array,
    check_floating,
    check_integer,
    check_shape,
    check_sizes,
    describe_image_shape,
    one_line,
)
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Array, Mode, PaddingMode, float_dtype
from stn_jax.coordinates import pixel_bounds
from stn_jax.sampling.grid_sample import check_sampling, sample, sampled_spec

Field = Float[Array, "*spatial n"]
ResultField = Float[jax.Array, "*spatial n"]

__all__ = [
    "compose",
    "diffusion_penalty",
    "exponential",
    "folding_fraction",
    "jacobian_determinant",
    "resize",
    "warp",
]


def warp(
    image: Shaped[Array, "*spatial c"],
    displacement: Field,
    *,
    mode: Mode = "bilinear",
    padding_mode: PaddingMode = "zeros",
    fill: float | Sequence[float] | Array = 0.0,
) -> Shaped[jax.Array, "*spatial c"]:
    """Warps an image by a displacement field.

    Convention: the output at pixel x shows the image at x + u(x). With zeros, the output equals the
    image bit for bit. The function takes one example; use `jax.vmap` for batches.

    Args:
        image: `[h, w, c]` or `[d, h, w, c]`, of any real dtype for `nearest`, floating otherwise.
        displacement: u, `[*spatial, n]` in pixels, floating.
        mode, padding_mode, fill: as in `grid_sample`; `reflection` is about the outer edges.

    Returns:
        `[*spatial, c]` in the dtype of the image.

    Raises:
        ValueError: if the displacement is not floating, or does not have the spatial shape of the
            image (see `resize`); also as `grid_sample`.

    Example:
        >>> image = jnp.arange(6.0).reshape(2, 3, 1)
        >>> right = jnp.zeros((2, 3, 2)).at[..., 0].set(1.0)
        >>> warp(image, right)[..., 0]  # reads one pixel further to the right
        Array([[1., 2., 0.],
               [4., 5., 0.]], dtype=float32)

    Source: Jaderberg et al. (2015), section 3.3, with the points of a dense field.
    """
    displacement = _as_field("displacement", displacement)
    shape, (*spatial, ndim) = np.shape(image), displacement.shape
    expected = f"{[*spatial, 'c']} for this displacement, {describe_image_shape(ndim)}"
    fits = len(shape) == ndim + 1 and shape[:-1] == displacement.shape[:-1]
    check_shape("image", shape, expected, fits)
    image, fill = check_sampling(image, mode, padding_mode, fill, displacement.dtype)
    return run_on_auto_axes(
        _warp,
        image,
        displacement,
        fill,
        out_spec=sampled_spec(image, partition_spec(displacement)[:-1]),
        mode=mode,
        padding_mode=padding_mode,
    )


def _warp(
    image: jax.Array,
    displacement: jax.Array,
    fill: jax.Array,
    *,
    mode: Mode,
    padding_mode: PaddingMode,
) -> jax.Array:
    """`warp` without checks."""
    spatial = displacement.shape[:-1]
    points, bounds = [], []
    for i, axis in enumerate(reversed(range(len(spatial)))):
        positions = jax.lax.broadcasted_iota(displacement.dtype, spatial, axis)
        points.append(positions + displacement[..., i])  # exact for zeros
        bounds.append(pixel_bounds(spatial[axis], align_corners=False))
    return sample(image, points, fill, bounds=bounds, mode=mode, padding_mode=padding_mode)


def resize(
    displacement: Float[Array, "*old n"], shape: Sequence[int]
) -> Float[jax.Array, "*new n"]:
    """Resizes a displacement or velocity field to another resolution.

    The outer edges of both grids coincide. The numbers are scaled with the grid, because they are
    in pixels. Enlarging interpolates linearly; reducing averages.

    Args:
        displacement: `[*old, n]` in pixels of the old grid, floating.
        shape: spatial shape of the result. Static.

    Returns:
        `[*shape, n]` in pixels of the new grid, at least float32.

    Raises:
        ValueError: if the displacement has another shape or is not floating, or unless `shape` has
            one positive integer per axis.

    Example:
        >>> resize(jnp.ones((2, 2, 2)), (2, 4))[0, 0]
        Array([2., 1.], dtype=float32)
    """
    displacement = _as_field("displacement", displacement)
    sizes = check_sizes("shape", shape, displacement.ndim - 1)
    if 0 in sizes:
        raise ValueError(f"shape must be positive; got {one_line(shape)}")
    old = displacement.shape[:-1]
    spec = partition_spec(displacement)[:-1]
    kept = [axis if a == b else None for axis, a, b in zip(spec, old, sizes, strict=True)]
    return run_on_auto_axes(_resize, displacement, out_spec=kept, shape=sizes)


def _resize(displacement: jax.Array, *, shape: tuple[int, ...]) -> jax.Array:
    ratios = [new / old for new, old in zip(shape, displacement.shape[:-1], strict=True)]
    resized = jax.image.resize(displacement, (*shape, displacement.shape[-1]), "linear")
    scale = jnp.asarray(ratios[::-1], displacement.dtype)
    return resized * scale.reshape([1] * len(shape) + [-1])


def compose(outer: Field, inner: Field) -> ResultField:
    """Composes two displacements: the map of `inner` is applied first, then that of `outer`.

    `warp(image, compose(outer, inner))` shows what `warp(warp(image, outer), inner)` shows, but the
    image is interpolated only once, so that it is less blurred.

    Args:
        outer: u, `[*spatial, n]` in pixels, floating.
        inner: w, `[*spatial, n]` in pixels, floating.

    Returns:
        The displacement w(x) + u(x + w(x)), `[*spatial, n]`, at least float32.

    Raises:
        ValueError: if the displacements are not floating or their shapes differ.

    Example:
        >>> right = jnp.zeros((3, 4, 2)).at[..., 0].set(1.0)
        >>> compose(right, right)[1, 1]
        Array([2., 0.], dtype=float32)
    """
    outer, inner = _as_field("outer", outer), _as_field("inner", inner)
    check_shape("inner", inner.shape, f"{list(outer.shape)}", inner.shape == outer.shape)
    dtype = float_dtype(outer.dtype, inner.dtype)
    return run_on_auto_axes(
        _compose, outer.astype(dtype), inner.astype(dtype), out_spec=partition_spec(inner)[:-1]
    )


def _compose(outer: jax.Array, inner: jax.Array) -> jax.Array:
    fill = jnp.zeros(outer.shape[-1:], outer.dtype)
    return inner + _warp(outer, inner, fill, mode="bilinear", padding_mode="border")


def exponential(velocity: Field, num_steps: int = 7) -> ResultField:
    """Integrates a stationary velocity field over one unit of time, by scaling and squaring.

    The result is a diffeomorphism up to discretisation, if the velocity is smooth at the scale of
    pixels: it does not fold, and the exponential of minus the velocity is its inverse.

    Args:
        velocity: v, `[*spatial, n]` in pixels per unit of time, floating.
        num_steps: number n of compositions. The first displacement is v / 2^n. Static.

    Returns:
        A displacement, `[*spatial, n]` in pixels, at least float32. Zero if the velocity is zero.

    Raises:
        ValueError: if the velocity has another shape or is not floating, or if `num_steps` is not a
            whole number of at least 0.

    Example:
        >>> right = jnp.zeros((3, 4, 2)).at[..., 0].set(1.0)
        >>> bool((exponential(right) == right).all())
        True

    Source: Arsigny et al. (2006); Dalca et al. (2018).
    """
    number = check_integer("num_steps", num_steps, "a whole number of at least 0", 0)
    velocity = _as_field("velocity", velocity)
    spec = partition_spec(velocity)[:-1]
    return run_on_auto_axes(_exponential, velocity, out_spec=spec, num_steps=number)


def _exponential(velocity: jax.Array, *, num_steps: int) -> jax.Array:
    def square(displacement: jax.Array, _: None) -> tuple[jax.Array, None]:
        return _compose(displacement, displacement), None

    return jax.lax.scan(square, velocity / 2**num_steps, length=num_steps)[0]


def jacobian_determinant(
    displacement: Field,
) -> Float[jax.Array, "*spatial"]:
    """Computes the determinant of the Jacobian of the map x -> x + u(x) at each pixel.

    It is the factor by which the map changes areas or volumes. Derivatives are differences to the
    next pixel on each axis, because central differences miss folds between neighbours; the last
    pixel uses the difference to the previous one.

    Args:
        displacement: u, `[*spatial, n]` in pixels, floating.

    Returns:
        `[*spatial]`, at least float32. The map folds where it is zero or negative.

    Raises:
        ValueError: if the displacement has another shape or is not floating.

    Example:
        >>> shrink = jnp.zeros((2, 4, 2)).at[..., 0].set(-0.5 * jnp.arange(4.0))
        >>> jacobian_determinant(shrink)[0]
        Array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    """
    displacement = _as_field("displacement", displacement)
    spec = partition_spec(displacement)[:-1]
    return run_on_auto_axes(_jacobian_determinant, displacement, out_spec=spec)


def _jacobian_determinant(displacement: jax.Array) -> jax.Array:
    """`jacobian_determinant` without checks, in closed form."""
    ndim = displacement.shape[-1]

    def column(i: int) -> list[jax.Array]:
        """The derivative of the map by coordinate i."""
        axis = ndim - 1 - i
        if displacement.shape[axis] == 1:
            derivative = jnp.zeros_like(displacement)
        else:
            repeat_last = [(0, int(k == axis)) for k in range(ndim + 1)]
            derivative = jnp.pad(jnp.diff(displacement, axis=axis), repeat_last, mode="edge")
        return [derivative[..., j] + float(i == j) for j in range(ndim)]

    columns = [column(i) for i in range(ndim)]
    if ndim == 2:
        (a, c), (b, d) = columns
        return a * d - b * c
    (a, d, g), (b, e, h), (c, f, i) = columns
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def folding_fraction(displacement: Field) -> Float[jax.Array, ""]:
    """Computes the fraction of pixels at which a displacement folds the image.

    Args:
        displacement: u, `[*spatial, n]` in pixels, floating.

    Returns:
        The fraction of pixels whose `jacobian_determinant` is not positive, in [0, 1]. It has
        gradient 0.

    Raises:
        ValueError: if the displacement has another shape or is not floating.

    Example:
        >>> float(folding_fraction(jnp.zeros((3, 4, 2))))
        0.0
    """
    determinant = jacobian_determinant(displacement)
    folds = ~(determinant > 0)  # negated, so that NaN counts as a fold
    return run_on_auto_axes(jnp.mean, folds.astype(determinant.dtype))


def diffusion_penalty(displacement: Field) -> Float[jax.Array, ""]:
    """Computes how much a field varies, a penalty for training smooth fields.

    Args:
        displacement: a displacement or velocity, `[*spatial, n]` in pixels, floating.

    Returns:
        The mean squared norm of the field's derivative: for each axis the mean over neighbouring
        pixels, summed over axes and components; at least float32. Zero for constant fields.

    Raises:
        ValueError: if the displacement has another shape or is not floating.

    Example:
        >>> ramp = jnp.zeros((2, 4, 2)).at[..., 0].set(0.5 * jnp.arange(4.0))
        >>> diffusion_penalty(ramp)
        Array(0.25, dtype=float32)

    Source: Balakrishnan et al. (2019), equation 9.
    """
    return run_on_auto_axes(_diffusion_penalty, _as_field("displacement", displacement))


def _diffusion_penalty(displacement: jax.Array) -> jax.Array:
    *spatial, ndim = displacement.shape
    axes = [axis for axis in range(ndim) if spatial[axis] > 1]
    means = [ndim * jnp.mean(jnp.diff(displacement, axis=axis) ** 2) for axis in axes]
    return sum(means, jnp.zeros((), displacement.dtype))


def _as_field(argument: str, field: Array) -> jax.Array:
    """Checks that a field is floating `[*spatial, n]`; casts it to at least float32."""
    shape = np.shape(field)
    fits = len(shape) in (3, 4) and shape[-1] == len(shape) - 1 and 0 not in shape
    check_shape(argument, shape, "[h, w, 2] or [d, h, w, 3] without empty axes", fits)
    array = as_array(argument, field)
    check_floating(argument, array)
    return array.astype(float_dtype(array.dtype))
