"""Test images that are followed during training and drawn in figures."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from experiments.analysis.frames import Intermediates
from experiments.training import preprocessing
from experiments.training.experiment import TEST_KEY, Experiment
from stn_jax.training import Params, Variables

PROBE_SIZE = 8  # images whose frames are recorded at every epoch


class Probe:
    """The first test images, preprocessed as for the evaluation.

    Args:
        experiment: the experiment that provides images and network.
        count: the number of images.

    Attributes:
        images: the images as the network receives them.
    """

    def __init__(self, experiment: Experiment, count: int = PROBE_SIZE) -> None:
        self.images = first_test_images(experiment, count)

        def apply(params: Params, variables: Variables | None) -> Intermediates:
            return experiment.apply(params, self.images, None, variables)[1]

        self._apply = jax.jit(apply)

    def intermediates(self, params: Params, variables: Variables | None = None) -> Intermediates:
        """Computes the intermediates of each transformer on the images."""
        return self._apply(params, variables)

    def theta(
        self, params: Params, variables: Variables | None = None
    ) -> dict[str, list[list[float]]]:
        """Computes theta of each transformer for each image, as lists for JSON."""
        intermediates = self.intermediates(params, variables)
        return {name: np.asarray(each["theta"]).tolist() for name, each in intermediates.items()}

    def display_images(
        self, params: Params, variables: Variables | None = None
    ) -> dict[str, np.ndarray]:
        """Scales the images and the output of each transformer to [0, 1], if they can be shown."""
        found = self.intermediates(params, variables)
        outputs = {name: each["output"] for name, each in found.items()}
        views = {
            name: displayable(each) for name, each in ({"images": self.images} | outputs).items()
        }
        low, high = float(views["images"].min()), float(views["images"].max())
        contrast = high - low or 1.0
        return {
            name: np.clip((images - low) / contrast, 0, 1)
            for name, images in views.items()
            if images.shape[-1] <= 3
        }


def displayable(images: ArrayLike, axis: int = 0) -> np.ndarray:
    """Converts images `[n, h, w, c]` or volumes `[n, d, h, w, c]` to images that can be drawn.

    Images with two channels get a third, so that the two appear in magenta and cyan. Volumes are
    summed along an axis.

    Args:
        images: the images or volumes.
        axis: the spatial axis of volumes to sum along; 0 gives the view from the front.
    """
    images = np.asarray(images, np.float32)
    if images.ndim == 5:
        images = images.sum(axis=1 + axis)
    if images.shape[-1] != 2:
        return images
    return np.concatenate([images, images.max(axis=-1, keepdims=True)], axis=-1)


def first_test_keys(count: int) -> jax.Array:
    """Creates the keys of the first test images, which are the same for all runs."""
    key = jax.random.key(TEST_KEY)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(count))


def first_test_images(experiment: Experiment, count: int) -> jax.Array:
    """Preprocesses the first test images as for the evaluation.

    Images that depend on others of their batch, as clutter and sums of digits do, differ from those
    of the evaluation because the batch differs.
    """
    split = experiment.dataset.test
    count = min(count, len(split.labels))
    batch = jax.tree.map(lambda array: array[:count], preprocessing.as_batch(split))
    return jax.jit(experiment.preprocess)(first_test_keys(count), batch)["image"]
