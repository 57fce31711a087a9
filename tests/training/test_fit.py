"""Training over epochs, evaluation and their errors."""

import functools
import re
from typing import Any

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
    identity,
    initial_state,
)

fit = jax.jit(
    functools.partial(training.fit, OBJECTIVE, OPTIMIZER, add_noise, batch_size=10),
    static_argnames="num_epochs",
)


def test_fit_reduces_the_loss() -> None:
    state, history = fit(initial_state(), DATA, num_epochs=30)
    assert history["loss"].shape == (30, 10)
    assert history["loss"][-1].mean() < 0.8 * history["loss"][0].mean()
    assert int(state.step) == 300


def test_resumed_training_equals_uninterrupted_training() -> None:
    whole, _ = fit(initial_state(), DATA, num_epochs=4)
    half, _ = fit(initial_state(), DATA, num_epochs=2)
    assert_same(whole, fit(half, DATA, num_epochs=2)[0])


def test_member_of_vmapped_fit_equals_separate_run() -> None:
    def run(key: jax.Array) -> jax.Array:
        state = initial_state()._replace(key=key)
        return fit(state, DATA, num_epochs=2)[0].params["w"]

    keys = jax.random.split(KEY, 3)
    np.testing.assert_allclose(jax.vmap(run)(keys)[1], run(keys[1]), atol=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau()),
        optax.polyak_sgd(),
    ],
    ids=["lbfgs", "reduce_on_plateau", "polyak_sgd"],
)
def test_optimizers_that_use_the_loss(optimizer: optax.GradientTransformation) -> None:
    state = training.init_state(KEY, initial_state().params, optimizer)
    run = functools.partial(training.fit, OBJECTIVE, optimizer, identity, batch_size=50)
    state, history = jax.jit(functools.partial(run, num_epochs=5))(state, DATA)
    assert not state.diverged
    assert history["loss"][-1].mean() < history["loss"][0, 0]


@pytest.mark.parametrize("batch_size", [1, 10, 103, 500])
def test_evaluation_counts_every_example_once(batch_size: int) -> None:
    params = initial_state().params
    evaluate = functools.partial(training.evaluate, OBJECTIVE, add_noise, batch_size=batch_size)
    means = jax.jit(evaluate)(KEY, params, DATA)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(KEY, jnp.arange(N))
    values = OBJECTIVE(params, add_noise(keys, DATA), None)
    np.testing.assert_allclose(means["loss"], values["loss"].mean(), rtol=1e-5)
    np.testing.assert_allclose(means["error"], values["error"].mean(), rtol=1e-6)


def test_measured_values_are_reported() -> None:
    objective = training.classification(apply_fn, lambda found: {"size": found["size"]})
    means = training.evaluate(objective, identity, KEY, initial_state().params, DATA, batch_size=50)
    expected = np.abs(DATA["image"]).sum(axis=(1, 2, 3)).mean()
    np.testing.assert_allclose(means["size"], expected, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [0, 104])
def test_invalid_batch_size_of_training_raises(batch_size: int) -> None:
    for call in (
        lambda: training.epoch_order(KEY, 0, N, batch_size),
        lambda: training.fit(
            *(OBJECTIVE, OPTIMIZER, add_noise, initial_state(), DATA),
            num_epochs=1,
            batch_size=batch_size,
        ),
    ):
        with pytest.raises(
            ValueError, match="batch_size must be between 1 and the number of examples, 103; got"
        ):
            call()


def test_invalid_arguments_of_evaluation_raise() -> None:
    def evaluate(data: training.Batch, batch_size: int) -> Any:
        params = initial_state().params
        return training.evaluate(OBJECTIVE, add_noise, KEY, params, data, batch_size=batch_size)

    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        evaluate(DATA, 0)
    for empty in (jax.tree.map(lambda array: array[:0], DATA), {}):
        with pytest.raises(ValueError, match="data must hold at least one example; got none"):
            evaluate(empty, 10)


@pytest.mark.parametrize("labels", [jnp.zeros(7, int), jnp.zeros((), int)])
def test_arrays_of_different_lengths_raise(labels: jax.Array) -> None:
    """Otherwise `jnp.take` would fill up the shorter array, and results would be NaN."""
    data = {"image": jnp.zeros((8, 2)), "label": labels}
    objective = training.classification(lambda w, x, key: (x @ w, None))
    state = training.init_state(KEY, jnp.zeros((2, 2)), optax.sgd(1.0))
    found = f"['image'] [8, 2], ['label'] {[*labels.shape]}"
    expected = re.escape(f"axis of examples; got {found}")
    with pytest.raises(ValueError, match=expected):
        training.fit(
            *(objective, optax.sgd(1.0), identity, state, data), num_epochs=1, batch_size=4
        )
    with pytest.raises(ValueError, match=expected):
        training.evaluate(objective, identity, KEY, state.params, data, batch_size=4)


UNUSABLE = {
    "list": ([[0.0, 0.0]] * 4, r"must hold arrays, not lists, .*\['image'\]\[0\]\[0\] \[\]"),
    "object": (np.zeros((4, 2), object), r"data\['image'\] must be of a dtype of JAX; got object"),
    "text": (np.full((4, 2), "a"), r"data\['image'\] must be of a dtype of JAX; got <U1"),
    "longdouble": (
        np.zeros((4, 2), np.longdouble),
        r"data\['image'\] must .*; got float128; .* con",
    ),
    "one image": (
        np.zeros(2),
        r"one leading axis of examples; got \['image'\] \[2\], \['label'\] \[4",
    ),
}


@pytest.mark.parametrize(("images", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_data_raise(images: Any, message: str, unchecked: None) -> None:
    data = {"image": images, "label": np.arange(4) % 2}
    objective = training.classification(lambda w, x, key: (x @ w, None))
    state = training.init_state(KEY, jnp.zeros((2, 2)), optax.sgd(1.0))
    options = {"num_epochs": 1, "batch_size": 2}
    with pytest.raises(ValueError, match=message):
        training.fit(objective, optax.sgd(1.0), identity, state, data, **options)
    with pytest.raises(ValueError, match=message):
        training.evaluate(objective, identity, KEY, state.params, data)


def test_data_of_another_byte_order_and_a_batch_size_of_numpy_are_used(unchecked: None) -> None:
    data = {"image": np.eye(4, dtype=">f4"), "label": np.asarray([0, 1, 1, 0], ">i2")}
    objective = training.classification(lambda w, x, key: (x @ w, None))
    params = np.eye(4, 2, dtype=np.float32)
    means = training.evaluate(objective, identity, KEY, params, data, batch_size=np.int64(3))
    assert float(means["error"]) == 0.25
    for size in (2.0, True, "2"):
        with pytest.raises(ValueError, match=f"batch_size must be at least 1; got {size!r}"):
            training.evaluate(objective, identity, KEY, params, data, batch_size=size)
