"""Checkpoints of a training state, by Orbax: atomic, the newest two kept."""

import pathlib
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from experiments.records import RunError
from stn_jax.training import TrainState

orbax: Any = ocp.training  # its annotations of pytrees mean nothing to a type checker


def _storable(state: TrainState) -> dict[str, Any]:
    """The state as a dictionary of arrays: keys as their data."""
    return state._asdict() | {"key": jax.random.key_data(state.key)}


class Checkpoints:
    """The checkpoints in a folder.

    Args:
        folder: where they are; made if there is none.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._checkpointer = orbax.Checkpointer(
            str(folder.absolute()),
            # By its own default Orbax skips a checkpoint while the one before is being written.
            save_decision_policy=orbax.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=orbax.preservation_policies.LatestN(2),
            cleanup_tmp_directories=True,
        )

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, state: TrainState) -> None:
        """Writes a checkpoint while training goes on; waits for the one before."""
        step = int(state.step)
        if step != self.latest:
            self._checkpointer.save_async(step, _storable(state))

    def restore(self, like: TrainState) -> TrainState:
        """The newest checkpoint, of the same structure as `like`.

        Raises:
            RunError: if there is none or it does not fit.
        """
        step = self.latest
        if step is None:
            raise RunError(f"{self._folder}: holds no checkpoint")
        try:
            stored = self._checkpointer.load(step, _storable(like))
        except Exception as error:  # Orbax's own, of many kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise RunError(f"{self._folder}/{step}: cannot be restored: {reason}") from error
        key = jax.random.wrap_key_data(stored.pop("key"))
        return TrainState(**stored, key=key)

    def close(self) -> None:
        """Waits for what is being written."""
        self._checkpointer.close()
