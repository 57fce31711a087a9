"""Training steps of this project."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import keystr

from experiments import devices
from experiments.benchmarks.cases import CLASSES, SIDE, Arrays, Job
from experiments.benchmarks.worker import Program
from experiments.config import Model
from experiments.models import make_network
from stn_jax import population, training
from stn_jax.nn import SpatialTransformer, SpatialTransformerNetwork
from stn_jax.population import MEMBER

MODELS = {
    "tutorial": Model(model="tutorial"),
    "cnn": Model(model="cnn"),
    "st_cnn": Model(model="st_cnn", transform="affine"),
}


class Offset(nn.Module):
    """Adds a learned number to each image: the least that asks for a gradient to the input."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """The images with their offsets."""
        return images + self.param("offset", nn.initializers.zeros, (len(images), 1, 1, 1))


class Unsampled(SpatialTransformer):
    """A transformer that adds the mean of theta to its image, where others sample."""

    def with_intermediates(self, images: Any) -> tuple[jax.Array, dict[str, Any]]:
        """The images with their offsets, and nothing else."""
        theta = self.localisation_regression(self.localisation(images).astype(jnp.float32))
        return images + jnp.mean(theta, axis=1)[:, None, None, None], {}


def make(job: Job, dropout: bool) -> SpatialTransformerNetwork:
    """The job's network."""
    name = job["network"]
    base = {"cnn_offset": "cnn", "st_cnn_unsampled": "st_cnn"}.get(name, name)
    settings = MODELS[base].__dict__ | {"precision": job.get("precision", "float32")}
    settings |= {} if dropout else {"dropout": 0.0}
    network = make_network(Model(**settings), CLASSES, (0.0,))
    if name == "cnn_offset":
        return SpatialTransformerNetwork((Offset(), *network.stages))
    if name == "st_cnn_unsampled":
        transformer, classifier = network.stages
        assert isinstance(transformer, SpatialTransformer)
        unsampled = Unsampled(transformer.localisation, transformer.transform)
        return SpatialTransformerNetwork((unsampled, classifier))
    return network


