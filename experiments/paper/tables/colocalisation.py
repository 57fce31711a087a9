"""Appendix A.2 of the paper: co-localisation, finding a digit in unlabelled images.

Command: `python -m experiments.paper colocalisation`
Time: 5 to 6 minutes for each of the 2 cells
    (`--budget standard`, a CPU with two cores)
Results: `experiments/results/colocalisation.md`

Each of the ten digits is trained separately, on images that place it at random (T) or also add
clutter (TC).
"""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Literal

from experiments.colocalisation.options import BUDGETS
from experiments.paper import published_errors
from experiments.paper.cells import Budget, Cell
from experiments.paper.markdown import MISSING, distortion_heading, table_head, table_row
from experiments.paper.results import TableRow
from experiments.paper.table import Table, is_at_most_published

_DISTORTIONS: tuple[Literal["t", "tc"], ...] = ("t", "tc")


def make_cells(budget: Budget) -> list[Cell]:
    """A cell for images without clutter and one for images with clutter."""
    return [
        Cell(
            f"colocalisation-{distortion}",
            "localiser",
            "translation_scale",
            distortion,
            dataclasses.replace(BUDGETS[budget], distortion=distortion),
            statistics.fmean(published_errors.COLOCALISATION[distortion]),
        )
        for distortion in _DISTORTIONS
    ]


def per_digit_section(rows: Sequence[TableRow]) -> list[str]:
    """How often each digit was found."""
    lines = ["## Each digit", "", "Found digits in % of 100 images; the paper's in brackets."]
    lines += ["The last column shows the networks before training.", ""]
    lines += table_head(["images", *map(str, range(10)), "all", "all before training"])
    for row in rows:
        errors = None if row.result is None else row.result.per_digit
        if row.result is not None and errors is not None:
            published = published_errors.COLOCALISATION[row.cell.distortion]
            entries = [
                f"{100 - error:.0f} ({100 - paper_error:.0f})"
                for error, paper_error in zip(errors, published, strict=True)
            ]
            totals = [row.result.error, row.result.mean_of("untrained_error")]
            found = [MISSING if error is None else f"{100 - error:.1f}" for error in totals]
            lines.append(table_row([distortion_heading(row.cell.distortion), *entries, *found]))
    return lines


TABLE = Table(
    make_cells,
    quick_cells=("*-tc",),
    title="Appendix A.2: co-localisation",
    is_bold=is_at_most_published,
    bold_meaning="Bold errors are at or below it.",
    notes=(
        "T is translation; TC is translation and clutter.",
        "The networks start with weights that look for ink. The paper mentions no such start.",
        "A window's side stays within a factor of 1.25 of the true 28 pixels, and its centre is "
        "the centre of a softmax map. The paper mentions no such limits.",
        "Distances are between the activations of both blocks and the logits, each of unit length.",
        "A window is correct if its IoU with the 28 x 28 box of the placed image is above 0.5.",
        "The paper's success rates are quoted from a secondary source; we computed their mean.",
    ),
    sections=(per_digit_section,),
    illustrated_cells=("*-tc",),
    run_figure="windows.png",
    caption="Images of TC, one digit per row: the window that was found (solid) and the\n"
    "true window (dashed).",
)
