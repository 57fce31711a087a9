"""Trains the cells of a table, in a folder that several processes or machines may share.

A run is an ordinary run of `experiments.train`, in `RUN_DIR/BUDGET/CELL/seed-K`. A process locks
the folder of the run that it trains. Finished runs are skipped, interrupted ones continue, and runs
that another process holds are left to it. A folder is in the way if its settings are not those of
the cell, or if its records are damaged. It is skipped and named, unless `--again` sets it aside.
"""

import dataclasses
import datetime
import pathlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.colocalisation.options import (
    ColocalisationSettings,
    colocalisation_differences,
)
from experiments.paper.cells import Cell
from experiments.runs.folder import InUseError, lock_folder
from experiments.runs.records import (
    RunError,
    read_config,
    read_json,
    read_summary,
    write_json,
    writing,
)
from experiments.settings.access import replace_settings
from experiments.settings.config import Config
from experiments.settings.conversion import config_differences, config_to_dict

DIVERGED = "diverged.json"


class CellRun(NamedTuple):
    """A cell, a seed, and the folder of their run."""

    cell: Cell
    seed: int
    folder: pathlib.Path


class Skipped(NamedTuple):
    """Requested runs that are not finished.

    Attributes:
        held: other processes hold them.
        in_the_way: their folders hold other or damaged records.
    """

    held: list[CellRun]
    in_the_way: list[CellRun]


def runs(
    cells: Sequence[Cell], folder: pathlib.Path, seeds: int, at_once: int = 1
) -> Iterator[CellRun]:
    """The runs of cells: the first `at_once` seeds of every cell come before any further seeds."""
    for first in range(0, seeds, at_once):
        for cell in cells:
            for seed in range(first, min(first + at_once, seeds)):
                yield CellRun(cell, seed, folder / cell.name / f"seed-{seed}")


def outcome(folder: pathlib.Path) -> dict[str, Any] | None:
    """The summary of a run, or its `error` if it diverged; None before its end.

    Raises:
        RunError: if a record is damaged.
    """
    if (folder / DIVERGED).exists():
        return read_json(folder / DIVERGED)
    return read_summary(folder)


def run_differences(run: CellRun) -> list[str]:
    """The settings in which the folder of a run differs from its cell.

    Raises:
        RunError: if the folder has no settings, or they are damaged.
    """
    config = run.cell.config
    if isinstance(config, ColocalisationSettings):
        recorded = read_json(run.folder / "config.json")
        return colocalisation_differences(recorded, dataclasses.replace(config, seed=run.seed))
    wanted = replace_settings(config, {"seed": run.seed})
    return config_differences(read_config(run.folder), wanted)


def train_all(
    wanted: Iterable[CellRun],
    *,
    command: str,
    data_dir: str | None = None,
    again: bool = False,
    figures: bool = True,
    diagnostics: bool = False,
    at_once: int = 1,
) -> Skipped:
    """Trains the runs that are not finished.

    Args:
        wanted: the runs, in order.
        command: for the summaries.
        data_dir: the folder of the data.
        again: whether to train runs again that were finished before this call, or are in the way.
            Their folders are renamed.
        figures: whether each run draws figures.
        diagnostics: whether each run measures its equivariance.
        at_once: the number of seeds of a cell that one program trains.

    Returns:
        The runs that were skipped.

    Raises:
        Stopped: by a signal.
        RunError: if a folder cannot be used.
    """
    started, skipped = time.time(), Skipped([], [])
    run_settings = {"data_dir": data_dir, "resume": "auto"}
    run_settings |= {"figures": figures, "diagnostics": diagnostics}
    for group in _groups(wanted, at_once):
        unfinished = _unfinished(group, skipped, started if again else None)
        for program in _programs(unfinished):
            skipped.held.extend(_train_free(program, run_settings, command))
    return skipped


def _unfinished(
    group: Sequence[CellRun], skipped: Skipped, again_since: float | None
) -> list[CellRun]:
    """The runs of a group to train. Runs that cannot be trained are added to `skipped`."""
    unfinished = []
    for run in group:
        try:
            if again_since is not None:
                _set_aside(run, again_since)
            if _has_ended(run):
                print(f"{run.folder}: finished already", flush=True)
            else:
                unfinished.append(run)
        except InUseError as error:
            print(f"left out: {error}", flush=True)
            skipped.held.append(run)
        except _InTheWayError as error:
            print(f"left out: {error}; --again sets it aside", flush=True)
            skipped.in_the_way.append(run)
    return unfinished


class _InTheWayError(RunError):
    """A run folder holds damaged records, or those of other settings."""


def _has_ended(run: CellRun) -> bool:
    """Whether a run has ended.

    Raises:
        InUseError: if the folder would be in the way, but another process holds it.
        _InTheWayError: if the folder holds a run of other settings, or damaged records.
    """
    try:
        return _ended_or_in_the_way(run)
    except _InTheWayError:
        with lock_folder(run.folder):  # another process may train these settings, or rename it
            return _ended_or_in_the_way(run)


