"""Checkpoints of a training, by Orbax: atomic, verified when they are read, the newest two kept.

Each holds the SHA-256 of its files. They are verified before Orbax sees them: of a damaged file it
may not notice, and where it does, it leaves a page of errors.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from experiments.records import RunError, write_json, writing
from stn_jax.training import TrainState

orbax: Any = ocp  # its annotations of pytrees mean nothing to a type checker

KEPT = 2
SHARE = 0.01  # of a run's time, that checkpoints may take
MEASURED = ("loss", "error", "gradient_norm")  # what is kept of each step
DIGESTS = "sha256.json"


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
        unfinished, stored = self._folder.absolute() / f"{step}.unfinished", _storable(snapshot)
        try:
            _demand_room(self._folder, stored)
            with _quiet():
                orbax.save(str(unfinished), stored)
            write_json(unfinished / DIGESTS, _digests(unfinished))
            unfinished.rename(self.path(step))
            for old in self.steps[:-KEPT]:
                shutil.rmtree(self.path(old))
        except Exception as error:  # Orbax's own, of many kinds
            self._remove_unfinished()
            raise RunError(f"{self.path(step)}: cannot be written: {_reason(error)}") from error
        self._last = time.perf_counter() - started
        self._spent += self._last

    def _remove_unfinished(self) -> None:
        for path in self._folder.glob("*.unfinished*"):
            shutil.rmtree(path, ignore_errors=True)

    def restore(self, like: TrainState) -> Snapshot:
        """The newest checkpoint that is not damaged; warns on stderr of a newer one that is.

        Raises:
            RunError: if there is none, or it is not of the same structure as `like`.
        """
        damaged = []
        for step in reversed(self.steps):
            path = self.path(step)
            damage = _damage(path)
            if damage is None:
                if damaged:
                    print(f"warning: {damaged[0]}; going back to {path}", file=sys.stderr)
                return _load(path, like)
            damaged.append(f"{path}: is damaged: {damage}")
        raise RunError(damaged[0] if damaged else f"{self._folder}: holds no checkpoint")

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, which are about to be made again."""
        for later in self.steps:
            if later > step:
                with writing(self.path(later)):
                    shutil.rmtree(self.path(later))


def _demand_room(folder: pathlib.Path, stored: dict[str, Any]) -> None:
    """Raises the error of a full disk before Orbax meets it in a dozen threads, each with a page.

    Orbax writes everything twice, and some small files.
    """
    size = sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(stored))
    if shutil.disk_usage(folder).free < 2 * size + 2**18:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _digests(folder: pathlib.Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder."""
    return {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(folder: pathlib.Path) -> str | None:
    """What is wrong with the files of a checkpoint."""
    try:
        expected = json.loads((folder / DIGESTS).read_bytes())
        for name, digest in expected.items():
            if _sha256(folder / name) != digest:
                return f"{name} is not what was written"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, AttributeError, TypeError):
        return f"{DIGESTS} is not what was written"
    return None


def _storable(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as a tree that Orbax takes: keys as their data."""
    state = snapshot.state
    good = {"step": state.step, "params": state.params, "opt_state": state.opt_state}
    return snapshot._asdict() | {"state": good | {"key": jax.random.key_data(state.key)}}


def _load(path: pathlib.Path, like: TrainState) -> Snapshot:
    of_any_length = dict.fromkeys(MEASURED, np.ndarray)
    expected = _storable(at_start_of_epoch(like, 1)) | {"values": of_any_length}
    try:
        with _quiet():
            stored = orbax.load(str(path.absolute()), expected)
    except Exception as error:  # of many kinds
        raise RunError(f"{path}: cannot be restored: {_reason(error)}") from error
    state = stored.pop("state")
    key = jax.random.wrap_key_data(state.pop("key"))
    return Snapshot(TrainState(**state, key=key, diverged=jnp.zeros((), bool)), **stored)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from logging, with a page of its threads' stacks each, what it raises as well."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: Exception) -> str:
    """What went wrong, in the words of the system where it was the system."""
    text = str(error).strip()
    code = re.search(r"os_error_code='(\d+)'", text)  # TensorStore's
    if code is not None:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (text or type(error).__name__).splitlines()[0]
