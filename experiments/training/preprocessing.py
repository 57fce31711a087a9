"""Turns stored images into network inputs, on the device: scales, distorts, normalises."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.datasets import Dataset, Split
from experiments.settings.config import VOLUME_DISTORTIONS, Data
from experiments.settings.relations import DEFAULT_SCALES, scale_range
from stn_jax import distortions
from stn_jax.contrast import local_contrast
from stn_jax.training import Batch, Preprocess, take

# (key, image) -> image, and (key, image shape) -> theta of the warp.
Distort = Callable[[jax.Array, jax.Array], jax.Array]
Draw = Callable[[jax.Array, tuple[int, ...]], jax.Array]

# By the paper's letters. TC is missing, because it also takes other images.
DISTORTIONS: dict[str, Callable[..., jax.Array]] = {
    "r": distortions.random_rotation,
    "rts": distortions.random_similarity,
    "p": distortions.random_perspective,
    "e": distortions.random_elastic,
    "t": distortions.random_translation,
    "extruded": distortions.random_extrusion,
}


class Normalisation(NamedTuple):
    """The mean and standard deviation of each channel, for images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def background(self) -> tuple[float, ...]:
        """The normalised value of a pixel of value 0, which fills the outside of an image."""
        return tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))

    @property
    def uncentred(self) -> "Normalisation":
        """The normalisation without the mean. The background of volumes must sum to 0."""
        return self._replace(mean=(0.0,) * len(self.mean))


def normalisation(images: np.ndarray) -> Normalisation:
    """The normalisation of stored images. All splits use that of the training images."""
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64) / scale
    std = images.std(axis=(0, 1, 2), dtype=np.float64) / scale
    std = np.where(std > 0, std, 1.0)  # a constant channel is not scaled
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))


def _given(**settings: object) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value is not None}


def _settings(data: Data) -> dict[str, object]:
    """The arguments of the configured distortion. Settings of None use its defaults."""
    # `math.radians` does not accept the arrays of a population.
    angle = _given(max_angle_rad=None if data.max_angle is None else data.max_angle * math.pi / 180)
    ndim = 3 if data.distortion in VOLUME_DISTORTIONS else 2
    canvas = _given(canvas=data.canvas and (data.canvas,) * ndim)
    scale = {"scale": scale_range(data)} if data.distortion in DEFAULT_SCALES else {}
    sigma = _given(sigma_px=data.sigma)
    return {
        "none": {},
        "r": angle,
        "rts": angle | canvas | scale,
        "p": scale | sigma,
        "e": scale | sigma,
        "t": canvas,
        "tc": canvas | {"crop_size": data.crop_size},
        "extruded": angle | canvas,
    }[data.distortion]


def distortion_arguments(data: Data) -> dict[str, Any]:
    """The arguments of the configured distortion, including its defaults."""
    if data.distortion == "none":
        return {}
    function = distortions.random_clutter if data.distortion == "tc" else None
    parameters = inspect.signature(function or DISTORTIONS[data.distortion]).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.default is not each.empty}
    return defaults | _settings(data)


def draw_theta(data: Data) -> Draw | None:
    """Draws theta of the configured distortion; None if it does not rotate images."""
    draw = {"r": distortions.draw_rotation, "rts": distortions.draw_similarity}.get(data.distortion)
    return draw and functools.partial(draw, **_settings(data))


def make_preprocess(data: Data, normalisation: Normalisation) -> Preprocess:
    """The function from keys and a stored batch to the input of the network."""
    normalise, settings = _make_normalise(data, normalisation), _settings(data)

    def distort(keys: jax.Array, stored: jax.Array) -> jax.Array:
        images = _scaled(stored)
        if data.distortion == "none":
            return images
        if data.distortion == "tc":
            # Chosen before scaling: each device holds all stored images, and scales only its own.
            others = _scaled(_others(keys, stored, data.clutter))
            return jax.vmap(functools.partial(distortions.random_clutter, **settings))(
                keys, images, others
            )
        distortion = functools.partial(DISTORTIONS[data.distortion], **settings)
        return jax.vmap(distortion)(keys, images)

    def preprocess(keys: jax.Array, batch: Batch) -> Batch:
        images = normalise(distort(keys, batch["image"]))
        # The barrier stores the images: XLA would distort them again in each product that reads
        # them. An epoch of a fully connected network on TC takes 6 s of a CPU core; 12 s without.
        return batch | {"image": jax.lax.optimization_barrier(images)}

    return preprocess if data.task == "classify" else _adding(preprocess)


