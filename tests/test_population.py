"""Members of a population are what they would be alone."""

import functools
import itertools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh

from stn_jax import population, training, transforms
from stn_jax.nn import (
    FCN,
    FCNLocalisationNetwork,
    SpatialTransformer,
    SpatialTransformerNetwork,
    is_localisation,
)
from stn_jax.population import Trainable
from stn_jax.training import TrainState

MEMBERS, STEPS, BATCH = 4, 3, 5
IMAGES = jax.random.uniform(jax.random.key(0), (20, 6, 6, 1))
DATA = {"image": IMAGES, "label": jnp.arange(20) % 3}
NETWORK = SpatialTransformerNetwork(
    (SpatialTransformer(FCNLocalisationNetwork((4,)), transforms.affine), FCN(3, (5,)))
)
# Members share some numbers and differ in others.
HYPER = {
    "rate": jnp.asarray([0.1, 0.1, 0.01, 0.2]),
    "localisation": jnp.asarray([1.0, 0.1, 0.1, 0.0]),
    "noise": jnp.asarray([0.0, 0.1, 0.1, 0.2]),
}
KEYS = jax.random.split(jax.random.key(1), MEMBERS)
ORDERS = jax.random.randint(jax.random.key(2), (MEMBERS, STEPS, BATCH), 0, len(IMAGES))
EVERYONE = jnp.ones(MEMBERS, bool)


