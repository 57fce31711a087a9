"""Warping images of any size with a bounded number of compiled programs."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.settings.config import Model
from stn_jax.transforms import Transform
from stn_jax.warping.straighten import StraightenedAxis, straighten_padded, straightened_axes

_SMALLEST_SIZE = 16


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
        self._warp_padded = jax.jit(self._warp, static_argnames="output_shape")

    def __call__(self, images: np.ndarray, theta: np.ndarray) -> np.ndarray:
        """Warps a batch. Batches of similar sizes share a compiled program.

        The images are padded to the next of a few sizes, and the result is cropped. This changes
        no value.

        Args:
            images: `[n, *spatial, c]`, uint8 or float32.
            theta: `[n, num_params]`.

        Returns:
            `[n, *out, c]` with the dtype and scale of the images. Bytes are rounded; NaN becomes 0.
        """
        spatial = images.shape[1:-1]
        padded_shape = tuple(map(padded_size, spatial))
        added = [(0, to - size) for size, to in zip(spatial, padded_shape, strict=True)]
        padded = np.pad(images, [(0, 0), *added, (0, 0)])
        axes = self._axes(spatial)
        output_shape = tuple(axis.out_size for axis in self._axes(padded_shape))
        output = self._warp_padded(padded, theta, axes, output_shape=output_shape)
        return jax.device_get(output)[:, *(slice(axis.out_size) for axis in axes)]

    def trace(self, images: jax.Array, theta: jax.Array) -> jax.Array:
        """Warps a batch as a pure function of arrays, whose shapes are not padded."""
        axes = self._axes(images.shape[1:-1])
        return self._warp(images, theta, axes, tuple(axis.out_size for axis in axes))

    def _axes(self, spatial: Sequence[int]) -> tuple[StraightenedAxis, ...]:
        return straightened_axes(spatial, *self._small, align_corners=self._settings.align_corners)

    def _warp(
        self,
        images: jax.Array,
        theta: jax.Array,
        axes: tuple[StraightenedAxis, ...],
        output_shape: tuple[int, ...],
    ) -> jax.Array:
        small, small_out = self._small
        warp: Any = functools.partial(
            straighten_padded,
            transform=self._transform,
            network_input_shape=small,
            network_output_shape=small_out,
            output_shape=output_shape,
            mode=self._settings.mode,
            padding_mode=self._settings.padding_mode,
            align_corners=self._settings.align_corners,
        )
        output = jax.vmap(lambda image, each: warp(image, axes, each))(
            images.astype(jnp.float32), theta
        )
        if images.dtype != jnp.uint8:
            return output
        return jnp.clip(jnp.rint(jnp.nan_to_num(output)), 0, 255).astype(jnp.uint8)


def padded_size(size: int) -> int:
    """The next of the sizes 16, 23, 32, 45, 64, ..., each sqrt(2) times the last."""
    sizes = (round(_SMALLEST_SIZE * 2 ** (step / 2)) for step in itertools.count())
    return next(each for each in sizes if each >= size)