def make_undistorted_preprocess(
    data: Data, normalisation: Normalisation
) -> Callable[[jax.Array], jax.Array]:
    """The function from images to the input of the network, without distortion.

    Returns:
        A function of images of the size of the network's input, with the dtype and the scale of the
        stored images. Of stored bytes, it also takes floats in [0, 1]. If the task is to add two
        digits, both are given as channels of an image.
    """
    normalise = _make_normalise(data, normalisation)

    def preprocess(images: jax.Array) -> jax.Array:
        digits = jnp.split(_scaled(images), 2 if data.task == "add" else 1, axis=-1)
        return jnp.concatenate([normalise(each) for each in digits], axis=-1)

    return preprocess


def _make_normalise(data: Data, normalisation: Normalisation) -> Callable[[jax.Array], jax.Array]:
    """The configured normalisation of images that are scaled to [0, 1]."""
    mean, std = (np.asarray(values, np.float32) for values in normalisation)

    def normalise(images: jax.Array) -> jax.Array:
        images = (images - mean) / std
        return jax.vmap(local_contrast)(images) if data.normalisation == "local" else images

    return normalise


def augmenting(data: Data, preprocess: Preprocess) -> Preprocess:
    """Adds the configured augmentation of training images in front of `preprocess`."""
    settings = {
        "max_angle_rad": math.radians(data.augment_angle),
        "max_scale": data.augment_scale,
        "max_shift_px": data.augment_shift,
        "sigma_px": data.augment_sigma,
    }
    if settings == {"max_angle_rad": 0, "max_scale": 1, "max_shift_px": 0, "sigma_px": 0}:
        return preprocess
    jitter = functools.partial(distortions.random_jitter, **settings)

    def augmented(keys: jax.Array, batch: Batch) -> Batch:
        # Distortions draw from parts 0 to 2 of the keys.
        images = jax.vmap(jitter)(_fold(keys, 3), _scaled(batch["image"]))
        # The barrier stores the images: one takes 17 us; 111 us if each tap of R warps it again.
        return preprocess(keys, batch | {"image": jax.lax.optimization_barrier(images)})

    return augmented


def _adding(preprocess: Preprocess) -> Preprocess:
    """Pairs each example with another of its batch: images as channels, labels as a sum."""

    def preprocess_pairs(keys: jax.Array, batch: Batch) -> Batch:
        first, second, partner = (_fold(keys, use) for use in (0, 1, 2))
        others = _others_at(partner, len(keys), 1)[:, 0]
        digits = preprocess(first, batch), preprocess(second, take(batch, others))
        image = jnp.concatenate([digit["image"] for digit in digits], axis=-1)
        return batch | {"image": image, "label": digits[0]["label"] + digits[1]["label"]}

    return preprocess_pairs


def _fold(keys: jax.Array, use: int) -> jax.Array:
    """A key for one of the uses of each key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, use)


def background(data: Data, normalisation: Normalisation) -> tuple[float, ...]:
    """The value outside a preprocessed image, for each channel."""
    stored = normalisation.background
    if data.normalisation == "local":
        stored = (0.0,) * len(stored)  # a constant area becomes 0
    return 2 * stored if data.task == "add" else stored


def num_classes(data: Data, stored: int) -> int:
    """The number of labels, given that of the data set. Sums of two labels start at 0."""
    return 2 * stored - 1 if data.task == "add" else stored


def class_names(data: Data, dataset: Dataset) -> tuple[str, ...]:
    """The names of the labels. Without names in the data set, and for sums, these are numbers."""
    if data.task == "classify" and dataset.class_names is not None:
        return dataset.class_names
    return tuple(map(str, range(num_classes(data, dataset.num_classes))))


def _scaled(stored: jax.Array) -> jax.Array:
    """Stored images as floats. Bytes are scaled to [0, 1]; floats are unchanged."""
    return stored.astype(jnp.float32) / 255 if stored.dtype == jnp.uint8 else stored


def _others(keys: jax.Array, images: jax.Array, count: int) -> jax.Array:
    """For each image, `count` other images of its batch, `[b, count, h, w, c]`."""
    return images[_others_at(_fold(keys, 2), len(images), count)]


def _others_at(keys: jax.Array, size: int, count: int) -> jax.Array:
    """For each index of a batch of `size`, `count` other indices, `[b, count]`."""

    def draw(key: jax.Array, index: jax.Array) -> jax.Array:
        step = jax.random.randint(key, (count,), min(1, size - 1), size)
        return (index + step) % size

    return jax.vmap(draw)(keys, jnp.arange(size))


def as_batch(split: Split) -> Batch:
    """The arrays of a split, on the device."""
    return {"image": jnp.asarray(split.images), "label": jnp.asarray(split.labels)}
