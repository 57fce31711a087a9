"""Errors that a user can cause, and how a command ends.

A command never shows a traceback for such an error: it prints one line and returns the exit code of
the error's class.
"""

import codecs
import io
import os
import select
import signal
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

SIGPIPE = 13  # `signal` has no such name on every system
NO_BACKEND = "JAX has no such backend here: unset JAX_PLATFORMS, or install the extra of the device"
# What a terminal shows in place of characters that its encoding lacks. Others become escapes.
PLAIN: Mapping[str, str] = types.MappingProxyType({"±": "+-", "…": "...", "━": "-", "╸": "-"})


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
    _tolerate_encodings()
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
        return 128 + SIGPIPE
    except Exception:
        reason = backend_failure()
        if reason is None:
            raise
        return print_error(reason, 1)


def _stdout_is_broken() -> bool:
    """Whether stdout is the pipe that broke, and not another one."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    # Linux reports an error, macOS that the other end hung up.
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def backend_failure() -> str | None:
    """Why JAX cannot start in this process; None if it can, or was not needed."""
    jax: Any = sys.modules.get("jax")
    if jax is None:
        return None
    try:
        jax.devices()
    except Exception as error:  # of various types; some have no text
        lines = str(error).splitlines() or [NO_BACKEND]
        platforms = jax.config.jax_platforms
        return f"JAX_PLATFORMS={platforms}: {lines[0]}" if platforms else lines[0]
    return None


def _tolerate_encodings() -> None:
    """Lets stdout and stderr replace characters that their encoding lacks, such as ASCII."""
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    plain = [PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text]
    return "".join(plain), error.end


def print_error(error: object, code: int) -> int:
    """Prints an error in one line on stderr, and returns the code."""
    print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
    return code


def print_warning(text: str) -> None:
    """Prints a warning in one line on stderr."""
    print(f"warning: {printable(text)}", file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Escapes what cannot be printed in one line: paths may contain line breaks."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
