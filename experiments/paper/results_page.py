"""A table's page in Markdown: a matrix like the paper's, then every cell and how it was made."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from experiments.paper.cells import Budget
from experiments.paper.markdown import (
    MISSING,
    distortion_heading,
    format_number,
    table_head,
    table_row,
)
from experiments.paper.results import CellResult, TableRow
from experiments.paper.table import BoldRule, Table

COLLAPSED_MARK = "†"
OUTDATED_MARK = "‡"


class CellFigure(NamedTuple):
    """A cell's figure.

    Attributes:
        file: its path relative to the folder of results.
        current: whether it shows a run of the reported result; otherwise it shows an earlier run.
    """

    file: str
    current: bool


# Model, transformation and variant: what identifies a row of the matrix.
NetworkKey = tuple[str, str | None, str | None]


def format_page(
    table: Table,
    budget: Budget,
    rows: Sequence[TableRow],
    figures: Mapping[str, CellFigure | None],
) -> str:
    """The page of a table.

    Args:
        table: the table.
        budget: the budget of its runs. `quick` does not train on the paper's data, so its errors
            are not compared with the paper's.
        rows: all cells, with or without a result.
        figures: by cell name; None for a figure that is missing.
    """
    comparable = budget != "quick"
    lines = [f"# {table.title}", "", *_introduction(table, budget, comparable), ""]
    lines += _matrix(rows, table.is_bold if comparable else _never_bold, comparable)
    lines += _footnotes(rows)
    if comparable:
        for section in table.sections:
            lines += ["", *section(rows)]
    if table.notes:
        lines += ["", "## Choices that the paper leaves open, and deviations from it", ""]
        lines += [f"- {note}" for note in table.notes]
    lines += _figure_section(table, rows, figures)
    return "\n".join([*lines, "", *_cell_section(rows)]) + "\n"


def _introduction(table: Table, budget: Budget, comparable: bool) -> list[str]:
    """How to read the matrix."""
    if not comparable:
        return [
            f"Test error in %, lower is better, with `--budget {budget}`: a smoke test on embedded",
            "digits. The numbers cannot be compared with the paper's.",
        ]
    brackets = "The paper reports no errors"
    if table.published is not None:
        brackets = f"The number in brackets is {table.published}"
    return [
        f"Test error in %, lower is better, with `--budget {budget}`. {brackets}.",
        f"{table.bold_meaning} For several seeds it is the mean ± the standard deviation, followed "
        "by the worst error.",
    ]


# --- Matrix ---------------------------------------------------------------------------------------


def _matrix(rows: Sequence[TableRow], is_bold: BoldRule, comparable: bool) -> list[str]:
    """The errors, with a row for each network and a column for each distortion."""

    def format_entry(row: TableRow) -> str:
        published = row.cell.published if comparable else None
        suffix = "" if published is None else f" ({published})"
        column = [other for other in rows if other.cell.distortion == row.cell.distortion]
        error = _format_error(row.result, is_bold(row, column))
        return error + COLLAPSED_MARK * bool(row.collapsed) + suffix

    return _network_table(rows, format_entry)


def _network_table(rows: Sequence[TableRow], format_entry: Callable[[TableRow], str]) -> list[str]:
    """A table with a row for each network and a column for each distortion."""
    columns = list(dict.fromkeys(row.cell.distortion for row in rows))
    entries = {(*_network_key(row), row.cell.distortion): format_entry(row) for row in rows}
    lines = table_head(["network", "transformation", *map(distortion_heading, columns)])
    for key in _sorted_networks(rows):
        model, transform, variant = key
        name = f"`{model}`" if variant is None else f"`{model}`, {variant}"
        found = [entries.get((*key, distortion), "") for distortion in columns]
        lines.append(table_row([name, f"`{transform}`" if transform else "none", *found]))
    return lines


def _network_key(row: TableRow) -> NetworkKey:
    return row.cell.model, row.cell.transform, row.cell.variant


def _sorted_networks(rows: Sequence[TableRow]) -> list[NetworkKey]:
    """Plain networks first. Models are in reverse order: cells start with the best networks."""
    networks = list(dict.fromkeys(map(_network_key, rows)))
    models = list(dict.fromkeys(model for model, _, _ in networks))
    return sorted(networks, key=lambda key: (key[1] is not None, -models.index(key[0])))


def _format_error(result: CellResult | None, bold: bool) -> str:
    if result is None:
        return MISSING
    if result.error is None:
        return "diverged"
    text = f"**{result.error:.2f}**" if bold else f"{result.error:.2f}"
    if result.std is not None:
        text += f" ± {result.std:.2f}, worst {result.worst:.2f}"
    return text


def _never_bold(row: TableRow, column: Sequence[TableRow]) -> bool:
    return False


def _footnotes(rows: Sequence[TableRow]) -> list[str]:
    """The meaning of the marks, and the cells that are missing."""
    collapsed = [f"`{row.cell.name}`" for row in rows if row.collapsed]
    missing = [f"`{row.cell.name}`" for row in rows if row.result is None]
    lines = []
    if collapsed:
        lines += [
            "",
            f"{COLLAPSED_MARK} Collapsed with at least one seed: training diverged, the frame left "
            "the image, or the network without a transformer has a lower error: "
            f"{', '.join(collapsed)}.",
        ]
    if missing:
        lines += ["", f"{MISSING} Not run, {len(missing)} of {len(rows)}: {', '.join(missing)}."]
    return lines


# --- Figures --------------------------------------------------------------------------------------


def _figure_section(
    table: Table, rows: Sequence[TableRow], figures: Mapping[str, CellFigure | None]
) -> list[str]:
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    if not drawn:
        return []
    lines = ["", "## What the transformers do", "", table.caption, ""]
    lines += _figure_table([row for row in rows if row.cell.name in drawn], drawn)
    missing = [f"`{name}`" for name in figures if name not in drawn]
    if missing:
        lines += ["", f"There is no figure of {', '.join(missing)}."]
    return lines


def _figure_table(rows: Sequence[TableRow], figures: Mapping[str, CellFigure]) -> list[str]:
    """The figures, arranged as in the matrix; a single figure stands alone."""

    def format_entry(row: TableRow) -> str:
        figure = figures[row.cell.name]
        return f"![{row.cell.name}]({figure.file})" + OUTDATED_MARK * (not figure.current)

    lines = [format_entry(rows[0])] if len(rows) == 1 else _network_table(rows, format_entry)
    if any(not figure.current for figure in figures.values()):
        lines += [
            "",
            f"{OUTDATED_MARK} Shows an earlier run, not the one whose error is above.",
        ]
    return lines


# --- Cells ----------------------------------------------------------------------------------------

_CELL_COLUMNS = (
    "cell",
    "error, %",
    "±",
    "worst",
    "seeds",
    "collapsed",
    "validation error, %",
    "outside, %",
    "parameters",
    "epochs",
    "seconds",
    "device",
    "origin",
)


def _cell_section(rows: Sequence[TableRow]) -> list[str]:
    """Every cell with a result, and a numbered list of how the results were made."""
    known = [(row, row.result) for row in rows if row.result is not None]
    origins = list(dict.fromkeys(_format_origin(result) for _, result in known))
    lines = ["## Cells", "", *table_head(_CELL_COLUMNS)]
    for row, result in known:
        number = origins.index(_format_origin(result)) + 1
        lines.append(table_row([*_cell_values(row, result), str(number)]))
    lines += [
        "",
        "Outside is the share of samples outside the image. Seconds are training time; the machine "
        "may have had other work.",
        "",
        "Origins (at another commit, the same command may train a cell with other settings):",
        "",
    ]
    return lines + [f"{number}. {origin}" for number, origin in enumerate(origins, start=1)]


def _cell_values(row: TableRow, result: CellResult) -> list[str]:
    outside = result.mean_of("outside")
    return [
        f"`{row.cell.name}`",
        format_number(result.error, ".2f"),
        format_number(result.std, ".2f"),
        format_number(result.worst, ".2f"),
        ", ".join(str(run.seed) for run in result.runs),
        f"{row.collapsed} of {len(result.runs)}",
        format_number(result.mean_of("validation_error"), ".2f"),
        format_number(None if outside is None else 100 * outside, ".1f"),
        format_number(result.num_params, ","),
        format_number(result.epochs, ""),
        format_number(result.mean_of("seconds"), ".0f"),
        result.device or "",
    ]


def _format_origin(result: CellResult) -> str:
    """The command, commit and versions of a result."""
    if result.command is None:
        return "not recorded, because every run diverged"
    versions = result.versions or {}
    packages = ", ".join(
        f"{name} {versions[name]}" for name in ("python", "jax") if name in versions
    )
    commit = f"commit {result.git_commit}" if result.git_commit else "no commit"
    return ", ".join(filter(None, (f"`{result.command}`", commit, packages)))
