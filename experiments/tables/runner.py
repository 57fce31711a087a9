"""Runs the cells of a table, in a folder that several processes or machines may share.

A run lies in `RUN_DIR/BUDGET/CELL/seed-K`, and is one of `experiments.train`. Whoever comes to it
takes its lock. A run that is finished is not trained again, one that was killed is continued, one
that another process holds is left to that.
"""

import datetime
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from experiments import config as configuration
from experiments import train
from experiments.config import Config
from experiments.records import read_json, read_summary, write_json
from experiments.run_folder import InUseError
from experiments.stopping import Stopped
from experiments.tables.cells import Cell

DIVERGED = "diverged.json"


class Run(NamedTuple):
    """A cell and a seed, and where their records are."""

    cell: Cell
    seed: int
    folder: pathlib.Path


def runs(cells: Iterable[Cell], folder: pathlib.Path, seeds: int) -> Iterator[Run]:
    """The runs of some cells: every cell with one seed before any with a second."""
    cells = list(cells)
    for seed in range(seeds):
        for cell in cells:
            yield Run(cell, seed, folder / cell.name / f"seed-{seed}")


def outcome(folder: pathlib.Path) -> dict[str, Any] | None:
    """What a run came to: its summary, or its `error` if it diverged; None before its end.

    Raises:
        RunError: if a record is damaged.
    """
    if (folder / DIVERGED).exists():
        return read_json(folder / DIVERGED)
    return read_summary(folder)


def train_all(
    wanted: Iterable[Run],
    *,
    command: str,
    data_dir: str | None = None,
    again: bool = False,
    figures: bool = True,
) -> list[Run]:
    """Trains what is not finished; the runs that other processes hold.

    Args:
        wanted: the runs, in order.
        command: of the records.
        data_dir: where data lie.
        again: whether to train anew what was finished before this call; its records are set aside.
        figures: whether each run draws pictures.

    Raises:
        Stopped: by a signal.
        RunError: if a folder cannot be used.
    """
    started, held = time.time(), []
    for run in wanted:
        if again:
            _set_aside(run.folder, started)
        if outcome(run.folder) is not None:
            print(f"{run.folder}: finished already", flush=True)
            continue
        settings = {
            "seed": run.seed,
            "data_dir": data_dir,
            "run_dir": str(run.folder),
            "resume": "auto",
            "figures": figures,
        }
        try:
            _train(run, configuration.replace(run.cell.config, settings), command)
        except InUseError as error:
            print(f"left out: {error}", flush=True)
            held.append(run)
        except Stopped as stopped:
            raise Stopped(stopped.number, "the same command continues") from None
    return held


def _train(run: Run, config: Config, command: str) -> None:
    try:
        train.run(config, run.cell.name, command)
    except train.DivergedError as error:
        print(f"{run.cell.name}: {error}", flush=True)
        # A run that recorded nothing leaves no folder.
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / DIVERGED, {"error": str(error), "seed": run.seed})


def _set_aside(folder: pathlib.Path, started: float) -> None:
    """Renames a folder whose run was finished at a time."""
    ends = [folder / name for name in ("summary.json", DIVERGED)]
    if any(end.exists() and end.stat().st_mtime < started for end in ends):
        now = datetime.datetime.now()
        folder.rename(folder.with_name(f"{folder.name}-until-{now:%Y%m%d-%H%M%S-%f}"))
