"""Callbacks that write a run's records while it trains, one folder for each member."""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from experiments.analysis.probe import Probe
from experiments.runs import progress
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.records import JsonLines
from experiments.runs.trackers import Tracker, grouped
from experiments.training.loop import Callback, DivergedError, Loop
from experiments.training.metrics import Record


class RunRecorder(Callback):
    """Writes the metrics and frames of one member, and passes its records to trackers.

    Args:
        index: of the member.
        probe: the images whose frames are recorded.
        folder: of its run.
        trackers: of its run.

    Raises:
        RunError: from every method, if the folder cannot be written.
    """

    def __init__(
        self, index: int, probe: Probe, folder: pathlib.Path, trackers: Sequence[Tracker]
    ) -> None:
        self._index, self._probe, self._folder, self._trackers = index, probe, folder, trackers
        self._open = contextlib.ExitStack()

    def on_start(self, loop: Loop) -> None:
        """Opens the files, and drops the records of epochs that will be trained again."""
        done = loop.whole_epochs

        def lines(name: str) -> JsonLines:
            return self._open.enter_context(
                contextlib.closing(JsonLines(self._folder / name, done))
            )

        self._metrics, self._frames = lines("metrics.jsonl"), lines("frames.jsonl")
        if done == 0:
            self._add_frames(loop, 0)

    def on_epoch(self, loop: Loop, records: Sequence[Record | None]) -> None:
        """Writes the record of the epoch."""
        record = records[self._index]
        if record is None:
            return
        self._metrics.append(record)
        self._add_frames(loop, loop.epoch)
        for tracker in self._trackers:
            tracker.add_scalars(grouped(record), loop.epoch)

    def on_end(self, loop: Loop) -> None:
        """Writes images of the trained transformers."""
        if loop.active[self._index]:
            index = self._index
            images = self._probe.display_images(loop.params(index), loop.variables(index))
            titled = {_title(name): each for name, each in images.items()}
            for tracker in self._trackers:
                tracker.add_images(titled, loop.epochs)

    def close(self) -> None:
        """Closes the files."""
        self._open.close()

    def _add_frames(self, loop: Loop, epoch: int) -> None:
        theta = self._probe.theta(loop.params(self._index), loop.variables(self._index))
        examples = self._probe.examples.tolist()
        self._frames.append({"epoch": epoch, "examples": examples, "theta": theta})


def _title(name: str) -> str:
    """The title of the images that the network receives, or of the output of a transformer."""
    return "test images" if name == "images" else f"output of {name}"


class CheckpointSaver(Callback):
    """Saves checkpoints of all members.

    Args:
        checkpoints: of each member.
        every: epochs between checkpoints. There are fewer if saving takes too much time.
    """

    def __init__(self, checkpoints: Sequence[Checkpoints], every: int) -> None:
        self._checkpoints, self._every = checkpoints, every

    def on_pause(self, loop: Loop, *, interrupted: bool) -> None:
        """Saves after the last epoch, after a signal, and after every n-th epoch."""
        due = loop.epoch % self._every == 0 and all(each.due for each in self._checkpoints)
        if interrupted or loop.is_done or due:
            for i in loop.members:
                self._checkpoints[i].save(loop.snapshot(i))

    def on_divergence(self, loop: Loop, index: int, error: DivergedError) -> None:
        """Saves the last good state, and names it in the error."""
        checkpoints, snapshot = self._checkpoints[index], loop.snapshot(index)
        if not snapshot.state.diverged:  # the validation loss is not finite
            saved = checkpoints.steps
            error.append(
                f"the last good checkpoint is {checkpoints.path(saved[-1])}"
                if saved
                else "there is no checkpoint yet"
            )
        elif step := int(snapshot.state.step):
            checkpoints.save(snapshot)
            error.append(f"the last good state is {checkpoints.path(step)}")
        else:
            error.append("no step was good")


class ProgressBar(Callback):
    """Shows the mean loss and accuracy of the active members."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()

    def on_start(self, loop: Loop) -> None:
        """Starts the bar."""
        total = loop.epochs * loop.trainer.steps_per_epoch
        self._bar = self._open.enter_context(progress.show(total, loop.step))

    def on_steps(self, loop: Loop, values: Mapping[str, np.ndarray | jax.Array]) -> None:
        """Advances the bar."""
        if members := loop.members:
            means = {
                name: np.asarray(values[name])[members].mean(axis=0) for name in ("loss", "error")
            }
            self._bar.advance(means)

    def on_epoch(self, loop: Loop, records: Sequence[Record | None]) -> None:
        """Reports the epoch of the last active member."""
        known = [record for record in records if record is not None]
        if known:
            self._bar.epoch_done(known[-1])

    def close(self) -> None:
        """Removes the bar."""
        self._open.close()
