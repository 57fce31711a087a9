"""Runs the paper's experiments: `python -m experiments.paper TABLE [flags]`."""

import contextlib
import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Annotated

import tyro

from experiments.config import ConfigError, OptionalInt, OptionalStr
from experiments.exits import exit_code
from experiments.records import RunError
from experiments.tables import cells as tables
from experiments.tables.cells import Budget, TableName

PROGRAM = "python -m experiments.paper"


@dataclasses.dataclass(frozen=True)
class Options:
    """Train the cells of a table of the paper.

    Killed, the same command continues. Given again at the same time, here or on a machine that
    shares the folder, it takes part. `python -m experiments.report` writes the tables.
    """

    table: Annotated[TableName, tyro.conf.Positional]
    """table1: distorted MNIST. addition: the sum of two digits. transforms: every family of
    transformations on every distortion. ours: a small network of today, the same data.
    ablations: what a transformer's learning rate and pooling do. gtsrb: traffic signs, none to
    three transformers. colocalisation: a digit found without labels. projection3d: solids in
    volumes."""
    cells: tuple[str, ...] = ()
    """Only the cells with these names; * stands for anything. Default: all; a few with quick."""
    seeds: OptionalInt = None
    """Runs of each cell, with seeds from 0. Default: 1; 3 with --budget paper."""
    at_once: OptionalInt = None
    """How many seeds of a cell train in one program. Default: 1 on a CPU, all of them elsewhere."""
    budget: Budget = "standard"
    """quick: seconds, on embedded digits. standard: minutes a cell on a CPU core. paper: the
    paper's 150,000 steps where it had them, for a GPU."""
    run_dir: str = "runs/paper"
    """Folder of the runs, RUN_DIR/BUDGET/CELL/seed-K."""
    data_dir: OptionalStr = None
    """Folder with the data, as for experiments.train."""
    again: bool = False
    """Train anew what is finished already, or of other settings, or damaged; its records are kept
    beside the new ones. Killed, it continues without this flag."""
    figures: bool = True
    """Draw the pictures of each run."""
    diagnostics: bool = False
    """Measure how frames and predictions answer to known moves, as experiments.train does."""


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and trains; says in one line what went wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    return exit_code(lambda: _run(given))


def _run(arguments: list[str]) -> None:
    options = tyro.cli(Options, prog=PROGRAM, description=Options.__doc__, args=arguments)
    seeds = options.seeds
    if seeds is None:
        seeds = 3 if options.budget == "paper" else 1
    for flag, value in {"--seeds": seeds, "--at-once": options.at_once}.items():
        if value is not None and value < 1:
            raise ConfigError(f"{flag} must be positive; got {value}")
    if "--cells" in arguments and not options.cells:  # of a variable that is empty, say
        raise ConfigError("--cells must name cells, or be left out for all; got none")
    if options.diagnostics and options.table in ("colocalisation", "projection3d"):
        raise ConfigError(f"--diagnostics must be left out with {options.table}")
    selected = tables.select(options.table, options.budget, options.cells)

    from experiments.tables import runner

    folder = pathlib.Path(options.run_dir).expanduser() / options.budget
    at_once = options.at_once or _at_once(seeds)
    wanted = list(runner.runs(selected, folder, seeds, at_once))
    with _compiling(quickly=options.budget == "quick"):
        left = runner.train_all(
            wanted,
            command=shlex.join([*PROGRAM.split(), *arguments]),
            data_dir=options.data_dir,
            again=options.again,
            figures=options.figures,
            diagnostics=options.diagnostics,
            at_once=at_once,
        )
    finished = [run for run in wanted if run not in left.held and run not in left.in_the_way]
    diverged = sum((run.folder / runner.DIVERGED).exists() for run in finished)
    print(
        f"{options.table}: {len(finished)} of {len(wanted)} runs are finished in {folder}"
        + f", {diverged} of them diverged" * bool(diverged)
    )
    if left.held:
        print(f"other processes hold {len(left.held)} runs; the same command looks again")
    if left.in_the_way:
        places = ", ".join(str(run.folder) for run in left.in_the_way)
        raise RunError(f"left out, unless with --again: {places}")


@contextlib.contextmanager
def _compiling(*, quickly: bool) -> Iterator[None]:
    """Compiles with few optimisations, if wanted: more than half of a smoke is compiling."""
    import jax

    flag = "jax_disable_most_optimizations"
    before = jax.config.values[flag]
    jax.config.update(flag, quickly or before)
    try:
        yield
    finally:
        jax.config.update(flag, before)


def _at_once(seeds: int) -> int:
    """How many seeds of a cell one program trains quickest: cores of a CPU do best with a process.

    With one seed, JAX need not be started to know.
    """
    if seeds == 1:
        return 1
    import jax

    return 1 if jax.default_backend() == "cpu" else seeds


if __name__ == "__main__":
    sys.exit(main())
