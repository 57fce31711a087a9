"""A table of results as a page: a matrix like the paper's, then every cell with its origin."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from experiments.config import Config
from experiments.models import make_transform
from experiments.tables.cells import Budget, TableName
from experiments.tables.published import COLOCALISATION, DISTORTIONS
from experiments.tables.results import Result, Row

TEST_IMAGES = 10_000  # of MNIST
MISSING = "–"  # noqa: RUF001 (a dash, not a minus: there is no number)
COLLAPSED = "†"

# Model, transformation and what is set otherwise than in other tables.
Network = tuple[str, str | None, str | None]


class Layout(NamedTuple):
    """How a table is shown.

    Attributes:
        title: of the page.
        bold: whether a row's error is marked, given the rows of its column.
        marked: what the mark means.
        more: sections between the matrix and the cells, from the rows to lines.
        published: whose numbers stand in brackets; None where there are none.
        choices: what was chosen where the paper is silent.
        caption: of the picture.
    """

    title: str
    bold: Callable[[Row, Sequence[Row]], bool]
    marked: str
    more: tuple[Callable[[Sequence[Row]], list[str]], ...] = ()
    published: str | None = "the paper's"
    choices: tuple[str, ...] = ()
    caption: str = (
        "Test images with the frame that is sampled (dot: its upper left corner), and\n"
        "below what the transformer makes of them."
    )


def page(table: TableName, budget: Budget, rows: Sequence[Row], picture: str | None) -> str:
    """The page of a table.

    Args:
        table: its name.
        budget: of its runs. What is not of the paper's data is not compared with the paper.
        rows: all cells, with or without a result.
        picture: the file of the picture beside the page, if there is one.
    """
    layout, comparable = LAYOUTS[table], budget != "quick"
    lines = [f"# {layout.title}", "", *_reading(layout, budget, comparable), ""]
    lines += _matrix(rows, layout.bold if comparable else _never, comparable)
    lines += _footnotes(rows)
    if comparable:
        for section in layout.more:
            lines += ["", *section(rows)]
    if layout.choices:
        lines += ["", "## Chosen where the paper is silent", ""]
        lines += [f"- {choice}" for choice in layout.choices]
    if picture is not None:
        lines += ["", "## What the transformers do", "", f"![{layout.title}]({picture})", ""]
        lines += [layout.caption]
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


# --- The matrix -----------------------------------------------------------------------------------


def _matrix(
    rows: Sequence[Row], bold: Callable[[Row, Sequence[Row]], bool], comparable: bool
) -> list[str]:
    """A line for each network, transformation and change, a column for each distortion."""
    columns = list(dict.fromkeys(row.cell.distortion for row in rows))
    placed = {(*_network(row), row.cell.distortion): row for row in rows}

    def entry(network: Network, distortion: str) -> str:
        row = placed.get((*network, distortion))
        if row is None:
            return ""
        published = row.cell.published if comparable else None
        behind = "" if published is None else f" ({published})"
        column = [other for other in rows if other.cell.distortion == distortion]
        return _error(row.result, bold(row, column)) + COLLAPSED * bool(row.collapsed) + behind

    lines = _table_head(["network", "transformation", *map(heading, columns)])
    for network in _networks(rows):
        model, transform, variant = network
        name = f"`{model}`" if variant is None else f"`{model}`, {variant}"
        entries = [entry(network, distortion) for distortion in columns]
        lines.append(_line([name, f"`{transform}`" if transform else "none", *entries]))
    return lines


def _network(row: Row) -> Network:
    return row.cell.model, row.cell.transform, row.cell.variant


def _networks(rows: Sequence[Row]) -> list[Network]:
    """The lines of a matrix: cells come with what shows most first, a table ends with it."""
    networks = list(dict.fromkeys(map(_network, rows)))
    models = list(dict.fromkeys(model for model, _, _ in networks))
    return sorted(networks, key=lambda each: (each[1] is not None, -models.index(each[0])))


def heading(distortion: str) -> str:
    """A distortion as tables name it."""
    return distortion.upper() if distortion in (*DISTORTIONS, "t") else distortion


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


def no_worse_than_the_paper(row: Row, column: Sequence[Row]) -> bool:
    """Whether the error is at or below the paper's."""
    error = row.result.error if row.result else None
    return error is not None and row.cell.published is not None and error <= row.cell.published


