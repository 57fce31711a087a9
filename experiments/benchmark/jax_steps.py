"""Training steps of this project, as programs of the benchmark."""

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

from experiments.benchmark.peer_worker import Program
from experiments.benchmark.workloads import CLASSES, IMAGE_SIZE, Arrays, Job
from experiments.settings.config import Model
from experiments.training import sharding
from experiments.training.models import make_network
from stn_jax import population, training
from stn_jax.linen import SpatialTransformer, SpatialTransformerNetwork
from stn_jax.training import TrainState
from stn_jax.training.population import MEMBER

Tree = Any  # a pytree of arrays
Batch = dict[str, jax.Array]
# Maps learning rates, a state and data to the next state and the loss of the first step.
Advance = Callable[[jax.Array, TrainState, Batch], tuple[TrainState, jax.Array]]
_NUM_RATES = 8
MODELS = {
    "tutorial": Model(model="tutorial"),
    "cnn": Model(model="cnn"),
    "st_cnn": Model(model="st_cnn", transform="affine"),
}


class InputOffset(nn.Module):
    """Adds a learned number to each image, so that the next layer needs a gradient to its input."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the images plus their offsets."""
        return images + self.param("offset", nn.initializers.zeros, (len(images), 1, 1, 1))


class UnsampledTransformer(SpatialTransformer):
    """A transformer that adds the mean of theta to its image instead of sampling."""

    def __call__(self, images: Any) -> tuple[jax.Array, dict[str, Any]]:
        """Returns the images plus the means of theta, and no intermediates."""
        theta = self.localisation_regression(self.localisation(images).astype(jnp.float32))
        return images + jnp.mean(theta, axis=1)[:, None, None, None], {}


def make_job_network(job: Job, dropout: bool) -> SpatialTransformerNetwork:
    """Returns the job's network."""
    name = job["network"]
    base = {"cnn_offset": "cnn", "st_cnn_unsampled": "st_cnn"}.get(name, name)
    settings = MODELS[base].__dict__ | {"precision": job.get("precision", "float32")}
    settings |= {} if dropout else {"dropout": 0.0}
    network = make_network(Model(**settings), CLASSES, (0.0,))
    if name == "cnn_offset":
        return SpatialTransformerNetwork((InputOffset(), *network.stages))
    if name == "st_cnn_unsampled":
        transformer, classifier = network.stages
        assert isinstance(transformer, SpatialTransformer)
        unsampled = UnsampledTransformer(transformer.localisation, transformer.transform)
        return SpatialTransformerNetwork((unsampled, classifier))
    return network


def parameters(job: Job) -> Arrays:
    """Returns the initial parameters of a network by path, with a leading axis of any members.

    Thetas start near the identity but not at it, where every sample lies on a kink of the
    interpolation and rounding selects the side.
    """
    network = make_job_network(job, dropout=False)
    images = jnp.zeros((job["batch"], IMAGE_SIZE, IMAGE_SIZE, 1))
    keys = jax.random.split(jax.random.key(0), max(job["members"], 1))
    params = jax.jit(jax.vmap(lambda key: network.init(key, images)["params"]))(keys)
    arrays = _by_path(params if job["members"] else jax.tree.map(lambda leaf: leaf[0], params))
    rng = np.random.default_rng(2)
    for path, array in arrays.items():
        if "localisation_regression" in path:
            arrays[path] = array + 0.05 * rng.standard_normal(array.shape, np.float32)
    return arrays


