"""Training on meshes of devices, with Explicit and Auto axes."""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stn_jax import population, training
from tests.training.linear_model import (
    DATA,
    KEY,
    OBJECTIVE,
    OPTIMIZER,
    add_noise,
    initial_state,
)
from tests.training.stateful_models import arrays

every_axis_type = pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])


def mesh_of(axis_type: AxisType, **sizes: int) -> Mesh:
    types = (axis_type,) * len(sizes)
    return jax.make_mesh((*sizes.values(),), (*sizes,), axis_types=types)


def replicated(tree: Any, mesh: Mesh) -> Any:
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def sharded_noise(mesh: Mesh | None) -> training.Preprocess:
    """`add_noise`, with batches spread over the devices of a mesh."""

    def preprocess(keys: jax.Array, batch: training.Batch) -> training.Batch:
        batch = add_noise(keys, batch)
        if mesh is None:
            return batch
        if AxisType.Explicit in mesh.axis_types:
            return jax.sharding.reshard(batch, PartitionSpec("batch"))
        sharding = NamedSharding(mesh, PartitionSpec("batch"))
        return jax.lax.with_sharding_constraint(batch, sharding)

    return preprocess


def fit(preprocess: training.Preprocess, state: training.TrainState, data: Any) -> Any:
    options = {"num_epochs": 2, "batch_size": 20}
    return training.fit(OBJECTIVE, OPTIMIZER, preprocess, state, data, **options)


def step(preprocess: training.Preprocess, state: training.TrainState, data: Any) -> Any:
    batch = preprocess(jax.random.split(KEY, 10), training.take(data, jnp.arange(10)))
    return training.train_step(OBJECTIVE, OPTIMIZER, state, batch)


def evaluate(preprocess: training.Preprocess, state: training.TrainState, data: Any) -> Any:
    arguments = (OBJECTIVE, preprocess, KEY, state.params, data)
    means = training.evaluate(*arguments, batch_size=20)
    return means, training.per_example(*arguments, batch_size=20)


@every_axis_type
@pytest.mark.parametrize("jitted", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("function", [step, fit, evaluate])
def test_results_on_two_devices_equal_those_on_one(
    function: Callable[..., Any], jitted: bool, axis_type: AxisType
) -> None:
    expected = jax.jit(functools.partial(function, sharded_noise(None)))(initial_state(), DATA)
    mesh = mesh_of(axis_type, batch=2)
    with jax.set_mesh(mesh):
        call = functools.partial(function, sharded_noise(mesh))
        call = jax.jit(call) if jitted else call
        found = call(*replicated((initial_state(), DATA), mesh))
    chex.assert_trees_all_close(arrays(found), arrays(expected), rtol=1e-4, atol=1e-5)


@every_axis_type
def test_batches_are_computed_on_both_devices(axis_type: AxisType, optimised: None) -> None:
    """The program contains half batches and no all-gather of images."""
    mesh = mesh_of(axis_type, batch=2)
    with jax.set_mesh(mesh):
        lowered = jax.jit(functools.partial(step, sharded_noise(mesh))).lower(
            *replicated((initial_state(), DATA), mesh)
        )
    text = lowered.compile().as_text()
    assert "f32[5,16]" in text  # of a batch of 10
    assert "all-reduce" in text
    assert "all-gather" not in text


@every_axis_type
@pytest.mark.parametrize(
    ("strategy", "sizes"), [("loop", {"member": 2}), ("vmap", {"member": 1, "batch": 2})]
)
def test_population_on_two_devices_equals_that_on_one(
    strategy: population.Strategy, sizes: dict[str, int], axis_type: AxisType
) -> None:
    def run(mesh: Mesh | None, states: training.TrainState, data: Any) -> Any:
        preprocess = sharded_noise(mesh if "batch" in sizes else None)

        def make_trainable(rate: jax.Array) -> population.Trainable:
            return population.Trainable(OBJECTIVE, OPTIMIZER, preprocess)

        options: Any = {"strategy": strategy, "mesh": mesh}
        sizes_of_fit = {"num_epochs": 1, "batch_size": 20}
        states, _ = population.fit(make_trainable, states, rates, data, **sizes_of_fit, **options)
        orders = jnp.arange(80).reshape(2, 2, 20)
        active = jnp.asarray([True, False])
        states, means = population.train_steps(
            make_trainable, states, rates, data, orders, active, **options
        )
        arguments = (keys, states.params, rates, data)
        evaluated = population.evaluate(make_trainable, *arguments, batch_size=20, **options)
        return states, means, evaluated

    rates, keys = jnp.asarray([0.1, 0.2]), jax.random.split(KEY, 2)
    states = jax.vmap(lambda key: initial_state()._replace(key=key))(keys)
    expected = jax.jit(functools.partial(run, None))(states, DATA)
    mesh = mesh_of(axis_type, **sizes)
    with jax.set_mesh(mesh):
        found = jax.jit(functools.partial(run, mesh))(*replicated((states, DATA), mesh))
    chex.assert_trees_all_close(arrays(found), arrays(expected), rtol=1e-3, atol=1e-5)


def test_members_of_an_explicit_mesh_are_spread_over_it() -> None:
    mesh = mesh_of(AxisType.Explicit, member=2)
    with jax.set_mesh(mesh):
        found = population.over_members(lambda x: 2 * x, mesh=mesh)(jnp.arange(4.0))
    assert jax.typeof(found).sharding.spec == PartitionSpec("member")
    np.testing.assert_array_equal(found, [0.0, 2.0, 4.0, 6.0])