def parameters(job: Job) -> Arrays:
    """The initial parameters of a network, one array for each path; members on a leading axis.

    Thetas start near the identity, not at it: there, every sample lies on a kink of the
    interpolation, and rounding decides on which side.
    """
    network, images = make(job, dropout=False), jnp.zeros((job["batch"], SIDE, SIDE, 1))
    keys = jax.random.split(jax.random.key(0), max(job["members"], 1))
    params = jax.jit(jax.vmap(lambda key: network.init(key, images)["params"]))(keys)
    arrays = {
        keystr(path, simple=True, separator="/"): np.asarray(leaf if job["members"] else leaf[0])
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    rng = np.random.default_rng(2)
    for path, array in arrays.items():
        if "localisation_regression" in path:
            arrays[path] = array + 0.05 * rng.standard_normal(array.shape, np.float32)
    return arrays


def _nested(arrays: Arrays) -> dict[str, Any]:
    """The parameters as the tree that Flax has."""
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *folders, name = path.removeprefix("params/").split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = jnp.asarray(array)
    return tree


def build(job: Job, arrays: Arrays) -> Program:
    """A training step of the job's network, in the job's form.

    The job says whether steps are calls or run inside a scan (`scan_steps`), and how members are
    one program (`how`, as in `stn_jax.population`, over all devices); without it they take turns.
    """
    params = _nested({k: v for k, v in arrays.items() if k.startswith("params/")})
    data = {"image": jnp.asarray(arrays["images"]), "label": jnp.asarray(arrays["labels"])}
    if not job["members"]:
        return _program(job, _advance(job), [(params, data)], arrays)
    if job["how"]:
        return _program(job, _advance(job), [(params, data)], arrays)
    members = [
        jax.tree.map(lambda array, i=i: array[i], (params, data)) for i in range(job["members"])
    ]
    return _program(job, _advance(job), members, arrays)


def _optimizer(rates: jax.Array) -> optax.GradientTransformation:
    """Plain gradient descent, at a rate for each step and the last one from then on."""
    return optax.sgd(lambda count: rates[jnp.minimum(count, len(rates) - 1)])


def _advance(job: Job) -> Callable[[bool], Callable[..., Any]]:
    """From whether dropout is on to `(rates, state, data) -> (state, loss of the first step)`."""

    def with_dropout(dropout: bool) -> Callable[..., Any]:
        network = make(job, dropout)

        def apply(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
            rngs = None if key is None else {"dropout": key}
            return network.apply({"params": params}, images, rngs=rngs)

        objective = training.classification(apply)

        def one(rates: jax.Array, state: training.TrainState, data: Any) -> Any:
            state, means = training.train_step(objective, _optimizer(rates), state, data)
            return state, means["loss"]

        def many(rates: jax.Array, state: training.TrainState, data: Any) -> Any:
            order = jnp.tile(jnp.arange(job["batch"]), (job["scan_steps"], 1))
            state, means = training.train_steps(
                objective, _optimizer(rates), lambda keys, batch: batch, state, data, order
            )
            return state, means["loss"][0]

        advance = many if job["scan_steps"] else one
        if job["members"] and job["how"]:
            advance = partial(_of_all, job, advance)
        return jax.jit(advance)

    return with_dropout


def _of_all(job: Job, advance: Callable[..., Any], rates: jax.Array, state: Any, data: Any) -> Any:
    """`advance` of every member, in equal parts on all devices where they are computed in a loop.

    `vmap` is timed on one device: on several it would do what a loop does, in fewer parts.
    """
    spread = math.gcd(job["members"], jax.device_count())
    mesh = devices.make_mesh({MEMBER: spread}) if job["how"] == "loop" else None
    return population.over_members(partial(advance, rates), how=job["how"], mesh=mesh)(state, data)


def _program(
    job: Job,
    advance: Callable[[bool], Callable[..., Any]],
    members: list[tuple[Any, Any]],
    arrays: Arrays,
) -> Program:
    """Steps of each of `members` (parameters and data) in turn."""
    rates = jnp.full(8, job["learning_rate"])
    start = [_state(job, params) for params, _ in members]
    data = [each for _, each in members]
    # Other implementations drop other units, so what is compared has no dropout.
    checked = advance(False)
    timed = advance(True) if job["network"] == "tutorial" else checked

    def values() -> Arrays:
        # One step at a rate of 1, and further ones at 0, change the parameters by the gradient.
        once = jnp.zeros(8).at[0].set(1.0)
        ends = [checked(once, state, batch) for state, batch in zip(start, data, strict=True)]
        changes = [
            jax.tree.map(jnp.subtract, state.params, end.params)
            for state, (end, _) in zip(start, ends, strict=True)
        ]
        gradients, losses = changes[0], ends[0][1]
        if job["members"] and not job["how"]:
            gradients = jax.tree.map(lambda *each: jnp.stack(each), *changes)
            losses = jnp.stack([loss for _, loss in ends])
        found = {
            keystr(path, simple=True, separator="/"): np.asarray(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        }
        return {"loss": np.asarray(losses)} | found

    states = list(start)

    def run() -> Any:
        for i, batch in enumerate(data):
            states[i], _ = timed(rates, states[i], batch)
        return states

    return Program(values, run, jax.block_until_ready, steps=job["scan_steps"] or 1)


def _state(job: Job, params: Any) -> training.TrainState:
    """The state before the first step; of all members where they are in one program."""

    def init(key: jax.Array, params: Any) -> training.TrainState:
        return training.init_state(key, params, _optimizer(jnp.zeros(1)))

    key = jax.random.key(3)
    if job["members"] and job["how"]:
        return jax.vmap(init)(jax.random.split(key, job["members"]), params)
    return init(key, params)
