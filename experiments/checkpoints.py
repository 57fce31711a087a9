"""Checkpoints of a training, by Orbax: atomic, verified when they are read, the newest two kept."""

import pathlib
import shutil
import sys
import time
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from experiments import devices
from experiments.experiment import params_sha256
from experiments.records import RunError, writing
from stn_jax.training import TrainState

orbax: Any = ocp  # its annotations of pytrees mean nothing to a type checker

KEPT = 2
SHARE = 0.01  # of a run's time, that checkpoints may take
MEASURED = ("loss", "error", "gradient_norm")  # what is kept of each step


class Snapshot(NamedTuple):
    """All that a run continues from.

    Attributes:
        state: after the last step.
        values: the means of each step of the epoch so far, by name, with room for its others.
        seconds: how long these steps took.
    """

    state: TrainState
    values: dict[str, np.ndarray]
    seconds: float


def at_start_of_epoch(state: TrainState, steps: int) -> Snapshot:
    """A snapshot before the first of an epoch's steps."""
    return Snapshot(state, {name: np.zeros(steps, np.float32) for name in MEASURED}, 0.0)


class _DamagedError(Exception):
    """A checkpoint that cannot be used; its text is the reason."""


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: where they are; made if there is none.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._opened, self._spent, self._last = time.perf_counter(), 0.0, 0.0
        with writing(folder):
            folder.mkdir(exist_ok=True)
        self._remove_unfinished()

    def path(self, step: int) -> pathlib.Path:
        """Where the checkpoint of a step is, or would be."""
        return self._folder / str(step)

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())

    @property
    def due(self) -> bool:
        """Whether one more, taking as long as the last, keeps them within their share of time."""
        elapsed = time.perf_counter() - self._opened
        return self._spent + self._last <= SHARE * elapsed

    def save(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, unless there is one of this step, and removes the oldest.

        Raises:
            RunError: if it cannot be written; those before it are as they were.
        """
        started = time.perf_counter()
        step = int(snapshot.state.step)
        if step in self.steps:
            return
        stored = _storable(snapshot)
        try:
            orbax.save(str(self.path(step).absolute()), stored | {"sha256": params_sha256(stored)})
            for old in self.steps[:-KEPT]:
                shutil.rmtree(self.path(old))
        except Exception as error:  # Orbax's own, of many kinds
            self._remove_unfinished()
            raise RunError(f"{self.path(step)}: cannot be written: {_reason(error)}") from error
        self._last = time.perf_counter() - started
        self._spent += self._last

    def _remove_unfinished(self) -> None:
        for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)

    def restore(self, like: TrainState) -> Snapshot:
        """The newest checkpoint that is whole, of the same structure as `like`.

        Warns on stderr where a newer one is not.

        Raises:
            RunError: if there is none.
        """
        damaged = []
        for step in reversed(self.steps):
            try:
                snapshot = _load(self.path(step), like)
            except _DamagedError as error:
                damaged.append(f"{self.path(step)}: cannot be restored: {error}")
                continue
            if damaged:
                print(f"warning: {damaged[0]}; {self.path(step)} is taken", file=sys.stderr)
            return snapshot
        raise RunError(damaged[0] if damaged else f"{self._folder}: holds no checkpoint")

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, which are about to be made again."""
        for later in self.steps:
            if later > step:
                shutil.rmtree(self.path(later))


def _storable(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as a tree that Orbax takes: keys as their data."""
    state = snapshot.state
    good = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    return snapshot._asdict() | {"state": good | {"key": jax.random.key_data(state.key)}}


def _load(path: pathlib.Path, like: TrainState) -> Snapshot:
    expected = _storable(at_start_of_epoch(like, 1))
    expected |= {"values": dict.fromkeys(MEASURED, np.ndarray), "sha256": ""}  # of any length
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where it fails, Orbax leaves coroutines behind
            stored = orbax.load(str(path.absolute()), expected)
    except Exception as error:  # of many kinds
        raise _DamagedError(_reason(error)) from None
    digest = stored.pop("sha256")
    if params_sha256(stored) != digest:
        raise _DamagedError("its contents are not what was written")
    return _from_storable(stored)


def _from_storable(stored: dict[str, Any]) -> Snapshot:
    state = stored.pop("state")
    key = jax.random.wrap_key_data(state.pop("key"))
    return Snapshot(TrainState(**state, key=key, diverged=jnp.zeros((), bool)), **stored)


def from_first(snapshot: Snapshot) -> Snapshot:
    """What process 0 has read, in every process."""
    if jax.process_count() == 1:
        return snapshot
    return _from_storable(jax.tree.map(np.asarray, devices.from_first(_storable(snapshot))))


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
