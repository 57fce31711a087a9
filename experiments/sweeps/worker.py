"""A worker of a sweep: takes trials, trains their networks, records what became of them."""

import contextlib
import dataclasses
import math
import pathlib
import statistics
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

import optuna
from rich import progress
from rich.console import Console

from experiments import config as configuration
from experiments import members, run_folder
from experiments.config import Config, ConfigError, Run
from experiments.records import RunError, write_json
from experiments.sweeps import definition as definitions
from experiments.sweeps import space as search
from experiments.sweeps.definition import Definition, as_text, counted, percent, spread
from experiments.sweeps.settings import SweepConfig
from experiments.sweeps.shared_study import Outcome, SharedStudy, Terms, join
from experiments.sweeps.storages import LOCK, ONLY_STUDY, STORAGE_ERRORS, Place, reach

if typing.TYPE_CHECKING:
    from experiments.population import OnEpoch, Record, Result

DEFAULT_TRIALS = 32
STARTUP_TRIALS = 8  # that are trained whole before any is compared with them

How = Literal["auto", "vmap", "loop"]


class Train(Protocol):
    """`experiments.population.train`."""

    def __call__(  # noqa: D102  # the class's docstring names what it is
        self,
        configs: Sequence[Config],
        *,
        how: How,
        on_epoch: "OnEpoch",
    ) -> "Sequence[Result]": ...


class Job(NamedTuple):
    """A trial, and the configuration of its first seed."""

    trial: optuna.Trial
    config: Config


def _terms(definition: Definition, config: SweepConfig) -> Terms:
    """What the study of a sweep is searched by.

    Raises:
        ConfigError: if a grid would not be finite.
    """
    sweep, seed = config.sweep, config.optimisation.seed
    given = (
        search.combinations(definition.space, definition.base) if sweep.sampler == "grid" else []
    )
    return Terms(
        definition=definitions.to_dict(definition),
        differences=definitions.differences,
        limit=None if given else sweep.trials or DEFAULT_TRIALS,
        given=[
            {name: search.to_stored(value) for name, value in settings.items()}
            for settings in given
        ],
        heartbeat=sweep.heartbeat,
        sampler=lambda number: _sampler(sweep.sampler, seed, number),
        pruner=_pruner(sweep.pruner, config.optimisation.epochs),
    )


