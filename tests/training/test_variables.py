"""Networks whose state changes during training, such as the statistics of batch normalisation."""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from stn_jax import population, training
from tests.training.linear_model import DATA, KEY, OBJECTIVE, N, add_noise, identity
from tests.training.stateful_models import OPTIMIZER, Stateful, arrays, stateful

APIS = ["linen", "nnx"]
every_api = pytest.mark.parametrize("api", APIS)


@functools.cache
def compiled_steps(api: str) -> Any:
    """Compiles each network once for all tests."""
    objective = stateful(api).objective
    return jax.jit(functools.partial(training.train_steps, objective, OPTIMIZER, add_noise))


def orders() -> jax.Array:
    return training.epoch_order(KEY, 0, N, 10)


@every_api
def test_fit_updates_the_variables(api: str) -> None:
    network = stateful(api)
    fit = functools.partial(training.fit, network.objective, OPTIMIZER, add_noise, batch_size=10)
    state, history = jax.jit(functools.partial(fit, num_epochs=5))(network.initial_state(), DATA)
    assert history["loss"][-1].mean() < 0.8 * history["loss"][0].mean()
    assert not state.diverged
    assert jax.tree.structure(state.variables) == jax.tree.structure(network.variables)
    moved = [
        np.any(new != old)
        for new, old in zip(*map(arrays, (state.variables, network.variables)), strict=True)
    ]
    assert sum(moved) >= 2  # mean and variance


@every_api
def test_statistics_equal_a_hand_written_loop(api: str) -> None:
    network, order = stateful(api), orders()[:4]
    found, _ = compiled_steps(api)(network.initial_state(), DATA, order)

    @jax.jit
    def step(state: training.TrainState, indices: jax.Array) -> Any:
        keys = jax.random.split(preprocessing_key(state), 10)
        batch = add_noise(keys, jax.tree.map(lambda leaf: leaf[indices], DATA))
        key = jax.random.fold_in(jax.random.fold_in(KEY, 0x0B1E), state.step)

        def loss(params: Any) -> Any:
            values, variables = network.objective(params, batch, key, state.variables)
            return values["loss"].mean(), variables

        gradients, variables = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = OPTIMIZER.update(gradients, state.opt_state, state.params)
        params = jax.tree.map(jnp.add, state.params, updates)
        return training.TrainState(
            state.step + 1, params, opt_state, state.key, state.diverged, variables
        )

    def preprocessing_key(state: training.TrainState) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(KEY, 0xDA7A), state.step)

    expected = network.initial_state()
    for indices in order:
        expected = step(expected, indices)
    chex.assert_trees_all_close(arrays(found), arrays(expected), rtol=1e-4, atol=1e-6)


@every_api
def test_resumed_training_equals_uninterrupted_training(api: str) -> None:
    steps, state, order = compiled_steps(api), stateful(api).initial_state(), orders()[:8]
    whole, _ = steps(state, DATA, order)
    part, _ = steps(state, DATA, order[:4])
    part, _ = steps(part, DATA, order[4:])
    chex.assert_trees_all_equal(arrays(whole), arrays(part))


@every_api
def test_divergence_keeps_the_last_finite_variables(api: str) -> None:
    """Also if the loss is finite and only the statistics overflow."""
    network, bad_step = stateful(api), 3
    order = jnp.arange(60).reshape(6, 10)
    data = DATA | {"image": DATA["image"].at[10 * bad_step].set(1e30)}
    train = jax.jit(functools.partial(training.train_steps, network.objective, OPTIMIZER, identity))
    found, _ = train(network.initial_state(), data, order)
    expected, _ = train(network.initial_state(), data, order[:bad_step])
    assert bool(found.diverged)
    assert int(found.step) == bad_step
    chex.assert_trees_all_equal(arrays(found[:3]), arrays(expected[:3]))
    chex.assert_trees_all_equal(arrays(found.variables), arrays(expected.variables))


def test_overflowing_variables_are_a_divergence() -> None:
    def objective(params: Any, batch: Any, key: Any, variables: jax.Array) -> Any:
        return OBJECTIVE(params, batch, key), 1e30 * variables

    params = {"w": jnp.zeros((16, 3)), "b": jnp.zeros(3)}
    state = training.init_state(KEY, params, OPTIMIZER, jnp.ones(()))
    train = jax.jit(functools.partial(training.train_steps, objective, OPTIMIZER, identity))
    state, _ = train(state, DATA, orders()[:4])
    assert bool(state.diverged)
    assert (int(state.step), float(state.variables)) == (1, np.float32(1e30))


