"""Training: steps, order, evaluation, resuming; nothing is lost and nothing is counted twice."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stn_jax import training

KEY = jax.random.key(0)
OPTIMIZER = optax.adam(1e-2)
N = 103  # no multiple of a batch
RNG = np.random.default_rng(0)
DATA = {
    "image": jnp.asarray(RNG.normal(size=(N, 4, 4, 1)), jnp.float32),
}
DATA["label"] = jnp.argmax(DATA["image"][:, :3, 0, 0], axis=1)  # what a linear model can learn


def apply_fn(params: dict, images: jax.Array, key: jax.Array | None) -> tuple[jax.Array, dict]:
    features = images.reshape(len(images), -1)
    if key is not None:
        features = features * jax.random.bernoulli(key, 0.9, features.shape)
    return features @ params["w"] + params["b"], {"size": jnp.abs(features).sum(axis=1)}


OBJECTIVE = training.classification(apply_fn)


def unprepared(keys: jax.Array, batch: training.Batch) -> training.Batch:
    return batch


def noisy(keys: jax.Array, batch: training.Batch) -> training.Batch:
    noise = jax.vmap(lambda key: jax.random.normal(key, (4, 4, 1)))(keys)
    return batch | {"image": batch["image"] + 0.1 * noise}


def start() -> training.TrainState:
    params = {"w": 0.1 * jax.random.normal(KEY, (16, 3)), "b": jnp.zeros(3)}
    return training.init_state(KEY, params, OPTIMIZER)


def assert_same(a: training.TrainState, b: training.TrainState) -> None:
    for left, right in zip(jax.tree.leaves(a[:3]), jax.tree.leaves(b[:3]), strict=True):
        np.testing.assert_array_equal(left, right)


fit = jax.jit(
    functools.partial(training.fit, OBJECTIVE, OPTIMIZER, noisy, batch_size=10),
    static_argnames="num_epochs",
)


def test_fit_learns() -> None:
    state, history = fit(start(), DATA, num_epochs=30)
    assert history["loss"].shape == (30, 10)
    assert history["loss"][-1].mean() < 0.8 * history["loss"][0].mean()
    assert int(state.step) == 300


def test_continuing_is_not_interrupting() -> None:
    whole, _ = fit(start(), DATA, num_epochs=5)
    half, _ = fit(start(), DATA, num_epochs=2)
    assert_same(whole, fit(half, DATA, num_epochs=3)[0])


def test_parts_of_an_epoch_are_the_epoch() -> None:
    order = training.epoch_order(KEY, 0, N, 10)
    steps = functools.partial(training.train_steps, OBJECTIVE, OPTIMIZER, noisy)
    whole, _ = steps(start(), DATA, order)
    part, _ = steps(start(), DATA, order[:3])
    part, _ = steps(part, DATA, order[3:])
    assert_same(whole, part)


def test_a_member_of_a_vmapped_fit_is_the_run_alone() -> None:
    def run(key: jax.Array) -> jax.Array:
        state = start()._replace(key=key)
        return fit(state, DATA, num_epochs=2)[0].params["w"]

    keys = jax.random.split(KEY, 3)
    np.testing.assert_allclose(jax.vmap(run)(keys)[1], run(keys[1]), atol=1e-5)


def test_one_golden_step() -> None:
    """If this moves, training has changed for everyone: say so in CHANGELOG, then renew it."""
    params = {"w": jnp.full((16, 3), 0.1), "b": jnp.zeros(3)}
    state = training.init_state(KEY, params, optax.sgd(0.5))
    batch = jax.tree.map(lambda array: array[:8], DATA)
    objective = training.classification(lambda p, x, key: apply_fn(p, x, None))
    state, means = training.train_step(objective, optax.sgd(0.5), state, batch)
    # By hand: equal logits, so the loss is log 3 and the bias moves by 0.5 (share of class - 1/3).
    shares = np.bincount(np.asarray(batch["label"]), minlength=3) / 8
    np.testing.assert_allclose(means["loss"], np.log(3), rtol=1e-6)
    np.testing.assert_allclose(state.params["b"], 0.5 * (shares - 1 / 3), atol=1e-6)


# A step that is not finite.

BAD = 3  # the step, from 0
OVERFLOWING = optax.chain(
    OPTIMIZER, optax.scale_by_schedule(lambda count: jnp.where(count == BAD, jnp.inf, 1.0))
)


def spoiling(spoil: Callable[[jax.Array, jax.Array], jax.Array]) -> training.Objective:
    """The objective; what is given of the marks and the weights is added to the loss."""

    def objective(params: dict, batch: training.Batch, key: jax.Array | None) -> training.Values:
        values = OBJECTIVE(params, batch, key)
        return values | {"loss": values["loss"] + spoil(batch["marked"], jnp.sum(params["w"]))}

    return objective


def times_nan(marked: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.where(marked > 0, jnp.nan, 0.0) * w


def steps_over(
    objective: training.Objective,
    optimizer: optax.GradientTransformation,
    marked: jax.Array,
    steps: int = 10,
) -> tuple[training.TrainState, dict]:
    """Steps over the data in their order, ten examples each."""
    state = training.init_state(KEY, start().params, optimizer)
    order = jnp.arange(10 * steps).reshape(steps, 10)
    data = DATA | {"marked": marked}
    return training.train_steps(objective, optimizer, noisy, state, data, order)


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
def test_a_step_that_is_not_finite_is_not_taken_nor_any_after_it(
    spoil: Callable[[jax.Array, jax.Array], jax.Array], optimizer: optax.GradientTransformation
) -> None:
    marked = (jnp.arange(N) == 10 * BAD + 4).astype(jnp.float32)
    state, means = steps_over(spoiling(spoil), optimizer, marked)
    good, before = steps_over(spoiling(spoil), optimizer, marked, BAD)
    assert bool(state.diverged)
    assert not bool(good.diverged)
    assert int(state.step) == BAD
    assert_same(state, good)
    np.testing.assert_array_equal(means["loss"][:BAD], before["loss"])
    batch = jax.tree.map(lambda array: array[:10], DATA | {"marked": marked})
    later, _ = training.train_step(spoiling(spoil), optimizer, state, batch)
    assert bool(later.diverged)
    assert_same(later, state)


def test_a_member_that_diverges_does_not_disturb_the_others() -> None:
    members = jax.jit(jax.vmap(functools.partial(steps_over, spoiling(times_nan), OPTIMIZER)))
    nothing = jnp.zeros(N)
    marked = (jnp.arange(N) == 10 * BAD).astype(jnp.float32)
    (whole, _), (one, _) = (members(jnp.stack([each, nothing])) for each in (nothing, marked))
    assert one.diverged.tolist() == [True, False]
    assert one.step.tolist() == [BAD, 10]
    second = functools.partial(jax.tree.map, lambda leaf: leaf[1])
    assert_same(*(second(each._replace(key=each.step)) for each in (whole, one)))


def test_an_epoch_shows_each_example_at_most_once() -> None:
    first, second = (np.asarray(training.epoch_order(KEY, epoch, N, 10)) for epoch in (0, 1))
    assert first.shape == (10, 10)
    assert len(np.unique(first)) == 100
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, training.epoch_order(jax.random.key(1), 0, N, 10))


@pytest.mark.parametrize("batch_size", [0, 104])
def test_errors_of_the_batch_size(batch_size: int) -> None:
    for call in (
        lambda: training.epoch_order(KEY, 0, N, batch_size),
        lambda: training.fit(
            OBJECTIVE, OPTIMIZER, noisy, start(), DATA, num_epochs=1, batch_size=batch_size
        ),
    ):
        with pytest.raises(
            ValueError, match="batch_size must be between 1 and the number of examples, 103; got"
        ):
            call()


def test_errors_of_the_evaluation() -> None:
    def evaluate(data: training.Batch, batch_size: int) -> None:
        training.evaluate(OBJECTIVE, noisy, start().params, data, KEY, batch_size=batch_size)

    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        evaluate(DATA, 0)
    for nothing in (jax.tree.map(lambda array: array[:0], DATA), {}):
        with pytest.raises(ValueError, match="data must hold at least one example; got none"):
            evaluate(nothing, 10)


def test_no_step_of_the_objective_draws_from_what_order_and_data_are_folded_from() -> None:
    used = []

    def objective(params: dict, batch: training.Batch, key: jax.Array) -> training.Values:
        used.append(np.asarray(jax.random.key_data(key)).tolist())
        return OBJECTIVE(params, batch, key)

    batch = jax.tree.map(lambda array: array[:2], DATA)
    for step in (0x0DE5, 0xDA7A):
        state = start()._replace(step=jnp.int32(step))
        with jax.disable_jit():
            training.train_step(objective, OPTIMIZER, state, batch)
    parents = [jax.random.fold_in(KEY, step) for step in (0x0DE5, 0xDA7A)]
    assert not any(np.asarray(jax.random.key_data(key)).tolist() in used for key in parents)


@pytest.mark.parametrize("batch_size", [1, 10, 103, 500])
def test_evaluation_counts_every_example_once(batch_size: int) -> None:
    params = start().params
    means = training.evaluate(OBJECTIVE, noisy, params, DATA, KEY, batch_size=batch_size)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(KEY, jnp.arange(N))
    values = OBJECTIVE(params, noisy(keys, DATA), None)
    np.testing.assert_allclose(means["loss"], values["loss"].mean(), rtol=1e-5)
    np.testing.assert_allclose(means["error"], values["error"].mean(), rtol=1e-6)


def test_what_is_measured_is_reported() -> None:
    objective = training.classification(apply_fn, lambda found: {"size": found["size"]})
    means = training.evaluate(objective, unprepared, start().params, DATA, KEY, batch_size=50)
    expected = np.abs(DATA["image"]).sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(means["size"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (lambda x: {"loss": x[:, None] ** 2}, r"{'loss': \[%d, 1\]}"),
        (lambda x: {"loss": jnp.mean(x)}, r"{'loss': \[\]}"),
        (lambda x: {"loss": x, "error": jnp.mean(x)}, r"{'loss': \[%d\], 'error': \[\]}"),
        (lambda x: {"error": x}, r"{'error': \[%d\]}"),
        (lambda x: {"loss": x, "gradient_norm": x}, r"'gradient_norm': \[%d\]}"),
        (lambda x: {"loss": jnp.mean(x)[None]}, r"{'loss': \[1\]}"),
        (jnp.mean, "(Array|Tracer)"),
    ],
)
def test_values_are_of_each_example(
    values: Callable[[jax.Array], training.Values], said: str, unchecked: None
) -> None:
    """Means of others are wrong where a last batch is filled up, and columns are broadcast."""

    def objective(params: jax.Array, batch: training.Batch, key: jax.Array | None) -> Any:
        return values(params * batch["x"])

    data = {"x": jnp.arange(7.0)}
    state = training.init_state(KEY, jnp.ones(()), OPTIMIZER)
    for size, use in (
        (3, lambda: training.evaluate(objective, unprepared, 1.0, data, KEY, batch_size=3)),
        (3, lambda: training.each_example(objective, unprepared, 1.0, data, KEY, batch_size=3)),
        (7, lambda: training.train_step(objective, OPTIMIZER, state, data)),
    ):
        expected = said % size if "%d" in said else said
        with pytest.raises(ValueError, match=f"objective must return .*; got .*{expected}"):
            use()


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau()),
        optax.polyak_sgd(),
    ],
    ids=["lbfgs", "reduce_on_plateau", "polyak_sgd"],
)
def test_optimisers_that_look_at_the_loss(optimizer: optax.GradientTransformation) -> None:
    state = training.init_state(KEY, start().params, optimizer)
    run = functools.partial(training.fit, OBJECTIVE, optimizer, unprepared, batch_size=50)
    state, history = jax.jit(functools.partial(run, num_epochs=5))(state, DATA)
    assert not state.diverged
    assert history["loss"][-1].mean() < history["loss"][0, 0]


def test_a_learning_rate_of_nobody_is_an_error() -> None:
    chosen = training.scale_updates(0.1, lambda path: "localisation" in str(path))
    with pytest.raises(ValueError, match="selects must select a parameter at least; got none"):
        chosen.init({"w": jnp.ones(2)})


@pytest.mark.parametrize("short", [jnp.zeros(7, int), jnp.zeros((), int)])
def test_arrays_of_data_must_have_one_leading_axis(short: jax.Array) -> None:
    """What is beyond the end of one would be filled up, and everything NaN."""
    data = {"image": jnp.zeros((8, 2)), "label": short}
    objective = training.classification(lambda w, x, key: (x @ w, None))
    state = training.init_state(KEY, jnp.zeros((2, 2)), optax.sgd(1.0))
    expected = re.escape("axis of examples; got ['image'] [8, 2], ['label'] " + str([*short.shape]))
    with pytest.raises(ValueError, match=expected):
        training.fit(
            *(objective, optax.sgd(1.0), unprepared, state, data), num_epochs=1, batch_size=4
        )
    with pytest.raises(ValueError, match=expected):
        training.evaluate(objective, unprepared, state.params, data, KEY, batch_size=4)


def test_a_learning_rate_of_its_own() -> None:
    chosen = training.scale_updates(0.1, lambda path: "w" in str(path))
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    optimizer = optax.chain(optax.sgd(1.0), chosen)
    updates, _ = optimizer.update({"w": jnp.ones(2), "b": jnp.ones(2)}, optimizer.init(params))
    np.testing.assert_allclose(updates["w"], -0.1)
    np.testing.assert_allclose(updates["b"], -1.0)
