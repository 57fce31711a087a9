"""Checkpoints of a training. Each is one file, written atomically and verified when it is read.

A file holds the SHA-256 of its content, then a snapshot in Flax's msgpack, which contains no code.
The newest two are kept.
"""

import hashlib
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util

from experiments.runs.records import RunError, write_atomically, writing
from experiments.settings.errors import print_warning
from stn_jax.training import TrainState

KEPT = 2
MAX_TIME_SHARE = 0.01  # of a run's time that saving may take
STEP_METRICS = ("loss", "error", "gradient_norm")  # kept for each step of an epoch
SUFFIX = ".msgpack"
KEY_IMPL = "key_impl"  # the name of the implementation of the run's random keys
THREEFRY, RBG = "threefry2x32", "rbg"  # keys of two and of four numbers


class Snapshot(NamedTuple):
    """Everything that a run needs to continue.

    Attributes:
        state: after the last step.
        values: `[steps]` for each metric, the means of the epoch's steps so far. The rest is 0.
        seconds: the time that these steps took.
    """

    state: TrainState
    values: dict[str, np.ndarray]
    seconds: float


def at_start_of_epoch(
    state: TrainState, steps: int, metrics: Sequence[str] = STEP_METRICS
) -> Snapshot:
    """A snapshot before the first step of an epoch of `steps` steps."""
    return Snapshot(state, {name: np.zeros(steps, np.float32) for name in metrics}, 0.0)


