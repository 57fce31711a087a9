"""Optimisers and learning-rate schedules are as configured."""

import dataclasses
import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.settings.config import Optimisation
from experiments.training import optimizers


def choices(name: str) -> tuple[str, ...]:
    return typing.get_args(typing.get_type_hints(Optimisation)[name])


# --- Optimisers, on parameters with the names of a network's --------------------------------------

PARAMS = {
    "stages_0": {
        "localisation": {"kernel": jnp.ones((3, 1))},
        "localisation_regression": {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(2)},
    },
    "stages_1": {"kernel": jnp.ones((2, 2))},
}
GRADIENTS = jax.tree.map(lambda leaf: 0.1 + jnp.arange(leaf.size).reshape(leaf.shape), PARAMS)


def updates(steps: int = 3, **settings: Any) -> list[Any]:
    """The updates of some steps with constant gradients."""
    optimizer = optimizers.make_optimizer(Optimisation(schedule="constant", **settings), 10)
    state, step, found = optimizer.init(PARAMS), jax.jit(optimizer.update), []
    for _ in range(steps):
        update, state = step(GRADIENTS, state, PARAMS)
        found.append(update)
    return found


@pytest.mark.parametrize("optimizer", choices("optimizer"))
def test_localisation_lr_applies_only_to_localisation_networks(optimizer: str) -> None:
    settings = {"optimizer": optimizer, "learning_rate": 0.01, "weight_decay": 0.1}
    for one, other in zip(
        updates(**settings), updates(**settings, localisation_lr=0.001), strict=True
    ):
        ratios = jax.tree.map(lambda a, b: np.asarray(b / a), one, other)
        for path, ratio in jax.tree_util.tree_leaves_with_path(ratios):
            expected = 0.1 if "localisation" in str(path) else 1.0
            np.testing.assert_allclose(ratio, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optimizer": "sgd", "momentum": 0.0}, optax.sgd(0.01)),
        ({"optimizer": "sgd", "momentum": 0.8}, optax.sgd(0.01, momentum=0.8)),
        ({"optimizer": "adam"}, optax.adam(0.01)),
        ({"optimizer": "adamw", "weight_decay": 0.0}, optax.adamw(0.01, weight_decay=0.0)),
    ],
)
def test_optimizers_equal_those_of_optax(
    settings: dict[str, Any], expected: optax.GradientTransformation
) -> None:
    state, step = expected.init(PARAMS), jax.jit(expected.update)
    for found in updates(learning_rate=0.01, **settings):
        update, state = step(GRADIENTS, state, PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, update)


def test_weight_decay_applies_only_to_kernels() -> None:
    settings = {"optimizer": "adamw", "learning_rate": 0.01}
    (free,), (decayed,) = (updates(1, **settings, weight_decay=decay) for decay in (0.0, 0.3))
    less = jax.tree.map(lambda one, other: np.asarray(other - one), free, decayed)
    for path, of_leaf in jax.tree_util.tree_leaves_with_path(less):
        expected = 0.0 if "bias" in str(path) else -0.01 * 0.3  # all parameters are 1
        np.testing.assert_allclose(of_leaf, expected, rtol=1e-3, err_msg=str(path))


def test_clip_norm_limits_the_norm_of_the_gradients() -> None:
    settings = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0}
    (plain,), (clipped,) = updates(1, **settings), updates(1, **settings, clip_norm=0.5)
    assert optax.tree.norm(plain) > 1
    assert optax.tree.norm(clipped) == pytest.approx(0.5)
    (unclipped,) = updates(1, **settings, clip_norm=1e3)
    jax.tree.map(np.testing.assert_array_equal, plain, unclipped)


# --- Schedules, for a run of 30 steps -------------------------------------------------------------


def rates(**settings: Any) -> np.ndarray:
    optimisation = dataclasses.replace(Optimisation(learning_rate=0.5, epochs=3), **settings)
    schedule = optimizers.make_schedule(optimisation, 10)
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(30)))


def test_constant_schedule() -> None:
    assert set(rates(schedule="constant")) == {0.5}


def test_cosine_schedule() -> None:
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(30) / 30))
    np.testing.assert_allclose(rates(schedule="cosine"), expected, atol=1e-6)


def test_step_schedule_decays_after_each_third() -> None:
    expected = np.repeat([0.5, 0.05, 0.005], 10)
    np.testing.assert_allclose(rates(schedule="step"), expected, rtol=1e-5)


@pytest.mark.parametrize("schedule", choices("schedule"))
def test_schedule_follows_a_linear_warmup(schedule: str) -> None:
    found = rates(schedule=schedule, warmup=0.6)
    np.testing.assert_allclose(found[:6], 0.5 * np.arange(6) / 6, atol=1e-6)
    assert found[6] == pytest.approx(0.5)
    last = {"constant": 0.5, "cosine": 0.25 * (1 + np.cos(np.pi * 23 / 24)), "step": 0.005}
    assert found[-1] == pytest.approx(last[schedule], rel=1e-4)
