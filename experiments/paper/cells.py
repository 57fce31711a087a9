"""A cell of a table: its name, its settings and the error to compare it with. Imports no jax."""

import hashlib
import json
from typing import Literal, NamedTuple

from experiments.colocalisation.options import ColocalisationSettings
from experiments.settings.config import Config
from experiments.settings.conversion import LOCATIONS

Budget = Literal["quick", "standard", "paper"]


class Cell(NamedTuple):
    """One entry of a table: a network that is trained on one kind of images.

    Attributes:
        name: unique among all tables. Tables that share a cell use the same name.
        model: the network. A prefix such as `2x_` gives the number of transformers.
        transform: the transformation family; None without a transformer.
        distortion: the distortion of the images.
        config: the settings of the run with seed 0: of `experiments.train`, or of a
            co-localisation.
        published: the error in % to compare with; None if there is none.
        variant: for `ablations`, how the settings differ from the cell without a variant.
    """

    name: str
    model: str
    transform: str | None
    distortion: str
    config: Config | ColocalisationSettings
    published: float | None = None
    variant: str | None = None


def cell_name(*parts: str | None) -> str:
    """The parts that are not None or empty, joined with hyphens."""
    return "-".join(part for part in parts if part)


def fingerprint(cell: Cell) -> str:
    """A hash of a cell's settings. Recorded results count only if it is unchanged.

    Locations of data and the seed are left out. So are settings at their defaults: a new setting
    then keeps all fingerprints.
    """
    config = cell.config
    if isinstance(config, ColocalisationSettings):
        groups = [(config, ColocalisationSettings())]
    else:
        defaults = Config()
        groups = [
            (config.data, defaults.data),
            (config.model, defaults.model),
            (config.optimisation, defaults.optimisation),
        ]
    changed = {
        name: value
        for group, default in groups
        for name, value in vars(group).items()
        if value != getattr(default, name) and name not in (*LOCATIONS, "seed")
    }
    return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:16]
