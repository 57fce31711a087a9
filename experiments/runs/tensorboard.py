"""The TensorBoard files of a run."""

import pathlib
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

from experiments.runs.records import writing

proto: Any = event_pb2  # its classes are generated at run time


def tensorboard_command(folder: pathlib.Path) -> str:
    """The command that shows the TensorBoard files in a folder and its subfolders."""
    return shlex.join(["tensorboard", "--logdir", str(folder)])


class TensorBoardWriter:
    """Writes TensorBoard files without a delay.

    The `SummaryWriter` of tensorboardX writes in a thread, which a full disk ends silently.

    Args:
        folder: made if it does not exist.
        epochs: TensorBoard hides records of later epochs that older files hold.

    Raises:
        RunError: from the constructor and every method, if the folder cannot be written.
    """

    def __init__(self, folder: pathlib.Path, epochs: int) -> None:
        self._folder = folder
        self._end: Any = None
        with writing(folder):
            folder.mkdir(exist_ok=True)
            self._file = EventsWriter(str(folder / "events"))
        start = proto.SessionLog(status=proto.SessionLog.START)
        self._write([proto.Event(step=epochs + 1, session_log=start)])

    def add_scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Writes the values of an epoch."""
        found = [summary.scalar(name, value) for name, value in values.items()]
        self._write([proto.Event(step=epoch, summary=each) for each in found])

    def add_images(self, images: Mapping[str, np.ndarray], epoch: int) -> None:
        """Writes images `[n, h, w, c]` in [0, 1], by title."""
        found = [summary.image(title, each, dataformats="NHWC") for title, each in images.items()]
        for title, each in zip(images, found, strict=True):
            each.value[0].metadata.display_name = title
        self._write([proto.Event(step=epoch, summary=each) for each in found])

    def add_settings(
        self, settings: Mapping[str, bool | float | str], names: Sequence[str]
    ) -> None:
        """Writes the hyper-parameters, and the names of the scalars that compare runs."""
        experiment, start, self._end = summary.hparams(dict(settings), dict.fromkeys(names, 0.0))
        self._write([proto.Event(summary=each) for each in (experiment, start)])

    def add_results(self, values: Mapping[str, float], epoch: int) -> None:
        """Writes the scalars of the finished run."""
        self.add_scalars(values, epoch)

    def _write(self, events: list[Any]) -> None:
        with writing(self._folder):
            for event in events:
                event.wall_time = time.time()
                self._file.write_event(event)
            self._file.flush()

    def close(self, *, finished: bool = True) -> None:
        """Closes the file. A run that is not finished may be resumed."""
        if finished and self._end is not None:
            self._write([proto.Event(summary=self._end)])
        with writing(self._folder):
            self._file.close()
