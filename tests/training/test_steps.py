"""Training steps: their order, their random numbers and divergence."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stn_jax import training
from tests.training.linear_model import (
    DATA,
    KEY,
    OBJECTIVE,
    OPTIMIZER,
    N,
    add_noise,
    apply_fn,
    assert_same,
    initial_state,
)

Spoil = Callable[[jax.Array, jax.Array], jax.Array]

BAD_STEP = 3  # counted from 0
OVERFLOWING = optax.chain(
    OPTIMIZER, optax.scale_by_schedule(lambda count: jnp.where(count == BAD_STEP, jnp.inf, 1.0))
)


def test_parts_of_an_epoch_equal_the_epoch() -> None:
    order = training.epoch_order(KEY, 0, N, 10)
    steps = jax.jit(functools.partial(training.train_steps, OBJECTIVE, OPTIMIZER, add_noise))
    whole, _ = steps(initial_state(), DATA, order)
    part, _ = steps(initial_state(), DATA, order[:5])
    part, _ = steps(part, DATA, order[5:])
    assert_same(whole, part)


def test_golden_step() -> None:
    """If this fails, training has changed for all users: add it to CHANGELOG, then update this."""
    params = {"w": jnp.full((16, 3), 0.1), "b": jnp.zeros(3)}
    state = training.init_state(KEY, params, optax.sgd(0.5))
    batch = jax.tree.map(lambda array: array[:8], DATA)
    objective = training.classification(lambda p, x, key: apply_fn(p, x, None))
    step = jax.jit(functools.partial(training.train_step, objective, optax.sgd(0.5)))
    state, means = step(state, batch)
    # All logits are equal, so the loss is log 3 and the bias moves by 0.5 (share of class - 1/3).
    shares = np.bincount(np.asarray(batch["label"]), minlength=3) / 8
    np.testing.assert_allclose(means["loss"], np.log(3), rtol=1e-6)
    np.testing.assert_allclose(state.params["b"], 0.5 * (shares - 1 / 3), atol=1e-6)


def spoiled(spoil: Spoil) -> training.Objective:
    """Adds `spoil(marked examples, sum of weights)` to the loss of `OBJECTIVE`."""

    def objective(params: dict, batch: training.Batch, key: jax.Array | None) -> training.Values:
        values = OBJECTIVE(params, batch, key)
        return values | {"loss": values["loss"] + spoil(batch["marked"], jnp.sum(params["w"]))}

    return objective


def times_nan(marked: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.where(marked > 0, jnp.nan, 0.0) * w


def take_steps(
    objective: training.Objective,
    optimizer: optax.GradientTransformation,
    marked: jax.Array,
    steps: int = 10,
) -> tuple[training.TrainState, dict]:
    """Trains on the examples in their order, ten per step."""
    state = training.init_state(KEY, initial_state().params, optimizer)
    order = jnp.arange(10 * steps).reshape(steps, 10)
    data = DATA | {"marked": marked}
    return training.train_steps(objective, optimizer, add_noise, state, data, order)


@pytest.mark.parametrize(
    ("spoil", "optimizer"),
    [
        (times_nan, OPTIMIZER),
        (lambda marked, w: jnp.sqrt((1 - marked) * (1 + w**2)), OPTIMIZER),
        (lambda marked, w: 1e20 * marked * w, OPTIMIZER),
        (lambda marked, w: 0.0, OVERFLOWING),
    ],
    ids=["loss", "gradient", "norm", "parameters"],
)
def test_training_stops_at_non_finite_step(
    spoil: Spoil, optimizer: optax.GradientTransformation
) -> None:
    marked = (jnp.arange(N) == 10 * BAD_STEP + 4).astype(jnp.float32)
    train = jax.jit(
        functools.partial(take_steps, spoiled(spoil), optimizer), static_argnames="steps"
    )
    state, means = train(marked, steps=10)
    good, good_means = train(marked, steps=BAD_STEP)
    assert bool(state.diverged)
    assert not bool(good.diverged)
    assert int(state.step) == BAD_STEP
    assert_same(state, good)
    np.testing.assert_array_equal(means["loss"][:BAD_STEP], good_means["loss"])
    batch = jax.tree.map(lambda array: array[:10], DATA | {"marked": marked})
    step = jax.jit(functools.partial(training.train_step, spoiled(spoil), optimizer))
    later, _ = step(state, batch)
    assert bool(later.diverged)
    assert_same(later, state)


def test_diverged_member_does_not_affect_the_others() -> None:
    members = jax.jit(jax.vmap(functools.partial(take_steps, spoiled(times_nan), OPTIMIZER)))
    unmarked = jnp.zeros(N)
    marked = (jnp.arange(N) == 10 * BAD_STEP).astype(jnp.float32)
    (good, _), (bad, _) = (members(jnp.stack([each, unmarked])) for each in (unmarked, marked))
    assert bad.diverged.tolist() == [True, False]
    assert bad.step.tolist() == [BAD_STEP, 10]
    second = functools.partial(jax.tree.map, lambda leaf: leaf[1])
    assert_same(*(second(state._replace(key=state.step)) for state in (good, bad)))


def test_epoch_uses_each_example_at_most_once() -> None:
    first, second = (np.asarray(training.epoch_order(KEY, epoch, N, 10)) for epoch in (0, 1))
    assert first.shape == (10, 10)
    assert len(np.unique(first)) == 100
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, training.epoch_order(jax.random.key(1), 0, N, 10))


def test_keys_of_the_objective_differ_from_those_of_order_and_preprocessing() -> None:
    """Also at the steps whose number equals the constant of the other uses."""
    used = []

    def objective(params: dict, batch: training.Batch, key: jax.Array) -> training.Values:
        jax.debug.callback(lambda data: used.append(data.tolist()), jax.random.key_data(key))
        return OBJECTIVE(params, batch, key)

    batch = jax.tree.map(lambda array: array[:2], DATA)
    step = jax.jit(functools.partial(training.train_step, objective, OPTIMIZER))
    constants = (0x0DE5, 0xDA7A)
    for constant in constants:
        step(initial_state()._replace(step=jnp.int32(constant)), batch)
    jax.effects_barrier()
    assert len(used) == len(constants)
    parents = [jax.random.fold_in(KEY, constant) for constant in constants]
    assert not any(np.asarray(jax.random.key_data(key)).tolist() in used for key in parents)
