"""How a command ends: quietly, or with one line on stderr and a code that says why."""

import signal
import sys
from collections.abc import Callable

from experiments.config import ConfigError
from experiments.datasets import DatasetError
from experiments.records import RunError
from experiments.stopping import Stopped


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command: 0, 2 for a wrong flag, 1 for what else is wrong, 130 or 143 for a signal."""
    try:
        command()
    except ConfigError as error:
        return fail(error, 2)
    except (RunError, DatasetError) as error:
        return fail(error, 1)
    except Stopped as stopped:
        return fail(stopped, stopped.code)
    except KeyboardInterrupt:
        return fail(Stopped(signal.SIGINT), 130)
    return 0


def fail(error: object, code: int) -> int:
    """Says what went wrong, in one line; the code again."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    return code
