"""Writes the tables of the paper's experiments: `python -m experiments.report [TABLE ...]`."""

import dataclasses
import pathlib
import sys
from typing import Annotated

import tyro

from experiments.config import OptionalStr
from experiments.exits import exit_code
from experiments.records import RunError
from experiments.tables.cells import TABLES, Budget, TableName

PROGRAM = "python -m experiments.report"


@dataclasses.dataclass(frozen=True)
class Options:
    """Write tables and pictures from the runs of `python -m experiments.paper`.

    RESULTS/TABLE.json, TABLE.md and pictures/CELL.png. Of what there is no run here, they keep
    what they held before. Tables that share a cell are written together.
    """

    tables: Annotated[tuple[TableName, ...], tyro.conf.Positional] = ()
    """Which tables. Default: all of which anything is known."""
    budget: Budget = "standard"
    """Of the runs."""
    run_dir: str = "runs/paper"
    """Folder of the runs, RUN_DIR/BUDGET/CELL/seed-K."""
    results: str = "experiments/results"
    """Folder of the results, which are of one budget."""
    data_dir: OptionalStr = None
    """Folder with the data, for the pictures. Default: where each run had them."""
    figures: bool = True
    """Draw the pictures."""


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and writes; says in one line what went wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: _run(given))


def _run(arguments: list[str]) -> None:
    options = tyro.cli(Options, prog=PROGRAM, description=Options.__doc__, args=arguments)
    runs = pathlib.Path(options.run_dir).expanduser() / options.budget
    results = pathlib.Path(options.results).expanduser()
    wanted = options.tables or tuple(TABLES)
    # What is known already can be written again without any run.
    if not (runs.is_dir() or any((results / f"{table}.json").exists() for table in wanted)):
        raise RunError(f"{runs}: not found, so there are no runs of --budget {options.budget}")
    if not runs.is_dir():
        print(f"{runs}: not found; written is what is known")

    from experiments.tables import writing  # which imports JAX

    places = writing.Places(options.budget, runs, results, options.data_dir, options.figures)
    written = [writing.write(table, places) for table in writing.with_shared(wanted, places)]
    if not any(each.known for each in written):
        raise RunError(f"{runs}: holds no run that ended of {', '.join(wanted)}")
    undrawn = [why for each in written for why in each.undrawn]
    if undrawn:
        raise RunError(f"{undrawn[0]}; pictures missing: {len(undrawn)}")


if __name__ == "__main__":
    sys.exit(main())