def best_of_its_column(row: Row, column: Sequence[Row]) -> bool:
    """Whether no error of the column is lower."""
    errors = _errors(column)
    return row.cell.name in errors and errors[row.cell.name] == min(errors.values())


def _never(row: Row, column: Sequence[Row]) -> bool:
    return False


def _errors(rows: Iterable[Row]) -> dict[str, float]:
    """The mean errors that are known, by the cell's name."""
    known = {row.cell.name: row.result.error for row in rows if row.result}
    return {name: error for name, error in known.items() if error is not None}


# --- Which transformation to take -----------------------------------------------------------------


def advice(rows: Sequence[Row]) -> list[str]:
    """For each distortion the best transformation, and the cheapest that is as good."""
    head = _table_head(["distortion", "lowest error", "fewest parameters within noise", "compared"])
    lines = [
        "## Which transformation to take",
        "",
        "Within noise: at most one standard error of the lowest error above it, as of a share of",
        f"{TEST_IMAGES:,} test images. Parameters are those of theta.",
        "",
        *head,
    ]
    for distortion in dict.fromkeys(row.cell.distortion for row in rows):
        column = [row for row in rows if row.cell.distortion == distortion]
        known = [row for row in column if row.cell.name in _errors(column)]
        compared = f"{len(known)} of {len(column)}"
        best, cheapest = _advised(known) if known else (MISSING, MISSING)
        lines.append(_line([heading(distortion), best, cheapest, compared]))
    return lines


def _advised(rows: Sequence[Row]) -> tuple[str, str]:
    """The best and the cheapest that is as good, of rows that have an error."""
    errors = _errors(rows)
    lowest = min(errors.values())
    good = [row for row in rows if errors[row.cell.name] <= lowest + standard_error(lowest)]

    def text(row: Row) -> str:
        error = errors[row.cell.name]
        return f"`{row.cell.transform}`, {error:.2f} % ({_num_params(row)} in theta)"

    best = min(rows, key=lambda row: (errors[row.cell.name], _num_params(row)))
    return text(best), text(min(good, key=lambda row: (_num_params(row), errors[row.cell.name])))


def _num_params(row: Row) -> int:
    """The number of parameters in theta."""
    config = row.cell.config
    assert isinstance(config, Config)  # transformations are compared by classifying
    return make_transform(config.model).num_params


def standard_error(error: float) -> float:
    """Of an error in % that was counted over MNIST's test images, in %."""
    share = error / 100
    return 100 * math.sqrt(share * (1 - share) / TEST_IMAGES)


# --- Co-localisation ------------------------------------------------------------------------------


def per_digit(rows: Sequence[Row]) -> list[str]:
    """How often each digit was found."""
    lines = ["## Every digit", "", "Found, in % of its 100 images; in brackets the paper's."]
    lines += ["The last column is how far the networks' start alone goes.", ""]
    lines += _table_head(["images", *map(str, range(10)), "all", "all before training"])
    for row in rows:
        errors = None if row.result is None else row.result.per_digit
        if row.result is not None and errors is not None:
            paper = COLOCALISATION[row.cell.distortion]
            entries = [
                f"{100 - error:.0f} ({100 - other:.0f})"
                for error, other in zip(errors, paper, strict=True)
            ]
            untrained = row.result.mean_of("untrained_error")
            known = [row.result.error, untrained]
            found = [MISSING if error is None else f"{100 - error:.1f}" for error in known]
            lines.append(_line([heading(row.cell.distortion), *entries, *found]))
    return lines


# --- Every cell -----------------------------------------------------------------------------------


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
        _line([*_values(row, result), str(origins.index(_origin(result)) + 1)])
        for row, result in known
    ]
    listed = [f"{number}. {origin}" for number, origin in enumerate(origins, start=1)]
    return ["## Cells", "", *_table_head(columns), *lines, "", "Origins:", "", *listed]


