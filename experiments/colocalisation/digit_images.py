"""The images of a co-localisation: digits at random places, and their true boxes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.colocalisation.model import CANVAS_PX
from experiments.colocalisation.options import ColocalisationSettings
from experiments.datasets import Dataset
from experiments.runs.records import RunError
from stn_jax import colocalisation, distortions, transforms

CANVAS = (CANVAS_PX, CANVAS_PX)
CLUTTER = 16
DIGITS = tuple(range(10))

# What a run's seed is used for. Each use has its own key.
ENCODER, IMAGES, PARAMETERS, TRAINING = range(4)


class Sets(NamedTuple):
    """A set of images for each digit.

    Attributes:
        images: `[digits, n, 84, 84, 1]`.
        boxes: `[digits, n, 4]`, the true boxes in normalised coordinates. They are used for
            reports only, never for training.
    """

    images: jax.Array
    boxes: np.ndarray


def key_for(settings: ColocalisationSettings, use: int) -> jax.Array:
    """Derives the key for one use of the run's seed."""
    return jax.random.fold_in(jax.random.key(settings.seed), use)


def make_sets(settings: ColocalisationSettings, dataset: Dataset) -> Sets:
    """Makes images of each digit at random places, with their true boxes.

    Raises:
        RunError: if the split has too few images of a digit.
    """
    split = dataset.test if settings.split == "test" else dataset.validation
    rng = np.random.default_rng(settings.seed)

    @jax.jit
    @jax.vmap
    def placed(key: jax.Array, image: jax.Array, others: jax.Array) -> tuple[jax.Array, jax.Array]:
        if settings.distortion == "tc":
            place_key = distortions.image_key(key)
            output = distortions.random_clutter(key, image, others, canvas=CANVAS)
        else:
            place_key, output = key, distortions.random_translation(key, image, canvas=CANVAS)
        to_image = distortions.draw_translation(place_key, image.shape[:2], canvas=CANVAS)
        box = colocalisation.frame_box(transforms.affine.inverse(to_image), transforms.affine)
        return output, box

    sets = []
    for digit in DIGITS:
        those = np.flatnonzero(split.labels == digit)
        if len(those) < settings.images:
            raise RunError(
                f"images must be at most {len(those)}, the number of images of the digit {digit} "
                f"in the {settings.split} split; got {settings.images}"
            )
        chosen = rng.choice(those, settings.images, replace=False)
        others = rng.integers(len(dataset.train), size=(settings.images, CLUTTER))
        keys = jax.random.fold_in(key_for(settings, IMAGES), digit)
        keys = jax.random.split(keys, settings.images)
        clutter = dataset.train.images[others]
        sets.append(placed(keys, _floats(split.images[chosen]), _floats(clutter)))
    images, boxes = zip(*sets, strict=True)
    return Sets(jnp.stack(images), np.stack(boxes))


def _floats(images: np.ndarray) -> jax.Array:
    return jnp.asarray(images, jnp.float32) / 255
