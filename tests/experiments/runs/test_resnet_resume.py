"""A user's residual network, trained with `training.fit`, is killed and resumes bit-identically."""

import functools
import pathlib
import random
import signal
import time
from multiprocessing.process import BaseProcess

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import datasets
from experiments.runs.checkpoints import Checkpoints, Snapshot
from stn_jax import training
from tests.experiments.processes import keeping_compiled, start
from tests.training.resnet import OPTIMIZER, resnet
from tests.training.stateful_models import arrays

EPOCHS, STEPS, BATCH = 8, 20, 32
TIMEOUT_S = 120  # of a process, on a busy machine


def add_noise(keys: jax.Array, batch: training.Batch) -> training.Batch:
    noise = jax.vmap(lambda key: jax.random.normal(key, batch["image"].shape[1:]))(keys)
    return batch | {"image": batch["image"] / 255 + 0.1 * noise}


def initial_state() -> training.TrainState:
    network = resnet()
    return training.init_state(jax.random.key(1), network.params, OPTIMIZER, network.variables)


def train(folder: pathlib.Path, compiled: pathlib.Path) -> None:
    """Trains from the newest checkpoint, and saves one after each epoch."""
    with keeping_compiled(compiled):
        found = datasets.load("digits").train
        data = {"image": jnp.asarray(found.images), "label": jnp.asarray(found.labels)}
        data = jax.tree.map(lambda each: each[: STEPS * BATCH], data)
        fit = functools.partial(training.fit, resnet().objective, OPTIMIZER, add_noise)
        fit_epoch = jax.jit(functools.partial(fit, num_epochs=1, batch_size=BATCH))
        checkpoints, state = Checkpoints(folder), initial_state()
        if checkpoints.steps:
            state = checkpoints.restore(state).state
        while int(state.step) < EPOCHS * STEPS:
            state, history = fit_epoch(state, data)
            values = {name: np.asarray(each[0]) for name, each in history.items()}
            checkpoints.save(Snapshot(state, values, seconds=0.0))


def await_checkpoint(process: BaseProcess, checkpoints: Checkpoints) -> float:
    """Waits until a process has saved a checkpoint, and returns the time."""
    before, end = checkpoints.steps, time.monotonic() + TIMEOUT_S
    while checkpoints.steps == before and process.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert checkpoints.steps != before, process.exitcode
    return time.monotonic()


def kill_at_random(process: BaseProcess, checkpoints: Checkpoints, longest_s: float) -> None:
    """Kills a process at a random time after its first checkpoint."""
    await_checkpoint(process, checkpoints)
    time.sleep(random.uniform(0, longest_s))
    process.kill()
    process.join(TIMEOUT_S)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
def test_killed_training_of_a_resnet_resumes_bit_identically(
    tmp_path: pathlib.Path, compiled: pathlib.Path
) -> None:
    """Parameters, batch statistics, random numbers, and all bytes of the last checkpoint."""
    whole, killed = (Checkpoints(tmp_path / name) for name in ("whole", "killed"))
    process = start(train, tmp_path / "whole", compiled)
    started = await_checkpoint(process, whole)
    process.join(TIMEOUT_S)
    assert process.exitcode == 0
    seconds = time.monotonic() - started  # of all epochs but the first
    kill_at_random(start(train, tmp_path / "killed", compiled), killed, longest_s=seconds / 3)
    assert 0 < killed.steps[-1] < EPOCHS * STEPS
    process = start(train, tmp_path / "killed", compiled)
    process.join(TIMEOUT_S)
    assert process.exitcode == 0

    last = EPOCHS * STEPS
    start_state = initial_state()
    found, expected = (each.restore(start_state) for each in (killed, whole))
    assert int(found.state.step) == int(expected.state.step) == last
    chex.assert_trees_all_equal(arrays(found.state), arrays(expected.state))
    assert killed.path(last).read_bytes() == whole.path(last).read_bytes()
    # It has trained, and its statistics have moved.
    assert expected.values["loss"].mean() < 1.0
    moved = zip(arrays(expected.state.variables), arrays(start_state.variables), strict=True)
    assert sum(np.any(new != old) for new, old in moved) >= 8
