"""The spatial transformation of an image: grid generation and sampling in one function."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Shaped

from stn_jax._checks import check_bool, check_shape, check_sizes, describe_image_shape
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Array, Mode, PaddingMode
from stn_jax.coordinates import pixel_bounds
from stn_jax.sampling.grid_sample import check_sampling, grid_sample, sample, sampled_spec
from stn_jax.transforms.base import Transform, as_theta, check_transform
from stn_jax.warping.grids import source_pixels, transform_grid


def spatial_transform(
    image: Shaped[Array, "*spatial c"],
    theta: Float[Array, " num_params"],
    transform: Transform,
    *,
    output_shape: Sequence[int] | None = None,
    target: Float[Array, "*out n"] | None = None,
    mode: Mode = "bilinear",
    padding_mode: PaddingMode = "zeros",
    align_corners: bool = False,
    fill: float | Sequence[float] | Array = 0.0,
) -> Shaped[jax.Array, "*out c"]:
    """Warps an image by a transformation.

    Convention: theta maps target points to source points in normalised coordinates. The function
    takes one example; use `jax.vmap` for batches. At the identity, with equal input and output
    sizes, the output equals the image bit for bit.

    Args:
        image: `[h, w, c]`, or `[d, h, w, c]` for a 3-D transformation.
        theta: flat parameters, `[transform.num_params]`, floating. Positions and weights are
            computed in its dtype, at least float32.
        transform: one of `stn_jax.transforms`, or a user-defined `Transform`. Static.
        output_shape: spatial shape of the output, by default that of the image. Static.
        target: normalised target points, floating, instead of the pixels of an output of
            `output_shape`; for example from `stn_jax.targets`.
        mode, padding_mode, align_corners, fill: as in `grid_sample`.

    Returns:
        `[*output_shape, c]` in the dtype of the image; with `target`, `[*out, c]`.

    Raises:
        ValueError: if shapes do not fit, if `mode`, `padding_mode` or `fill` is invalid, if both
            `output_shape` and `target` are given, if `transform` is not a `Transform`, or if
            `align_corners` is not a bool.

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
    ndim, shape = transform.ndim, np.shape(image)
    expected = describe_image_shape(ndim)
    check_shape(f"image for {transform.name}", shape, expected, len(shape) == ndim + 1)
    if target is not None:
        grid = transform_grid(theta, transform, output_shape, target=target)
        return grid_sample(
            image,
            grid,
            mode=mode,
            padding_mode=padding_mode,
            align_corners=align_corners,
            fill=fill,
        )
    input_shape = shape[:-1]
    given = input_shape if output_shape is None else output_shape
    output_sizes = check_sizes("output_shape", given, ndim)
    image, fill = check_sampling(image, mode, padding_mode, fill, theta.dtype)
    spec = [
        axis if size == out else None
        for axis, size, out in zip(partition_spec(image), input_shape, output_sizes, strict=False)
    ]
    return run_on_auto_axes(
        _spatial_transform,
        image,
        theta,
        fill,
        out_spec=sampled_spec(image, spec),
        transform=transform,
        output_shape=output_sizes,
        mode=mode,
        padding_mode=padding_mode,
        align_corners=bool(align_corners),
    )


# One named call: eager calls and their transformations then run as one program.
@functools.partial(
    jax.jit, static_argnames=("transform", "output_shape", "mode", "padding_mode", "align_corners")
)
def _spatial_transform(
    image: jax.Array,
    theta: jax.Array,
    fill: jax.Array,
    *,
    transform: Transform,
    output_shape: tuple[int, ...],
    mode: Mode,
    padding_mode: PaddingMode,
    align_corners: bool,
) -> jax.Array:
    """`spatial_transform` without checks."""
    input_shape = image.shape[:-1]
    points = source_pixels(theta, transform, input_shape, output_shape, align_corners)
    bounds = [pixel_bounds(size, align_corners=align_corners) for size in reversed(input_shape)]
    return sample(image, points, fill, bounds=bounds, mode=mode, padding_mode=padding_mode)
