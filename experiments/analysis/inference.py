"""The functions of a trained network on images without distortion, to be applied and exported."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import stn_jax
from experiments.analysis.frames import Frame, input_frames
from experiments.settings.config import Model
from experiments.training import preprocessing
from experiments.training.experiment import Experiment

NetworkArrays = Mapping[str, Any]
"""The arrays of a network as nested dictionaries: `params`, and other collections if it has any."""


class Inference:
    """Pure functions of the arrays of a network and of images `[n, ...]` of the size of its input.

    Images are uint8, or floats with the scale that the network was trained on. They are normalised
    as in training, but never distorted.

    Args:
        experiment: the experiment of the network.
    """

    def __init__(self, experiment: Experiment) -> None:
        data = experiment.config.data
        self._experiment = experiment
        self._preprocess = preprocessing.make_undistorted_preprocess(data, experiment.normalisation)

    def probabilities(self, arrays: NetworkArrays, images: jax.Array) -> jax.Array:
        """Computes the probability of each class, float32 `[n, classes]`."""
        logits, _ = self._apply(arrays, images)
        return jax.nn.softmax(logits.astype(jnp.float32))

    def frames(self, arrays: NetworkArrays, images: jax.Array) -> list[Frame]:
        """Computes the frames on the images, as `input_frames`."""
        return input_frames(self._experiment.config.model, self._apply(arrays, images)[1])

    def _apply(self, arrays: NetworkArrays, images: jax.Array) -> tuple[jax.Array, Any]:
        others = {name: each for name, each in arrays.items() if name != "params"}
        inputs = self._preprocess(images)
        return self._experiment.apply(arrays["params"], inputs, None, others)


def straighten_images(
    settings: Model, input_shape: tuple[int, ...], images: jax.Array, frame: Frame
) -> jax.Array:
    """Warps images of one size by their frames, at the resolution of the images.

    Args:
        settings: of the network.
        input_shape: the spatial shape at which the frames were predicted.
        images: `[n, *spatial, c]`, uint8 or float32.
        frame: the frame of each image.

    Returns:
        `[n, *out, c]` with the dtype and scale of the images. Bytes are rounded; NaN becomes 0.
    """
    straighten = functools.partial(
        stn_jax.straighten,
        transform=frame.transform,
        network_input_shape=input_shape,
        network_output_shape=frame.output_shape,
        mode=settings.mode,
        padding_mode=settings.padding_mode,
        align_corners=settings.align_corners,
    )
    output = jax.vmap(straighten)(images.astype(jnp.float32), frame.theta)
    if images.dtype != jnp.uint8:
        return output
    return jnp.clip(jnp.rint(jnp.nan_to_num(output)), 0, 255).astype(jnp.uint8)
