"""`python -m experiments.sweep report`: prints a table of trials and writes the HTML page."""

from collections.abc import Sequence

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from experiments.runs.records import RunError, write_atomically, writing
from experiments.settings.errors import ConfigError
from experiments.settings.machine import expand_user
from experiments.sweep.definition import (
    BestTrial,
    SweepDefinition,
    definition_from_dict,
    find_best,
    format_errors,
)
from experiments.sweep.options import SweepReportOptions
from experiments.sweep.report_page import make_page
from experiments.sweep.report_rows import summarise_trials, table_headings, table_rows
from experiments.sweep.storage import ONLY_STUDY, StudyLocation, dashboard_command, load_study

MAX_ROWS = 30  # on the terminal
WIDTH = 110  # of the table if the output is not a terminal


def report(options: SweepReportOptions) -> None:
    """Prints the table and writes the page.

    Raises:
        RunError: if there is no such sweep, or the page cannot be written.
    """
    run_dir = f"runs/{options.study}" if options.run_dir is None else options.run_dir
    folder = expand_user(run_dir)
    location = StudyLocation(folder, options.storage, options.study or ONLY_STUDY)
    page = folder / "report.html" if options.out is None else expand_user(options.out)
    with load_study(location) as study:
        try:
            definition = definition_from_dict(study.user_attrs.get("definition", {}))
        except ConfigError as error:
            raise RunError(f"{location}: {error}") from error
        trials = study.get_trials()
        best = find_best(definition, trials)
        _print_trials(definition, trials, best)
        if options.out is None:
            with writing(page):
                folder.mkdir(parents=True, exist_ok=True)
        name = folder.resolve().name if options.study is None else options.study
        write_atomically(page, make_page(name, study, definition, trials, best).encode())
    print(f"plots in {page}")
    if command := dashboard_command(location):
        print(f"dashboard: {command}")


def _print_trials(
    definition: SweepDefinition, trials: Sequence[FrozenTrial], best: BestTrial | None
) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(summarise_trials(trials))
    table = Table(box=None, pad_edge=False)
    for heading in table_headings(definition):
        numeric = heading in ("trial", "epochs", "seconds")
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    rows = table_rows(definition, trials)
    for row in rows[:MAX_ROWS]:
        is_best = best is not None and row.number == best.trial.number
        table.add_row(*row.cells, style="bold" if is_best else None)
    console.print(table)
    if len(rows) > MAX_ROWS:
        console.print(f"and {len(rows) - MAX_ROWS} more on the page")
    if best is not None:
        print(f"best: trial {best.trial.number}, validation error {format_errors(best.errors)} %")
        print(best.command)
