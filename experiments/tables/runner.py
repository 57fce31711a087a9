"""Runs the cells of a table, in a folder that several processes or machines may share.

A run lies in `RUN_DIR/BUDGET/CELL/seed-K`, and is one of `experiments.train`. Whoever comes to it
takes its lock. A run that is finished is not trained again, one that was killed is continued, one
that another process holds is left to that. One that is in the way, since its settings are not the
cell's any more or its records are damaged, is left out and named, unless runs are wanted again.
"""

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments import config as configuration
from experiments import run_folder, stopping, train
from experiments.colocalisation_settings import Settings
from experiments.colocalisation_settings import differences as colocalisation_differences
from experiments.config import Config
from experiments.exits import fail
from experiments.records import (
    RunError,
    read_config,
    read_json,
    read_summary,
    write_json,
    writing,
)
from experiments.run_folder import InUseError
from experiments.stopping import Stopped
from experiments.tables.cells import Cell

DIVERGED = "diverged.json"


class Run(NamedTuple):
    """A cell and a seed, and where their records are."""

    cell: Cell
    seed: int
    folder: pathlib.Path


class Left(NamedTuple):
    """Runs that were wanted and are not finished.

    Attributes:
        held: those that other processes hold.
        in_the_way: those whose folders hold what is not of their cell, or is damaged.
    """

    held: list[Run]
    in_the_way: list[Run]


def runs(
    cells: Sequence[Cell], folder: pathlib.Path, seeds: int, at_once: int = 1
) -> Iterator[Run]:
    """The runs of some cells: every cell with its first `at_once` seeds before any with more."""
    for first in range(0, seeds, at_once):
        for cell in cells:
            for seed in range(first, min(first + at_once, seeds)):
                yield Run(cell, seed, folder / cell.name / f"seed-{seed}")


