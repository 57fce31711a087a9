"""What differs between machines: the number of cores, and home directories."""

import os
import pathlib

from experiments.settings.errors import UserError


def num_cores() -> int:
    """The number of cores that this process may use. macOS only knows that of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def expand_user(path: str | os.PathLike[str]) -> pathlib.Path:
    """Replaces a leading `~` or `~user` by the home directory.

    Raises:
        UserError: if the system knows no such directory, as for a user of a container.
    """
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError:
        home = pathlib.Path(path).parts[0]
        raise UserError(f"{path}: no home directory {home} is known; give the whole path") from None
