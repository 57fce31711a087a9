"""A worker of a sweep: it takes trials from the study, trains them and records their outcomes."""

import contextlib
import pathlib
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import optuna
from rich import progress
from rich.console import Console

from experiments.runs.folder import holds, make_folder
from experiments.runs.records import RunError, write_json
from experiments.settings import traced
from experiments.settings.access import replace_settings
from experiments.settings.command_line import Parsed
from experiments.settings.config import Config
from experiments.settings.conversion import config_to_dict
from experiments.settings.errors import ConfigError
from experiments.settings.machine import expand_user
from experiments.sweep.definition import (
    BestTrial,
    abbreviate_value,
    define_sweep,
    definition_to_dict,
    find_best,
    format_errors,
    format_trial_count,
    standard_deviation,
)
from experiments.sweep.monitor import DrawnTrial, TrialMonitor
from experiments.sweep.options import StrategyName, SweepConfig
from experiments.sweep.plan import make_plan
from experiments.sweep.shared_study import SharedStudy, TrialOutcome, join_study
from experiments.sweep.space import suggest_config, validate_drawn
from experiments.sweep.storage import (
    LOCK,
    ONLY_STUDY,
    STORAGE_ERRORS,
    StudyLocation,
    check_connection,
    dashboard_command,
)

if typing.TYPE_CHECKING:
    from experiments.training.metrics import Record
    from experiments.training.population import MemberResult, OnEpoch


class Train(Protocol):
    """A function such as `experiments.training.population.train_population`."""

    def __call__(  # noqa: D102  # documented by the class
        self,
        configs: Sequence[Config],
        *,
        strategy: StrategyName,
        on_epoch: "OnEpoch",
    ) -> "Sequence[MemberResult]": ...


def _locate_study(preset: str, config: SweepConfig) -> StudyLocation:
    """Claims the run folder: `--run-dir`, one named after `--study`, or a new one.

    Raises:
        RunError: if the storage cannot be reached, or the folder holds something else.
    """
    sweep, run_dir = config.sweep, config.run.run_dir
    if sweep.storage is not None:  # before a folder is made
        check_connection(sweep.storage)
    if run_dir is not None:
        folder = expand_user(run_dir)
    elif sweep.study is not None:
        folder = pathlib.Path("runs", sweep.study)
    else:
        folder = make_folder(f"sweep-{preset}-{time.strftime('%Y%m%d-%H%M%S')}")
    _claim(folder)
    return StudyLocation(folder, sweep.storage, sweep.study or ONLY_STUDY)


