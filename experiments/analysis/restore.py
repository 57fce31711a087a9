"""Restores the trained network of a run from its newest checkpoint."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import datasets
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.folder import lock_folder
from experiments.runs.records import RunError, read_config, read_summary
from experiments.settings.config import Config, Data
from experiments.settings.errors import ConfigError
from experiments.settings.machine import expand_user
from experiments.settings.relations import has_user_defined_family
from experiments.training.experiment import (
    Experiment,
    assemble_experiment,
    build_experiment,
    initial_state,
)
from experiments.training.models import make_transform
from experiments.training.preprocessing import Normalisation
from stn_jax.training import Params, Variables

LoadDataset = Callable[[Data], datasets.Dataset]


class TrainedRun(NamedTuple):
    """A run that has a checkpoint.

    Attributes:
        experiment: its experiment.
        params: the parameters of its newest checkpoint.
        summary: its summary; None if it is not finished.
        variables: the other arrays of its network, from the same checkpoint.
    """

    experiment: Experiment
    params: Params
    summary: Mapping[str, Any] | None
    variables: Variables | None = None


def restore(folder: str | os.PathLike[str], load: LoadDataset | None = None) -> TrainedRun:
    """Restores a run, and releases the lock of its folder; see `open_run`."""
    with open_run(folder, load) as trained:
        return trained


@contextlib.contextmanager
def open_run(
    folder: str | os.PathLike[str], load: LoadDataset | None = None
) -> Iterator[TrainedRun]:
    """Restores a run and locks its folder.

    Args:
        folder: the folder of the run.
        load: loads the data set. If None, black images take the place of the data, unless the
            summary does not describe them.

    Yields:
        The run.

    Raises:
        RunError: if the folder contains no run, the run has no undamaged checkpoint of this
            network, its user-defined family cannot be imported, or another process holds the lock.
        DatasetError: if the data are needed and cannot be loaded.
    """
    folder = expand_user(folder)
    config = read_config(folder)
    if not (folder / "checkpoints").exists():
        raise RunError(f"{folder}: no checkpoint found")
    _check_family(folder, config)
    with lock_folder(folder):  # `Checkpoints` removes unfinished files
        summary = read_summary(folder)
        described = (summary or {}).get("data")
        if load is not None:
            experiment = assemble_experiment(config, load(config.data))
        elif described is None:
            experiment = build_experiment(config)
        else:
            experiment = _without_data(config, described)
        # Only shapes are needed, and compiling the initialisation of parameters is slow.
        like = jax.eval_shape(lambda: initial_state(experiment))
        state = Checkpoints(folder / "checkpoints").restore(like).state
        # Test images are distorted as in the run.
        with jax.default_prng_impl(str(jax.random.key_impl(state.key))):
            yield TrainedRun(experiment, state.params, summary, state.variables)


def _check_family(folder: pathlib.Path, config: Config) -> None:
    """Raises `RunError` unless the user-defined family of a run, if it has one, can be imported."""
    try:
        if has_user_defined_family(config):
            make_transform(config.model)
    except ConfigError as error:
        raise RunError(f"{folder / 'config.json'}: {error}") from error


def describe_data(experiment: Experiment) -> dict[str, Any]:
    """Describes the training data for the summary, to restore the run without them."""
    dataset, images = experiment.dataset, experiment.dataset.train.images
    names = {} if dataset.class_names is None else {"class_names": list(dataset.class_names)}
    return {
        "shape": list(images.shape[1:]),
        "dtype": str(images.dtype),
        "num_classes": dataset.num_classes,
        **names,
        **{name: list(each) for name, each in experiment.normalisation._asdict().items()},
    }


def _without_data(config: Config, described: Mapping[str, Any]) -> Experiment:
    """Builds an experiment with black images in place of its data."""
    count = config.optimisation.batch_size
    images = np.zeros((count, *described["shape"]), described["dtype"])
    black = datasets.Split(images, np.zeros(count, np.int32))
    names = described.get("class_names")
    dataset = datasets.Dataset(
        config.data.dataset,
        *(black, black, black),
        described["num_classes"],
        None if names is None else tuple(names),
    )
    normalisation = Normalisation(tuple(described["mean"]), tuple(described["std"]))
    return assemble_experiment(config, dataset, normalisation)
