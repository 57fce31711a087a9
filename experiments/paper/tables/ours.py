"""A small modern network on the distorted MNIST of Table 1, with and without a transformer.

Command: `python -m experiments.paper ours`
Time: seven and a half hours for all 10 cells, 22 to 98 minutes each
    (`--budget standard`, a CPU with two cores)
Results: `experiments/results/ours.md`

With its transformer it has at most 150,000 parameters.

- The first feature maps take most of the time, so there are few of them, and many of the last.
- Digits are bent, because a network that memorises them gains nothing from more epochs.
- A digit fits in 20 x 20 pixels, and the classifier is faster on 24 x 24 samples than on 28 x 28.
"""

from collections.abc import Mapping
from typing import Any

from experiments.paper import published_errors
from experiments.paper.cells import Budget, Cell, cell_name
from experiments.paper.table import Table, is_at_most_published
from experiments.paper.tables import mnist

# Filters and units of the localisation network. On R, the validation error after each of epochs 17
# to 20 of a training of 20 epochs is 1.06 to 1.18 %, against 1.24 to 1.34 % with the paper's (20,
# 20, 20) (one trial each, not recorded). On the larger canvases of RTS and TC, the layer behind the
# convolutions needs more of the 150,000 parameters.
_LOCALISATION_FEATURES: Mapping[str, tuple[int, int, int]] = {
    "r": (32, 32, 64),
    "rts": (32, 32, 48),
    "p": (32, 32, 64),
    "e": (32, 32, 64),
    "tc": (20, 20, 20),
}
# Exceptions from 0.3. With a transformer, the errors on 5,000 held-out images after 100 epochs with
# 0.3 and with 0.1 are 0.82 and 0.86 % on R, 0.88 and 0.68 % on RTS, 1.46 and 1.32 % on P. For the
# other networks 0.1 was not tried.
_DROPOUT: Mapping[tuple[str, str], float] = {("st_compact", "rts"): 0.1, ("st_compact", "p"): 0.1}


def make_cells(budget: Budget) -> list[Cell]:
    """The network with an affine transformer and without, on each distortion."""
    return [
        Cell(
            cell_name(distortion, model, transform),
            model,
            transform,
            distortion,
            mnist.mnist_config(budget, distortion, _network_settings(model, transform, distortion)),
            _best_published_cnn(model, distortion),
        )
        for model, transform in (("st_compact", "affine"), ("compact", None))
        for distortion in published_errors.DISTORTIONS
    ]


def _network_settings(model: str, transform: str | None, distortion: str) -> dict[str, Any]:
    pool = mnist.pool_size(distortion)
    settings: dict[str, Any] = {
        "model": model,
        "features": (16, 64, 96, 96),
        "augment_sigma": 0.7,
        "augment_scale": 1.1,
        "dropout": _DROPOUT.get((model, distortion), 0.3),
        "pool": pool,
    }
    if transform is not None:
        settings |= {
            "transform": transform,
            "output_size": 24 * pool,
            "localisation_features": _LOCALISATION_FEATURES[distortion],
            "localisation_lr": mnist.localisation_lr(distortion),
        }
    return settings


def _best_published_cnn(model: str, distortion: str) -> float:
    """The paper's lowest error in % of a CNN, with a transformer if `model` has one."""
    paper_model = model.replace("compact", "cnn")
    return min(
        error
        for (other, _, on), error in published_errors.TABLE1.items()
        if (other, on) == (paper_model, distortion)
    )


TABLE = Table(
    make_cells,
    quick_cells=("rts-*",),
    title="A small modern network on distorted MNIST",
    is_bold=is_at_most_published,
    bold_meaning="Bold errors are at or below it.",
    published="the paper's lowest error of a convolutional network with (or without) a transformer",
    notes=(
        *(mnist.CANVAS_NOTE, mnist.PLACEMENT_NOTE, mnist.REDRAWN_NOTE, mnist.OPTIMIZER_NOTE),
        mnist.GELU_NOTE,
        mnist.TRAINING_NOTE,
        "Weight decay is 0.1. The dropout rate around the dense layer is 0.3, and 0.1 behind a "
        "transformer on RTS and P. It was chosen on the validation split, with a transformer on R, "
        "RTS and P only. Training digits are slightly bent and scaled before the distortion.",
        "Behind a transformer the classifier receives 24 x 24 pixels. On TC these are 48 x 48 "
        "samples, averaged 2 x 2.",
        "Except on TC, the localisation network is larger than the paper's.",
        mnist.PLAIN_INPUT_NOTE,
        *(mnist.UNEQUAL_SIZE_NOTE, mnist.TEST_NOISE_NOTE),
    ),
    illustrated_cells=("*-st_compact-*",),
)
