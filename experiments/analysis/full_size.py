"""Warping images of any size with a bounded number of compiled programs."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.settings.config import Model
from stn_jax.sampling.grid_sample import locate, sample
from stn_jax.sampling.padding import PADDINGS
from stn_jax.transforms import Transform
from stn_jax.warping.straighten import (
    StraightenedAxis,
    straighten,
    straightened_axes,
    straightened_points,
)

_SMALLEST_SIZE = 16
# Pixels that are added around the image. The widest kernel reads three.
_MARGIN = 4


class FrameWarp:
    """Warps images by the frames of a transformer, at the resolution of the images.

    Args:
        settings: of the network.
        input_shape: the spatial shape at which the frames were predicted.
        transform: the transformation of the frames.
        output_shape: the spatial shape of the transformer's output.
    """

    def __init__(
        self,
        settings: Model,
        input_shape: Sequence[int],
        transform: Transform,
        output_shape: Sequence[int],
    ) -> None:
        self._settings = settings
        self._transform = transform
        self._small = tuple(input_shape), tuple(output_shape)
        # In front of the image, the sampler itself clips to the border or reads zeros. An offset
        # would round the positions.
        self._before = _MARGIN if settings.padding_mode == "reflection" else 0
        self._warp_padded = jax.jit(self._warp, static_argnames="output_shape")

    def __call__(self, images: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Warps a batch. Batches of similar sizes share a compiled program.

        The images are extended to the next of a few sizes, and the result is cropped. This changes
        values by the rounding of positions only.

        Args:
            images: `[n, *spatial, c]`, uint8 or float32.
            theta: `[n, num_params]`.

        Returns:
            `[n, *out, c]` with the dtype and scale of the images. Bytes are rounded; NaN becomes 0.
        """
        spatial = images.shape[1:-1]
        shape = tuple(map(padded_size, spatial))
        axes = self._axes(spatial)
        output_shape = tuple(axis.out_size for axis in self._axes(shape))
        extended = self._extend(images, axes, shape)
        output = self._warp_padded(extended, theta, axes, output_shape=output_shape)
        return jax.device_get(output)[:, *(slice(axis.out_size) for axis in axes)]

    def trace(self, images: jax.Array, theta: jax.Array) -> jax.Array:
        """Warps a batch as a pure function of arrays, whose shapes are not padded."""
        settings, (small, small_out) = self._settings, self._small
        warp: Any = functools.partial(
            straighten,
            transform=self._transform,
            network_input_shape=small,
            network_output_shape=small_out,
            mode=settings.mode,
            padding_mode=settings.padding_mode,
            align_corners=settings.align_corners,
        )
        output = jax.vmap(warp)(images.astype(jnp.float32), theta)
        return _with_dtype(output, images.dtype)

    def _axes(self, spatial: Sequence[int]) -> tuple[StraightenedAxis, ...]:
        return straightened_axes(spatial, *self._small, align_corners=self._settings.align_corners)

    def _extend(
        self, images: np.ndarray, axes: Sequence[StraightenedAxis], shape: Sequence[int]
    ) -> np.ndarray:
        """Adds pixels around images, with the values that samples outside would read."""
        fold_taps = PADDINGS[self._settings.padding_mode].fold_taps
        for i, (axis, size) in enumerate(zip(axes, shape, strict=True), 1):
            if fold_taps is None:
                added = [(0, 0)] * images.ndim
                added[i] = (self._before, size - axis.size + _MARGIN)
                images = np.pad(images, added)
            else:
                index = np.arange(-self._before, size + _MARGIN)
                images = images.take(fold_taps(index, axis.size, axis.bounds), axis=i)
        return images

    def _warp(
        self,
        images: jax.Array,
        theta: jax.Array,
        axes: tuple[StraightenedAxis, ...],
        output_shape: tuple[int, ...],
    ) -> jax.Array:
        """Warps extended images. The axes are those of the images without the added pixels."""
        settings, (small, small_out) = self._settings, self._small
        folds = PADDINGS[settings.padding_mode].fold_taps is not None
        xyz = axes[::-1]

        def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
            points = straightened_points(
                axes,
                theta,
                self._transform,
                small,
                network_output_shape=small_out,
                output_shape=output_shape,
                align_corners=settings.align_corners,
            )
            options: Any = {"mode": settings.mode, "padding_mode": settings.padding_mode}
            if folds:
                sizes, bounds = [axis.size for axis in xyz], [axis.bounds for axis in xyz]
                points = locate(points, sizes, bounds, **options)
                options["padding_mode"] = "border"  # the taps that it folds are at the border
            return sample(
                image,
                [p + self._before for p in points],
                jnp.zeros(image.shape[-1], image.dtype),
                bounds=[(0.0, size - 1.0) for size in reversed(image.shape[:-1])],
                **options,
            )

        return _with_dtype(jax.vmap(warp)(images.astype(jnp.float32), theta), images.dtype)


def _with_dtype(output: jax.Array, dtype: np.dtype) -> jax.Array:
    """Rounds to bytes if the images are bytes."""
    if dtype != jnp.uint8:
        return output
    return jnp.clip(jnp.rint(jnp.nan_to_num(output)), 0, 255).astype(jnp.uint8)


def padded_size(size: int) -> int:
    """The next of the sizes 16, 23, 32, 45, 64, ..., each sqrt(2) times the last."""
    sizes = (round(_SMALLEST_SIZE * 2 ** (step / 2)) for step in itertools.count())
    return next(each for each in sizes if each >= size)
