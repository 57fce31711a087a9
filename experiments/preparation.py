"""From stored images to what a network gets, on the device: scale, distort, normalise."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import DEFAULT_SCALES, VOLUMES, Data, scales
from experiments.datasets import Split
from stn_jax import distortions
from stn_jax.contrast import local_contrast
from stn_jax.training import Batch, Prepare, take

# (key, image) -> image, and (key, image shape) -> theta of its warp, where it has one.
Distort = Callable[[jax.Array, jax.Array], jax.Array]
Draw = Callable[[jax.Array, tuple[int, ...]], jax.Array]


class Normalisation(NamedTuple):
    """Mean and standard deviation of each channel, of images in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def background(self) -> tuple[float, ...]:
        """What a pixel of value 0 becomes: what lies outside a normalised image."""
        return tuple(-mean / std for mean, std in zip(self.mean, self.std, strict=True))

    @property
    def uncentred(self) -> "Normalisation":
        """The same without its mean: of volumes, whose background has to add up to 0."""
        return self._replace(mean=(0.0,) * len(self.mean))


def normalisation(images: np.ndarray) -> Normalisation:
    """The normalisation of stored images: of the training images, for every split."""
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64) / scale
    std = images.std(axis=(0, 1, 2), dtype=np.float64) / scale
    std = np.where(std > 0, std, 1.0)  # a channel that is constant stays as it is
    return Normalisation(tuple(mean.tolist()), tuple(std.tolist()))


def _given(**settings: object) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value is not None}


def _settings(data: Data) -> dict[str, object]:
    """The arguments that the configured distortion takes; its own defaults for what is not set."""
    # Not `math.radians`: in a population the angle is an array.
    angle = _given(max_angle_rad=None if data.max_angle is None else data.max_angle * math.pi / 180)
    ndim = 3 if data.distortion in VOLUMES else 2
    canvas = _given(canvas=data.canvas and (data.canvas,) * ndim)
    scale = {"scale": scales(data)} if data.distortion in DEFAULT_SCALES else {}
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


def draw_theta(data: Data) -> Draw | None:
    """How the configured distortion draws its theta, for those that turn images by an angle."""
    draw = {"r": distortions.draw_r, "rts": distortions.draw_rts}.get(data.distortion)
    return draw and functools.partial(draw, **_settings(data))


def make_prepare(data: Data, normalisation: Normalisation) -> Prepare:
    """The function from keys and a batch as stored to a batch as the network gets it."""
    mean, std = (np.asarray(values, np.float32) for values in normalisation)
    settings = _settings(data)

    def distort(keys: jax.Array, stored: jax.Array) -> jax.Array:
        images = _scaled(stored)
        if data.distortion == "none":
            return images
        if data.distortion == "tc":
            # Picked before they are scaled: a device has all stored images, and scales its own.
            others = _scaled(_others(keys, stored, data.clutter))
            return jax.vmap(functools.partial(distortions.tc, **settings))(keys, images, others)
        distortion = getattr(distortions, data.distortion)
        return jax.vmap(functools.partial(distortion, **settings))(keys, images)

    def prepare(keys: jax.Array, batch: Batch) -> Batch:
        images = (distort(keys, batch["image"]) - mean) / std
        if data.normalisation == "local":
            images = jax.vmap(local_contrast)(images)
        # Stored once: XLA would distort anew in each of the products that read the images. An epoch
        # of a fully connected network on TC takes a CPU core 6 s, 12 without.
        return batch | {"image": jax.lax.optimization_barrier(images)}

    return prepare if data.task == "classify" else _adding(prepare)


def augmenting(data: Data, prepare: Prepare) -> Prepare:
    """`prepare` of training images that are moved and bent before, as far as the settings say."""
    settings = {
        "max_angle_rad": math.radians(data.augment_angle),
        "max_scale": data.augment_scale,
        "max_shift_px": data.augment_shift,
        "sigma_px": data.augment_sigma,
    }
    if settings == {"max_angle_rad": 0, "max_scale": 1, "max_shift_px": 0, "sigma_px": 0}:
        return prepare
    jitter = functools.partial(distortions.jitter, **settings)

    def augmented(keys: jax.Array, batch: Batch) -> Batch:
        # Distortions draw from parts 0 to 2 of the keys.
        images = jax.vmap(jitter)(_fold(keys, 3), _scaled(batch["image"]))
        # Stored too: an image takes 17 us, and 111 where each tap of R moves and bends it anew.
        return prepare(keys, batch | {"image": jax.lax.optimization_barrier(images)})

    return augmented


def _adding(prepare: Prepare) -> Prepare:
    """`prepare` of each example and another of its batch: images as channels, labels as a sum."""

    def prepare_pairs(keys: jax.Array, batch: Batch) -> Batch:
        first, second, partner = (_fold(keys, use) for use in (0, 1, 2))
        others = _others_at(partner, len(keys), 1)[:, 0]
        digits = prepare(first, batch), prepare(second, take(batch, others))
        image = jnp.concatenate([digit["image"] for digit in digits], axis=-1)
        return batch | {"image": image, "label": digits[0]["label"] + digits[1]["label"]}

    return prepare_pairs


def _fold(keys: jax.Array, use: int) -> jax.Array:
    """The part of each key for one of its uses."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, use)


def background(data: Data, normalisation: Normalisation) -> tuple[float, ...]:
    """What lies outside a prepared image, one value a channel."""
    stored = normalisation.background
    if data.normalisation == "local":
        stored = (0.0,) * len(stored)  # what is everywhere the same becomes 0
    return 2 * stored if data.task == "add" else stored


def num_classes(data: Data, stored: int) -> int:
    """The number of labels there are, given that of the data set: sums start at 0 + 0."""
    return 2 * stored - 1 if data.task == "add" else stored


def _scaled(stored: jax.Array) -> jax.Array:
    """Stored images as floats: bytes in [0, 1], floats as they are."""
    return stored.astype(jnp.float32) / 255 if stored.dtype == jnp.uint8 else stored


def _others(keys: jax.Array, images: jax.Array, count: int) -> jax.Array:
    """For each image, `count` others of its batch, `[b, count, h, w, c]`."""
    return images[_others_at(_fold(keys, 2), len(images), count)]


def _others_at(keys: jax.Array, size: int, count: int) -> jax.Array:
    """For each index of a batch of `size`, `count` indices of others, `[b, count]`."""

    def draw(key: jax.Array, index: jax.Array) -> jax.Array:
        step = jax.random.randint(key, (count,), min(1, size - 1), size)
        return (index + step) % size

    return jax.vmap(draw)(keys, jnp.arange(size))


def as_batch(split: Split) -> Batch:
    """A split's arrays, on the device."""
    return {"image": jnp.asarray(split.images), "label": jnp.asarray(split.labels)}