def _values(row: Row, result: Result) -> list[str]:
    outside = result.mean_of("outside")
    return [
        f"`{row.cell.name}`",
        _number(result.error, ".2f"),
        _number(result.std, ".2f"),
        _number(result.worst, ".2f"),
        ", ".join(str(run.seed) for run in result.runs),
        f"{row.collapsed} of {len(result.runs)}",
        _number(result.mean_of("validation_error"), ".2f"),
        _number(None if outside is None else 100 * outside, ".1f"),
        _number(result.num_params, ","),
        _number(result.epochs, ""),
        _number(result.mean_of("seconds"), ".0f"),
        result.device or "",
    ]


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


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


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table_head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


# --- Tables ---------------------------------------------------------------------------------------

_DISTORTED = (
    "R, P and E keep the digit's 28 x 28 as canvas; P moves the corners of the sampled frame.",
    "A random place (RTS, TC) leaves the undistorted digit whole on the canvas.",
    "Training images are distorted anew at every epoch, test images once, for all seeds alike.",
    "AdamW with cosine decay in place of SGD; 5,000 training images are held out for validation.",
    "The classifier behind a transformer sees 28 x 28; on TC 56 x 56 samples, averaged 2 x 2.",
    "Plain networks see the whole canvas, on TC averaged 2 x 2.",
)
_EQUAL = "Networks of one kind have as many parameters, to 2 %, on one distortion."
_UNEQUAL = "Networks differ in their numbers of parameters, which stand below."

_PAPER = (no_worse_than_the_paper, "Bold is what is at or below that.")

LAYOUTS: Mapping[TableName, Layout] = {
    "table1": Layout("Table 1: distorted MNIST", *_PAPER, choices=(*_DISTORTED, _EQUAL)),
    "addition": Layout(
        "Appendix A.1: the sum of two digits",
        *_PAPER,
        choices=(
            "The second digit is another of the batch; all pairs of digits may meet.",
            "A tenth of the epochs is warm-up: with less, frames leave the image.",
            *_DISTORTED[2:4],
            _UNEQUAL,
        ),
    ),
    "transforms": Layout(
        "Every transformation on every distortion",
        best_of_its_column,
        "Bold is the best of each column.",
        (advice,),
        choices=(*_DISTORTED, _EQUAL),
    ),
    "ours": Layout(
        "A small network of today on distorted MNIST",
        *_PAPER,
        published="the paper's best of a convolutional network with (or without) a transformer",
        choices=(*_DISTORTED, _UNEQUAL),
    ),
    "ablations": Layout(
        "What users trip over: the localisation's learning rate, and averaging samples",
        best_of_its_column,
        "Bold is the best of each column.",
        choices=(
            *_DISTORTED[1:4],
            "On TC 56 x 56 samples are averaged 2 x 2, unless a line says otherwise.",
        ),
    ),
    "colocalisation": Layout(
        "Appendix A.2: co-localisation",
        *_PAPER,
        more=(per_digit,),
        choices=(
            "The networks start as ones that look for ink, as the paper's did not.",
            "Correct is an IoU above 0.5 with the 28 x 28 box of the placed image.",
        ),
        caption="Images of TC, a digit in each row: the window found (solid) and the true one.",
    ),
    "projection3d": Layout(
        "Appendix A.3: solids seen along a learned axis",
        best_of_its_column,
        "Bold is the best.",
        published=None,
        choices=(
            "Volumes of 32 voxels a side (the paper's have 60), digits 8 voxels deep.",
            "Digits are turned by up to 90 degrees about any axis.",
            _UNEQUAL,
        ),
    ),
    "gtsrb": Layout(
        "German traffic signs: number of transformers and transformation",
        best_of_its_column,
        "Bold is the best.",
        published="the lowest published error with as many transformers, which is of larger images "
        "(48 x 48; here they are 32 x 32 and squashed)",
    ),
}
