"""Command-line experiments built on `stn_jax`, and `load` for their trained networks."""

import os
import pathlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.analysis.loaded_model import LoadedModel

__all__ = ["load"]


def load(run_dir: str | os.PathLike[str]) -> "LoadedModel":
    """Loads the network of a finished run. The data are not needed.

    Args:
        run_dir: the folder of a run of `experiments.train`.

    Returns:
        The network, with `predict(images)`, `theta(images)`, `straighten(images)`, `class_names`
        and `config`. Images are arrays `[n, h, w, c]`: uint8, or floats in [0, 1]. They are
        normalised as in training, but never distorted.

    Raises:
        RunError: if the folder contains no finished run with an undamaged checkpoint, or another
            process holds its lock.

    Example::

        model = experiments.load("runs/demo")
        classes = [model.class_names[i] for i in model.predict(images).argmax(axis=1)]
    """
    from experiments.analysis.loaded_model import load_model  # imports JAX

    return load_model(pathlib.Path(run_dir).expanduser())