def _sampler(name: str, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """What draws the trial of a number: whoever it is, no two are drawn alike."""
    if name == "qmc":  # one sequence, of which the study counts the points
        return optuna.samplers.QMCSampler(seed=seed, scramble=True)
    kind = optuna.samplers.TPESampler if name == "tpe" else optuna.samplers.RandomSampler
    return kind(seed=(seed * 1_000_003 + number) % 2**32)


def _pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    if name == "median":
        return optuna.pruners.MedianPruner(STARTUP_TRIALS, n_warmup_steps=epochs // 5)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(max(1, epochs // 27), epochs)
    return optuna.pruners.NopPruner()


def _open(preset: str, config: SweepConfig) -> Place:
    """Where the study is: in the folder that was given, or that is the study's, or a new one.

    Raises:
        RunError: if the storage cannot be reached, or the folder holds something else.
    """
    sweep, given = config.sweep, config.run.run_dir
    if sweep.storage is not None:  # a wrong address leaves no folder behind
        reach(sweep.storage)
    if given is not None:
        folder = pathlib.Path(given).expanduser()
    elif sweep.study is not None:
        folder = pathlib.Path("runs", sweep.study)
    else:
        folder = run_folder.make(f"sweep-{preset}-{time.strftime('%Y%m%d-%H%M%S')}")
    _claim(folder)
    return Place(folder, sweep.storage, sweep.study or ONLY_STUDY)


def _claim(folder: pathlib.Path) -> None:
    """Makes a folder a sweep's, if it is not one already.

    Raises:
        RunError: if it holds something else, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in folder.iterdir())
        if names and LOCK not in names:
            raise RunError(f"{folder}: is no sweep's folder and not empty; it holds {names[0]}")
        (folder / LOCK).touch()
    except OSError as error:
        raise RunError(f"{folder}: cannot be used as a run folder: {error.strerror}") from error


def _write_definition(folder: pathlib.Path, definition: Definition) -> None:
    """Leaves the settings where people look for them; not in a `config.json`, as a run does."""
    write_json(folder / "sweep.json", definitions.to_dict(definition))


class Worker:
    """One of a sweep's workers.

    Args:
        preset: the preset's name.
        config: the settings.
        train: what trains networks.

    Attributes:
        folder: the sweep's run folder; None before there is one.

    Raises:
        ConfigError: if settings make no sense.
    """

    def __init__(self, preset: str, config: SweepConfig, train: Train) -> None:
        self._definition = definitions.define(preset, config)
        self._terms = _terms(self._definition, config)
        self._preset, self._config, self._train = preset, config, train
        self._sweep = config.sweep
        self.folder: pathlib.Path | None = None
        self._joined: SharedStudy | None = None

    def work(self, check: Callable[[], None]) -> None:
        """Searches until all that is wanted is finished.

        What it holds when it is interrupted is given back.

        Args:
            check: is called after each epoch, and raises if the worker is to leave: what a signal's
                handler raised may have been swallowed on its way.

        Raises:
            RunError: if the folder or the storage cannot be used, or holds another sweep.
        """
        place = _open(self._preset, self._config)
        self.folder = place.folder
        print(f"run folder {place.folder}", flush=True)
        with join(place, self._terms) as self._joined:
            _write_definition(place.folder, self._definition)
            try:
                self._run(check)
            except BaseException:
                self.give_back()
                raise
            self._conclude()

    def give_back(self) -> None:
        """Lets others run at once what this worker holds; from any thread."""
        if self._joined is None:
            return
        with contextlib.suppress(*STORAGE_ERRORS, RunError):  # others will miss its signs of life
            if count := self._joined.give_back():
                print(f"given back, to be run again: {counted(count)}", flush=True)

    @property
    def _folder(self) -> pathlib.Path:
        assert self.folder is not None
        return self.folder

    @property
    def _study(self) -> SharedStudy:
        assert self._joined is not None
        return self._joined

    def _run(self, check: Callable[[], None]) -> None:
        """Takes and trains until all is finished.

        While others run what is left it waits: should they be killed, that comes back.
        """
        waiting = False
        while True:
            check()
            batch = [Job(*taken) for taken in self._study.take(self._sweep.population, self._draw)]
            for indices in members.programs([job.config for job in batch]):
                self._train_together([batch[index] for index in indices], check)
            if batch:
                continue
            if self._study.is_done():
                return
            if not waiting:
                print("waiting for the trials of other workers", flush=True)
            waiting = True
            time.sleep(self._sweep.heartbeat)

    def _draw(self, trial: optuna.Trial) -> Config:
        """A trial's configuration.

        Raises:
            ConfigError: if it cannot be.
        """
        config = search.suggest(self._definition.space, self._definition.base, trial)
        configuration.check(dataclasses.replace(config, run=Run(mesh=self._config.run.mesh)))
        return config

    def _train_together(self, jobs: Sequence[Job], check: Callable[[], None]) -> None:
        """Trains trials of one program, each with every seed, and records them."""
        networks = [
            configuration.replace(job.config, {"seed": job.config.optimisation.seed + i})
            for job in jobs
            for i in range(self._sweep.seeds)
        ]
        watch = _Watch(self._study, jobs, self._sweep.seeds)
        try:
            with _epochs(jobs) as advance:

                def on_epoch(epoch: int, records: "Sequence[Record | None]") -> Sequence[bool]:
                    check()
                    advance(epoch)
                    return watch.on_epoch(epoch, records)

                results = self._train(networks, how=self._sweep.how, on_epoch=on_epoch)
        except ConfigError as error:  # these settings do not fit the data
            outcomes = [Outcome("impossible", reason=str(error))] * len(jobs)
        else:
            outcomes = watch.outcomes(results)
        for job, outcome in zip(jobs, outcomes, strict=True):
            recorded = self._study.finish(job.trial, outcome)
            _print(job.trial, outcome if recorded else None)
        self._write_best()

    def _write_best(self) -> None:
        with self._study.exclusive():
            found = definitions.best(self._definition, self._study.trials())
            if found is None:
                return
            record = {
                "trial": found.trial.number,
                "validation_error": found.trial.value,
                "standard_deviation": spread(found.errors),
                "validation_errors": found.errors,
                "settings": found.trial.params,
                "config": configuration.to_dict(found.config),
                "command": found.command,
            }
            write_json(self._folder / "best.json", record)

    def _conclude(self) -> None:
        """Says what was best."""
        self._write_best()
        found = definitions.best(self._definition, self._study.trials())
        if found is None:
            print("no trial was trained whole, so none is best")
            return
        print(f"best: trial {found.trial.number}, validation error {percent(found.errors)} %")
        print(found.command)


class _Watch:
    """Follows the trials of one program from epoch to epoch."""

    def __init__(self, study: SharedStudy, jobs: Sequence[Job], seeds: int) -> None:
        self._study, self._jobs, self._seeds = study, jobs, seeds
        # What stopped a trial: its kind of outcome, and the reason.
        self._stopped: dict[int, Outcome] = {}

    def on_epoch(self, epoch: int, records: "Sequence[Record | None]") -> list[bool]:
        """Which networks go on: all of a trial's, or none."""
        goes_on = []
        for index, job in enumerate(self._jobs):
            own = records[self._seeds * index : self._seeds * (index + 1)]
            if index not in self._stopped:
                stopped = self._judge(job, epoch, own)
                if stopped is not None:
                    self._stopped[index] = stopped
            goes_on += [index not in self._stopped] * self._seeds
        return goes_on

    def _judge(self, job: Job, epoch: int, records: "Sequence[Record | None]") -> Outcome | None:
        """Why a trial is to be stopped after an epoch, if it is."""
        errors = []
        for i, record in enumerate(records):
            # Logits that are not finite have an error all the same, but no such loss.
            if record is None or not all(
                math.isfinite(record[name]) for name in ("validation_error", "validation_loss")
            ):
                seed = job.config.optimisation.seed + i
                return Outcome("diverged", reason=f"seed {seed} diverged in epoch {epoch}")
            errors.append(record["validation_error"])
        error, last = statistics.fmean(errors), epoch == job.config.optimisation.epochs
        if self._study.report(job.trial, error, epoch) or last:
            return None
        return Outcome("pruned", reason=f"{error:.2f} % after epoch {epoch}")

    def outcomes(self, results: "Sequence[Result]") -> list[Outcome]:
        """What became of each trial, given what its networks came to."""
        found = []
        for index in range(len(self._jobs)):
            own = results[self._seeds * index : self._seeds * (index + 1)]
            outcome = self._stopped.get(
                index, Outcome("complete", [result.validation_error for result in own])
            )
            found.append(
                outcome._replace(
                    epochs=max(result.epochs for result in own),
                    seconds=sum(result.seconds for result in own),
                    num_params=own[0].num_params,
                )
            )
        return found


@contextlib.contextmanager
def _epochs(jobs: Sequence[Job]) -> Iterator[Callable[[int], None]]:
    """Shows how far these trials are, where there is a terminal."""
    console = Console(stderr=True)
    numbers = ", ".join(str(job.trial.number) for job in jobs)
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn("epoch {task.completed:.0f} of {task.total:.0f}"),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(f"trials {numbers}", total=jobs[0].config.optimisation.epochs)
        yield lambda epoch: bar.update(task, completed=epoch)


def _print(trial: optuna.Trial, outcome: Outcome | None) -> None:
    """A line about a trial that ended; without an outcome, about one that another worker has."""
    if outcome is None:
        what = "run again by another worker, since this one was silent too long"
    elif outcome.kind == "complete":
        what = f"{percent(outcome.errors)} %"
    else:
        what = f"{outcome.kind}: {outcome.reason}"
    settings = "  ".join(f"{name} {as_text(value)}" for name, value in trial.params.items())
    print(f"trial {trial.number:3d}  {what}  {settings}", flush=True)