def _by_path(tree: Tree) -> Arrays:
    return {
        keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _nested(arrays: Arrays) -> dict[str, Tree]:
    """Returns the parameters in `arrays` as the tree that Flax uses."""
    tree: dict[str, Tree] = {}
    for path, array in arrays.items():
        if path.startswith("params/"):
            *folders, name = path.removeprefix("params/").split("/")
            place = tree
            for folder in folders:
                place = place.setdefault(folder, {})
            place[name] = jnp.asarray(array)
    return tree


def build(job: Job, arrays: Arrays) -> Program:
    """Builds a program of training steps of the job's network.

    If `scan_steps` of the job is positive, the program scans that many steps; otherwise it is one
    step. `strategy` is how members become one program, as in `stn_jax.population`; if it is empty,
    they are trained one after another.
    """
    params = _nested(arrays)
    data = {"image": jnp.asarray(arrays["images"]), "label": jnp.asarray(arrays["labels"])}
    if not job["members"] or job["strategy"]:
        return _program(job, [(params, data)])
    members = [
        jax.tree.map(lambda array, i=i: array[i], (params, data)) for i in range(job["members"])
    ]
    return _program(job, members)


def _optimizer(rates: jax.Array) -> optax.GradientTransformation:
    """Returns gradient descent with a learning rate for each step; the last one is kept."""
    return optax.sgd(lambda count: rates[jnp.minimum(count, len(rates) - 1)])


def _compile(job: Job, dropout: bool) -> Advance:
    """Returns the compiled steps of the job's network."""
    network = make_job_network(job, dropout)

    def apply(params: Tree, images: jax.Array, key: jax.Array | None) -> Any:
        rngs = None if key is None else {"dropout": key}
        return network.apply({"params": params}, images, rngs=rngs)

    objective = training.classification(apply)

    def one_step(rates: jax.Array, state: TrainState, data: Batch) -> tuple[TrainState, jax.Array]:
        state, means = training.train_step(objective, _optimizer(rates), state, data)
        return state, means["loss"]

    def scan(rates: jax.Array, state: TrainState, data: Batch) -> tuple[TrainState, jax.Array]:
        order = jnp.tile(jnp.arange(job["batch"]), (job["scan_steps"], 1))
        state, means = training.train_steps(
            objective, _optimizer(rates), lambda keys, batch: batch, state, data, order
        )
        return state, means["loss"][0]

    advance = scan if job["scan_steps"] else one_step
    if job["members"] and job["strategy"]:
        advance = partial(_advance_members, job, advance)
    return jax.jit(advance)


def _advance_members(
    job: Job, advance: Advance, rates: jax.Array, states: TrainState, data: Batch
) -> tuple[TrainState, jax.Array]:
    """Advances every member in one program.

    A loop is spread over all devices in equal parts. `vmap` is timed on one device.
    """
    mesh = None
    if job["strategy"] == "loop":
        mesh = sharding.make_mesh({MEMBER: math.gcd(job["members"], jax.device_count())})
    over_members = population.over_members(
        partial(advance, rates), strategy=job["strategy"], mesh=mesh
    )
    return over_members(states, data)


def _program(job: Job, members: list[tuple[Tree, Batch]]) -> Program:
    """Returns a program that trains `members`, pairs of parameters and data, one after another."""
    rates = jnp.full(_NUM_RATES, job["learning_rate"])
    states = [_initial_state(job, params) for params, _ in members]
    data = [batch for _, batch in members]
    # Implementations draw different dropout masks, so values are compared without dropout.
    without_dropout = _compile(job, dropout=False)
    timed = _compile(job, dropout=True) if job["network"] == "tutorial" else without_dropout
    values = partial(_first_gradients, job, without_dropout, list(states), data)

    def run() -> list[TrainState]:
        for i, batch in enumerate(data):
            states[i], _ = timed(rates, states[i], batch)
        return states

    return Program(values, run, jax.block_until_ready, steps=job["scan_steps"] or 1)


def _first_gradients(
    job: Job, advance: Advance, states: list[TrainState], data: list[Batch]
) -> Arrays:
    """Returns the loss and the gradients of the first step, stacked if members are separate."""
    # A step at a rate of 1, followed by steps at 0, changes the parameters by the gradient.
    rates = jnp.zeros(_NUM_RATES).at[0].set(1.0)
    ends = [advance(rates, state, batch) for state, batch in zip(states, data, strict=True)]
    gradients = [
        jax.tree.map(jnp.subtract, state.params, end.params)
        for state, (end, _) in zip(states, ends, strict=True)
    ]
    losses = [loss for _, loss in ends]
    if job["members"] and not job["strategy"]:
        stacked = jax.tree.map(lambda *each: jnp.stack(each), *gradients)
        return {"loss": np.asarray(jnp.stack(losses))} | _by_path(stacked)
    return {"loss": np.asarray(losses[0])} | _by_path(gradients[0])


def _initial_state(job: Job, params: Tree) -> TrainState:
    """Returns the state before the first step, of all members if they are one program."""

    def init(key: jax.Array, params: Tree) -> TrainState:
        return training.init_state(key, params, _optimizer(jnp.zeros(1)))

    key = jax.random.key(3)
    if job["members"] and job["strategy"]:
        return jax.vmap(init)(jax.random.split(key, job["members"]), params)
    return init(key, params)
