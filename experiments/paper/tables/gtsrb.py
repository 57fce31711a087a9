"""German traffic signs: none to three transformers of three families.

Command: `python -m experiments.paper gtsrb`
Time: 14 to 29 minutes for each of the 10 cells
    (`--budget standard`, a CPU with two cores)
Results: `experiments/results/gtsrb.md`

One transformer is at the input, the others before the next convolutions. The settings are those of
the preset `gtsrb`, but the output of a transformer is as large as the image, because networks
without a transformer have no finer view.
"""

from typing import Any

from experiments.paper.cells import Budget, Cell, cell_name
from experiments.paper.published_errors import GTSRB
from experiments.paper.table import FRAME_CAPTION, Table, is_best_of_column
from experiments.settings.access import replace_settings
from experiments.settings.presets import PRESETS

# Units of the dense layer with 0, 1, 2 and 3 transformers, for 500,000 parameters in total.
_DENSE_UNITS = (312, 300, 131, 87)
_BUDGET_SETTINGS: dict[Budget, dict[str, Any]] = {
    "quick": {"dataset": "digits", "epochs": 1, "warmup": 0.5},
    "standard": {"epochs": 25},
    "paper": {"epochs": 200},
}


def make_cells(budget: Budget) -> list[Cell]:
    """Affine transformers, no transformer, then the other families."""
    networks: list[tuple[int, str | None]] = [(count, "affine") for count in (3, 2, 1)]
    networks.append((0, None))
    for transform in ("similarity", "thin_plate_spline"):
        networks += [(count, transform) for count in (3, 2, 1)]
    return [_make_cell(budget, count, transform) for count, transform in networks]


def _make_cell(budget: Budget, count: int, transform: str | None) -> Cell:
    model = f"{count}x_st_compact" if count else "compact"
    settings: dict[str, Any] = {
        "output_size": None,
        "normalisation": "channel",
        "features": (32, 64, 128, _DENSE_UNITS[count]),
        **_BUDGET_SETTINGS[budget],
    }
    if transform is None:
        settings |= {"model": "compact", "placement": "input", "transformers": 1}
    else:
        settings |= {"transform": transform, "transformers": count}
    config = replace_settings(PRESETS["gtsrb"].config, settings)
    return Cell(
        cell_name("gtsrb", model, transform), model, transform, "none", config, GTSRB[count]
    )


TABLE = Table(
    make_cells,
    quick_cells=("*-compact", "*-3x_st_compact-affine"),
    title="German traffic signs: number of transformers and transformation",
    is_bold=is_best_of_column,
    bold_meaning="The lowest error is bold.",
    published="the lowest published error with as many transformers, on larger images (48 x 48; "
    "here they are resized to 32 x 32 without keeping the aspect ratio)",
    illustrated_cells=("*x_st_compact-*",),
    caption=f"{FRAME_CAPTION} Only the first transformer is shown, which receives the image.",
)