def _ended_or_in_the_way(run: CellRun) -> bool:
    """`_has_ended` for a folder that no other process uses."""
    begun = (run.folder / "config.json").exists()
    try:
        ended = outcome(run.folder) is not None
        different = run_differences(run) if ended or begun else []
    except RunError as error:
        raise _InTheWayError(str(error)) from error
    # A process that is killed at its very start leaves only these files.
    if not (ended or begun) and any(
        path.name != "lock" and not path.name.startswith(".config.json.")
        for path in run.folder.glob("*")
    ):
        raise _InTheWayError(f"{run.folder}: holds files, and no config.json")
    if different:
        raise _InTheWayError(
            f"{run.folder}: holds a run with other settings: {', '.join(different)}"
        )
    return ended


def _groups(wanted: Iterable[CellRun], at_once: int) -> Iterator[list[CellRun]]:
    """Consecutive runs of one cell, at most `at_once` in a group."""
    group: list[CellRun] = []
    for run in wanted:
        if group and (len(group) == at_once or run.cell != group[0].cell):
            yield group
            group = []
        group.append(run)
    if group:
        yield group


def _programs(group: list[CellRun]) -> list[list[CellRun]]:
    """Divides runs of one cell by the program that trains them.

    Runs in one program continue from a checkpoint that all of them have. Runs that have begun
    without a common checkpoint continue alone.
    """
    from experiments.runs.checkpoints import steps_in  # imports JAX; --help must stay fast

    if any(isinstance(run.cell.config, ColocalisationSettings) for run in group):
        return [[run] for run in group]
    begun = [run for run in group if steps_in(run.folder / "checkpoints")]
    fresh = [run for run in group if run not in begun]
    saved = [set(steps_in(run.folder / "checkpoints")) for run in begun]
    together = [begun] if begun and set.intersection(*saved) else [[run] for run in begun]
    return [*together, *([fresh] if fresh else [])]


# --- Training -------------------------------------------------------------------------------------


def _train_free(program: list[CellRun], settings: Mapping[str, Any], command: str) -> list[CellRun]:
    """Trains the runs of a program that no other process holds, and returns the others."""
    held = []
    # Other processes may have finished some while an earlier program was training.
    while program := [run for run in program if outcome(run.folder) is None]:
        try:
            _train(program, settings, command)
            break
        except InUseError as error:
            print(f"left out: {error}", flush=True)
            held += [run for run in program if run.folder == error.folder]
            program = [run for run in program if run.folder != error.folder]
    return held


def _hint() -> str:
    return "the same command continues"


def _train(group: list[CellRun], settings: Mapping[str, Any], command: str) -> None:
    """Trains runs of one cell in one program. Runs that diverge get a record of it."""
    from experiments.workflow import training_run

    if isinstance(group[0].cell.config, ColocalisationSettings):
        _colocalise(group[0], group[0].cell.config, settings["data_dir"], command)
        return
    configs = [
        replace_settings(
            _training_config(run), {**settings, "seed": run.seed, "run_dir": str(run.folder)}
        )
        for run in group
    ]

    def diverged(index: int, error: RunError) -> None:
        _record_diverged(group[index], config_to_dict(configs[index]), error)

    folders, name = [run.folder for run in group], group[0].cell.name
    for summary in training_run.train_runs(configs, folders, name, command, _hint, diverged):
        _print_result(summary)


def _training_config(run: CellRun) -> Config:
    assert isinstance(run.cell.config, Config)  # the runs of a group are of one kind
    return run.cell.config


def _colocalise(
    run: CellRun, config: ColocalisationSettings, data_dir: str | None, command: str
) -> None:
    from experiments.colocalisation import train
    from experiments.training.loop import DivergedError

    settings = dataclasses.replace(config, seed=run.seed, data_dir=data_dir)
    print(f"{run.cell.name}: run folder {run.folder}", flush=True)
    try:
        _print_result(train.run(settings, run.folder, command, _hint))
    except DivergedError as error:
        _record_diverged(run, dataclasses.asdict(settings), error)


def _print_result(summary: Mapping[str, Any] | None) -> None:
    if summary is not None:
        error, num_params = summary["test_error"], summary["num_params"]
        print(f"test error {error:.2f} %, {num_params:,} parameters")


def _record_diverged(run: CellRun, config: dict[str, Any], error: RunError) -> None:
    print(f"{run.folder}: {error}", flush=True)
    run.folder.mkdir(parents=True, exist_ok=True)  # a run that recorded nothing has no folder
    write_json(run.folder / "config.json", config)
    write_json(run.folder / DIVERGED, {"error": str(error), "seed": run.seed})


# --- Training again -------------------------------------------------------------------------------


def _set_aside(run: CellRun, started: float) -> None:
    """Renames the folder of a run that ended before a time, or that is in the way.

    Raises:
        InUseError: if another process holds it.
        RunError: if it cannot be renamed.
    """
    if not run.folder.exists():
        return
    with lock_folder(run.folder):
        if _is_over(run, started):
            now = datetime.datetime.now()
            aside = run.folder.with_name(f"{run.folder.name}-until-{now:%Y%m%d-%H%M%S-%f}")
            with writing(aside):
                run.folder.rename(aside)


def _is_over(run: CellRun, started: float) -> bool:
    """Whether a run ended before a time, or is in the way."""
    ends = [run.folder / name for name in ("summary.json", DIVERGED)]
    if any(end.exists() and end.stat().st_mtime < started for end in ends):
        return True
    try:
        _ended_or_in_the_way(run)
    except _InTheWayError:
        return True
    return False
