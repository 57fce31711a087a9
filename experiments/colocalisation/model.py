"""The networks of a co-localisation: encoder, localisation network and objective."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from experiments import datasets
from stn_jax import colocalisation as core
from stn_jax import spatial_transform, training, transforms
from stn_jax.linen import CNN, Conv, ConvBlock, Head, avg_pool
from stn_jax.nn import conv2d
from stn_jax.training import Batch, Params, Values

IMAGE_PX = 28
CANVAS_PX = 84
# The side of a window relative to the canvas, and the factor by which it may grow or shrink.
SIDE, FACTOR = IMAGE_PX / CANVAS_PX, 1.25
# Windows start a fifth wider than a digit's image, so that most contain a part of the digit.
INITIAL_SIDE = 1.2 * SIDE
INK = 2.0  # the initial weight of every feature in the map of scores
ENCODER_BATCH = 128

# Images `[b, 28, 28, 1]` to features `[b, d]`.
Embed = Callable[[jax.Array], jax.Array]


class SymmetricConv(nn.Module):
    """A VALID convolution and ReLU. Horizontal and vertical flips leave its kernels unchanged.

    Attributes:
        features: the number of filters.
        kernel_size: the side of the kernels.
    """

    features: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the features. Flipping `x` flips them."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = (kernel + kernel[::-1]) / math.sqrt(2)
        kernel = (kernel + kernel[:, ::-1]) / math.sqrt(2)
        return nn.relu(conv2d(x, kernel) + bias)


class Localiser(nn.Module):
    """Predicts a square window for each image.

    Its centre is the centre of mass of a map of weights, and its side is regressed. The map is the
    softmax of scores, at a quarter of the image's resolution.

    A fully connected network would learn to move windows away from the digit, because all empty
    windows are alike. A centre of mass can only move towards high scores, as long as the scores do
    not depend on the image's edge. Initially, the scores measure the amount of ink. Kernels are
    symmetric, so that a window is centred on the pattern that it follows. Otherwise it could settle
    on the end of a stroke: the ends of ones resemble each other more than whole ones do.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns thetas of `translation_scale`, `[b, 3]`."""
        x = avg_pool(images, (4, 4))
        # Padded only once, because padding in each layer would reveal where the edge is.
        x = jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
        x = SymmetricConv(16, 3)(SymmetricConv(16, 5)(x))
        scores = Conv(1, (1, 1), kernel_init=nn.initializers.constant(INK))(x)
        weights = nn.softmax(scores[..., 0], axis=(1, 2))
        seen = jnp.einsum("bhw,bhwf->bf", weights, x)
        start = nn.initializers.constant(math.atanh(math.log(INITIAL_SIDE / SIDE, FACTOR)))
        size = nn.Dense(1, kernel_init=nn.initializers.zeros, bias_init=start)(seen)
        side = SIDE * FACTOR ** jnp.tanh(size)
        return jnp.concatenate([side, jax.vmap(core.centre_of_mass)(weights)], axis=1)


def locate(params: Params, images: jax.Array) -> jax.Array:
    """Returns the theta of each image's window, `[b, 3]`."""
    return jnp.asarray(Localiser().apply({"params": params}, images))


def pretrain(
    key: jax.Array, dataset: datasets.Dataset, *, epochs: int, learning_rate: float
) -> tuple[Embed, float]:
    """Trains the encoder to classify undistorted digits.

    Args:
        key: for the parameters and the order of examples.
        dataset: the data set.
        epochs: passes over the training split.
        learning_rate: the peak learning rate.

    Returns:
        The encoder as a function from images `[b, 28, 28, 1]` to features `[b, d]`, and its error
        on the validation split in %.
    """
    network = CNN()
    steps = epochs * (len(dataset.train) // ENCODER_BATCH)
    optimizer = optax.adamw(optax.cosine_decay_schedule(learning_rate, steps))

    def apply_fn(params: Params, images: jax.Array, key: jax.Array | None) -> Any:
        return network.apply({"params": params}, images), None

    def preprocess(keys: jax.Array, batch: Batch) -> Batch:
        return batch | {"image": batch["image"].astype(jnp.float32) / 255}

    objective = training.classification(apply_fn)

    @jax.jit
    def trained(data: Batch, validation: Batch) -> tuple[Params, jax.Array]:
        params = network.init(key, jnp.zeros((1, IMAGE_PX, IMAGE_PX, 1)))
        state = training.init_state(key, params["params"], optimizer)
        sizes = {"num_epochs": epochs, "batch_size": ENCODER_BATCH}
        state, _ = training.fit(objective, optimizer, preprocess, state, data, **sizes)
        means = training.evaluate(
            objective, preprocess, state.key, state.params, validation, batch_size=500
        )
        return state.params, 100 * means["error"]

    params, error = trained(*map(_as_batch, (dataset.train, dataset.validation)))
    return functools.partial(embed, network, params), float(error)


def _as_batch(split: datasets.Split) -> Batch:
    return {"image": jnp.asarray(split.images), "label": jnp.asarray(split.labels)}


def embed(network: nn.Module, params: Params, images: jax.Array) -> jax.Array:
    """Concatenates the activations of a classifier's layers, each scaled to unit length."""

    def is_layer(module: nn.Module, method: str) -> bool:
        return isinstance(module, ConvBlock | Head) and method == "__call__"

    _, found = network.apply({"params": params}, images, capture_intermediates=is_layer)
    layers = [each.reshape(len(images), -1) for each in jax.tree.leaves(found["intermediates"])]
    unit = [each / jnp.linalg.norm(each, axis=1, keepdims=True) for each in layers]
    return jnp.concatenate(unit, axis=1) / math.sqrt(len(unit))


def make_objective(embed: Embed) -> training.Objective:
    """The triplet loss between the crops of `batch["image"]` and the patches `batch["patch"]`."""

    @jax.vmap
    def crop(image: jax.Array, theta: jax.Array) -> jax.Array:
        shape = (IMAGE_PX, IMAGE_PX)
        return spatial_transform(image, theta, transforms.translation_scale, output_shape=shape)

    def objective(params: Params, batch: Batch, key: jax.Array | None) -> Values:
        crops = crop(batch["image"], locate(params, batch["image"]))
        features = embed(jnp.concatenate([crops, batch["patch"]]))
        return {"loss": core.triplet_loss(*jnp.split(features, 2))}

    return objective


def add_patches(keys: jax.Array, batch: Batch) -> Batch:
    """Adds a random patch of each image to a batch."""
    patch = functools.partial(core.random_patch, shape=(IMAGE_PX, IMAGE_PX))
    return batch | {"patch": jax.vmap(patch)(keys, batch["image"])}