def make(hyper: dict[str, jax.Array]) -> Trainable:
    def apply(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
        return NETWORK.apply({"params": params}, images)

    def prepare(keys: jax.Array, batch: training.Batch) -> training.Batch:
        noise = jax.vmap(lambda key: jax.random.normal(key, (6, 6, 1)))(keys)
        return batch | {"image": batch["image"] + hyper["noise"] * noise}

    optimizer = optax.chain(
        optax.adamw(hyper["rate"]), training.scale_updates(hyper["localisation"], is_localisation)
    )
    return Trainable(training.classification(apply), optimizer, prepare)


def init(key: jax.Array, hyper: dict[str, jax.Array]) -> TrainState:
    params = NETWORK.init(key, IMAGES[:1])["params"]
    return training.init_state(key, params, make(hyper).optimizer)


def member(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)


@pytest.fixture(scope="module")
def states() -> TrainState:
    return jax.jit(population.over_members(init))(KEYS, HYPER)


def devices(count: int, *axes: str) -> Mesh:
    types = (AxisType.Auto,) * len(axes)
    return jax.make_mesh((count, *[1] * (len(axes) - 1)), axes, axis_types=types)


def without_key(state: TrainState) -> TrainState:
    return state._replace(key=jax.random.key_data(state.key))


@pytest.fixture(scope="module")
def alone(states: TrainState) -> list[Any]:
    """What each member comes to by itself."""

    def steps(hyper: Any, state: TrainState, order: jax.Array) -> Any:
        return training.train_steps(*make(hyper), state, DATA, order)

    compiled = jax.jit(steps)
    return [compiled(member(HYPER, i), member(states, i), ORDERS[i]) for i in range(MEMBERS)]


FORMS = [("loop", None), ("vmap", None), (None, 2), ("vmap", 2)]


@pytest.mark.parametrize(("how", "count"), FORMS)
def test_member_is_the_training_alone(
    how: Any, count: int | None, states: TrainState, alone: list[Any]
) -> None:
    mesh = devices(count, "member", "batch") if count else None
    lifted = jax.jit(functools.partial(population.train_steps, make, how=how, mesh=mesh))
    found, means = lifted(states, HYPER, DATA, ORDERS, EVERYONE)
    assert means["loss"].shape == (MEMBERS, STEPS)
    for i, (state, expected) in enumerate(alone):
        # Sums are rounded in another order: a few ulp of Adam's quotients.
        chex.assert_trees_all_close(
            (without_key(member(found, i)), member(means, i)),
            (without_key(state), expected),
            rtol=2e-4,
            atol=2e-6,
        )


def test_members_differ(alone: list[Any]) -> None:
    kernels = [state.params["stages_1"]["Head_0"]["Dense_0"]["kernel"] for state, _ in alone]
    for one, other in itertools.combinations(kernels, 2):
        assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_a_member_that_diverges_disturbs_nobody(how: Any, states: TrainState) -> None:
    steps = jax.jit(functools.partial(population.train_steps, make, how=how))
    ruined = HYPER | {"rate": HYPER["rate"].at[2].set(jnp.inf)}
    expected, _ = steps(states, HYPER, DATA, ORDERS, EVERYONE)
    found, means = steps(states, ruined, DATA, ORDERS, EVERYONE)
    assert found.diverged.tolist() == [False, False, True, False]
    assert found.step.tolist() == [STEPS, STEPS, 0, STEPS]
    chex.assert_trees_all_equal(member(found.params, 2), member(states.params, 2))
    assert np.isfinite(means["loss"][:, 0]).all()
    for i in (0, 1, 3):
        chex.assert_trees_all_equal(member(found.params, i), member(expected.params, i))


@pytest.mark.parametrize("how", ["loop", "vmap"])
def test_who_is_not_active_stays_as_it_is(how: Any, states: TrainState) -> None:
    active = jnp.asarray([True, False, True, False])
    steps = jax.jit(functools.partial(population.train_steps, make, how=how))
    found, means = steps(states, HYPER, DATA, ORDERS, active)
    assert found.step.tolist() == [STEPS, 0, STEPS, 0]
    assert np.isnan(means["loss"][~active]).all()
    assert np.isfinite(means["loss"][active]).all()
    chex.assert_trees_all_equal(member(found.params, 3), member(states.params, 3))


def test_means_of_who_is_not_active_may_be_narrow(states: TrainState) -> None:
    def narrow(hyper: Any) -> population.Trainable:
        made = make(hyper)

        def objective(*arguments: Any) -> Any:
            return jax.tree.map(lambda each: each.astype(jnp.bfloat16), made.objective(*arguments))

        return made._replace(objective=objective)

    key = jax.random.split(jax.random.key(0), len(states.step))
    active = jnp.arange(len(states.step)) > 0
    means = jax.eval_shape(
        functools.partial(population.evaluate, narrow, batch_size=8),
        *(states.params, HYPER, DATA, key, active),
    )
    assert means["loss"].dtype == jnp.bfloat16


def test_a_loop_takes_no_time_for_who_is_not_active(states: TrainState) -> None:
    steps = functools.partial(population.train_steps, make, how="loop")
    text = jax.jit(steps).lower(states, HYPER, DATA, ORDERS, EVERYONE).compile().as_text()
    assert " conditional(" in text


def test_fit_and_evaluate_are_training_s(states: TrainState) -> None:
    options, active = {"num_epochs": 2, "batch_size": BATCH}, jnp.arange(MEMBERS) < 2
    found, history = jax.jit(functools.partial(population.fit, make, **options))(
        states, HYPER, DATA
    )
    assert history["loss"].shape == (MEMBERS, 2, 4)
    errors = population.evaluate(make, found.params, HYPER, DATA, KEYS, active, batch_size=7)
    assert np.isnan(errors["error"]).tolist() == (~active).tolist()
    i, one = 1, make(member(HYPER, 1))
    expected, _ = jax.jit(functools.partial(training.fit, *one, **options))(member(states, i), DATA)
    chex.assert_trees_all_close(member(found.params, i), expected.params, rtol=1e-3, atol=1e-5)
    alone = training.evaluate(
        one.objective, one.prepare, expected.params, DATA, KEYS[i], batch_size=7
    )
    np.testing.assert_allclose(errors["loss"][i], alone["loss"], rtol=1e-4)


def test_devices_exchange_nothing(states: TrainState) -> None:
    mesh = devices(2, "member")
    steps = functools.partial(population.train_steps, make, mesh=mesh)
    text = jax.jit(steps).lower(states, HYPER, DATA, ORDERS, EVERYONE).compile().as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert f"{collective}(" not in text
        assert f"{collective}-start(" not in text


def test_errors_name_the_argument(unchecked: None) -> None:
    explicit = jax.make_mesh((1,), ("member",), axis_types=(jax.sharding.AxisType.Explicit,))
    with pytest.raises(ValueError, match=r"mesh must have axes of type Auto, .*; got .*Explicit"):
        population.over_members(jnp.sin, mesh=explicit)
    with pytest.raises(ValueError, match="how must be one of vmap, loop; got 'pmap'"):
        population.over_members(jnp.sin, how="pmap")
    with pytest.raises(ValueError, match=r"a multiple of .* 'member', 2; got an array \[3\]"):
        population.over_members(jnp.sin, mesh=devices(2, "member"))(jnp.ones(3))
    with pytest.raises(ValueError, match="mesh must have an axis 'member'; got"):
        population.over_members(jnp.sin, mesh=devices(2, "batch"))
