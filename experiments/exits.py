"""How a command ends: quietly, or with one line on stderr and a code that says why."""

import os
import select
import signal
import sys
from collections.abc import Callable

from experiments.config import ConfigError
from experiments.datasets import DatasetError
from experiments.records import RunError
from experiments.stopping import Stopped


def exit_code(command: Callable[[], int | None]) -> int:
    """Runs a command: its own code, 2 for a wrong flag, 1 for what else is wrong.

    130 or 143 for a signal; 141 where nobody reads on, as after `| head`.
    """
    try:
        return command() or 0
    except ConfigError as error:
        return fail(error, 2)
    except (RunError, DatasetError) as error:
        return fail(error, 1)
    except Stopped as stopped:
        return fail(stopped, stopped.code)
    except KeyboardInterrupt:
        return fail(Stopped(signal.SIGINT), 130)
    except BrokenPipeError:
        if _is_read():
            raise
        # What is left to write would be an error once more, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _is_read() -> bool:
    """Whether somebody still reads stdout, so that it was another pipe that broke."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return not any(event & select.POLLERR for _, event in poll.poll(0))


def fail(error: object, code: int) -> int:
    """Says what went wrong, in one line; the code again."""
    # A path in it may have line breaks.
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(error))
    print(f"error: {line}", file=sys.stderr, flush=True)
    return code
