"""Errors that a user can cause, and how a command ends.

A command never shows a traceback for such an error: it prints one line and returns the exit code of
the error's class.
"""

import os
import select
import signal
import sys
from collections.abc import Callable


class UserError(Exception):
    """An error that the user can fix. Its text is one line that names the argument or the file."""

    exit_code = 1


class ConfigError(UserError):
    """An invalid setting. Its text is one line that names the flag."""

    exit_code = 2


def run_command(command: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit code.

    Args:
        command: returns its own exit code; None is 0.

    Returns:
        The command's code. After a `UserError`, which is printed in one line, the code of its
        class. 130 or 143 after a signal; 141 on a broken pipe, as after `| head`.
    """
    try:
        return command() or 0
    except UserError as error:
        return print_error(error, error.exit_code)
    except KeyboardInterrupt as interrupt:
        # `Stopped` says which signal it was, and how to continue.
        code = getattr(interrupt, "exit_code", 128 + signal.SIGINT)
        return print_error(str(interrupt) or "interrupted", code)
    except BrokenPipeError:
        if not _stdout_is_broken():
            raise
        # Python flushes stdout at exit, which would raise the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _stdout_is_broken() -> bool:
    """Whether stdout is the pipe that broke, and not another one."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def print_error(error: object, code: int) -> int:
    """Prints an error in one line on stderr, and returns the code."""
    # Paths in the text may contain line breaks.
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(error))
    print(f"error: {line}", file=sys.stderr, flush=True)
    return code


def print_warning(text: str) -> None:
    """Prints a warning in one line on stderr."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
