"""Checkpoints of a training: one file each, atomic, verified when it is read, the newest two kept.

A file is the SHA-256 of the rest, then the snapshot as Flax's msgpack, which holds no code.
"""

import hashlib
import pathlib
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from experiments import devices
from experiments.records import RunError, write_atomically, writing
from stn_jax.training import TrainState

KEPT = 2
SHARE = 0.01  # of a run's time, that checkpoints may take
MEASURED = ("loss", "error", "gradient_norm")  # what is kept of each step
SUFFIX = ".msgpack"


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


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps that have a checkpoint in a folder, in order; none where there is no folder."""
    return sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: where they are; made if there is none.

    Raises:
        RunError: if it cannot be made.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._opened, self._spent, self._last = time.perf_counter(), 0.0, 0.0
        with writing(folder):
            folder.mkdir(exist_ok=True)
            for unfinished in folder.glob(".*"):
                unfinished.unlink()

    def path(self, step: int) -> pathlib.Path:
        """Where the checkpoint of a step is, or would be."""
        return self._folder / f"{step}{SUFFIX}"

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return steps_in(self._folder)

    @property
    def due(self) -> bool:
        """Whether one more, taking as long as the last, keeps them within their share of time."""
        elapsed = time.perf_counter() - self._opened
        return self._spent + self._last <= SHARE * elapsed

    def save(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, unless there is one of this step, and removes the oldest.

        Of several processes the first writes.

        Raises:
            RunError: if it cannot be written; those before it are as they were.
        """
        started = time.perf_counter()
        step = int(snapshot.state.step)
        if jax.process_index() > 0 or step in self.steps:
            return
        data = serialization.to_bytes(jax.device_get(_storable(snapshot)))
        write_atomically(self.path(step), hashlib.sha256(data).digest() + data)
        for old in self.steps[:-KEPT]:
            self._remove(old)
        self._last = time.perf_counter() - started
        self._spent += self._last

    def restore(self, like: TrainState) -> Snapshot:
        """The newest checkpoint that is not damaged; warns on stderr of a newer one that is.

        Raises:
            RunError: if there is none, or it is not of the same structure as `like`.
        """
        damaged = []
        for step in reversed(self.steps):
            path = self.path(step)
            try:
                data = _verified(path)
            except _DamagedError as error:
                damaged.append(f"{path}: {error}")
                continue
            if damaged:
                print(f"warning: {damaged[0]}; going back to {path}", file=sys.stderr)
            return _decoded(path, data, like)
        if not damaged:
            raise RunError(f"{self._folder}: holds no checkpoint")
        raise RunError(f"{'; '.join(damaged)}; start anew in another --run-dir")

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, which are about to be made again.

        Raises:
            RunError: if one cannot be removed.
        """
        for later in self.steps:
            if later > step:
                self._remove(later)

    def _remove(self, step: int) -> None:
        with writing(self.path(step)):
            self.path(step).unlink()


class _DamagedError(Exception):
    """A checkpoint that is not what was written; its text is the reason."""


def _verified(path: pathlib.Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _DamagedError(f"cannot be read: {error.strerror}") from error
    length = hashlib.sha256().digest_size
    digest, data = data[:length], data[length:]
    if hashlib.sha256(data).digest() != digest:
        raise _DamagedError("is damaged: its SHA-256 is not that of what was written")
    return data


def _decoded(path: pathlib.Path, data: bytes, like: TrainState) -> Snapshot:
    expected = _storable(at_start_of_epoch(like, 1))
    try:
        stored = serialization.from_bytes(expected, data)
    except (ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: is of another network or optimiser: {reason}") from error
    shapes, other = (jax.tree.map(np.shape, each["state"]) for each in (expected, stored))
    if shapes != other:
        raise RunError(f"{path}: is of another network or optimiser")
    return _from_storable(stored | {"state": jax.tree.map(jnp.asarray, stored["state"])})


def _storable(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as a tree of arrays and numbers: keys as their data."""
    state = snapshot.state
    good = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    return snapshot._asdict() | {"state": good | {"key": jax.random.key_data(state.key)}}


def _from_storable(stored: dict[str, Any]) -> Snapshot:
    state = stored["state"]
    key = jax.random.wrap_key_data(state.pop("key"))
    return Snapshot(
        TrainState(**state, key=key, diverged=jnp.zeros((), bool)),
        stored["values"],
        stored["seconds"],
    )


def from_first(snapshot: Snapshot) -> Snapshot:
    """What process 0 has read, in every process."""
    if jax.process_count() == 1:
        return snapshot
    return _from_storable(jax.tree.map(np.asarray, devices.from_first(_storable(snapshot))))
