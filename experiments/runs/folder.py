"""The folder of a run: its name, its lock, and what it may be used for."""

import contextlib
import datetime
import functools
import os
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Literal

from experiments.runs.locks import lock_file
from experiments.runs.records import (
    RunError,
    read_lines,
    read_summary,
    remove_unwritten,
    write_json,
    writing,
)
from experiments.runs.signals import Stop, Stopped, listening
from experiments.settings.errors import print_error
from experiments.settings.machine import expand_user

Resume = Literal["never", "auto", "must"]


class InUseError(RunError):
    """Another process holds a run folder.

    Args:
        folder: the folder.
        holder: the process that holds it.
    """

    def __init__(self, folder: pathlib.Path, holder: str) -> None:
        super().__init__(f"{folder}: in use by {holder}")
        self.folder = folder


def choose_folder(run_dir: str | None, name: str) -> pathlib.Path:
    """The folder `run_dir`, or a new folder named after `name` and the current time."""
    if run_dir is not None:
        return expand_user(run_dir)
    return make_folder(f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")


def make_folder(name: str) -> pathlib.Path:
    """Makes a new folder in `runs/`. A number is appended to a name that exists.

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


# --- Lock -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def hold_folders(folders: Sequence[pathlib.Path], hint: Callable[[], str]) -> Iterator[Stop]:
    """Locks run folders and listens for signals while the block runs.

    Args:
        folders: the folders of the runs that the block trains.
        hint: returns how to continue, for the message after a signal.

    Raises:
        InUseError: if another process holds one of the folders.
        Stopped: after a signal.
    """
    try:
        with contextlib.ExitStack() as held:
            cleanups = [held.enter_context(lock_folder(folder)) for folder in folders]

            def abandon(number: int) -> None:
                for clean_up in cleanups:
                    clean_up()
                print_error(Stopped(number, hint()), 0)

            yield held.enter_context(listening(abandon))
    except Stopped as stopped:
        raise Stopped(stopped.number, hint()) from None


@contextlib.contextmanager
def lock_folder(folder: pathlib.Path) -> Iterator[Callable[[], None]]:
    """Locks a run folder. The system releases the lock when the process ends, however it ends.

    If the block fails before it has recorded anything, the files it made are removed, so that the
    same command can be given again.

    Yields:
        A function that removes these files, for a process that does not end by an exception.

    Raises:
        InUseError: if another process holds the folder.
        RunError: if the folder cannot be written.
    """
    # `Path.exists` raises an error if a name is too long.
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
    """The locked file, and the files that the folder held before."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            before = set(folder.iterdir())
            file = (folder / "lock").open("a+b", buffering=0)
        except OSError as error:
            raise RunError(f"{folder}: cannot be used as a run folder: {error.strerror}") from error
        with contextlib.ExitStack() as unless_locked:
            unless_locked.enter_context(file)
            _lock(file, folder)
            # The former holder may have removed the file after it was opened here. Other processes
            # would then lock a new file of the same name.
            if _is_at(file, folder / "lock"):
                unless_locked.pop_all()
                return file, before


def _lock(file: BinaryIO, folder: pathlib.Path) -> None:
    try:
        lock_file(file, folder, wait=False)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode(errors="replace").strip() or "another process"
        raise InUseError(folder, holder) from None


def _is_at(file: BinaryIO, path: pathlib.Path) -> bool:
    """Whether `path` names the open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


# The files that a run makes before it records anything.
START = (
    *("lock", "config.json", "checkpoints", "frames.jsonl", "metrics.jsonl", "tensorboard"),
    *("tracker.json", "wandb"),
)


def _remove_start(
    folder: pathlib.Path, before: set[pathlib.Path], parents: Sequence[pathlib.Path]
) -> None:
    """Removes the files that a run added, and the parents it made, if it recorded nothing."""
    with contextlib.suppress(OSError):  # a folder that has become read-only stays
        added = set(folder.iterdir()) - before
        recorded = read_lines(folder / "metrics.jsonl") or any(folder.glob("checkpoints/*"))
        if recorded or not {path.name for path in added} <= set(START):
            return
        for path in added:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for empty in (folder, *parents):
            empty.rmdir()  # fails if it holds older files or another run


# --- Claim ----------------------------------------------------------------------------------------


def holds(folder: pathlib.Path, marker: str, kind: str = "run folder") -> bool:
    """Whether a folder holds the file that marks its kind. The folder must exist.

    Args:
        folder: the folder.
        marker: `config.json` for a run.
        kind: for the message.

    Returns:
        False if the folder is empty.

    Raises:
        RunError: if it holds other files, and not this one.
    """
    if (folder / marker).exists():
        return True
    remove_unwritten(folder / marker)
    others = sorted(entry.name for entry in folder.iterdir() if entry.name != "lock")
    if others:
        raise RunError(f"{folder}: is not a {kind} and not empty; it holds {others[0]}")
    return False


def claim_folder(
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    differences: Callable[[pathlib.Path], list[str]],
    resume: Resume,
) -> dict[str, Any] | None:
    """Claims a locked folder for a new run, or for one to continue.

    Args:
        folder: the folder.
        settings: the content of `config.json`.
        differences: compares the settings in a folder with those of this run.
        resume: as the flag `--resume`.

    Returns:
        The summary if the folder holds this run, finished. None if it must be trained.

    Raises:
        RunError: if the folder holds other files, a run with other settings, or a run that
            `resume` does not allow to continue.
    """
    if not holds(folder, "config.json"):
        if resume == "must":
            raise RunError(f"{folder}: holds no run to resume; --resume auto starts one")
        write_json(folder / "config.json", settings)
        return None
    if resume == "never":
        state = "a finished run" if (folder / "summary.json").exists() else "an unfinished run"
        raise RunError(f"{folder}: holds {state}; give another --run-dir, or --resume auto")
    different = differences(folder)
    if different:
        raise RunError(f"{folder}: holds a run with other settings: {', '.join(different)}")
    return read_summary(folder)
