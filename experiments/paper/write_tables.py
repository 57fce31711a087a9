"""Writes the files of a table: TABLE.json, TABLE.md and the figures of its cells."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from experiments.paper import cell_figures
from experiments.paper.cells import Budget
from experiments.paper.collect import collect_results
from experiments.paper.registry import TABLES, TableName, all_cells
from experiments.paper.results import TableRow, find_plain_cell, make_rows
from experiments.paper.results_file import read_recorded_results, results_document
from experiments.paper.results_page import format_page
from experiments.runs.records import write_atomically, write_json, writing


class ReportPaths(NamedTuple):
    """What a report reads, and where it writes.

    Attributes:
        budget: the budget of the runs.
        runs: RUN_DIR/BUDGET.
        results: the folder of results.
        data_dir: the folder with the data; None for the folder that each run used.
        figures: whether to draw figures.
    """

    budget: Budget
    runs: pathlib.Path
    results: pathlib.Path
    data_dir: str | None
    figures: bool


class WrittenTable(NamedTuple):
    """The outcome of writing a table.

    Attributes:
        known: the number of cells with a result. If it is 0, nothing was written.
        total: the number of cells.
        messages: about results that were left out or kept.
        undrawn: reasons why figures could not be drawn.
    """

    known: int
    total: int
    messages: list[str]
    undrawn: list[str]


def add_sharing_tables(names: Sequence[TableName], paths: ReportPaths) -> list[TableName]:
    """Adds the tables with recorded results that share a cell with these, or with added ones.

    They must be written together, so that a cell has the same result in every table.
    """
    cells = {
        name: {cell.name for cell in table.make_cells(paths.budget)}
        for name, table in TABLES.items()
    }
    found = list(names)
    for name in found:  # the list grows
        found += [
            other
            for other in TABLES
            if other not in found
            and (paths.results / f"{other}.json").exists()
            and cells[name] & cells[other]
        ]
    return found


def write_table(name: TableName, paths: ReportPaths) -> WrittenTable:
    """Writes the files of a table, if any of its cells has a result.

    Raises:
        RunError: if a record is damaged or a file cannot be written.
    """
    table = TABLES[name]
    rows, messages = _read_rows(name, paths)
    known = [row for row in rows if row.result is not None]
    if not known:
        return WrittenTable(0, len(rows), messages, [])
    with writing(paths.results):
        paths.results.mkdir(parents=True, exist_ok=True)
    document = results_document(name, paths.budget, rows)
    write_json(paths.results / f"{name}.json", document)
    undrawn = []
    if paths.figures:
        undrawn = cell_figures.draw_missing(table, known, paths.results, paths.runs, paths.data_dir)
    figures = cell_figures.find_figures(table, known, paths.results)
    text = format_page(table, paths.budget, rows, figures)
    write_atomically(paths.results / f"{name}.md", text.encode())
    return WrittenTable(len(known), len(rows), messages, undrawn)


def _read_rows(name: TableName, paths: ReportPaths) -> tuple[list[TableRow], list[str]]:
    """The rows of a table, and messages about results that were left out or kept."""
    cells, every = TABLES[name].make_cells(paths.budget), all_cells(paths.budget)
    # The networks without a transformer may be in another table.
    plain = [found for cell in cells if (found := find_plain_cell(cell, every)) is not None]
    wanted = {cell.name: cell for cell in (*cells, *plain)}.values()
    files = [paths.results / f"{each}.json" for each in TABLES]
    recorded = read_recorded_results(files, paths.budget, wanted)
    results, messages = collect_results(wanted, paths.runs, recorded)
    return make_rows(cells, results, every), messages