@every_api
def test_evaluation_uses_the_variables(api: str) -> None:
    network = stateful(api)
    state, _ = compiled_steps(api)(network.initial_state(), DATA, orders())
    for variables in (state.variables, network.variables):
        expected, _ = network.objective(state.params, DATA, None, variables)
        for function, reduce in (
            (training.per_example, np.asarray),
            (training.evaluate, np.mean),
        ):
            call = functools.partial(function, network.objective, identity, batch_size=40)
            found = jax.jit(call)(KEY, state.params, DATA, variables=variables)
            np.testing.assert_allclose(found["loss"], reduce(expected["loss"]), rtol=1e-5)


SIZES = {"num_epochs": 2, "batch_size": 20}


def member_trainable(api: str, rate: jax.Array) -> population.Trainable:
    return population.Trainable(stateful(api).objective, optax.sgd(rate), add_noise)


def member_state(api: str, key: jax.Array) -> training.TrainState:
    network = stateful(api)
    return training.init_state(key, network.params, optax.sgd(0.1), network.variables)


@functools.cache
def separate_run(api: str) -> Any:
    """Compiles the training and evaluation of one network."""

    def run(key: jax.Array, rate: jax.Array) -> tuple[training.TrainState, training.Means]:
        trainable = member_trainable(api, rate)
        state, _ = training.fit(*trainable, member_state(api, key), DATA, **SIZES)
        arguments = (trainable.objective, trainable.preprocess, key, state.params, DATA)
        return state, training.evaluate(*arguments, variables=state.variables)

    return jax.jit(run)


@every_api
@pytest.mark.parametrize("strategy", ["vmap", "loop"])
def test_members_equal_separate_runs(api: str, strategy: population.Strategy) -> None:
    keys, rates = jax.random.split(KEY, 2), jnp.asarray([0.1, 0.2])
    states = population.over_members(functools.partial(member_state, api))(keys)
    make_trainable = functools.partial(member_trainable, api)
    fit = functools.partial(population.fit, make_trainable, strategy=strategy, **SIZES)
    found, _ = jax.jit(fit)(states, rates, DATA)
    evaluate = functools.partial(population.evaluate, make_trainable, strategy=strategy)
    means = jax.jit(evaluate)(keys, found.params, rates, DATA, variables=found.variables)
    for i in range(2):
        state, mean = separate_run(api)(keys[i], rates[i])
        member = [leaf[i] for leaf in arrays((found.params, found.variables, means["loss"]))]
        expected = arrays((state.params, state.variables, mean["loss"]))
        chex.assert_trees_all_close(member, expected, rtol=2e-3, atol=2e-5)


@every_api
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_statistics_of_a_batch_on_two_devices_equal_those_on_one(
    api: str, axis_type: AxisType
) -> None:
    network: Stateful = stateful(api)
    batch = jax.tree.map(lambda leaf: leaf[:10], DATA)
    step = jax.jit(functools.partial(training.train_step, network.objective, OPTIMIZER))
    expected, _ = step(network.initial_state(), batch)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("batch")))
        state = jax.device_put(network.initial_state(), NamedSharding(mesh, PartitionSpec()))
        found, _ = step(state, sharded)
    chex.assert_trees_all_close(
        arrays(found.variables), arrays(expected.variables), rtol=1e-5, atol=1e-6
    )
    chex.assert_trees_all_close(arrays(found.params), arrays(expected.params), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda values, old: values, r"return \(values, variables\); got dict"),
        (lambda values, old: (values, {}), r"got nothing for variables\['mean'\], float32\[2\]"),
        (
            lambda values, old: (values, {"mean": old["mean"][:1]}),
            r"got float32\[1\] for variables\['mean'\], float32\[2\]",
        ),
        (
            lambda values, old: (values, old | {"count": old["mean"]}),
            r"got float32\[2\] for variables\['count'\], nothing",
        ),
    ],
)
def test_objective_that_returns_other_variables_raises(result: Any, message: str) -> None:
    def objective(params: Any, batch: Any, key: Any, variables: Any) -> Any:
        return result(OBJECTIVE(params, batch, key), variables)

    params = {"w": jnp.zeros((16, 3)), "b": jnp.zeros(3)}
    state = training.init_state(KEY, params, OPTIMIZER, {"mean": jnp.zeros(2)})
    with pytest.raises(ValueError, match=f"objective must .*{message}"):
        training.train_step(objective, OPTIMIZER, state, DATA)
