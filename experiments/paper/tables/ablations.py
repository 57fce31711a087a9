"""Two settings that often go wrong: the localisation network's learning rate, and averaging.

Command: `python -m experiments.paper ablations`
Time: an hour for all 7 cells, 6 to 13 minutes each
    (`--budget standard`, a CPU with two cores)
Results: `experiments/results/ablations.md`

ST-FCN affine as in `transforms` on RTS and TC, and with one change each.
"""

from typing import Any, NamedTuple

from experiments.paper.cells import Budget, Cell, cell_name
from experiments.paper.table import Table, is_best_of_column
from experiments.paper.tables import mnist
from experiments.paper.tables.table1 import table1_cell
from experiments.paper.tables.transforms import SHORT_NOTE


class Ablation(NamedTuple):
    """A change of settings: its part of the cell's name, its description, and the settings."""

    name: str
    description: str
    settings: dict[str, Any]


_FAST = Ablation("fast", "localisation learns at 3e-3, not 7.5e-4", {"localisation_lr": 3e-3})
_SLOW = Ablation("slow", "localisation learns at 1.5e-4, not 7.5e-4", {"localisation_lr": 1.5e-4})
_UNPOOLED = Ablation("unpooled", "28 x 28 samples, not averaged", {"output_size": 28, "pool": 1})


def make_cells(budget: Budget) -> list[Cell]:
    """The unchanged cells, then the changed ones."""

    def changed_cell(distortion: str, ablation: Ablation) -> Cell:
        settings = mnist.network_settings("st_fcn", "affine", distortion) | ablation.settings
        return Cell(
            cell_name(distortion, "st_fcn", "affine", ablation.name),
            "st_fcn",
            "affine",
            distortion,
            mnist.mnist_config(budget, distortion, settings),
            variant=ablation.description,
        )

    distortions = ("rts", "tc")
    unchanged = [table1_cell(budget, "st_fcn", "affine", name, short=True) for name in distortions]
    rates = [changed_cell(name, ablation) for name in distortions for ablation in (_FAST, _SLOW)]
    return [*unchanged, *rates, changed_cell("tc", _UNPOOLED)]


TABLE = Table(
    make_cells,
    quick_cells=("rts-*-fast",),
    title="Ablations: the localisation network's learning rate, and averaging samples",
    is_bold=is_best_of_column,
    bold_meaning="The lowest error of each column is bold.",
    notes=(
        *(mnist.PLACEMENT_NOTE, mnist.REDRAWN_NOTE, mnist.OPTIMIZER_NOTE, mnist.GELU_NOTE),
        *(mnist.TRAINING_NOTE, mnist.WEIGHT_DECAY_NOTE, SHORT_NOTE),
        *(mnist.TEST_NOISE_NOTE, mnist.ONE_TC_NUMBER_NOTE),
        "On TC, 56 x 56 samples are averaged 2 x 2 unless the table says otherwise.",
    ),
)
