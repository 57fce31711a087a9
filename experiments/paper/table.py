"""The definition of a table: its cells, and how its page presents them. Imports no jax."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.paper.cells import Budget, Cell
from experiments.paper.results import TableRow, known_errors

BoldRule = Callable[[TableRow, Sequence[TableRow]], bool]
Section = Callable[[Sequence[TableRow]], list[str]]

FRAME_CAPTION = (
    "Test images with the sampling frame (the dot marks its upper left corner), and\n"
    "below them the transformer's output."
)


class Table(NamedTuple):
    """A table: which cells it has, and how its page presents them.

    Attributes:
        make_cells: returns the cells for a budget, in the order in which they are trained.
        quick_cells: name patterns of the cells that the budget `quick` trains by default.
        title: of the page.
        is_bold: whether a row's error is printed bold, given all rows of its column.
        bold_meaning: what bold means, as a sentence.
        published: the source of the numbers in brackets; None if there are none.
        notes: choices that the paper does not specify, and deviations from the paper.
        sections: produce further lines of the page from the rows.
        illustrated_cells: name patterns of the cells whose page shows a figure.
        run_figure: the file in a run's `figures/` that is shown; None to draw sampling frames
            and outputs from the run's checkpoint.
        caption: of the figures.
    """

    make_cells: Callable[[Budget], list[Cell]]
    quick_cells: tuple[str, ...]
    title: str
    is_bold: BoldRule
    bold_meaning: str
    published: str | None = "the paper's error"
    notes: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    illustrated_cells: tuple[str, ...] = ()
    run_figure: str | None = None
    caption: str = FRAME_CAPTION


def is_at_most_published(row: TableRow, column: Sequence[TableRow]) -> bool:
    """Whether the error is at or below the published one."""
    error = row.result.error if row.result else None
    return error is not None and row.cell.published is not None and error <= row.cell.published


def is_best_of_column(row: TableRow, column: Sequence[TableRow]) -> bool:
    """Whether the error is the lowest of its column, or equal to it."""
    errors = known_errors(column)
    return row.cell.name in errors and errors[row.cell.name] == min(errors.values())
