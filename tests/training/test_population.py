"""Members of a population train independently."""

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
from stn_jax.linen import (
    FCN,
    FCNLocalisationNetwork,
    SpatialTransformer,
    SpatialTransformerNetwork,
    is_localisation,
)
from stn_jax.training import TrainState
from stn_jax.training.population import Strategy, Trainable

MEMBERS, STEPS, BATCH = 4, 3, 5
IMAGES = jax.random.uniform(jax.random.key(0), (20, 6, 6, 1))
DATA = {"image": IMAGES, "label": jnp.arange(20) % 3}
NETWORK = SpatialTransformerNetwork(
    (SpatialTransformer(FCNLocalisationNetwork((4,)), transforms.affine), FCN(3, (5,)))
)
# Members share some hyper-parameters and differ in others.
HPARAMS = {
    "rate": jnp.asarray([0.1, 0.1, 0.01, 0.2]),
    "localisation": jnp.asarray([1.0, 0.1, 0.1, 0.0]),
    "noise": jnp.asarray([0.0, 0.1, 0.1, 0.2]),
}
KEYS = jax.random.split(jax.random.key(1), MEMBERS)
ORDERS = jax.random.randint(jax.random.key(2), (MEMBERS, STEPS, BATCH), 0, len(IMAGES))
ALL_ACTIVE = jnp.ones(MEMBERS, bool)


def make_trainable(hparams: dict[str, jax.Array]) -> Trainable:
    def apply(params: Any, images: jax.Array, key: jax.Array | None) -> Any:
        return NETWORK.apply({"params": params}, images)

    def preprocess(keys: jax.Array, batch: training.Batch) -> training.Batch:
        noise = jax.vmap(lambda key: jax.random.normal(key, (6, 6, 1)))(keys)
        return batch | {"image": batch["image"] + hparams["noise"] * noise}

    optimizer = optax.chain(
        optax.adamw(hparams["rate"]),
        training.scale_updates(hparams["localisation"], is_localisation),
    )
    return Trainable(training.classification(apply), optimizer, preprocess)


def init(key: jax.Array, hparams: dict[str, jax.Array]) -> TrainState:
    params = NETWORK.init(key, IMAGES[:1])["params"]
    return training.init_state(key, params, make_trainable(hparams).optimizer)


def member(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)


def devices(count: int, *axes: str) -> Mesh:
    types = (AxisType.Auto,) * len(axes)
    return jax.make_mesh((count, *[1] * (len(axes) - 1)), axes, axis_types=types)


def without_key(state: TrainState) -> TrainState:
    return state._replace(key=jax.random.key_data(state.key))


@pytest.fixture(scope="module")
def states() -> TrainState:
    return jax.jit(population.over_members(init))(KEYS, HPARAMS)


@functools.cache
def train_steps(strategy: Strategy | None, num_devices: int | None = None) -> Any:
    """Compiles each form once for all tests."""
    mesh = devices(num_devices, "member", "batch") if num_devices else None
    options = {"strategy": strategy, "mesh": mesh}
    steps = jax.jit(functools.partial(population.train_steps, make_trainable, **options))
    states = jax.eval_shape(population.over_members(init), KEYS, HPARAMS)
    return steps.lower(states, HPARAMS, DATA, ORDERS, ALL_ACTIVE).compile()


@pytest.fixture(scope="module")
def separate_runs(states: TrainState) -> list[tuple[TrainState, training.Means]]:
    """The final state and the means of each member, trained on its own."""

    def steps(hparams: Any, state: TrainState, order: jax.Array) -> Any:
        return training.train_steps(*make_trainable(hparams), state, DATA, order)

    compiled = jax.jit(steps)
    return [compiled(member(HPARAMS, i), member(states, i), ORDERS[i]) for i in range(MEMBERS)]


