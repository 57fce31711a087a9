"""Six transformation families on every distortion of Table 1, trained equally long.

Command: `python -m experiments.paper transforms`
Time: four hours for all 35 cells, 2 to 15 minutes each
    (`--budget standard`, a CPU with two cores)
Results: `experiments/results/transforms.md`

The paper compares three families. All networks are ST-FCN, or FCN without a transformer, because
convolutional layers would compensate for part of what a transformation leaves.
"""

import math
from collections.abc import Sequence

from experiments.paper import published_errors
from experiments.paper.cells import Budget, Cell
from experiments.paper.markdown import MISSING, distortion_heading, table_head, table_row
from experiments.paper.results import TableRow, known_errors
from experiments.paper.table import Table, is_best_of_column
from experiments.paper.tables import mnist
from experiments.paper.tables.table1 import table1_cell
from experiments.settings.config import Config

COMPARED = (
    "rotation",
    "translation_scale",
    "similarity",
    "affine",
    "projective",
    "thin_plate_spline",
)
NUM_TEST_IMAGES = 10_000
SHORT_NOTE = (
    "With `--budget standard` all networks train for 60 epochs. The suffix `-short` marks cells "
    "that train longer in Table 1."
)


def make_cells(budget: Budget) -> list[Cell]:
    """The network without a transformer, then each family, on every distortion."""
    networks = [("fcn", None), *(("st_fcn", transform) for transform in COMPARED)]
    return [
        table1_cell(budget, model, transform, distortion, short=True)
        for model, transform in networks
        for distortion in published_errors.DISTORTIONS
    ]


def recommendation_section(rows: Sequence[TableRow]) -> list[str]:
    """For each distortion, the best family, and the one with fewest parameters within noise."""
    head = table_head(["distortion", "lowest error", "fewest parameters within noise", "compared"])
    lines = [
        "## Which transformation to use",
        "",
        "An error is within noise if it exceeds the lowest error by at most one standard error,",
        f"computed from {NUM_TEST_IMAGES:,} test images. The number of parameters is the size of",
        "theta.",
        "",
        *head,
    ]
    with_transformer = [row for row in rows if row.cell.transform is not None]
    for distortion in dict.fromkeys(row.cell.distortion for row in rows):
        column = [row for row in with_transformer if row.cell.distortion == distortion]
        known = [row for row in column if row.cell.name in known_errors(column)]
        compared = f"{len(known)} of {len(column)}"
        best, smallest = _best_and_smallest(known) if known else (MISSING, MISSING)
        lines.append(table_row([distortion_heading(distortion), best, smallest, compared]))
    return lines


def _best_and_smallest(rows: Sequence[TableRow]) -> tuple[str, str]:
    """The best row and the one with fewest parameters within noise; all rows have an error."""
    errors = known_errors(rows)
    lowest = min(errors.values())
    within_noise = [row for row in rows if errors[row.cell.name] <= lowest + standard_error(lowest)]

    def describe(row: TableRow) -> str:
        error = errors[row.cell.name]
        return f"`{row.cell.transform}`, {error:.2f} % ({_theta_size(row)} in theta)"

    best = min(rows, key=lambda row: (errors[row.cell.name], _theta_size(row)))
    smallest = min(within_noise, key=lambda row: (_theta_size(row), errors[row.cell.name]))
    return describe(best), describe(smallest)


def _theta_size(row: TableRow) -> int:
    from experiments.training.models import make_transform  # imports jax, which slows down --help

    config = row.cell.config
    assert isinstance(config, Config)  # a classifier, not a co-localisation
    return make_transform(config.model).num_params


def standard_error(error: float) -> float:
    """The standard error of an error measured on MNIST's test images, both in %."""
    share = error / 100
    return 100 * math.sqrt(share * (1 - share) / NUM_TEST_IMAGES)


TABLE = Table(
    make_cells,
    quick_cells=("r-*-thin_plate_spline", "r-*-similarity"),
    title="Every transformation on every distortion",
    is_bold=is_best_of_column,
    bold_meaning="The lowest error of each column is bold.",
    notes=(
        *mnist.DISTORTED_MNIST_NOTES,
        *(mnist.TRAINING_NOTE, mnist.WEIGHT_DECAY_NOTE, SHORT_NOTE),
        *(mnist.EQUAL_SIZE_NOTE, mnist.TEST_NOISE_NOTE, mnist.ONE_TC_NUMBER_NOTE),
    ),
    sections=(recommendation_section,),
    illustrated_cells=("*-st_fcn-*",),
)
