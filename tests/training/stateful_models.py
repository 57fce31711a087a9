"""Networks with batch statistics, dropout and their own random numbers, in both APIs of Flax."""

import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import nnx

from stn_jax import training
from tests.training.linear_model import KEY

OPTIMIZER = optax.sgd(0.1, momentum=0.9)


class Stateful(NamedTuple):
    """A network as functions and initial values."""

    objective: training.StatefulObjective
    params: Any
    variables: Any

    def initial_state(self) -> training.TrainState:
        return training.init_state(KEY, self.params, OPTIMIZER, self.variables)


def classification(apply: Any) -> training.StatefulObjective:
    return cast("training.StatefulObjective", training.classification(apply))


class _Linen(nn.Module):
    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, None]:
        training = self.is_mutable_collection("batch_stats")
        features = nn.Dense(8, use_bias=False)(images.reshape(images.shape[0], -1))
        features = nn.BatchNorm(use_running_average=not training, momentum=0.9)(features)
        return nn.Dense(3)(nn.relu(features)), None


def _linen() -> Stateful:
    network = _Linen()
    variables = network.init(KEY, jnp.zeros((2, 4, 4, 1)))
    params = variables.pop("params")

    def apply(params: Any, images: jax.Array, key: jax.Array | None, variables: Any) -> Any:
        mutable = [] if key is None else ["batch_stats"]
        return network.apply({"params": params, **variables}, images, mutable=mutable)

    return Stateful(classification(apply), params, variables)


class _Nnx(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(16, 8, use_bias=False, rngs=rngs)
        self.second = nnx.Linear(8, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        features = self.norm(self.first(images.reshape(images.shape[0], -1)))
        return self.second(self.dropout(nnx.relu(features)))


def _nnx() -> Stateful:
    graph, params, variables = nnx.split(_Nnx(nnx.Rngs(0)), nnx.Param, ...)

    def apply(params: Any, images: jax.Array, key: jax.Array | None, variables: Any) -> Any:
        model = nnx.merge(graph, params, variables, copy=True)
        if key is None:
            model.eval()
        logits = model(images)
        return (logits, None), nnx.state(model, nnx.Not(nnx.Param))

    return Stateful(classification(apply), params, variables)


@functools.cache
def stateful(api: str) -> Stateful:
    """The network of an API, `linen` or `nnx`."""
    return {"linen": _linen, "nnx": _nnx}[api]()


def arrays(tree: Any) -> Any:
    """The leaves as NumPy arrays, with keys as their data."""

    def convert(leaf: jax.Array) -> jax.Array:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.device_get([convert(leaf) for leaf in jax.tree.leaves(tree)])
