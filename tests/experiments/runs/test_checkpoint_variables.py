"""Checkpoints of networks with variables, such as batch statistics and random keys."""

import hashlib
import pathlib
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization

from experiments.runs.checkpoints import Checkpoints, at_start_of_epoch, to_storable
from experiments.runs.records import RunError
from experiments.training import sharding
from stn_jax import training
from tests.training.linear_model import DATA, KEY, add_noise
from tests.training.stateful_models import OPTIMIZER, arrays, stateful

APIS = ["linen", "nnx"]
IMPLEMENTATIONS = ["threefry2x32", "rbg", "unsafe_rbg"]
Params = dict[str, jax.Array]


def changed(state: training.TrainState) -> training.TrainState:
    """A state whose numbers differ from those of the initial state."""
    rng = np.random.default_rng(0)

    def change(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.fold_in(leaf, 7)
        return (leaf + rng.uniform(1, 9, leaf.shape)).astype(leaf.dtype)

    return jax.tree.map(change, state)._replace(diverged=jnp.zeros((), bool))


def saved(state: training.TrainState, folder: pathlib.Path) -> Checkpoints:
    made = Checkpoints(folder / "checkpoints")
    made.save(at_start_of_epoch(state, 4))
    return made


def assert_restored(found: training.TrainState, expected: training.TrainState) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    types = [[leaf.dtype for leaf in jax.tree.leaves(each)] for each in (found, expected)]
    assert types[0] == types[1]  # the dtype of a key names its implementation
    chex.assert_trees_all_equal(arrays(found), arrays(expected))


@pytest.mark.parametrize("abstract", [False, True], ids=["arrays", "shapes"])
@pytest.mark.parametrize("api", APIS)
def test_variables_are_restored_exactly(api: str, abstract: bool, tmp_path: pathlib.Path) -> None:
    """Of NNX also the keys and counters of random numbers."""
    start = stateful(api).initial_state()
    like = jax.eval_shape(lambda: start) if abstract else start
    assert_restored(saved(changed(start), tmp_path).restore(like).state, changed(start))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_keys_keep_their_implementation(implementation: str, tmp_path: pathlib.Path) -> None:
    def state(seed: int) -> training.TrainState:
        key = jax.random.key(seed, impl=implementation)
        variables = {"keys": jax.random.split(key, 3), "count": jnp.uint32(seed)}
        return training.init_state(key, jnp.zeros(2), OPTIMIZER, variables)

    found = saved(state(5), tmp_path).restore(state(0)).state
    assert_restored(found, state(5))
    draw = jax.random.normal(found.variables["keys"][1], (4,))
    np.testing.assert_array_equal(draw, jax.random.normal(state(5).variables["keys"][1], (4,)))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_replicated_keys_keep_their_implementation(implementation: str) -> None:
    key = jax.random.key(3, impl=implementation)
    found = sharding.replicate({"key": key}, sharding.make_mesh({"batch": 2}))["key"]
    assert found.dtype == key.dtype
    np.testing.assert_array_equal(jax.random.bits(found, (4,)), jax.random.bits(key, (4,)))


@pytest.mark.parametrize("api", APIS)
def test_training_that_resumes_from_a_checkpoint_is_bit_identical(
    api: str, tmp_path: pathlib.Path
) -> None:
    objective, order = stateful(api).objective, training.epoch_order(KEY, 0, 100, 10)[:6]

    @jax.jit
    def train(state: training.TrainState, order: jax.Array) -> training.TrainState:
        return training.train_steps(objective, OPTIMIZER, add_noise, state, DATA, order)[0]

    start = stateful(api).initial_state()
    whole = train(train(start, order[:3]), order[3:])
    restored = saved(train(start, order[:3]), tmp_path).restore(start).state
    chex.assert_trees_all_equal(arrays(train(restored, order[3:])), arrays(whole))


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("stored", [True, False], ids=["only stored", "only needed"])
def test_variables_on_one_side_only_are_an_error(
    api: str, stored: bool, tmp_path: pathlib.Path
) -> None:
    state = stateful(api).initial_state()
    with_and_without = (state, state._replace(variables=None))
    source, target = with_and_without if stored else with_and_without[::-1]
    made = saved(source, tmp_path)
    with pytest.raises(RunError) as caught:
        made.restore(target)
    message = str(caught.value)
    assert message.startswith(f"{made.path(0)}: is of another network or optimiser: variables.")
    assert ("but nothing is needed" if stored else "is missing, but") in message
    assert "\n" not in message


def test_variables_of_another_shape_are_an_error(tmp_path: pathlib.Path) -> None:
    state = stateful("linen").initial_state()
    wider = jax.tree.map(lambda leaf: jnp.zeros(9), state.variables)
    with pytest.raises(RunError, match=r"BatchNorm_0.mean is float32\[8\], but float32\[9\] is"):
        saved(state, tmp_path).restore(state._replace(variables=wider))


@pytest.mark.parametrize("variables", [None, {}])
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(1.0),
        optax.chain(optax.clip(1.0), optax.masked(optax.sgd(1.0, momentum=0.9), {"a": True})),
        optax.inject_hyperparams(optax.adamw)(learning_rate=0.1),
    ],
    ids=["adam", "masked", "hyperparameters"],
)
def test_checkpoint_in_the_first_format_is_restored_exactly(
    optimizer: optax.GradientTransformation, variables: Any, tmp_path: pathlib.Path
) -> None:
    """In this format Flax chose the names, and there were no variables."""
    params = {"a": jnp.arange(3.0)}
    start = training.init_state(jax.random.key(5), params, optimizer, variables)
    expected = changed(start)
    state = {name: getattr(expected, name) for name in ("step", "params", "opt_state")}
    state |= {"key": jax.random.key_data(expected.key)}
    values = {"loss": np.arange(4, dtype=np.float32)}
    data = serialization.to_bytes(
        jax.device_get({"state": state, "values": values, "seconds": 2.5})
    )
    made = Checkpoints(tmp_path / "checkpoints")
    made.path(9).write_bytes(hashlib.sha256(data).digest() + data)
    found = made.restore(start)
    assert_restored(found.state, expected)
    assert found.seconds == 2.5
    np.testing.assert_array_equal(found.values["loss"], values["loss"])


def test_files_without_variables_have_the_first_format() -> None:
    """An earlier version can read them."""
    state = training.init_state(jax.random.key(5), {"a": jnp.arange(3.0)}, optax.sgd(1.0), {})
    stored = to_storable(at_start_of_epoch(state, 1))["state"]
    assert {*stored} == {"step", "params", "key"}
