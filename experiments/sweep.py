"""Searches settings: `python -m experiments.sweep [PRESET] --space NAME=SPEC [flags]`."""

import contextlib
import functools
import os
import sys
import typing
from collections.abc import Sequence

from experiments import stopping
from experiments.config import Config, Run
from experiments.exits import exit_code, fail
from experiments.stopping import Stopped
from experiments.sweeps import settings

if typing.TYPE_CHECKING:
    from jax.sharding import Mesh

    from experiments.population import OnEpoch, Result
    from experiments.sweeps.worker import How, Train


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and searches, or reports; says in one line what went wrong."""
    given = sys.argv[1:] if arguments is None else arguments

    def command() -> None:
        if given[:1] == ["report"]:
            _report(settings.parse_report(given[1:]))
        else:
            _search(*settings.parse(given))

    return exit_code(command)


# What follows imports optuna, or JAX, which --help and a wrong flag should not wait for.


def _search(preset: str, config: settings.SweepConfig) -> None:
    from experiments.sweeps.worker import Worker

    worker = Worker(preset, config, _trainer(config.run))

    def stopped(number: int) -> Stopped:
        joining = [] if worker.folder is None else [f"--run-dir {worker.folder} joins it again"]
        return Stopped(number, *joining)

    def abandon(number: int) -> None:
        worker.give_back()
        fail(stopped(number), 0)

    with stopping.listening(abandon) as stop:
        try:
            worker.work(stop.check)
        except Stopped as error:
            raise stopped(error.number) from None


def _trainer(run: Run) -> "Train":
    """What trains networks, on the devices that `--mesh` asks for, or else on all."""

    @functools.cache
    def mesh() -> "Mesh | None":
        import jax

        from experiments import devices

        if run.mesh is not None:
            return devices.start(run)
        # Members on a CPU are quickest spread over virtual devices, one for each core.
        with contextlib.suppress(RuntimeError):  # JAX has started: there are as many as there are
            jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
        return devices.member_mesh()

    def train(configs: Sequence[Config], *, how: "How", on_epoch: "OnEpoch") -> "Sequence[Result]":
        from experiments import population

        chosen = None if how == "auto" else how
        return population.train(configs, how=chosen, mesh=mesh(), on_epoch=on_epoch)

    return train


def _report(wanted: settings.Report) -> None:
    from experiments.sweeps import report

    report.make(wanted)


if __name__ == "__main__":
    sys.exit(main())
