"""What a co-localisation is made of: the encoder, the localisation network, and their objective."""

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
from stn_jax.nn import CNN, Conv, ConvBlock, Head, avg_pool
from stn_jax.nn.layers import conv2d
from stn_jax.training import Batch, Params, Values

IMAGE_PX = 28
CANVAS_PX = 84
# A window's side, in units of the canvas's, and by how much it may grow or shrink.
SIDE, FACTOR = IMAGE_PX / CANVAS_PX, 1.25
# Windows start a fifth wider than an image: most of them see a part of the digit.
INITIAL_SIDE = 1.2 * SIDE
INK = 2.0  # the first weight of every feature in the map of scores
ENCODER_BATCH = 128

# Images `[b, 28, 28, 1]` to features `[b, d]`.
Embed = Callable[[jax.Array], jax.Array]


class SymmetricConv(nn.Module):
    """A convolution of VALID padding and ReLU whose kernels are the same in every mirror.

    Attributes:
        features: number of filters.
        kernel_size: their side.
    """

    features: int
    kernel_size: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The features, which are mirrored where `x` is."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        kernel = (kernel + kernel[::-1]) / math.sqrt(2)
        kernel = (kernel + kernel[:, ::-1]) / math.sqrt(2)
        return nn.relu(conv2d(x, kernel) + bias)


class Localiser(nn.Module):
    """A window for each image: where a map of weights has its centre, as wide as is regressed.

    The map is a softmax over the image at a quarter of its size. A network of fully connected
    layers learns as readily to flee from what it sees as to follow it, and to where nothing is: all
    windows are alike there. The centre of a softmax can only follow, as long as the scores know
    nothing of the image's edge; and it does from the start, when they are how much ink there is.
    Kernels are symmetric, so that no window comes to lie beside what it follows: the ends of all
    ones, say, are more alike than ones are.
    """

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Thetas of `translation_scale`, `[b, 3]`."""
        x = avg_pool(images, (4, 4))
        x = jnp.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))  # once: more would show where the edge is
        x = SymmetricConv(16, 3)(SymmetricConv(16, 5)(x))
        scores = Conv(1, (1, 1), kernel_init=nn.initializers.constant(INK))(x)
        weights = nn.softmax(scores[..., 0], axis=(1, 2))
        seen = jnp.einsum("bhw,bhwf->bf", weights, x)
        start = nn.initializers.constant(math.atanh(math.log(INITIAL_SIDE / SIDE, FACTOR)))
        size = nn.Dense(1, kernel_init=nn.initializers.zeros, bias_init=start)(seen)
        side = SIDE * FACTOR ** jnp.tanh(size)
        return jnp.concatenate([side, jax.vmap(core.centre_of_mass)(weights)], axis=1)


def locate(params: Params, images: jax.Array) -> jax.Array:
    """The thetas of images' windows, `[b, 3]`."""
    return jnp.asarray(Localiser().apply({"params": params}, images))


def pretrain(
    key: jax.Array, dataset: datasets.Dataset, *, epochs: int, learning_rate: float
) -> tuple[Embed, float]:
    """Trains a classifier of digits as they are.

    Args:
        key: of the parameters and the order of examples.
        dataset: whose training split it learns.
        epochs: passes over it.
        learning_rate: the peak.

    Returns:
        Its features, `[b, 28, 28, 1] -> [b, d]`, and its error on the validation split in %.
    """
    network = CNN()
    steps = epochs * (len(dataset.train) // ENCODER_BATCH)
    optimizer = optax.adamw(optax.cosine_decay_schedule(learning_rate, steps))

    def apply_fn(params: Params, images: jax.Array, key: jax.Array | None) -> Any:
        return network.apply({"params": params}, images), None

    def prepare(keys: jax.Array, batch: Batch) -> Batch:
        return batch | {"image": batch["image"].astype(jnp.float32) / 255}

    objective = training.classification(apply_fn)

    @jax.jit
    def trained(data: Batch, validation: Batch) -> tuple[Params, jax.Array]:
        params = network.init(key, jnp.zeros((1, IMAGE_PX, IMAGE_PX, 1)))
        state = training.init_state(key, params["params"], optimizer)
        sizes = {"num_epochs": epochs, "batch_size": ENCODER_BATCH}
        state, _ = training.fit(objective, optimizer, prepare, state, data, **sizes)
        means = training.evaluate(
            objective, prepare, state.params, validation, state.key, batch_size=500
        )
        return state.params, 100 * means["error"]

    params, error = trained(*map(_as_batch, (dataset.train, dataset.validation)))
    return functools.partial(embed, network, params), float(error)


def _as_batch(split: datasets.Split) -> Batch:
    return {"image": jnp.asarray(split.images), "label": jnp.asarray(split.labels)}


def embed(network: nn.Module, params: Params, images: jax.Array) -> jax.Array:
    """The activations of a classifier's layers, each scaled to unit length, side by side."""

    def is_layer(module: nn.Module, method: str) -> bool:
        return isinstance(module, ConvBlock | Head) and method == "__call__"

    _, found = network.apply({"params": params}, images, capture_intermediates=is_layer)
    layers = [each.reshape(len(images), -1) for each in jax.tree.leaves(found["intermediates"])]
    unit = [each / jnp.linalg.norm(each, axis=1, keepdims=True) for each in layers]
    return jnp.concatenate(unit, axis=1) / math.sqrt(len(unit))


def make_objective(embed: Embed) -> training.Objective:
    """The triplet loss of what is seen in the windows of `batch["image"]` and `batch["patch"]`."""

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
    """The batch, and a patch of each image at a place that is drawn anew at every step."""
    patch = functools.partial(core.random_patch, shape=(IMAGE_PX, IMAGE_PX))
    return batch | {"patch": jax.vmap(patch)(keys, batch["image"])}