def steps_in(folder: pathlib.Path) -> list[int]:
    """The steps that have a checkpoint in a folder, in order. Empty if there is no folder."""
    return sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: made if it does not exist.

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
        """The path of the checkpoint of a step, which need not exist."""
        return self._folder / f"{step}{SUFFIX}"

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        return steps_in(self._folder)

    @property
    def due(self) -> bool:
        """Whether another save, as slow as the last, stays within the share of the run's time."""
        elapsed = time.perf_counter() - self._opened
        return self._spent + self._last <= MAX_TIME_SHARE * elapsed

    def save(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, if this step has none, and removes the oldest.

        With several processes, only the first writes.

        Raises:
            RunError: if it cannot be written. Earlier checkpoints are unchanged.
        """
        started = time.perf_counter()
        step = int(snapshot.state.step)
        if jax.process_index() > 0 or step in self.steps:
            return
        stored = to_storable(snapshot) | {KEY_IMPL: _key_impl(snapshot.state.key)}
        data = serialization.to_bytes(jax.device_get(stored))
        write_atomically(self.path(step), hashlib.sha256(data).digest() + data)
        for old in self.steps[:-KEPT]:
            self._remove(old)
        self._last = time.perf_counter() - started
        self._spent += self._last

    def restore(self, like: TrainState) -> Snapshot:
        """The newest intact checkpoint. Prints a warning if a newer one is damaged.

        Args:
            like: a state of the same structure; only shapes and types matter.

        Raises:
            RunError: if there is none, or if its structure differs from `like`. The random keys may
                be of another implementation, which they keep.
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
                print_warning(f"{damaged[0]}; going back to {path}")
            return _decoded(path, data, like)
        if not damaged:
            raise RunError(f"{self._folder}: holds no checkpoint")
        raise RunError(f"{'; '.join(damaged)}; start anew in another --run-dir")

    def check_keys(self, snapshot: Snapshot, like: TrainState) -> None:
        """Raises `RunError` if a training would continue with random keys of another kind."""
        stored, present = _key_impl(snapshot.state.key), _key_impl(like.key)
        if stored != present:
            raise RunError(
                f"{self._folder}: the run was trained with JAX_DEFAULT_PRNG_IMPL={stored}; set it "
                f"to continue the run; it is {present}"
            )

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of later steps, which will be trained again.

        Raises:
            RunError: if one cannot be removed.
        """
        for later in self.steps:
            if later > step:
                self._remove(later)

    def _remove(self, step: int) -> None:
        with writing(self.path(step)):
            self.path(step).unlink()


def restore_common(
    checkpoints: Sequence[Checkpoints], like: Sequence[TrainState]
) -> list[Snapshot] | None:
    """The snapshots of the newest step of which every member has an intact checkpoint.

    Later checkpoints are removed.

    Args:
        checkpoints: of each member.
        like: a state of each member, as for `Checkpoints.restore`.

    Returns:
        A snapshot of each member; None if there is no common step.

    Raises:
        RunError: if all checkpoints of a member are damaged, or of another network.
    """
    while common := set.intersection(*(set(each.steps) for each in checkpoints)):
        for each in checkpoints:
            each.drop_after(max(common))
        restored = [each.restore(state) for each, state in zip(checkpoints, like, strict=True)]
        for each, snapshot, state in zip(checkpoints, restored, like, strict=True):
            each.check_keys(snapshot, state)
        reached = [int(snapshot.state.step) for snapshot in restored]
        for each, step in zip(checkpoints, reached, strict=True):
            each.drop_after(step)  # newer ones are damaged
        if len(set(reached)) == 1:
            return restored
    for each in checkpoints:
        each.drop_after(0)
    return None


class _DamagedError(Exception):
    """A checkpoint whose content differs from what was written. The text is the reason."""


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
    stored: Any = serialization.msgpack_restore(data)
    like = _with_key_impl(like, stored)
    expected = to_storable(at_start_of_epoch(like, 1))["state"]
    found, wanted = (_array_types(tree) for tree in (stored["state"], expected))
    for name in sorted(found | wanted):
        if found.get(name) != wanted.get(name):
            raise RunError(
                f"{path}: is of another network or optimiser: {name} is "
                f"{found.get(name, 'missing')}, but {wanted.get(name, 'nothing')} is needed"
            )
    return from_storable(stored, like)


def _with_key_impl(like: TrainState, stored: dict[str, Any]) -> TrainState:
    """A state whose random keys are of the implementation with which a checkpoint was stored."""
    shape = np.shape(stored["state"].get("key"))
    impl = stored.get(KEY_IMPL) or (RBG if shape[-1:] == (4,) else THREEFRY)
    dtype = jax.eval_shape(lambda: jax.random.key(0, impl=impl)).dtype
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype) if _is_key(leaf) else leaf, like
    )


def _key_impl(key: jax.Array) -> str:
    return str(jax.random.key_impl(key))


def _array_types(state: dict[str, Any]) -> dict[str, str]:
    flat: dict[str, Any] = traverse_util.flatten_dict(state, sep=".")
    return {
        name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in flat.items() if leaf is not None
    }


def to_storable(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as nested dictionaries of arrays and numbers. Random keys become their data."""
    leaves = jax.tree_util.tree_leaves_with_path(_without_flag(snapshot.state))
    state = {_names(path): _without_key(leaf) for path, leaf in leaves}
    return snapshot._asdict() | {"state": traverse_util.unflatten_dict(state)}


def from_storable(stored: dict[str, Any], like: TrainState) -> Snapshot:
    """The inverse of `to_storable`.

    Args:
        stored: what `to_storable` returns. The arrays may be of any kind.
        like: a state of the same structure; only shapes and types matter.
    """
    flat = traverse_util.flatten_dict(stored["state"])
    state = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _with_key(flat[_names(path)], leaf), _without_flag(like)
    )
    restored = state._replace(diverged=jnp.zeros((), bool))
    return Snapshot(restored, stored["values"], float(stored["seconds"]))


def _without_flag(state: Any) -> Any:
    """A state without `diverged`, which is not stored: it is False in every checkpoint."""
    return state._replace(diverged=None)


def _names(path: Sequence[Any]) -> tuple[str, ...]:
    """A path in a tree as the names of nested dictionaries. Flax's msgpack has the same names."""
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)


def _without_key(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(_without_key, leaf)
    return jax.random.key_data(leaf) if _is_key(leaf) else jnp.asarray(leaf)


def _with_key(leaf: Any, like: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    if not _is_key(like):
        return leaf
    key = jnp.empty((), jnp.result_type(like))  # `key_impl` rejects shapes without values
    return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(key))


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
