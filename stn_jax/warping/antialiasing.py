"""Sampling without aliasing, where the warp shrinks the image.

A sample of an image reads the pixels next to its point. If target pixels are far apart in the
image, the pixels in between are skipped. The footprint of a target pixel is its image under the
Jacobian J of the warp, an ellipse with half the singular values s1 >= s2 of J as radii. Samples are
taken from a pyramid of averaged images, so that they cover the footprint.

The footprint carries no gradient: otherwise a network could learn to blur.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Float

from stn_jax._types import Antialias, Mode, PaddingMode
from stn_jax.coordinates import half_extent, target_scale
from stn_jax.sampling.grid_sample import sample
from stn_jax.transforms.base import Transform
from stn_jax.warping.grids import dense_target_points, number_array

# The largest number of samples along the longer axis of a footprint.
MAX_PROBES = 8
# A footprint up to this size counts as one pixel, so that rounding does not blur the identity.
ONE_PIXEL = 1 + 1e-4

_Pixels = TypeVar("_Pixels", float, jax.Array)


class Footprint(NamedTuple):
    """The ellipse that each target pixel covers, in source pixels. Each field is `[h, w]`.

    Attributes:
        major: s1, at least 1.
        minor: s2, at least 1.
        direction: unit vector (x, y) of the longer axis.
    """

    major: jax.Array
    minor: jax.Array
    direction: tuple[jax.Array, jax.Array]


def footprints(
    theta: jax.Array,
    transform: Transform,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    align_corners: bool,
    oversample: int,
) -> Footprint:
    """Computes the footprint of each part of a target pixel from the Jacobian of the warp.

    Arguments are those of `source_pixels`.
    """
    theta = jax.lax.stop_gradient(theta)
    points = dense_target_points(output_shape, theta.dtype, align_corners, oversample)
    source = [half_extent(size, align_corners=align_corners) for size in reversed(input_shape)]
    target = [target_scale(size, align_corners=align_corners) for size in reversed(output_shape)]
    scales = number_array(source, theta.dtype)

    def column(i: int) -> jax.Array:
        """The derivative of the source pixel by coordinate i of the target pixel."""
        tangent = jnp.zeros_like(points).at[..., i].set(1 / (oversample * target[i]))
        moved = jax.jvp(lambda points: transform.warp(theta, points), (points,), (tangent,))[1]
        return moved * jnp.asarray(scales, moved.dtype).reshape(1, 1, 2)

    by_x, by_y = column(0), column(1)
    (a, c), (b, d) = (by_x[..., 0], by_x[..., 1]), (by_y[..., 0], by_y[..., 1])
    norm, determinant = a**2 + b**2 + c**2 + d**2, jnp.abs(a * d - b * c)
    total = jnp.sqrt(norm + 2 * determinant)  # s1 + s2
    difference = jnp.sqrt(jnp.maximum(norm - 2 * determinant, 0))  # s1 - s2
    angle = jnp.arctan2(2 * (a * c + b * d), a**2 + b**2 - c**2 - d**2) / 2
    singular_values = [(total + difference) / 2, (total - difference) / 2]
    major, minor = (jnp.where(s <= ONE_PIXEL, 1.0, s) for s in singular_values)  # NaN stays
    return Footprint(major, minor, (jnp.cos(angle), jnp.sin(angle)))


def sample_footprints(
    image: Float[jax.Array, "h w c"],
    points: Sequence[Float[jax.Array, "out_h out_w"]],
    footprint: Footprint,
    fill: Float[jax.Array, " c"],
    *,
    antialias: Antialias,
    bounds: Sequence[tuple[float, float]],
    mode: Mode,
    padding_mode: PaddingMode,
) -> Float[jax.Array, "out_h out_w c"]:
    """Samples the mean of an image over footprints. Other arguments are those of `sample`."""
    levels = _pyramid(image.astype(fill.dtype))

    def at_level(points: Sequence[jax.Array], level: jax.Array) -> jax.Array:
        """Linear interpolation between the two pyramid levels around `level`."""
        result = jnp.zeros((*level.shape, image.shape[-1]), fill.dtype)
        for i, reduced in enumerate(levels):
            weight = jnp.maximum(0, 1 - jnp.abs(level - i))[..., None].astype(fill.dtype)
            values = sample(
                reduced,
                [_reduce(p, i) for p in points],
                fill,
                # On an axis of odd size, bicubic taps behind the last pixel are folded about its
                # edge instead, half a pixel from there.
                bounds=[(_reduce(low, i), _reduce(high, i)) for low, high in bounds],
                mode=mode,
                padding_mode=padding_mode,
            )
            # Select, so that infinite values of other levels do not matter.
            result += jnp.where(weight > 0, weight * values, 0)
        return result

    def level_of(size: jax.Array) -> jax.Array:
        level = jnp.where(jnp.isfinite(size), jnp.log2(size), 0)
        return jnp.minimum(level, len(levels) - 1)

    if antialias == "mipmap":
        return at_level(points, level_of(footprint.major)).astype(image.dtype)
    ratio = jnp.ceil(footprint.major / footprint.minor - 1e-3)
    count = jnp.where(jnp.isfinite(ratio), jnp.clip(ratio, 1, MAX_PROBES), 1)
    level = level_of(jnp.maximum(footprint.major / count, footprint.minor))

    # Sampled outside of the loop, in which the compiler may round differently.
    plain = sample(levels[0], points, fill, bounds=bounds, mode=mode, padding_mode=padding_mode)
    is_plain = footprint.major == 1

    def add_probe(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        along = footprint.major * ((i + 0.5) / count - 0.5)
        probes = [
            p + (along * unit).astype(p.dtype)
            for p, unit in zip(points, footprint.direction, strict=True)
        ]
        used = ((i < count) & ~is_plain)[..., None]
        mean = at_level(probes, level) / count[..., None].astype(total.dtype)
        return total + jnp.where(used, mean, 0), None

    start = jnp.where(is_plain[..., None], plain, 0)
    index = jnp.arange(MAX_PROBES, dtype=count.dtype)
    total, _ = jax.lax.scan(jax.checkpoint(add_probe), start, index)
    return total.astype(image.dtype)


def _reduce(position: _Pixels, level: int) -> _Pixels:
    """A pixel coordinate of the image at a level of the pyramid; exact at level 0."""
    return (position + 0.5) / 2**level - 0.5 if level else position


def _pyramid(image: jax.Array) -> list[jax.Array]:
    """The image, and its means over 2 x 2, 4 x 4, ... pixels, down to one pixel.

    An odd size is continued by its last pixel, so that constants stay constant and pixel
    coordinates are halved exactly.
    """
    levels = [image]
    while max(levels[-1].shape[:2]) > 1:
        height, width, channels = levels[-1].shape
        padded = jnp.pad(levels[-1], ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        blocks = padded.reshape((height + 1) // 2, 2, (width + 1) // 2, 2, channels)
        levels.append(blocks.mean(axis=(1, 3)))
    return levels
