"""Test images that are followed during training and drawn in figures."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from experiments.analysis.frames import Intermediates
from experiments.training import preprocessing
from experiments.training.experiment import TEST_KEY, Experiment
from stn_jax.training import Params, Variables

PROBE_SIZE = 8  # images whose frames are recorded at every epoch
SAMPLE_SEED = 0


class Sample(NamedTuple):
    """Test images, preprocessed as for the evaluation.

    Attributes:
        examples: their places in the test set, `[n]`.
        keys: the keys of their distortions, `[n]`.
        images: the images as the network receives them, `[n, ...]`.
        labels: their labels, `[n]`.
    """

    examples: Int[np.ndarray, " n"]
    keys: jax.Array
    images: jax.Array
    labels: Int[np.ndarray, " n"]


class Predictions(NamedTuple):
    """What a network predicts for images.

    Attributes:
        classes: the most probable class of each image, `[n]`.
        confidences: its probability, `[n]`.
    """

    classes: Int[np.ndarray, " n"]
    confidences: Float[np.ndarray, " n"]


class Probe:
    """Test images, and what a network computes for them.

    Args:
        experiment: the experiment that provides images and network.
        count: the number of images, as in `sample_test_images`.
        examples: as in `sample_test_images`.

    Attributes:
        examples: the places of the images in the test set.
        keys: the keys of their distortions.
        images: the images as the network receives them.
        labels: their labels.
    """

    def __init__(
        self,
        experiment: Experiment,
        count: int = PROBE_SIZE,
        examples: Sequence[int] | None = None,
    ) -> None:
        sample = sample_test_images(experiment, count, examples)
        self.examples, self.keys, self.images, self.labels = sample

        def apply(params: Params, variables: Variables | None) -> tuple[jax.Array, Intermediates]:
            return experiment.apply(params, self.images, None, variables)

        self._apply = jax.jit(apply)

    def intermediates(self, params: Params, variables: Variables | None = None) -> Intermediates:
        """Computes the intermediates of each transformer on the images."""
        return self._apply(params, variables)[1]

    def predict(self, params: Params, variables: Variables | None = None) -> Predictions:
        """Computes the prediction for each image, and its confidence."""
        logits = jnp.asarray(self._apply(params, variables)[0], jnp.float32)
        probabilities = np.asarray(jax.nn.softmax(logits))
        return Predictions(probabilities.argmax(axis=-1), probabilities.max(axis=-1))

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


def sample_test_images(
    experiment: Experiment, count: int, examples: Sequence[int] | None = None
) -> Sample:
    """Preprocesses a sample of the test set as for the evaluation, the same for all runs.

    Images that depend on others of their batch, as clutter and sums of digits do, differ from those
    of the evaluation because the batch differs: here, it has 8 images. A larger sample starts with
    the images of a smaller one.

    Args:
        experiment: the experiment.
        count: the number of images. A smaller test set is used as a whole.
        examples: places in the test set. None: those of `balanced_sample`.
    """
    split = experiment.dataset.test
    chosen = balanced_sample(split.labels, count) if examples is None else np.asarray(examples)
    groups = np.resize(chosen, (-(-len(chosen) // PROBE_SIZE), PROBE_SIZE))  # repeats to fill
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = fold(jax.random.key(TEST_KEY), jnp.asarray(groups.ravel())).reshape(groups.shape)
    preprocess = jax.jit(experiment.preprocess)
    batches = [
        preprocess(keys[i], preprocessing.as_batch(split.take(group)))
        for i, group in enumerate(groups)
    ]
    batch = jax.tree.map(lambda *each: jnp.concatenate(each)[: len(chosen)], *batches)
    return Sample(chosen, keys.ravel()[: len(chosen)], batch["image"], np.asarray(batch["label"]))


def balanced_sample(labels: Int[np.ndarray, " n"], count: int) -> Int[np.ndarray, " m"]:
    """Draws examples such that the numbers of each class differ by at most one.

    Classes with too few examples are used as a whole, and the others fill their places.

    Args:
        labels: of all examples.
        count: the number of examples to draw.

    Returns:
        Their places. Any first part of them is balanced too.
    """
    rng = np.random.default_rng(SAMPLE_SEED)
    shuffled = rng.permutation(len(labels))
    _, classes, sizes = np.unique(labels[shuffled], return_inverse=True, return_counts=True)
    by_class = np.argsort(classes, kind="stable")
    rounds = np.empty(len(labels), int)
    rounds[by_class] = np.concatenate([np.arange(size) for size in sizes])
    # Each round has one example of each class, in random order.
    return shuffled[np.lexsort((rng.random(len(labels)), rounds))[:count]]
