"""Sections of pages between the matrix and the cells."""

import math
from collections.abc import Sequence

from experiments.config import Config
from experiments.models import make_transform
from experiments.tables.markdown import MISSING, heading, line, table_head
from experiments.tables.published import COLOCALISATION
from experiments.tables.results import Row, known_errors

TEST_IMAGES = 10_000  # of MNIST


def advice(rows: Sequence[Row]) -> list[str]:
    """For each distortion the best transformation, and the cheapest that is as good."""
    head = table_head(["distortion", "lowest error", "fewest parameters within noise", "compared"])
    lines = [
        "## Which transformation to take",
        "",
        "Within noise: at most one standard error of the lowest error above it, as of a share of",
        f"{TEST_IMAGES:,} test images. Parameters are those of theta.",
        "",
        *head,
    ]
    transformed = [row for row in rows if row.cell.transform is not None]
    for distortion in dict.fromkeys(row.cell.distortion for row in rows):
        column = [row for row in transformed if row.cell.distortion == distortion]
        known = [row for row in column if row.cell.name in known_errors(column)]
        compared = f"{len(known)} of {len(column)}"
        best, cheapest = _advised(known) if known else (MISSING, MISSING)
        lines.append(line([heading(distortion), best, cheapest, compared]))
    return lines


def _advised(rows: Sequence[Row]) -> tuple[str, str]:
    """The best and the cheapest that is as good, of rows that have an error."""
    errors = known_errors(rows)
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


def per_digit(rows: Sequence[Row]) -> list[str]:
    """How often each digit was found."""
    lines = ["## Every digit", "", "Found, in % of its 100 images; in brackets the paper's."]
    lines += ["The last column is how far the networks' start alone goes.", ""]
    lines += table_head(["images", *map(str, range(10)), "all", "all before training"])
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
            lines.append(line([heading(row.cell.distortion), *entries, *found]))
    return lines
