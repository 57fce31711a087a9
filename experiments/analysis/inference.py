"""The functions of a trained network on images without distortion, to be applied and exported."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.analysis.frames import Frame, input_frames
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
