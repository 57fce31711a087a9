"""Trains seeds of one cell in one program; each leaves the folder of a run of its own.

Settings, metrics, checkpoints, summary and pictures are those of `experiments.train`, which can
continue or redraw any of them; frames over the training and TensorBoard's files are not written. A
training that was killed goes on after the newest epoch of which every seed has a checkpoint.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import devices, population, progress, run_folder, stopping, train
from experiments import experiment as setup
from experiments.checkpoints import Checkpoints, at_start_of_epoch
from experiments.config import Config
from experiments.exits import fail
from experiments.experiment import Experiment
from experiments.records import Lines
from experiments.stopping import Stop, Stopped
from experiments.train import DivergedError
from stn_jax.population import MEMBER
from stn_jax.training import TrainState

# Is told of one that diverged, by its index, when it does: a kill must not make it diverge again.
OnDiverged = Callable[[int, DivergedError], None]


def run(configs: Sequence[Config], command: str, on_diverged: OnDiverged) -> None:
    """Trains configurations that differ in seed and folder only.

    Raises:
        InUseError: if another process holds one of the folders.
        RunError: if one of them cannot be used.
        Stopped: by a signal, after a checkpoint.
    """
    folders = [pathlib.Path(str(config.run.run_dir)) for config in configs]
    with contextlib.ExitStack() as held:
        starts = [held.enter_context(run_folder.lock(folder)) for folder in folders]

        def abandon(number: int) -> None:
            for remove_start in starts:
                remove_start()
            fail(Stopped(number), 0)

        stop = held.enter_context(stopping.listening(abandon))
        for folder, config in zip(folders, configs, strict=True):
            run_folder.claim(folder, config)
        names = ", ".join(folder.name for folder in folders)
        print(f"{folders[0].parent}: {names} in one program", flush=True)
        made = population.assemble(configs, None, _mesh(len(configs)))
        members = [
            _Member(setup.assemble(config, made.base.dataset), Checkpoints(folder / "checkpoints"))
            for folder, config in zip(folders, configs, strict=True)
        ]
        states, active = _train(made, members, folders, stop, on_diverged)
        programs = train.compile_programs(members[0].experiment)  # a test is the same for all
        for i, (member, folder) in enumerate(zip(members, folders, strict=True)):
            if active[i]:
                params = jax.device_get(_of(states, i).params)
                tested = train.test(member.experiment, programs, params)
                train.write_end(member.experiment, params, tested, folder, command)


class _Member(NamedTuple):
    """What one seed has of its own."""

    experiment: Experiment
    checkpoints: Checkpoints


def _train(
    made: population.Population,
    members: Sequence[_Member],
    folders: Sequence[pathlib.Path],
    stop: Stop,
    on_diverged: OnDiverged,
) -> tuple[TrainState, np.ndarray]:
    """The states after the last epoch, and which of them are good."""
    epochs, steps = made.base.config.optimisation.epochs, made.base.steps_per_epoch
    states, done = _restored(made, [member.checkpoints for member in members])
    active = made.active.copy()
    with contextlib.ExitStack() as files:
        lines = [
            files.enter_context(contextlib.closing(Lines(folder / "metrics.jsonl", done)))
            for folder in folders
        ]
        bar = files.enter_context(progress.show(epochs * steps, done * steps))
        stop.patient = True
        for epoch in range(done + 1, epochs + 1):
            started = time.perf_counter()
            states, values = made.train_epoch(states, epoch, active)
            seconds = (time.perf_counter() - started) / len(members)
            tested = made.validate(states, active)
            good = active & ~np.asarray(states.diverged) & np.isfinite(tested["loss"])
            for i in np.flatnonzero(active & ~good).tolist():
                on_diverged(i, DivergedError(f"training diverged in epoch {epoch}"))
            active = good
            if not active.any():
                break
            bar.advance({name: values[name][active].mean(axis=0) for name in ("loss", "error")})
            for i in np.flatnonzero(active).tolist():
                own = {name: array[i] for name, array in values.items()}
                snapshot = at_start_of_epoch(_of(states, i), steps)
                snapshot = snapshot._replace(values=own, seconds=seconds)
                means = {name: array[i] for name, array in tested.items()}
                record = {"epoch": epoch}
                record |= train.epoch_record(members[i].experiment, snapshot, means)
                lines[i].append(record)
            bar.epoch_done(record)
            due = all(member.checkpoints.due for member in members)
            if due or epoch == epochs or stop.number is not None:
                for i in np.flatnonzero(active).tolist():
                    members[i].checkpoints.save(at_start_of_epoch(_of(states, i), steps))
            stop.check()
        stop.patient = False
    return states, active


def _mesh(count: int) -> Any:
    """The devices to spread seeds over: virtual ones on a CPU, one for each core."""
    with contextlib.suppress(RuntimeError):  # JAX has started: there are as many as there are
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    used = min(count, jax.device_count())
    return None if used == 1 else devices.make_mesh({MEMBER: used})


def _restored(made: population.Population, saved: Sequence[Checkpoints]) -> tuple[TrainState, int]:
    """The states to go on from, and how many epochs they have behind them."""
    states, steps = made.programs.init(made.hyper), made.base.steps_per_epoch
    while True:
        common = max(set.intersection(*(_whole_epochs(each, steps) for each in saved)), default=0)
        for each in saved:
            each.drop_after(common)
        if not common:
            return states, 0
        restored = [each.restore(_of(states, i)).state for i, each in enumerate(saved)]
        reached = [int(state.step) for state in restored]
        if min(reached) == common:
            break
        for each, step in zip(saved, reached, strict=True):  # the newest of some is damaged
            each.drop_after(step)
    filling = restored[-1:] * (len(made.active) - len(saved))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *restored, *filling)
    return stacked, common // steps


def _whole_epochs(checkpoints: Checkpoints, steps: int) -> set[int]:
    return {step for step in checkpoints.steps if step % steps == 0}


def _of(states: TrainState, index: int) -> TrainState:
    """One member's state."""
    return jax.tree.map(lambda leaf: leaf[index], states)
