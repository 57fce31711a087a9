"""Searches settings: `python -m experiments.sweep [PRESET] --space NAME=SPEC [flags]`."""

import contextlib
import signal
import sys
import typing
from collections.abc import Iterator, Sequence
from types import FrameType

from experiments.config import Config, ConfigError
from experiments.datasets import DatasetError
from experiments.records import RunError
from experiments.sweeps import settings

if typing.TYPE_CHECKING:
    from experiments.sweeps.worker import How, OnEpoch, Result


class Stopped(KeyboardInterrupt):
    """A signal asked the worker to leave; its argument is the signal's number."""


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and searches, or reports; says in one line what went wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["report"]:
            return _report(settings.parse_report(arguments[1:]))
        return _search(*settings.parse(arguments))
    except ConfigError as error:
        return _fail(error, 2)
    except (RunError, DatasetError) as error:
        return _fail(error, 1)
    except Stopped as stopped:
        return _fail("interrupted; the same command joins again", 128 + stopped.args[0])


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _search(preset: str, config: settings.SweepConfig) -> int:
    # Here, since --help and a wrong flag should not wait for what they import.
    from experiments.sweeps import worker

    with _stopped_by_signals():
        worker.work(preset, config, _train)
    return 0


def _train(configs: Sequence[Config], *, how: "How", on_epoch: "OnEpoch") -> "Sequence[Result]":
    from experiments import population

    return population.train(configs, how=None if how == "auto" else how, on_epoch=on_epoch)


def _report(wanted: settings.Report) -> int:
    from experiments.sweeps import report

    report.make(wanted)
    return 0


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGINT raise `Stopped`, once: what follows gives back what is held."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        for each in before:
            signal.signal(each, stop)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


if __name__ == "__main__":
    sys.exit(main())
