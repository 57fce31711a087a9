"""A table of results as a page: a matrix like the paper's, then every cell with its origin."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from experiments.tables.cells import Budget, TableName
from experiments.tables.layouts import LAYOUTS, Layout
from experiments.tables.markdown import MISSING, heading, line, number, table_head
from experiments.tables.results import Result, Row

COLLAPSED = "†"
EARLIER = "‡"


class Picture(NamedTuple):
    """A cell's picture.

    Attributes:
        file: where it is, seen from the folder of results.
        current: whether it is of the result that is reported, not of one before.
    """

    file: str
    current: bool


# Model, transformation and what is set otherwise than in other tables.
Network = tuple[str, str | None, str | None]


def page(
    table: TableName, budget: Budget, rows: Sequence[Row], pictures: Mapping[str, Picture | None]
) -> str:
    """The page of a table.

    Args:
        table: its name.
        budget: of its runs. What is not of the paper's data is not compared with the paper.
        rows: all cells, with or without a result.
        pictures: by the cell's name; None for one that is missing.
    """
    layout, comparable = LAYOUTS[table], budget != "quick"
    lines = [f"# {layout.title}", "", *_reading(layout, budget, comparable), ""]
    lines += _matrix(rows, layout.bold if comparable else _never, comparable)
    lines += _footnotes(rows)
    if comparable:
        for section in layout.more:
            lines += ["", *section(rows)]
    if layout.choices:
        lines += ["", "## Chosen where the paper is silent, or otherwise", ""]
        lines += [f"- {choice}" for choice in layout.choices]
    drawn = {name: picture for name, picture in pictures.items() if picture is not None}
    if drawn:
        lines += ["", "## What the transformers do", "", layout.caption]
        lines += ["", *_pictured([row for row in rows if row.cell.name in drawn], drawn)]
        missing = [f"`{name}`" for name in pictures if name not in drawn]
        if missing:
            lines += ["", f"Without a picture here: {', '.join(missing)}."]
    return "\n".join([*lines, "", *_cells(rows)]) + "\n"


def _reading(layout: Layout, budget: Budget, comparable: bool) -> list[str]:
    """How to read the matrix."""
    if not comparable:
        return [
            f"Test error in %, lower is better, with `--budget {budget}`: a smoke on embedded",
            "digits, which says nothing about the paper's numbers.",
        ]
    brackets = "The paper has no numbers"
    if layout.published is not None:
        brackets = f"In brackets is {layout.published}"
    return [
        f"Test error in %, lower is better, with `--budget {budget}`. {brackets}.",
        f"{layout.marked} With several seeds it is the mean, ± their standard deviation, and the",
        "worst.",
    ]


def _matrix(
    rows: Sequence[Row], bold: Callable[[Row, Sequence[Row]], bool], comparable: bool
) -> list[str]:
    """A line for each network, transformation and change, a column for each distortion."""

    def entry(row: Row) -> str:
        published = row.cell.published if comparable else None
        behind = "" if published is None else f" ({published})"
        column = [other for other in rows if other.cell.distortion == row.cell.distortion]
        return _error(row.result, bold(row, column)) + COLLAPSED * bool(row.collapsed) + behind

    return _by_network(rows, entry)


def _by_network(rows: Sequence[Row], entry: Callable[[Row], str]) -> list[str]:
    """A line for each network, transformation and change, a column for each distortion."""
    columns = list(dict.fromkeys(row.cell.distortion for row in rows))
    entries = {(*_network(row), row.cell.distortion): entry(row) for row in rows}
    lines = table_head(["network", "transformation", *map(heading, columns)])
    for network in _networks(rows):
        model, transform, variant = network
        name = f"`{model}`" if variant is None else f"`{model}`, {variant}"
        found = [entries.get((*network, distortion), "") for distortion in columns]
        lines.append(line([name, f"`{transform}`" if transform else "none", *found]))
    return lines


def _pictured(rows: Sequence[Row], pictures: Mapping[str, Picture]) -> list[str]:
    """The pictures, where errors stand in the matrix, and what their mark means."""

    def entry(row: Row) -> str:
        picture = pictures[row.cell.name]
        return f"![{row.cell.name}]({picture.file})" + EARLIER * (not picture.current)

    lines = [entry(rows[0])] if len(rows) == 1 else _by_network(rows, entry)
    if any(not picture.current for picture in pictures.values()):
        lines += ["", f"{EARLIER} Not of the run whose error is above, but of an earlier one."]
    return lines


def _network(row: Row) -> Network:
    return row.cell.model, row.cell.transform, row.cell.variant


def _networks(rows: Sequence[Row]) -> list[Network]:
    """The lines of a matrix: cells come with what shows most first, a table ends with it."""
    networks = list(dict.fromkeys(map(_network, rows)))
    models = list(dict.fromkeys(model for model, _, _ in networks))
    return sorted(networks, key=lambda each: (each[1] is not None, -models.index(each[0])))


def _error(result: Result | None, bold: bool) -> str:
    if result is None:
        return MISSING
    if result.error is None:
        return "diverged"
    text = f"**{result.error:.2f}**" if bold else f"{result.error:.2f}"
    if result.std is not None:
        text += f" ± {result.std:.2f}, worst {result.worst:.2f}"
    return text


def _footnotes(rows: Sequence[Row]) -> list[str]:
    """What the marks mean, and what is missing."""
    collapsed = [f"`{row.cell.name}`" for row in rows if row.collapsed]
    missing = [f"`{row.cell.name}`" for row in rows if row.result is None]
    lines = []
    if collapsed:
        lines += [
            "",
            f"{COLLAPSED} Collapsed, in some seed: training diverged, the frame left the image, or",
            f"the error is above the plain network's: {', '.join(collapsed)}.",
        ]
    if missing:
        lines += ["", f"{MISSING} Not run, {len(missing)} of {len(rows)}: {', '.join(missing)}."]
    return lines


def _never(row: Row, column: Sequence[Row]) -> bool:
    return False


def _cells(rows: Sequence[Row]) -> list[str]:
    """All that is known of each cell, and the commands."""
    columns = [
        "cell",
        "error, %",
        "±",
        "worst",
        "seeds",
        "collapsed",
        "validation error, %",
        "outside, %",
    ]
    columns += ["parameters", "epochs", "seconds", "device", "origin"]
    known = [(row, row.result) for row in rows if row.result is not None]
    origins = list(dict.fromkeys(_origin(result) for _, result in known))
    lines = [
        line([*_values(row, result), str(origins.index(_origin(result)) + 1)])
        for row, result in known
    ]
    listed = [f"{place}. {origin}" for place, origin in enumerate(origins, start=1)]
    seconds = "Seconds are of training, on a machine that may have had other work, too."
    origin = "Origins; a command is of its commit, and at another may train a cell otherwise:"
    return ["## Cells", "", *table_head(columns), *lines, "", seconds, "", origin, "", *listed]


def _values(row: Row, result: Result) -> list[str]:
    outside = result.mean_of("outside")
    return [
        f"`{row.cell.name}`",
        number(result.error, ".2f"),
        number(result.std, ".2f"),
        number(result.worst, ".2f"),
        ", ".join(str(run.seed) for run in result.runs),
        f"{row.collapsed} of {len(result.runs)}",
        number(result.mean_of("validation_error"), ".2f"),
        number(None if outside is None else 100 * outside, ".1f"),
        number(result.num_params, ","),
        number(result.epochs, ""),
        number(result.mean_of("seconds"), ".0f"),
        result.device or "",
    ]


def _origin(result: Result) -> str:
    """What made the runs of a cell, in words; of those that diverged nothing is recorded."""
    if result.command is None:
        return "not recorded, since every run diverged"
    versions = result.versions or {}
    packages = ", ".join(
        f"{name} {versions[name]}" for name in ("python", "jax") if name in versions
    )
    commit = f"commit {result.git_commit}" if result.git_commit else "no commit"
    return ", ".join(filter(None, (f"`{result.command}`", commit, packages)))
