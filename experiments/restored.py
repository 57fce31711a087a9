"""A trained network, without training it again and without the data that it was trained on."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments import datasets, frames, preparation, run_folder
from experiments import experiment as setup
from experiments.checkpoints import Checkpoints
from experiments.config import Config
from experiments.experiment import Experiment
from experiments.preparation import Normalisation
from experiments.records import RunError, read_config, read_summary


def restore(folder: pathlib.Path) -> tuple[Experiment, Any]:
    """The experiment of a run and the parameters of its newest checkpoint.

    The data are loaded only where the summary does not say what they are like.

    Raises:
        RunError: if the folder holds no run with a checkpoint, or the run is going on.
        DatasetError: if data are needed and cannot be had.
    """
    config = read_config(folder)
    if not (folder / "checkpoints").exists():
        raise RunError(f"{folder}: holds no checkpoint")
    with run_folder.lock(folder):  # opening checkpoints removes what is being written
        described = (read_summary(folder) or {}).get("data")
        experiment = setup.build(config) if described is None else _without_data(config, described)
        checkpoints = Checkpoints(folder / "checkpoints")
        snapshot = checkpoints.restore(setup.initial_state(experiment))
    return experiment, snapshot.state.params


def description(experiment: Experiment) -> dict[str, Any]:
    """What a network has to be told of the data that it was trained on, for the summary."""
    images = experiment.dataset.train.images
    return {
        "shape": list(images.shape[1:]),
        "dtype": str(images.dtype),
        "num_classes": experiment.dataset.num_classes,
        **{name: list(each) for name, each in experiment.normalisation._asdict().items()},
    }


def _without_data(config: Config, described: Mapping[str, Any]) -> Experiment:
    """The experiment with black images in place of its data."""
    count = config.optimisation.batch_size
    images = np.zeros((count, *described["shape"]), described["dtype"])
    black = datasets.Split(images, np.zeros(count, np.int32))
    dataset = datasets.Dataset(config.data.dataset, black, black, black, described["num_classes"])
    normalisation = Normalisation(tuple(described["mean"]), tuple(described["std"]))
    return setup.assemble(config, dataset, normalisation)


class Viewer:
    """What a trained network's transformers on the input make of images that are not distorted.

    Args:
        experiment: the experiment that it is of.
        params: its parameters.
    """

    def __init__(self, experiment: Experiment, params: Any) -> None:
        undistorted = dataclasses.replace(experiment.config.data, distortion="none")
        prepare = preparation.make_prepare(undistorted, experiment.normalisation)

        def look(images: jax.Array) -> Any:
            keys = jax.random.split(jax.random.key(0), len(images))  # nothing is drawn from them
            return experiment.apply(params, prepare(keys, {"image": images})["image"], None)[1]

        self._model, self._look = experiment.config.model, jax.jit(look)
        stored = preparation.as_batch(experiment.dataset.train)
        prepared = jax.eval_shape(
            experiment.prepare, jax.random.split(jax.random.key(0), len(stored["label"])), stored
        )
        self.input_shape = prepared["image"].shape[1:]

    def frames(self, image: np.ndarray) -> list[frames.Frame]:
        """The frames on one image `[h, w, c]` of `input_shape`, stored as training images are."""
        return frames.on_input(self._model, self._look(image[None]))
