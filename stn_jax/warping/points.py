"""Warping points: the map between the coordinates of an image and of its warped version."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stn_jax._checks import check_bool, check_choice, check_sizes
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Array
from stn_jax.coordinates import to_normalised, to_pixels
from stn_jax.transforms.base import Transform, as_points, as_theta, check_transform


def warp_points(
    points: Float[Array, "*shape n"],
    theta: Float[Array, " num_params"],
    transform: Transform,
    input_shape: Sequence[int],
    *,
    to: Literal["input", "output"],
    output_shape: Sequence[int] | None = None,
    align_corners: bool = False,
) -> Float[jax.Array, "*shape n"]:
    """Maps pixel coordinates between an image and its warped version, in either direction.

    The warped version is the output of `spatial_transform` with the same arguments.

    Convention: points are (x, y[, z]) in pixels; the centre of the first pixel is the origin.
    Theta maps target points to source points: `to="input"` applies theta, `to="output"` applies
    its inverse. To map a box, map its four corners; the result need not be a box.

    Args:
        points: `[*shape, n]`, floating, in the output if `to="input"`, otherwise in the input.
        theta: flat parameters, `[transform.num_params]`.
        transform: the family of theta. Static.
        input_shape: spatial shape of the image before the warp. Static.
        to: `input` or `output`, the image whose coordinates are returned. Static.
        output_shape: spatial shape of the warped image, by default `input_shape`. Static.
        align_corners: as in `spatial_transform`. Static.

    Returns:
        `[*shape, n]`, in the wider dtype of points and theta, at least float32. NaN if theta has
        no inverse in its family. Points behind the horizon of a homography are mapped far away.

    Raises:
        ValueError: if shapes do not fit, if points or theta are not floating, or if `to` is
            `output` and the transformation has no `inverse`.

    Example:
        >>> from stn_jax.transforms import translation
        >>> theta = jnp.asarray([0.5, 0.0])  # shifts the content 2 of 8 pixels to the left
        >>> warp_points(jnp.asarray([3.0, 1.0]), theta, translation, (8, 8), to="output")
        Array([1., 1.], dtype=float32)
    """
    check_transform(transform)
    check_bool("align_corners", align_corners)
    check_choice("to", to, ("input", "output"))
    input_sizes = check_sizes("input_shape", input_shape, transform.ndim)
    given = input_sizes if output_shape is None else output_shape
    output_sizes = check_sizes("output_shape", given, transform.ndim)
    points = as_points(points, transform.ndim, transform.name)
    theta = as_theta(theta, transform.num_params, transform.name)
    if to == "output" and not transform.has_inverse:
        raise ValueError(
            f"to must be input for {transform.name}, which has no inverse; got 'output'"
        )
    return run_on_auto_axes(
        _warp_points,
        points,
        theta,
        out_spec=partition_spec(points)[:-1],
        transform=transform,
        input_shape=input_sizes,
        to=to,
        output_shape=output_sizes,
        align_corners=align_corners,
    )


def _warp_points(
    points: jax.Array,
    theta: jax.Array,
    *,
    transform: Transform,
    input_shape: tuple[int, ...],
    to: Literal["input", "output"],
    output_shape: tuple[int, ...],
    align_corners: bool,
) -> jax.Array:
    """`warp_points` without checks."""
    from_sizes, to_sizes = output_shape, input_shape
    if to == "output":
        from_sizes, to_sizes = input_shape, output_shape
        theta = transform.inverse(theta)
    normalised = to_normalised(points, from_sizes, align_corners=align_corners)
    warped = transform.warp(theta, normalised)
    if to == "output":  # a homography of NaN maps points far away instead of to NaN
        warped = jnp.where(jnp.isfinite(theta).all(), warped, jnp.nan)
    return to_pixels(warped, to_sizes, align_corners=align_corners)
