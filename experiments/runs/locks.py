"""Locks of files. The system releases a lock when its process ends, however it ends.

Runs and sweeps rely on `flock`. Two processes, also of two machines, must not hold the lock of one
file at the same time. Local file systems and NFS version 4 ensure this. A file system that is
mounted without locks, such as NFS with `nolock`, does not, and no process can notice it.
"""

import errno
import pathlib
from typing import IO

from experiments.runs.records import RunError

# What file systems answer that have no locks, or whose lock service does not run.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def lock_file(file: IO, path: pathlib.Path, *, wait: bool) -> None:
    """Locks an open file until it is closed.

    Args:
        file: the open file.
        path: its path, or that of its folder, for errors.
        wait: whether to wait while another process holds the lock.

    Raises:
        BlockingIOError: if another process holds the lock, unless `wait` is set.
        RunError: if the system or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError as error:
        raise RunError(
            f"{path}: cannot be locked: this system has no fcntl; the commands run on Linux and "
            "macOS, and on Windows in WSL"
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        hint = (
            "; its file system has no locks: use a folder on another one, such as a local disk"
            if error.errno in WITHOUT_LOCKS
            else ""
        )
        raise RunError(f"{path}: cannot be locked: {error.strerror}{hint}") from error
