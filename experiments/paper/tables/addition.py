"""Appendix A.1 of the paper: the sum of two digits, each distorted in its own channel.

Command: `python -m experiments.paper addition`
Time: four and a half hours for all 8 cells, 18 to 92 minutes each
    (`--budget standard`, a CPU with two cores)
Results: `experiments/results/addition.md`

Only the sum is known in training. Networks have no transformer, one, or two parallel ones.

- Sums need more training than digits: the test error of 2x ST-FCN affine is 12.79 % after 60 epochs
  (commit 8cac7a1) and 8.23 % after 120. The CNN keeps its 30 epochs, which take about an hour.
- A sum says little about a digit at first: after a warm-up of half an epoch, at the learning rate
  of RTS, all frames leave the image. A slower localisation network stays but learns slowly; a
  longer warm-up lets it stay and learn fast.
- Weight decay is small, because there are too many pairs of digits to memorise.
"""

from typing import Any

from experiments.paper import published_errors
from experiments.paper.cells import Budget, Cell, cell_name
from experiments.paper.table import Table, is_at_most_published
from experiments.paper.tables import mnist

_WARMUP_EPOCHS = {"quick": 0.1, "standard": 6.0, "paper": 70.0}


def make_cells(budget: Budget) -> list[Cell]:
    """The networks with two transformers, with one, and without."""
    common = {"task": "add", "warmup": _WARMUP_EPOCHS[budget], "weight_decay": 1e-4}
    return [
        Cell(
            cell_name("addition", model, transform),
            model,
            transform,
            "rts",
            mnist.mnist_config(budget, "rts", settings | common),
            published_errors.ADDITION[model, transform],
        )
        for model, transform, settings in _networks(budget)
    ]


def _networks(budget: Budget) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Model, transformation family and settings of each network."""
    longer = {"epochs": 2 * mnist.EPOCHS["fcn"]} if budget == "standard" else {}
    fcn = {"features": (256, 256)} | longer
    st_fcn = {"model": "st_fcn", "localisation_lr": 1e-3} | fcn | mnist.TRANSFORMER_OUTPUT["rts"]
    two = {"placement": "parallel", "transformers": 2}
    return [
        *(
            (model, transform, st_fcn | {"transform": transform} | transformers)
            for model, transformers in (("2x_st_fcn", two), ("st_fcn", {}))
            for transform in published_errors.TRANSFORMS
        ),
        ("fcn", None, {"model": "fcn"} | fcn),
        ("cnn", None, {"model": "cnn", "features": (32, 32)}),
    ]


TABLE = Table(
    make_cells,
    quick_cells=("*-2x_st_fcn-affine", "*-cnn"),
    title="Appendix A.1: the sum of two digits",
    is_bold=is_at_most_published,
    bold_meaning="Bold errors are at or below it.",
    notes=(
        "The second digit is another image of the batch. Any pair of digits is possible.",
        "The learning rate rises for six epochs (70 with `--budget paper`). When it rose for half "
        "an epoch, frames left the image.",
        *(mnist.REDRAWN_NOTE, mnist.OPTIMIZER_NOTE, mnist.GELU_NOTE),
        mnist.UNEQUAL_SIZE_NOTE,
    ),
    illustrated_cells=("*-2x_st_fcn-*",),
)
