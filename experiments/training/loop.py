"""The training loop, for one network or for several members in one program.

A `Trainer` holds the compiled functions. Callbacks write records, save checkpoints, show progress
and stop members. The loop itself reads and writes no files.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

from experiments.runs.checkpoints import Snapshot
from experiments.runs.records import RunError
from experiments.runs.signals import Stop
from experiments.training import sharding
from experiments.training.metrics import EpochMetrics, Record
from stn_jax.training import Params, TrainState, Variables

STEPS_PER_DISPATCH = 100  # enough to hide the dispatch, few enough to keep the progress bar moving
REMEDY = "lower --learning-rate or set --clip-norm, in another --run-dir"

# Values of each step of a part of an epoch, or means over a split: `[m, steps]` or `[m]`.
MemberValues = Mapping[str, np.ndarray | jax.Array]


class DivergedError(RunError):
    """A number became infinite or NaN. Training again would repeat it."""

    def append(self, detail: str) -> None:
        """Adds a detail to the message."""
        self.args = (f"{self}; {detail}",)


class Trainer(Protocol):
    """The compiled functions of `m` members. Members that fill up devices come last.

    Attributes:
        num_members: the number of members that train, at most `m`.
        steps_per_epoch: the number of updates in a pass over the training data.
    """

    @property
    def num_members(self) -> int: ...  # noqa: D102

    @property
    def steps_per_epoch(self) -> int: ...  # noqa: D102

    def initial_states(self) -> list[TrainState]:
        """The state of each member before the first step."""
        ...

    def join(self, states: Sequence[TrainState]) -> TrainState:
        """The states of all members as one, on their devices."""
        ...

    def member(self, states: TrainState, index: int) -> TrainState:
        """The state of one member."""
        ...

    def order(self, states: TrainState, epoch: int) -> jax.Array:
        """The examples of each batch of an epoch, counted from 0: `[..., steps, b]`."""
        ...

    def train(
        self, states: TrainState, order: jax.Array, part: slice, active: np.ndarray
    ) -> tuple[TrainState, MemberValues]:
        """The states after a part of an epoch, and the values of its steps, `[m, steps]`."""
        ...

    def evaluate(self, states: TrainState, active: np.ndarray) -> MemberValues:
        """The means over the validation split, `[m]`; NaN for inactive members."""
        ...

    def record(self, index: int, epoch: EpochMetrics) -> Record:
        """The record of a member's epoch."""
        ...


@dataclasses.dataclass
class Loop:
    """A training in progress.

    Attributes:
        trainer: the compiled functions.
        epochs: the number of epochs to train.
        states: of all members.
        step: the number of updates of every active member.
        values: `[m, steps]` for each metric, the steps of the current epoch so far.
        seconds: the time that these took, divided by the number of members.
        active: `[m]`, which members still train.
    """

    trainer: Trainer
    epochs: int
    states: TrainState
    step: int
    values: dict[str, np.ndarray]
    seconds: float
    active: np.ndarray

    @property
    def epoch(self) -> int:
        """The current epoch, counted from 1, or the one that just ended."""
        return math.ceil(self.step / self.trainer.steps_per_epoch)

    @property
    def whole_epochs(self) -> int:
        """The number of epochs that have ended."""
        return self.step // self.trainer.steps_per_epoch

    @property
    def is_done(self) -> bool:
        """Whether no step is left to train."""
        return self.step >= self.epochs * self.trainer.steps_per_epoch or not self.active.any()

    @property
    def members(self) -> list[int]:
        """The indices of the active members."""
        return np.flatnonzero(self.active).tolist()

    def snapshot(self, index: int) -> Snapshot:
        """Everything that a member needs to continue."""
        values = {name: each[index] for name, each in self.values.items()}
        return Snapshot(self.trainer.member(self.states, index), values, self.seconds)

    def params(self, index: int) -> Params:
        """The parameters of a member, on the host."""
        return jax.device_get(self.trainer.member(self.states, index).params)

    def variables(self, index: int) -> Variables | None:
        """The other arrays of a member's network, on the host."""
        return jax.device_get(self.trainer.member(self.states, index).variables)

    def start_epoch(self) -> None:
        """Forgets the values of the epoch that ended."""
        self.values = {name: np.zeros_like(each) for name, each in self.values.items()}
        self.seconds = 0.0


def start(trainer: Trainer, epochs: int, snapshots: Sequence[Snapshot]) -> Loop:
    """A training that continues from a snapshot of each member, all of the same step."""
    states = trainer.join([snapshot.state for snapshot in snapshots])
    step, count = int(snapshots[0].state.step), len(snapshots)
    values = {
        name: np.stack([snapshot.values[name] for snapshot in snapshots])
        for name in snapshots[0].values
    }
    return Loop(trainer, epochs, states, step, values, snapshots[0].seconds, np.ones(count, bool))


class Callback:
    """Takes part in a training. Every method does nothing unless it is overridden."""

    def on_start(self, loop: Loop) -> None:
        """Before the first step."""

    def on_steps(self, loop: Loop, values: MemberValues) -> None:
        """After a part of an epoch, with the values of its steps, `[m, steps]`."""

    def on_epoch(self, loop: Loop, records: Sequence[Record | None]) -> None:
        """After an epoch, with the record of each member; None for inactive ones."""

    def on_divergence(self, loop: Loop, index: int, error: DivergedError) -> None:
        """After the last good step of a member. Details may be appended to the error."""

    def on_pause(self, loop: Loop, *, interrupted: bool) -> None:
        """At a point where the training can continue later, after `on_epoch` or after a signal."""

    def on_end(self, loop: Loop) -> None:
        """After the last epoch."""

    def close(self) -> None:
        """After the training, however it ended."""


