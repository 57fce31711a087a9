"""Small networks with random parameters, loaded as if they had been trained."""

import pathlib
from typing import Any

import jax
import numpy as np

from experiments.analysis.loaded_model import LoadedModel
from experiments.analysis.restore import TrainedRun
from experiments.settings import command_line
from experiments.training.experiment import Experiment, build_experiment, initial_state

NETWORK = "demo --model st_fcn --features 8"


def small_experiment(data_file: pathlib.Path, flags: str) -> Experiment:
    """Builds the experiment of a command line."""
    arguments = [*flags.split(), "--dataset", "npz", "--batch-size", "6"]
    arguments += ["--data-file", str(data_file)]
    return build_experiment(command_line.parse(arguments, "train").config)


def random_params(experiment: Experiment) -> Any:
    """Initial parameters with noise, so that transformers do not return the identity."""
    rng = np.random.default_rng(0)
    params = initial_state(experiment).params
    return jax.tree.map(lambda each: each + np.float32(rng.normal(0, 0.1, each.shape)), params)


def small_model(data_file: pathlib.Path, flags: str) -> LoadedModel:
    """Loads a network of random parameters."""
    experiment = small_experiment(data_file, flags)
    return LoadedModel(TrainedRun(experiment, random_params(experiment), None))


def random_images(model: LoadedModel, count: int = 3, dtype: str = "uint8") -> np.ndarray:
    """Random images of the size of a network's input."""
    images = np.random.default_rng(0).integers(0, 256, (count, *model.image_shape))
    return images.astype(np.uint8) if dtype == "uint8" else (images / 255).astype(np.float32)