@pytest.mark.parametrize(
    ("strategy", "num_devices"), [("loop", None), ("vmap", None), (None, 2), ("vmap", 2)]
)
def test_member_equals_separate_run(
    strategy: Strategy | None,
    num_devices: int | None,
    states: TrainState,
    separate_runs: list[tuple[TrainState, training.Means]],
) -> None:
    steps = train_steps(strategy, num_devices)
    found, means = steps(states, HPARAMS, DATA, ORDERS, ALL_ACTIVE)
    assert means["loss"].shape == (MEMBERS, STEPS)
    found = jax.device_get((without_key(found), means))
    for i, (state, expected) in enumerate(separate_runs):
        # Sums are rounded in another order, which changes Adam's quotients by a few ulp.
        chex.assert_trees_all_close(
            member(found, i), (without_key(state), expected), rtol=2e-4, atol=2e-6
        )


def test_members_differ(separate_runs: list[tuple[TrainState, training.Means]]) -> None:
    kernels = [run.params["stages_1"]["Head_0"]["Dense_0"]["kernel"] for run, _ in separate_runs]
    for one, other in itertools.combinations(kernels, 2):
        assert np.abs(one - other).max() > 1e-3


@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_diverged_member_does_not_affect_the_others(strategy: Strategy, states: TrainState) -> None:
    steps = train_steps(strategy)
    diverging = HPARAMS | {"rate": HPARAMS["rate"].at[2].set(jnp.inf)}
    expected, _ = steps(states, HPARAMS, DATA, ORDERS, ALL_ACTIVE)
    found, means = steps(states, diverging, DATA, ORDERS, ALL_ACTIVE)
    assert found.diverged.tolist() == [False, False, True, False]
    assert found.step.tolist() == [STEPS, STEPS, 0, STEPS]
    assert np.isfinite(means["loss"][:, 0]).all()
    # As NumPy arrays, so that indexing compiles nothing.
    before, expected, params = jax.device_get((states.params, expected.params, found.params))
    chex.assert_trees_all_equal(member(params, 2), member(before, 2))
    for i in (0, 1, 3):
        chex.assert_trees_all_equal(member(params, i), member(expected, i))


@pytest.mark.parametrize("strategy", ["loop", "vmap"])
def test_inactive_members_do_not_change(strategy: Strategy, states: TrainState) -> None:
    active = jnp.asarray([True, False, True, False])
    found, means = train_steps(strategy)(states, HPARAMS, DATA, ORDERS, active)
    assert found.step.tolist() == [STEPS, 0, STEPS, 0]
    assert np.isnan(means["loss"][~active]).all()
    assert np.isfinite(means["loss"][active]).all()
    chex.assert_trees_all_equal(member(found.params, 3), member(states.params, 3))


def test_inactive_members_pass_the_check_for_nan() -> None:
    objective = training.classification(lambda w, x, key: (x @ w, None))
    data = {"image": jnp.eye(4), "label": jnp.arange(4) % 2}

    def make_linear(hparams: Any) -> Trainable:
        return Trainable(objective, optax.sgd(hparams), lambda keys, batch: batch)

    rates, keys = jnp.asarray([0.0, 1.0]), jax.random.split(jax.random.key(0), 2)
    state = training.init_state(keys[0], jnp.zeros((4, 2)), optax.sgd(1.0))
    states = jax.tree.map(lambda *each: jnp.stack(each), state, state)
    orders, active = jnp.tile(jnp.arange(4).reshape(2, 2), (2, 1, 1)), jnp.asarray([True, False])
    with jax.debug_nans(True):
        for call in (lambda f, *each: f(*each), lambda f, *each: jax.jit(f)(*each)):
            train = functools.partial(population.train_steps, make_linear)
            trained, means = call(train, states, rates, data, orders, active)
            evaluate = functools.partial(population.evaluate, make_linear)
            evaluated = call(evaluate, keys, trained.params, rates, data, active)
            assert (means["loss"][1] == 0).all()
            assert evaluated["loss"][0] > 0 == evaluated["loss"][1]


