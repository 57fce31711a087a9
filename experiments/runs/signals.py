"""SIGTERM and SIGINT: a run stops where it can continue later, or immediately while it starts.

Python runs signal handlers in the main thread between two instructions, so not while XLA compiles.
A second thread therefore reads every signal as it arrives.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
# Time for the main thread to react. Signals within it count as one, because `timeout` signals the
# process and then its group.
GRACE_S = 1.0


class Stopped(KeyboardInterrupt):
    """A signal ends the run.

    Args:
        number: of the signal.
        details: further parts of the message, such as how to continue.
    """

    def __init__(self, number: int, *details: str) -> None:
        super().__init__("; ".join([NAMES[signal.Signals(number)], *details]))
        self.number = number
        self.exit_code = exit_code(number)


def exit_code(number: int) -> int:
    """The exit code that a shell reports for a process ended by a signal."""
    return 128 + number


class Stop:
    """Records the first signal.

    Attributes:
        patient: if True, a signal is only recorded, and the run calls `check` where it can continue
            later. If False, the signal raises `Stopped` immediately.
        number: of the first signal; None before it.
    """

    def __init__(self) -> None:
        self.patient = False
        self.number: int | None = None

    def check(self) -> None:
        """Raises `Stopped` after a signal."""
        if self.number is not None:
            raise Stopped(self.number)


@contextlib.contextmanager
def listening(abandon: Callable[[int], None]) -> Iterator[Stop]:
    """Handles signals while the block runs. A second signal ends the process.

    Args:
        abandon: called in another thread, with the number of the signal, before the process ends
            because the main thread does not react.
    """
    stop, noticed = Stop(), threading.Event()

    def notice(number: int, _: FrameType | None) -> None:
        noticed.set()
        if stop.number is None:
            stop.number = number
            if not stop.patient:
                raise Stopped(number)

    def watch() -> None:
        first = None
        while received := os.read(reader, 1):
            number, now = received[0], time.monotonic()
            if first is None:
                first = now
                if not stop.patient and not noticed.wait(GRACE_S):
                    abandon(number)
                    _leave(number)
            elif now > first + GRACE_S:
                _leave(number)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    before = {number: signal.signal(number, notice) for number in NAMES}
    descriptor = signal.set_wakeup_fd(writer)
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _leave(number: int) -> None:
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h")  # shows the cursor, which a progress bar hides
    os._exit(exit_code(number))
