"""SIGTERM and SIGINT: a run stops where it can be continued, or at once while it is starting.

Python runs the handler of a signal in the main thread, between two of its instructions: not while
XLA compiles. A thread of its own therefore hears of every signal as it comes.
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
# How long the main thread may take to notice. Signals within it count as one: `timeout` sends its
# own to a process and again to its group.
GRACE_S = 1.0


class Stopped(KeyboardInterrupt):
    """A run that ends because of a signal.

    Args:
        number: the signal's.
        details: what else there is to say.
    """

    def __init__(self, number: int, *details: str) -> None:
        super().__init__("; ".join([NAMES[signal.Signals(number)], *details]))
        self.number = number
        self.code = exit_code(number)


def exit_code(number: int) -> int:
    """What a shell shows for a process that a signal ended."""
    return 128 + number


class Stop:
    """Whether a signal came.

    Attributes:
        patient: whether a signal is only noted, for the run to `check` where it can be continued;
            it is raised as `Stopped` otherwise.
        number: of the first signal; None before it.
    """

    def __init__(self) -> None:
        self.patient = False
        self.number: int | None = None

    def check(self) -> None:
        """Raises `Stopped` if a signal came."""
        if self.number is not None:
            raise Stopped(self.number)


@contextlib.contextmanager
def listening(abandon: Callable[[int], None]) -> Iterator[Stop]:
    """Hears signals while the block runs; the second ends the process.

    Args:
        abandon: called with a signal's number, in another thread, before the process ends because
            the main thread is where it cannot be stopped.
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
        os.write(sys.stderr.fileno(), b"\x1b[?25h")  # the cursor, which a progress bar hides
    os._exit(exit_code(number))