def run(
    loop: Loop, callbacks: Sequence[Callback], stop: Stop | None = None
) -> dict[int, DivergedError]:
    """Trains until the last epoch, or until no member is active.

    Args:
        loop: the training.
        callbacks: called in order.
        stop: stops the training at a point where it can continue; None: nothing does.

    Returns:
        The errors of the members that diverged.

    Raises:
        Stopped: after a signal.
    """
    errors: dict[int, DivergedError] = {}
    with contextlib.ExitStack() as closing:
        for callback in callbacks:
            closing.callback(callback.close)
            callback.on_start(loop)
        while not loop.is_done:
            whole = _train_epoch(loop, callbacks, stop)
            _drop(loop, callbacks, errors, _diverged_steps(loop))
            if whole:
                _end_epoch(loop, callbacks, errors)
                loop.start_epoch()
            if not loop.active.any():
                break
            interrupted = not whole or _stop_requested(stop, loop.states)
            for callback in callbacks:
                callback.on_pause(loop, interrupted=interrupted)
            if interrupted and stop is not None:
                stop.check()
        if stop is not None:
            stop.patient = False
        for callback in callbacks:
            callback.on_end(loop)
    return errors


def _train_epoch(loop: Loop, callbacks: Sequence[Callback], stop: Stop | None) -> bool:
    """Trains to the end of the epoch, or to the end of the part in which a signal came.

    Returns:
        Whether the epoch is whole.
    """
    trainer, steps = loop.trainer, loop.trainer.steps_per_epoch
    started, epoch = time.perf_counter(), loop.step // steps
    order = trainer.order(loop.states, epoch)

    def collect(part: slice, values: MemberValues) -> None:
        for name, each in loop.values.items():
            each[:, part] = np.asarray(values[name])[: len(each)]
        for callback in callbacks:
            callback.on_steps(loop, values)

    pending: tuple[slice, MemberValues] | None = None
    for part in _parts(loop.step % steps, steps):
        loop.states, values = trainer.train(loop.states, order, part, loop.active)
        loop.step = epoch * steps + part.stop
        if stop is not None:
            stop.patient = True
        if pending is not None:  # values are collected while the device computes the next part
            collect(*pending)
        pending = part, values
        if _stop_requested(stop, loop.states):
            break
    assert pending is not None
    collect(*pending)
    loop.seconds += (time.perf_counter() - started) / trainer.num_members
    return loop.step == (epoch + 1) * steps


def _parts(first: int, steps: int) -> Iterator[slice]:
    """The steps of an epoch from `first` on, in the parts that are one program."""
    while first < steps:
        last = min(steps, (first // STEPS_PER_DISPATCH + 1) * STEPS_PER_DISPATCH)
        yield slice(first, last)
        first = last


def _end_epoch(loop: Loop, callbacks: Sequence[Callback], errors: dict[int, DivergedError]) -> None:
    """Evaluates the active members and records the epoch."""
    records: list[Record | None] = [None] * len(loop.active)
    if loop.active.any():
        evaluated = loop.trainer.evaluate(loop.states, loop.active)
        means = {name: np.asarray(each) for name, each in evaluated.items()}
        for i in loop.members:
            values = {name: each[i] for name, each in loop.values.items()}
            own = {name: each[i] for name, each in means.items()}
            metrics = EpochMetrics(loop.step, values, loop.seconds, own)
            records[i] = {"epoch": loop.epoch} | loop.trainer.record(i, metrics)
    unfit = _unfit_members(records)
    _drop(loop, callbacks, errors, unfit)
    for i in unfit:
        records[i] = None
    for callback in callbacks:
        callback.on_epoch(loop, records)


def _diverged_steps(loop: Loop) -> dict[int, str]:
    """Why each active member that diverged did so."""
    steps, found = loop.trainer.steps_per_epoch, {}
    diverged, taken = (np.atleast_1d(each) for each in (loop.states.diverged, loop.states.step))
    for i in loop.members:
        if not diverged[i]:
            continue
        step = int(taken[i])
        values = {name: loop.values[name][i][step % steps] for name in ("loss", "gradient_norm")}
        bad = [
            f"{name.replace('_', ' ')} is {x}" for name, x in values.items() if not np.isfinite(x)
        ]
        reason = f"its {bad[0]}" if bad else "its parameters are not finite"
        found[i] = f"at step {step + 1}, in epoch {step // steps + 1}: {reason}"
    return found


def _unfit_members(records: Sequence[Record | None]) -> dict[int, str]:
    """Why each member whose validation loss is not finite is dropped."""
    return {
        i: f"in epoch {record['epoch']}: the validation loss is {record['validation_loss']}"
        for i, record in enumerate(records)
        if record is not None and not math.isfinite(record.get("validation_loss", 0.0))
    }


def _drop(
    loop: Loop,
    callbacks: Sequence[Callback],
    errors: dict[int, DivergedError],
    reasons: Mapping[int, str],
) -> None:
    """Deactivates members that diverged."""
    for i, reason in reasons.items():
        errors[i] = DivergedError(f"training diverged {reason}; {REMEDY}")
        loop.active[i] = False
        for callback in callbacks:
            callback.on_divergence(loop, i, errors[i])


def _stop_requested(stop: Stop | None, states: TrainState) -> bool:
    """Whether any of the processes received a signal. All of them stop after the same step."""
    if stop is None:
        return False
    if jax.process_count() > 1:  # two programs at once would receive each other's messages
        jax.block_until_ready(states)
    number = sharding.largest(stop.number or 0)
    if number:  # otherwise a signal may have come in the meantime
        stop.number = number
    return bool(number)
