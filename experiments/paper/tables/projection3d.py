"""Appendix A.3 of the paper: rotated solids, projected along a fixed or a learned axis.

Command: `python -m experiments.paper projection3d`
Time: 80 minutes for all 3 cells, 18 to 46 minutes each
    (`--budget standard`, a CPU with two cores)
Results: `experiments/results/projection3d.md`

A digit becomes a solid in a volume, is rotated in 3D and classified from a 2D projection. The paper
reports no errors. The settings are those of the preset `projection3d`.
"""

from typing import Any

from experiments.paper.cells import Budget, Cell, cell_name
from experiments.paper.table import Table, is_best_of_column
from experiments.paper.tables import mnist
from experiments.settings.access import replace_settings
from experiments.settings.presets import PRESETS

_BUDGET_SETTINGS: dict[Budget, dict[str, Any]] = {
    "quick": {"dataset": "digits", "epochs": 1},
    "standard": {},
    "paper": {"canvas": 60, "epochs": 50},
}


def make_cells(budget: Budget) -> list[Cell]:
    """The affine transformer, no transformer, the rigid transformer."""
    start = PRESETS["projection3d"].config
    networks = (
        ("st_projection_cnn", "affine_3d"),
        ("projection_cnn", None),
        ("st_projection_cnn", "rigid_3d"),
    )

    def make_cell(model: str, transform: str | None) -> Cell:
        network = {"model": model, "transform": transform or start.model.transform}
        config = replace_settings(start, _BUDGET_SETTINGS[budget] | network)
        return Cell(cell_name("extruded", model, transform), model, transform, "extruded", config)

    return [make_cell(model, transform) for model, transform in networks]


TABLE = Table(
    make_cells,
    quick_cells=("*-projection_cnn", "*-affine_3d"),
    title="Appendix A.3: solids projected along a learned axis",
    is_bold=is_best_of_column,
    bold_meaning="The lowest error is bold.",
    published=None,
    notes=(
        "Volumes have 32 voxels per side (the paper's have 60), and digits are 8 voxels deep.",
        "Digits are rotated by up to 90 degrees about any axis.",
        *(mnist.GELU_NOTE, mnist.UNEQUAL_SIZE_NOTE),
    ),
    illustrated_cells=("*-st_projection_cnn-*",),
    run_figure="images.png",
    caption="Solids from the front (above) and from the learned viewpoint (below).",
)
