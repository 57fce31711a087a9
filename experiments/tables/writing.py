"""Writes the files of each table: TABLE.json, TABLE.md and pictures of its cells."""

import pathlib
from typing import NamedTuple

from experiments.records import write_atomically, write_json, writing
from experiments.tables import cells as tables
from experiments.tables import folders, pictures, results
from experiments.tables.cells import Budget, TableName
from experiments.tables.page import page


class Places(NamedTuple):
    """What is read and where it is written.

    Attributes:
        budget: of the runs.
        runs: RUN_DIR/BUDGET.
        results: the folder of results.
        data_dir: where data lie; None: where each run had them.
        figures: whether to draw pictures.
    """

    budget: Budget
    runs: pathlib.Path
    results: pathlib.Path
    data_dir: str | None
    figures: bool


def write(table: TableName, places: Places) -> bool:
    """Writes the files of a table; whether there is any result to write.

    Raises:
        RunError: if a record is damaged or a file cannot be written.
        DatasetError: if the data for pictures cannot be had.
    """
    rows, remarks = _rows(table, places)
    known = [row for row in rows if row.result is not None]
    if not known:
        return False
    with writing(places.results):
        places.results.mkdir(parents=True, exist_ok=True)
    json, markdown = (places.results / f"{table}.{end}" for end in ("json", "md"))
    write_json(json, results.document(table, places.budget, rows))
    if places.figures:
        pictures.draw(table, known, places.results, places.runs, places.data_dir)
    text = page(table, places.budget, rows, pictures.existing(table, known, places.results))
    write_atomically(markdown, text.encode())
    for remark in remarks:
        print(remark)
    print(f"{table}: {len(known)} of {len(rows)} cells in {markdown}")
    return True


def _rows(table: TableName, places: Places) -> tuple[list[results.Row], list[str]]:
    """The rows of a table, and what to say of runs that were left out."""
    cells = tables.TABLES[table](places.budget)
    others = [cell for name in tables.TABLES for cell in tables.TABLES[name](places.budget)]
    # Tables share cells, and the plain networks of one may be in another.
    plain = [found for cell in cells if (found := results.plain_cell(cell, others)) is not None]
    wanted = {cell.name: cell for cell in (*cells, *plain)}.values()
    paths = [places.results / f"{name}.json" for name in tables.TABLES]
    known = results.read_known(paths, places.budget, wanted)
    found, remarks = folders.collect(wanted, places.runs, known)
    return results.rows(cells, found, others), remarks
