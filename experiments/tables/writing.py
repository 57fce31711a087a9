"""Writes the files of each table: TABLE.json, TABLE.md and pictures of its cells."""

import pathlib
from collections.abc import Sequence
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


class Written(NamedTuple):
    """What became of a table.

    Attributes:
        known: how many of its cells have a result; without any, nothing was written.
        undrawn: why pictures could not be drawn; numbers and page are written without them.
    """

    known: int
    undrawn: list[str]


def with_shared(names: Sequence[TableName], places: Places) -> list[TableName]:
    """The tables, and those that are written already and share a cell with them, or with these.

    A cell has one result, which must not be another's in another table.
    """
    found = list(names)
    for name in found:  # which grows
        own = {cell.name for cell in tables.TABLES[name](places.budget)}
        found += [
            other
            for other in tables.TABLES
            if other not in found and (places.results / f"{other}.json").exists()
            if own & {cell.name for cell in tables.TABLES[other](places.budget)}
        ]
    return found


def write(table: TableName, places: Places) -> Written:
    """Writes the files of a table, if any result of it is known.

    Raises:
        RunError: if a record is damaged or a file cannot be written.
    """
    rows, remarks = _rows(table, places)
    for remark in remarks:
        print(remark)
    known = [row for row in rows if row.result is not None]
    if not known:
        return Written(0, [])
    with writing(places.results):
        places.results.mkdir(parents=True, exist_ok=True)
    json, markdown = (places.results / f"{table}.{end}" for end in ("json", "md"))
    write_json(json, results.document(table, places.budget, rows))
    undrawn = []
    if places.figures:
        undrawn = pictures.draw(table, known, places.results, places.runs, places.data_dir)
    text = page(table, places.budget, rows, pictures.existing(table, known, places.results))
    write_atomically(markdown, text.encode())
    print(f"{table}: {len(known)} of {len(rows)} cells in {markdown}")
    return Written(len(known), undrawn)


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
