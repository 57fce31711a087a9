"""The folder of a run: which one, who holds it, and whether it may be used."""

import contextlib
import datetime
import fcntl
import functools
import os
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

from experiments import config as configuration
from experiments.config import Config
from experiments.records import (
    RunError,
    read_config,
    read_lines,
    read_summary,
    remove_unwritten,
    write_json,
    writing,
)


class InUseError(RunError):
    """A run folder that another process holds.

    Args:
        folder: the folder.
        holder: who holds it.
    """

    def __init__(self, folder: pathlib.Path, holder: str) -> None:
        super().__init__(f"{folder}: in use by {holder}")
        self.folder = folder


def choose(config: Config, preset: str) -> pathlib.Path:
    """The folder that was given, or a new one named after the preset and the time."""
    if config.run.run_dir is not None:
        return pathlib.Path(config.run.run_dir).expanduser()
    return make(f"{preset}-{datetime.datetime.now():%Y%m%d-%H%M%S}")


def make(name: str) -> pathlib.Path:
    """A new folder in `runs/`, which nobody else has: two may start in one second.

    Raises:
        RunError: if it cannot be made.
    """
    for suffix in ["", *(f"-{i}" for i in range(1, 100))]:
        folder = pathlib.Path("runs") / (name + suffix)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise RunError(f"{folder}: cannot be made: {error.strerror}") from error
    raise RunError(f"{folder}: exists already")


@contextlib.contextmanager
def lock(folder: pathlib.Path) -> Iterator[Callable[[], None]]:
    """Holds a run folder; the system lets go of it when the process ends, however it ends.

    What fails or is interrupted before anything is recorded leaves nothing, so that the corrected
    command, or the same, may name the same folder.

    Yields:
        What removes that, for a process that ends otherwise than by an exception.

    Raises:
        InUseError: if another process holds it, which the error names.
        RunError: if it cannot be written.
    """
    # Not by pathlib, which raises where a name is too long.
    missing = [parent for parent in folder.parents if not os.path.exists(parent)]
    file, before = _locked(folder)
    remove_start = functools.partial(_remove_start, folder, before, missing)
    with file:
        try:
            with writing(folder / "lock"):
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            yield remove_start
        except BaseException:
            remove_start()
            raise


def _locked(folder: pathlib.Path) -> tuple[BinaryIO, set[pathlib.Path]]:
    """The lock of a folder, taken, and what the folder held before."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            before = set(folder.iterdir())
            file = (folder / "lock").open("a+b", buffering=0)
        except OSError as error:
            raise RunError(f"{folder}: cannot be used as a run folder: {error.strerror}") from error
        with contextlib.ExitStack() as unless_taken:
            unless_taken.enter_context(file)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().decode(errors="replace").strip() or "another process"
                raise InUseError(folder, holder) from None
            except OSError as error:
                raise RunError(f"{folder}: cannot be locked: {error.strerror}") from error
            # Whoever held it may have removed the file since it was opened: others would then lock
            # another file of the same name.
            if _is_at(file, folder / "lock"):
                unless_taken.pop_all()
                return file, before


def _is_at(file: BinaryIO, path: pathlib.Path) -> bool:
    """Whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


# What a run makes before anything is recorded.
START = ("lock", "config.json", "checkpoints", "frames.jsonl", "metrics.jsonl", "tensorboard")


def _remove_start(
    folder: pathlib.Path, before: set[pathlib.Path], parents: Sequence[pathlib.Path]
) -> None:
    """Removes what a run added to a folder, and the parents it made, if it recorded nothing."""
    with contextlib.suppress(OSError):  # a folder that cannot be written any more is left
        added = set(folder.iterdir()) - before
        recorded = read_lines(folder / "metrics.jsonl") or any(folder.glob("checkpoints/*"))
        if recorded or not {path.name for path in added} <= set(START):
            return
        for path in added:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for empty in (folder, *parents):
            empty.rmdir()  # unless it holds what was there before, or another run


def claim(folder: pathlib.Path, config: Config) -> dict[str, Any] | None:
    """Makes a folder this run's, new or to be continued.

    Returns:
        The summary, where the folder holds this very run finished and `--resume` allows that.

    Raises:
        RunError: if the folder holds something else, another run, or one not to be continued.
    """
    resume = config.run.resume
    if not (folder / "config.json").exists():
        remove_unwritten(folder / "config.json")
        others = sorted(entry.name for entry in folder.iterdir() if entry.name != "lock")
        if others:
            raise RunError(f"{folder}: is not a run folder and not empty; it holds {others[0]}")
        if resume == "must":
            raise RunError(f"{folder}: holds no run to resume; --resume auto starts one")
        write_json(folder / "config.json", configuration.to_dict(config))
        return None
    if resume == "never":
        state = "a finished run" if (folder / "summary.json").exists() else "an unfinished run"
        raise RunError(f"{folder}: holds {state}; give another --run-dir, or --resume auto")
    different = configuration.differences(read_config(folder), config)
    if different:
        raise RunError(f"{folder}: holds a run with other settings: {', '.join(different)}")
    return read_summary(folder)