def test_means_of_inactive_members_keep_the_dtype(states: TrainState) -> None:
    def make_narrow(hparams: Any) -> Trainable:
        trainable = make_trainable(hparams)

        def objective(*arguments: Any) -> Any:
            values = trainable.objective(*arguments)
            return jax.tree.map(lambda each: each.astype(jnp.bfloat16), values)

        return trainable._replace(objective=objective)

    keys = jax.random.split(jax.random.key(0), MEMBERS)
    active = jnp.arange(MEMBERS) > 0
    means = jax.eval_shape(
        functools.partial(population.evaluate, make_narrow, batch_size=8),
        *(keys, states.params, HPARAMS, DATA, active),
    )
    assert means["loss"].dtype == jnp.bfloat16


def test_loop_skips_inactive_members(optimised: None) -> None:
    text = train_steps.__wrapped__("loop").as_text()  # not the cached, unoptimised program
    assert " conditional(" in text


def test_fit_and_evaluate_equal_those_of_a_separate_run(states: TrainState) -> None:
    options, active = {"num_epochs": 2, "batch_size": BATCH}, jnp.arange(MEMBERS) < 2
    fit = jax.jit(functools.partial(population.fit, make_trainable, **options))
    found, history = fit(states, HPARAMS, DATA)
    assert history["loss"].shape == (MEMBERS, 2, 4)
    evaluate = jax.jit(functools.partial(population.evaluate, make_trainable, batch_size=7))
    means = evaluate(KEYS, found.params, HPARAMS, DATA, active)
    assert np.isnan(means["error"]).tolist() == (~active).tolist()

    i, trainable = 1, make_trainable(member(HPARAMS, 1))
    fit_one = jax.jit(functools.partial(training.fit, *trainable, **options))
    expected, _ = fit_one(member(states, i), DATA)
    chex.assert_trees_all_close(member(found.params, i), expected.params, rtol=1e-3, atol=1e-5)
    measure = functools.partial(training.evaluate, trainable.objective, trainable.preprocess)
    expected_means = jax.jit(functools.partial(measure, batch_size=7))(
        KEYS[i], expected.params, DATA
    )
    np.testing.assert_allclose(means["loss"][i], expected_means["loss"], rtol=1e-4)


def test_omitting_active_trains_and_evaluates_all_members(states: TrainState) -> None:
    found = jax.jit(functools.partial(population.train_steps, make_trainable))(
        states, HPARAMS, DATA, ORDERS
    )
    expected = train_steps(None)(states, HPARAMS, DATA, ORDERS, ALL_ACTIVE)
    # The programs differ by a condition, so sums may be rounded in another order.
    chex.assert_trees_all_close(
        *((without_key(state), means) for state, means in (found, expected)), rtol=2e-4, atol=2e-6
    )
    evaluate = jax.jit(functools.partial(population.evaluate, make_trainable))
    arguments = (KEYS, states.params, HPARAMS, DATA)
    chex.assert_trees_all_close(evaluate(*arguments), evaluate(*arguments, ALL_ACTIVE), rtol=1e-5)


def test_devices_exchange_no_data() -> None:
    text = train_steps(None, 2).as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute"):
        assert f"{collective}(" not in text
        assert f"{collective}-start(" not in text


def test_invalid_strategy_mesh_or_number_of_members_raises(unchecked: None) -> None:
    with pytest.raises(ValueError, match="strategy must be one of vmap, loop; got 'pmap'"):
        population.over_members(jnp.sin, strategy="pmap")
    with pytest.raises(ValueError, match=r"a multiple of .* 'member', 2; got an array \[3\]"):
        population.over_members(jnp.sin, mesh=devices(2, "member"))(jnp.ones(3))
    with pytest.raises(ValueError, match="mesh must have an axis 'member'; got"):
        population.over_members(jnp.sin, mesh=devices(2, "batch"))
