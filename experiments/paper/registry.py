"""All tables by name, and the choice of cells from a table. Imports no jax."""

import fnmatch
from collections.abc import Sequence
from typing import Literal

from experiments.paper.cells import Budget, Cell
from experiments.paper.table import Table
from experiments.paper.tables import (
    ablations,
    addition,
    colocalisation,
    gtsrb,
    ours,
    projection3d,
    table1,
    transforms,
)
from experiments.settings.errors import ConfigError

TableName = Literal[
    "table1",
    "addition",
    "transforms",
    "ours",
    "ablations",
    "gtsrb",
    "colocalisation",
    "projection3d",
]

TABLES: dict[TableName, Table] = {
    "table1": table1.TABLE,
    "addition": addition.TABLE,
    "transforms": transforms.TABLE,
    "ours": ours.TABLE,
    "ablations": ablations.TABLE,
    "gtsrb": gtsrb.TABLE,
    "colocalisation": colocalisation.TABLE,
    "projection3d": projection3d.TABLE,
}


def all_cells(budget: Budget) -> list[Cell]:
    """The cells of all tables. Cells that tables share occur several times."""
    return [cell for table in TABLES.values() for cell in table.make_cells(budget)]


def matches_any(name: str, patterns: Sequence[str]) -> bool:
    """Whether a cell's name matches a pattern, as file names match in a shell."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def select_cells(name: TableName, budget: Budget, patterns: Sequence[str]) -> list[Cell]:
    """The cells of a table that match any of the patterns.

    Args:
        name: the table.
        budget: the budget.
        patterns: for the names of cells, as for file names. If there are none, all cells are
            selected; a few with the budget `quick`.

    Raises:
        ConfigError: if a pattern matches no cell.
    """
    table = TABLES[name]
    cells = table.make_cells(budget)
    if not patterns:
        patterns = table.quick_cells if budget == "quick" else ("*",)
    for pattern in patterns:
        if not any(matches_any(cell.name, [pattern]) for cell in cells):
            names = ", ".join(cell.name for cell in cells)
            raise ConfigError(f"--cells: {name} has no {pattern!r}; its cells are {names}")
    return [cell for cell in cells if matches_any(cell.name, patterns)]