def _claim(folder: pathlib.Path) -> None:
    """Makes a folder the run folder of a sweep, unless it is one already.

    Raises:
        RunError: if it holds something else, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not holds(folder, LOCK, "sweep folder"):
            (folder / LOCK).touch()
    except OSError as error:
        raise RunError(f"{folder}: cannot be used as a run folder: {error.strerror}") from error


class SweepWorker:
    """One worker of a sweep.

    Args:
        parsed: the command line.
        train: a function that trains networks.

    Attributes:
        folder: the run folder; None before `work` has claimed it.

    Raises:
        ConfigError: if the search space is invalid.
    """

    def __init__(self, parsed: Parsed[SweepConfig], train: Train) -> None:
        self._definition = define_sweep(parsed)
        self._plan = make_plan(self._definition, parsed.config)
        self._preset, self._config, self._train = parsed.name, parsed.config, train
        self.folder: pathlib.Path | None = None
        self._study: SharedStudy | None = None

    def work(self, check_stop: Callable[[], None]) -> None:
        """Trains trials until all wanted trials are finished.

        If it is interrupted, it gives its trials back.

        Args:
            check_stop: called after each epoch; raises an exception if the worker should stop. An
                exception raised by a signal handler is not enough, because other code may catch it.

        Raises:
            RunError: if the folder or the storage cannot be used, or holds another sweep.
        """
        location = _locate_study(self._preset, self._config)
        self.folder = location.folder
        print(f"run folder {location.folder}", flush=True)
        with join_study(location, self._plan) as study:
            self._study = study
            if command := dashboard_command(location):
                print(f"dashboard: {command}", flush=True)
            # Not config.json, which marks the folder of a training run.
            write_json(location.folder / "sweep.json", definition_to_dict(self._definition))
            try:
                self._train_until_done(study, check_stop)
            except BaseException:
                self.give_back()
                raise
            _print_best(self._write_best(study))

    def give_back(self) -> None:
        """Lets other workers run this worker's trials now. Any thread may call it."""
        if self._study is None:
            return
        # On an error, the others detect the missing heartbeats later.
        with contextlib.suppress(*STORAGE_ERRORS, RunError):
            if count := self._study.give_back():
                print(f"given back, to be run again: {format_trial_count(count)}", flush=True)

    def _train_until_done(self, study: SharedStudy, check_stop: Callable[[], None]) -> None:
        """Takes and trains trials until all are finished.

        While other workers run the last trials, this one stays to run them again if they die.
        """
        announced = False
        while True:
            check_stop()
            taken = study.take(self._config.sweep.population, self._draw)
            batch = [DrawnTrial(*trial_and_config) for trial_and_config in taken]
            for indices in traced.group_by_program([drawn.config for drawn in batch]):
                self._train_together(study, [batch[index] for index in indices], check_stop)
            if batch:
                continue
            if study.is_done():
                if study.is_exhausted():
                    print("every configuration of the search space was tried", flush=True)
                return
            if not announced:
                print("waiting for the trials of other workers", flush=True)
                announced = True
            time.sleep(self._config.sweep.heartbeat)

    def _draw(self, trial: optuna.Trial) -> Config:
        """Draws the configuration of a trial.

        Raises:
            ConfigError: if it is invalid.
        """
        config = suggest_config(self._definition.space, self._definition.base, trial)
        validate_drawn(config, self._config.run)
        return config

    def _train_together(
        self, study: SharedStudy, drawn: Sequence[DrawnTrial], check_stop: Callable[[], None]
    ) -> None:
        """Trains trials of one program with every seed, and records their outcomes."""
        sweep = self._config.sweep
        configs = [each for _, config in drawn for each in _with_seeds(config, sweep.seeds)]
        monitor = TrialMonitor(study, drawn, sweep.seeds)
        try:
            with _epoch_bar(drawn) as show_epoch:

                def on_epoch(epoch: int, records: "Sequence[Record | None]") -> Sequence[bool]:
                    check_stop()
                    show_epoch(epoch)
                    return monitor.on_epoch(epoch, records)

                results = self._train(configs, strategy=sweep.how, on_epoch=on_epoch)
        except ConfigError as error:  # only training finds settings that do not fit the data
            outcomes = [TrialOutcome("impossible", reason=str(error))] * len(drawn)
        else:
            outcomes = monitor.outcomes(results)
        for (trial, _), outcome in zip(drawn, outcomes, strict=True):
            recorded = study.finish(trial, outcome)
            _print_trial(trial, outcome if recorded else None)
        self._write_best(study)

    def _write_best(self, study: SharedStudy) -> BestTrial | None:
        """Writes the best trial so far to `best.json`."""
        assert self.folder is not None
        with study.exclusive():
            best = find_best(self._definition, study.trials())
            if best is not None:
                record = {
                    "trial": best.trial.number,
                    "validation_error": best.trial.value,
                    "standard_deviation": standard_deviation(best.errors),
                    "validation_errors": best.errors,
                    "settings": best.trial.params,
                    "config": config_to_dict(best.config),
                    "command": best.command,
                }
                write_json(self.folder / "best.json", record)
        return best


def _with_seeds(config: Config, count: int) -> list[Config]:
    """The configuration with its own seed, and with those that follow it."""
    first = config.optimisation.seed
    return [replace_settings(config, {"seed": seed}) for seed in range(first, first + count)]


@contextlib.contextmanager
def _epoch_bar(drawn: Sequence[DrawnTrial]) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar of epochs on a terminal.

    Yields:
        A function that sets the epoch.
    """
    console = Console(stderr=True)
    numbers = ", ".join(str(trial.number) for trial, _ in drawn)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("epoch {task.completed:.0f} of {task.total:.0f}"),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"trials {numbers}", total=drawn[0].config.optimisation.epochs)
        yield lambda epoch: bar.update(task, completed=epoch)


def _print_trial(trial: optuna.Trial, outcome: TrialOutcome | None) -> None:
    """Prints the outcome of a trial; None if another worker repeats the trial."""
    if outcome is None:
        result = "run again by another worker, because this one missed its heartbeats"
    elif outcome.kind == "complete":
        result = f"{format_errors(outcome.errors)} %"
    else:
        result = f"{outcome.kind}: {outcome.reason}"
    settings = "  ".join(
        f"{name} {abbreviate_value(value)}" for name, value in trial.params.items()
    )
    print(f"trial {trial.number:3d}  {result}  {settings}", flush=True)


def _print_best(best: BestTrial | None) -> None:
    if best is None:
        print("no trial was trained to the last epoch, so there is no best trial")
        return
    print(f"best: trial {best.trial.number}, validation error {format_errors(best.errors)} %")
    print(best.command)
