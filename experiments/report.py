"""Writes the tables of the paper's experiments: `python -m experiments.report [TABLE ...]`."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from experiments.paper.cells import Budget
from experiments.paper.registry import TABLES, TableName
from experiments.runs.records import RunError
from experiments.settings.compilation_cache import use_compilation_cache
from experiments.settings.config import OptionalStr
from experiments.settings.errors import run_command
from experiments.settings.machine import expand_user

PROGRAM = "python -m experiments.report"


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Write tables and figures from the runs of `python -m experiments.paper`.

    Writes RESULTS/TABLE.json, RESULTS/TABLE.md and RESULTS/pictures/CELL.png. Recorded results of
    runs that are not in RUN_DIR are kept. Tables that share a cell are written together.
    """

    tables: Annotated[tuple[TableName, ...], tyro.conf.Positional] = ()
    """The tables to write. Default: all that have results."""
    budget: Budget = "standard"
    """The budget of the runs."""
    run_dir: str = "runs/paper"
    """Folder of the runs. A run is in RUN_DIR/BUDGET/CELL/seed-K."""
    results: str = "experiments/results"
    """Folder of the results. It holds the results of one budget."""
    data_dir: OptionalStr = None
    """Folder with the data, for the figures. Default: the folder that each run used."""
    figures: bool = True
    """Draw the figures."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next command starts sooner."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code, and prints errors in one line."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _run(given))


def _run(arguments: list[str]) -> None:
    description = ReportOptions.__doc__
    options = tyro.cli(ReportOptions, prog=PROGRAM, description=description, args=arguments)
    runs = expand_user(options.run_dir) / options.budget
    results = expand_user(options.results)
    wanted = options.tables or tuple(TABLES)
    if not (runs.is_dir() or any((results / f"{table}.json").exists() for table in wanted)):
        raise RunError(f"{runs}: not found, so there are no runs of --budget {options.budget}")
    if not runs.is_dir():
        print(f"{runs}: not found; writing recorded results only")

    use_compilation_cache(options.compilation_cache)
    known, undrawn = _write_tables(wanted, options, runs, results)
    if not known:
        raise RunError(f"{runs}: holds no finished run of {', '.join(wanted)}")
    if undrawn:
        raise RunError(f"{undrawn[0]}; figures missing: {len(undrawn)}")


def _write_tables(
    wanted: Sequence[TableName], options: ReportOptions, runs: pathlib.Path, results: pathlib.Path
) -> tuple[int, list[str]]:
    """Writes tables; returns the number of cells with a result, and why figures are missing."""
    # Imports jax; --help must stay fast.
    from experiments.paper.write_tables import ReportPaths, add_sharing_tables, write_table

    paths = ReportPaths(options.budget, runs, results, options.data_dir, options.figures)
    known, undrawn = 0, []
    for name in add_sharing_tables(wanted, paths):
        written = write_table(name, paths)
        for message in written.messages:
            print(message)
        if written.known:
            print(f"{name}: {written.known} of {written.total} cells in {results / f'{name}.md'}")
        known += written.known
        undrawn += written.undrawn
    return known, undrawn


if __name__ == "__main__":
    sys.exit(main())
