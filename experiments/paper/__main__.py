"""Trains the networks of the paper's tables: `python -m experiments.paper TABLE [flags]`.

jax is imported in functions only, so that `--help` is fast.
"""

import contextlib
import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import tyro

from experiments.paper import runner
from experiments.paper.cells import Budget
from experiments.paper.registry import TableName, select_cells
from experiments.runs.records import RunError
from experiments.settings.compilation_cache import use_compilation_cache
from experiments.settings.config import OptionalInt, OptionalStr
from experiments.settings.errors import ConfigError, run_command
from experiments.settings.machine import expand_user

PROGRAM = "python -m experiments.paper"


@dataclasses.dataclass(frozen=True)
class PaperOptions:
    """Train the networks of a table of the paper.

    Each entry of a table, a cell, is trained once per seed; finished runs are skipped. To continue
    after an interruption, run the same command again. To share the work, run it in several
    processes at once, on one machine or on several that share the folder of the runs. Then
    `python -m experiments.report` writes the tables.
    """

    table: Annotated[TableName, tyro.conf.Positional]
    """table1: distorted MNIST. addition: the sum of two digits. transforms: six transformations on
    every distortion. ours: a small modern network on the same data. ablations: the localisation
    network's learning rate, and averaging samples. gtsrb: traffic signs, with none to three
    transformers. colocalisation: finding digits without labels. projection3d: solids in volumes."""
    cells: tuple[str, ...] = ()
    """Train only the cells with these names; * matches any text. Default: all; a few with
    --budget quick."""
    seeds: OptionalInt = None
    """Number of runs per cell, with seeds 0, 1, ... Default: 1; 3 with --budget paper."""
    at_once: OptionalInt = None
    """Number of seeds of a cell that are trained together in one program. Default: 1 on a CPU, all
    on other devices."""
    budget: Budget = "standard"
    """quick: a smoke test of seconds on embedded digits. standard: minutes per cell on a CPU.
    paper: for a GPU; the paper's 150,000 steps, or more epochs if the paper gives no number."""
    run_dir: str = "runs/paper"
    """Folder of the runs. A run is in RUN_DIR/BUDGET/CELL/seed-K."""
    data_dir: OptionalStr = None
    """Folder with the data, as for experiments.train."""
    again: bool = False
    """Repeat runs that are finished or damaged, or whose settings have changed. The old run folders
    are renamed, not deleted. To continue after an interruption, omit this flag."""
    figures: bool = True
    """Draw the figures of each run."""
    diagnostics: bool = False
    """Measure how frames and predictions respond to known transformations, as experiments.train
    does with the same flag."""
    compilation_cache: bool = True
    """Keep compiled programs in the user's cache folder, so that the next command starts sooner."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns the exit code. An error is printed as one line."""
    given = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _run(given))


def _run(arguments: list[str]) -> None:
    description = PaperOptions.__doc__
    options = tyro.cli(PaperOptions, prog=PROGRAM, description=description, args=arguments)
    seeds = options.seeds
    if seeds is None:
        seeds = 3 if options.budget == "paper" else 1
    _check_options(options, seeds, arguments)
    selected = select_cells(options.table, options.budget, options.cells)

    folder = expand_user(options.run_dir) / options.budget
    use_compilation_cache(options.compilation_cache)
    at_once = options.at_once or _default_at_once(seeds)
    wanted = list(runner.runs(selected, folder, seeds, at_once))
    with _compilation_options(fast=options.budget == "quick"):
        skipped = runner.train_all(
            wanted,
            command=shlex.join([*PROGRAM.split(), *arguments]),
            data_dir=options.data_dir,
            again=options.again,
            figures=options.figures,
            diagnostics=options.diagnostics,
            at_once=at_once,
        )
    _print_summary(options.table, folder, wanted, skipped)


def _print_summary(
    table: TableName,
    folder: pathlib.Path,
    wanted: Sequence[runner.CellRun],
    skipped: runner.Skipped,
) -> None:
    """Prints how many runs are finished; raises `RunError` if some runs need `--again`."""
    from experiments.runs.tensorboard import tensorboard_command  # --help must stay fast

    finished = [run for run in wanted if run not in (*skipped.held, *skipped.in_the_way)]
    diverged = sum((run.folder / runner.DIVERGED).exists() for run in finished)
    print(
        f"{table}: {len(finished)} of {len(wanted)} runs are finished in {folder}"
        + f", {diverged} of them diverged" * bool(diverged)
    )
    print(f"TensorBoard: {tensorboard_command(folder)}")
    if skipped.held:
        print(f"{len(skipped.held)} runs are in use by other processes; repeat the command later")
    if skipped.in_the_way:
        places = ", ".join(str(run.folder) for run in skipped.in_the_way)
        raise RunError(f"runs that are damaged or have other settings need --again: {places}")


def _check_options(options: PaperOptions, seeds: int, arguments: list[str]) -> None:
    """Raises `ConfigError` for invalid options."""
    for flag, value in {"--seeds": seeds, "--at-once": options.at_once}.items():
        if value is not None and value < 1:
            raise ConfigError(f"{flag} must be positive; got {value}")
    if "--cells" in arguments and not options.cells:  # for example, from an empty variable
        raise ConfigError("--cells must name cells, or be left out to train all; got none")
    if options.diagnostics and options.table in ("colocalisation", "projection3d"):
        raise ConfigError(f"--diagnostics must be left out with {options.table}")


@contextlib.contextmanager
def _compilation_options(*, fast: bool) -> Iterator[None]:
    """If `fast`, disables most optimisations, as compiling takes half of a smoke test's time."""
    import jax

    flag = "jax_disable_most_optimizations"
    before = jax.config.values[flag]
    jax.config.update(flag, fast or before)
    try:
        yield
    finally:
        jax.config.update(flag, before)


def _default_at_once(seeds: int) -> int:
    """How many seeds are trained together: one on a CPU, where separate processes are faster."""
    if seeds == 1:  # avoids importing jax
        return 1
    import jax

    return 1 if jax.default_backend() == "cpu" else seeds


if __name__ == "__main__":
    sys.exit(main())
