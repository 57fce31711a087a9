"""The spatial transformation of an image: grid generation and sampling in one function."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Float, Shaped

from stn_jax._checks import (
    check_bool,
    check_choice,
    check_floating,
    check_integer,
    check_shape,
    check_sizes,
    describe_image_shape,
    one_line,
)
from stn_jax._sharding import partition_spec, run_on_auto_axes
from stn_jax._types import Antialias, Array, Mode, PaddingMode
from stn_jax.coordinates import pixel_bounds
from stn_jax.sampling.grid_sample import check_sampling, grid_sample, sample, sampled_spec
from stn_jax.transforms.base import Transform, as_theta, check_transform
from stn_jax.warping.antialiasing import footprints, sample_footprints
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
    oversample: int = 1,
    antialias: Antialias = "none",
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
        oversample: each output pixel is the mean of k x k samples (k x k x k in volumes) at
            sub-pixel positions. Use it against aliasing if the warp shrinks the image. The time and
            memory of k² outputs (k³ of volumes) are needed. Static.
        antialias: `mipmap` samples a pyramid of averaged images at the level of the longer axis of
            the footprint of each output pixel; `anisotropic` averages up to 8 samples along that
            axis and blurs less. Both work for any factor of shrinking. Where nothing shrinks, the
            result is that of plain sampling, bit for bit. The footprint has no gradient. With
            `oversample=2`, the result is sharper: the samples cover parts of the pixel. Static.

    Returns:
        `[*output_shape, c]` in the dtype of the image; with `target`, `[*out, c]`.

    Raises:
        ValueError: if shapes do not fit, if `mode`, `padding_mode` or `fill` is invalid, if both
            `output_shape` and `target` are given, if `transform` is not a `Transform`, if
            `align_corners` is not a bool, or if `oversample` or `antialias` is invalid or used with
            `target` or an image that is not floating; `antialias` also with volumes or the mode
            `nearest`.

    Example:
        >>> image = jnp.arange(6.0).reshape(2, 3, 1)
        >>> from stn_jax.transforms import translation
        >>> spatial_transform(image, jnp.asarray([2 / 3, 0.0]), translation)[..., 0]
        Array([[1., 2., 0.],
               [4., 5., 0.]], dtype=float32)

    Source: Jaderberg et al. (2015), sections 3.2 and 3.3; Williams (1983) and McCormack et al.
    (1999) for `antialias`.
    """
    check_transform(transform)
    check_bool("align_corners", align_corners)
    theta = as_theta(theta, transform.num_params, transform.name)
    ndim, shape = transform.ndim, np.shape(image)
    expected = describe_image_shape(ndim)
    check_shape(f"image for {transform.name}", shape, expected, len(shape) == ndim + 1)
    is_plain = _check_antialiasing(oversample, antialias, ndim, mode)
    if target is not None:
        if not is_plain:
            raise ValueError(
                "oversample must be 1 and antialias none with target; "
                f"got {one_line(oversample)} and {antialias}"
            )
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
    if not is_plain:
        check_floating("image with oversample or antialias", image)
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
        oversample=int(oversample),
        antialias=antialias,
    )


def _check_antialiasing(oversample: object, antialias: object, ndim: int, mode: object) -> bool:
    """Checks the options against aliasing. Returns whether there are none."""
    number = check_integer("oversample", oversample, "a whole number of at least 1", 1)
    check_choice("antialias", antialias, ("none", "mipmap", "anisotropic"))
    if antialias == "none":
        return number == 1
    if ndim == 3 or mode == "nearest":
        reason = "volumes" if ndim == 3 else "mode nearest"
        raise ValueError(f"antialias must be none with {reason}; got {antialias!r}")
    return False


# One named call: eager calls and their transformations then run as one program.
@functools.partial(
    jax.jit,
    static_argnames=(
        "transform",
        "output_shape",
        "mode",
        "padding_mode",
        "align_corners",
        "oversample",
        "antialias",
    ),
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
    oversample: int,
    antialias: Antialias,
) -> jax.Array:
    """`spatial_transform` without checks."""
    input_shape = image.shape[:-1]
    shapes = (input_shape, output_shape, align_corners)
    points = source_pixels(theta, transform, *shapes, oversample=oversample)
    bounds = [pixel_bounds(size, align_corners=align_corners) for size in reversed(input_shape)]
    options = {"bounds": bounds, "mode": mode, "padding_mode": padding_mode}
    # The mean of several samples, and the weights of a footprint, are computed in full precision.
    values = image if oversample == 1 else image.astype(fill.dtype)
    if antialias == "none":
        output = sample(values, points, fill, **options)
    else:
        footprint = footprints(theta, transform, *shapes, oversample=oversample)
        output = sample_footprints(values, points, footprint, fill, antialias=antialias, **options)
    if oversample == 1:
        return output
    blocks = [number for size in output_shape for number in (size, oversample)]
    blocked = output.reshape(*blocks, image.shape[-1])
    return blocked.mean(axis=tuple(range(1, len(blocks), 2))).astype(image.dtype)
