"""Experiments with a network whose transformers have given thetas."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.settings.config import Config, Data, Model, Optimisation
from experiments.training.experiment import Experiment, build_experiment


class FixedNetwork(NamedTuple):
    """A network whose parameters are the thetas of its transformers.

    Attributes:
        size: (height, width) of the outputs.
    """

    size: tuple[int, int]

    def apply(self, variables: Any, images: jax.Array, rngs: Any, mutable: Any) -> Any:
        output = jnp.zeros((len(images), *self.size, images.shape[-1]))
        thetas = variables["params"]
        found = {name: {"theta": theta, "output": output} for name, theta in thetas.items()}
        return (None, found), {}


def fixed_experiment(
    data_file: pathlib.Path, data: dict[str, Any], size: tuple[int, int] | None = None, **model: Any
) -> Experiment:
    """Builds an experiment with a `FixedNetwork`, whose outputs are as large as the images."""
    config = Config(
        Data(dataset="npz", data_file=str(data_file), **data),
        Model("st_fcn", **model),
        Optimisation(batch_size=6),
    )
    experiment = build_experiment(config)
    height, width = size or experiment.dataset.test.images.shape[1:3]
    return dataclasses.replace(experiment, network=FixedNetwork((height, width)))
