"""A linear classifier and its data, for the tests of training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stn_jax import training

KEY = jax.random.key(0)
OPTIMIZER = optax.adam(1e-2)
N = 103  # not a multiple of the batch size
_IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(N, 4, 4, 1)), jnp.float32)
# A linear model can learn these labels.
DATA = {"image": _IMAGES, "label": jnp.argmax(_IMAGES[:, :3, 0, 0], axis=1)}


def apply_fn(params: dict, images: jax.Array, key: jax.Array | None) -> tuple[jax.Array, dict]:
    features = images.reshape(len(images), -1)
    if key is not None:
        features = features * jax.random.bernoulli(key, 0.9, features.shape)
    return features @ params["w"] + params["b"], {"size": jnp.abs(features).sum(axis=1)}


OBJECTIVE = training.classification(apply_fn)


def identity(keys: jax.Array, batch: training.Batch) -> training.Batch:
    return batch


def add_noise(keys: jax.Array, batch: training.Batch) -> training.Batch:
    noise = jax.vmap(lambda key: jax.random.normal(key, (4, 4, 1)))(keys)
    return batch | {"image": batch["image"] + 0.1 * noise}


def initial_state() -> training.TrainState:
    params = {"w": 0.1 * jax.random.normal(KEY, (16, 3)), "b": jnp.zeros(3)}
    return training.init_state(KEY, params, OPTIMIZER)


def assert_same(a: training.TrainState, b: training.TrainState) -> None:
    """Compares step, parameters and optimizer state bit for bit."""
    for left, right in zip(jax.tree.leaves(a[:3]), jax.tree.leaves(b[:3]), strict=True):
        np.testing.assert_array_equal(left, right)
