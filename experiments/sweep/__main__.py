"""Searches settings: `python -m experiments.sweep [PRESET] --space NAME=SPEC [flags]`."""

import functools
import sys
import typing
from collections.abc import Callable, Sequence

from experiments.runs import signals
from experiments.runs.signals import Stopped
from experiments.settings.command_line import Parsed
from experiments.settings.compilation_cache import use_compilation_cache
from experiments.settings.config import Config, Run
from experiments.settings.errors import print_error, run_command
from experiments.sweep.options import SweepConfig, parse_report, parse_sweep

# Functions import optuna and JAX, so that --help stays fast.
if typing.TYPE_CHECKING:
    from jax.sharding import Mesh

    from experiments.sweep.options import StrategyName
    from experiments.sweep.worker import Train
    from experiments.training.population import MemberResult, OnEpoch


def population_trainer(run: Run) -> "Train":
    """A function that trains a population on the devices of `--mesh`, or on all devices."""

    @functools.cache
    def mesh() -> "Mesh | None":
        from experiments.training import sharding

        use_compilation_cache(run.compilation_cache)
        return sharding.start_members(run)

    def train(
        configs: Sequence[Config], *, strategy: "StrategyName", on_epoch: "OnEpoch"
    ) -> "Sequence[MemberResult]":
        from experiments.training.population import train_population

        chosen = None if strategy == "auto" else strategy
        return train_population(configs, strategy=chosen, mesh=mesh(), on_epoch=on_epoch)

    return train


def main(
    arguments: list[str] | None = None, make_trainer: Callable[[Run], "Train"] = population_trainer
) -> int:
    """Runs the command.

    Args:
        arguments: the command line; None for that of the process.
        make_trainer: a function that returns the function that trains networks.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> None:
        if given[:1] == ["report"]:
            options = parse_report(given[1:])
            from experiments.sweep.report_command import report

            report(options)
        else:
            parsed = parse_sweep(given)
            if parsed.adapted:
                print(f"{parsed.name}: adapted to the flags: {', '.join(parsed.adapted)}")
            _search(parsed, make_trainer(parsed.config.run))

    return run_command(command)


def _search(parsed: Parsed[SweepConfig], train: "Train") -> None:
    """Runs a worker until the sweep is done or a signal arrives."""
    from experiments.sweep.worker import SweepWorker

    worker = SweepWorker(parsed, train)

    def stopped(number: int) -> Stopped:
        hints = [] if worker.folder is None else [f"--run-dir {worker.folder} joins it again"]
        return Stopped(number, *hints)

    def abandon(number: int) -> None:
        worker.give_back()
        print_error(stopped(number), 0)

    with signals.listening(abandon) as stop:
        try:
            worker.work(stop.check)
        except Stopped as error:
            raise stopped(error.number) from None


if __name__ == "__main__":
    sys.exit(main())