def outcome(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a run came to: its summary, or its `error` if it diverged; None before its end.

    Raises:
        RunError: if a record is damaged.
    """
    if (folder / DIVERGED).exists():
        return read_json(folder / DIVERGED)
    return read_summary(folder)


def differences(run: Run) -> list[str]:
    """How the settings that a run's folder records differ from those of its cell.

    Raises:
        RunError: if there are none, or they are damaged.
    """
    config = run.cell.config
    if isinstance(config, Settings):
        recorded = read_json(run.folder / "config.json")
        return colocalisation_differences(recorded, dataclasses.replace(config, seed=run.seed))
    wanted = configuration.replace(config, {"seed": run.seed})
    return configuration.differences(read_config(run.folder), wanted)


def train_all(
    wanted: Iterable[Run],
    *,
    command: str,
    data_dir: str | None = None,
    again: bool = False,
    figures: bool = True,
    diagnostics: bool = False,
    at_once: int = 1,
) -> Left:
    """Trains what is not finished, and tells what it had to leave.

    Args:
        wanted: the runs, in order.
        command: of the records.
        data_dir: where data lie.
        again: whether to train anew what was finished before this call, or is in the way; its
            records are set aside.
        figures: whether each run draws pictures.
        diagnostics: whether each run measures how it answers to known moves.
        at_once: how many seeds of a cell, following each other in `wanted`, are one program.

    Raises:
        Stopped: by a signal.
        RunError: if a folder cannot be used.
    """
    started, left = time.time(), Left([], [])
    run_settings = {"data_dir": data_dir, "resume": "auto"}
    run_settings |= {"figures": figures, "diagnostics": diagnostics}
    for group in _groups(wanted, at_once):
        unfinished = []
        for run in group:
            try:
                if again:
                    _set_aside(run, started)
                if _has_ended(run):
                    print(f"{run.folder}: finished already", flush=True)
                else:
                    unfinished.append(run)
            except InUseError as error:
                print(f"left out: {error}", flush=True)
                left.held.append(run)
            except _InTheWayError as error:
                print(f"left out: {error}; --again sets it aside", flush=True)
                left.in_the_way.append(run)
        for program in _programs(unfinished):
            left.held.extend(_train_free(program, run_settings, command))
    return left


class _InTheWayError(RunError):
    """A run folder whose records are damaged, or not of its cell."""


def _has_ended(run: Run) -> bool:
    """Whether a run has ended.

    Raises:
        InUseError: if another process holds its folder, which would be in the way.
        _InTheWayError: if its folder holds a run of other settings, or damaged records.
    """
    try:
        return _ended_or_in_the_way(run)
    except _InTheWayError:
        with run_folder.lock(run.folder):  # others may train by other settings, or rename it
            return _ended_or_in_the_way(run)


def _ended_or_in_the_way(run: Run) -> bool:
    """As `_has_ended`, of a folder that nobody else uses."""
    begun = (run.folder / "config.json").exists()
    try:
        ended = outcome(run.folder) is not None
        other = differences(run) if ended or begun else []
    except RunError as error:
        raise _InTheWayError(str(error)) from error
    # A kill at the very start leaves no more than these.
    if not (ended or begun) and any(
        path.name != "lock" and not path.name.startswith(".config.json.")
        for path in run.folder.glob("*")
    ):
        raise _InTheWayError(f"{run.folder}: holds files, and no config.json")
    if other:
        raise _InTheWayError(f"{run.folder}: holds a run with other settings: {', '.join(other)}")
    return ended


def _train_free(program: list[Run], settings: Mapping[str, Any], command: str) -> list[Run]:
    """Trains the runs of a program that no other process holds; the others."""
    held = []
    # Others may have finished some while a program before this one was training.
    while program := [run for run in program if outcome(run.folder) is None]:
        try:
            _train(program, settings, command)
            break
        except InUseError as error:
            print(f"left out: {error}", flush=True)
            held += [run for run in program if run.folder == error.folder]
            program = [run for run in program if run.folder != error.folder]
        except Stopped as stopped:
            raise Stopped(stopped.number, "the same command continues") from None
    return held


def _groups(wanted: Iterable[Run], at_once: int) -> Iterator[list[Run]]:
    """Runs of one cell that follow each other, at most so many."""
    group: list[Run] = []
    for run in wanted:
        if group and (len(group) == at_once or run.cell != group[0].cell):
            yield group
            group = []
        group.append(run)
    if group:
        yield group


def _programs(group: list[Run]) -> list[list[Run]]:
    """Runs of one cell by the program that trains them: what has begun alone ends alone.

    In one program all go on from a checkpoint that all have, and who is ahead loses what is later.
    """
    from experiments.checkpoints import steps_in

    if any(isinstance(run.cell.config, Settings) for run in group):
        return [[run] for run in group]
    # Only a run of its own follows frames over the training.
    alone = [run for run in group if (run.folder / "frames.jsonl").exists()]
    others = [run for run in group if run not in alone]
    begun = [run for run in others if steps_in(run.folder / "checkpoints")]
    fresh = [run for run in others if run not in begun]
    saved = [set(steps_in(run.folder / "checkpoints")) for run in begun]
    if begun and not set.intersection(*saved):
        alone, begun = alone + begun, []
    return [*([run] for run in alone), *filter(None, (begun, fresh))]


def _train(group: list[Run], settings: Mapping[str, Any], command: str) -> None:
    """Trains runs of one cell in one program; those that diverge leave a record of it."""
    first = group[0]
    if isinstance(first.cell.config, Settings):
        config = dataclasses.replace(
            first.cell.config, seed=first.seed, data_dir=settings["data_dir"]
        )
        try:
            _colocalise(first, config, command)
        except train.DivergedError as error:
            _record_diverged(first, dataclasses.asdict(config), error)
        return

    def configured(run: Run) -> Config:
        assert isinstance(run.cell.config, Config)  # a cell's runs are of one kind
        own = {**settings, "seed": run.seed, "run_dir": str(run.folder)}
        return configuration.replace(run.cell.config, own)

    def record(index: int, error: train.DivergedError) -> None:
        _record_diverged(group[index], configuration.to_dict(configured(group[index])), error)

    if len(group) > 1:
        from experiments.tables import together

        together.run(list(map(configured, group)), command, record)
        return
    try:
        train.run(configured(first), first.cell.name, command)
    except train.DivergedError as error:
        record(0, error)


def _record_diverged(run: Run, config: dict[str, Any], error: train.DivergedError) -> None:
    print(f"{run.folder}: {error}", flush=True)
    run.folder.mkdir(parents=True, exist_ok=True)  # one that recorded nothing leaves no folder
    write_json(run.folder / "config.json", config)
    write_json(run.folder / DIVERGED, {"error": str(error), "seed": run.seed})


def _colocalise(run: Run, settings: Settings, command: str) -> None:
    from experiments import colocalisation

    def abandon(number: int) -> None:
        remove_start()
        fail(Stopped(number), 0)

    with run_folder.lock(run.folder) as remove_start, stopping.listening(abandon):
        print(f"{run.cell.name}: run folder {run.folder}", flush=True)
        summary = colocalisation.run(settings, run.folder, command)
    print(f"test error {summary['test_error']:.2f} %, {summary['num_params']:,} parameters")


def _set_aside(run: Run, started: float) -> None:
    """Renames the folder of a run that was finished at a time, or that is in the way.

    Raises:
        InUseError: if another process holds it.
        RunError: if it cannot be renamed.
    """
    if not run.folder.exists():
        return
    with run_folder.lock(run.folder):
        if _is_over(run, started):
            now = datetime.datetime.now()
            aside = run.folder.with_name(f"{run.folder.name}-until-{now:%Y%m%d-%H%M%S-%f}")
            with writing(aside):
                run.folder.rename(aside)


def _is_over(run: Run, started: float) -> bool:
    """Whether a run was finished at a time, or is in the way."""
    ends = [run.folder / name for name in ("summary.json", DIVERGED)]
    if any(end.exists() and end.stat().st_mtime < started for end in ends):
        return True
    try:
        _ended_or_in_the_way(run)
    except _InTheWayError:
        return True
    return False
