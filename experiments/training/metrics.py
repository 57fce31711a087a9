"""The numbers that a run records: of each epoch, and of the test set."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments.training import preprocessing, sharding
from experiments.training.experiment import EVALUATION_BATCH, TEST_KEY, Experiment
from stn_jax import training
from stn_jax.training import Params, Variables

Record = dict[str, float]


class EpochMetrics(NamedTuple):
    """The measurements of an epoch.

    Attributes:
        step: the number of updates at its end.
        values: `[steps]` for each metric, the means of its batches.
        seconds: the time that its updates took.
        validation: the means over the validation split.
    """

    step: int
    values: Mapping[str, np.ndarray]
    seconds: float
    validation: Mapping[str, np.ndarray]


class TestMetrics(NamedTuple):
    """The results on the test set.

    Attributes:
        means: over its examples, by name.
        confusions: `[classes, classes]`, the number of examples by label (row) and prediction.
    """

    means: dict[str, float]
    confusions: np.ndarray


# A function from the parameters and variables of a network to its results.
Tester = Callable[[Params, Variables | None], TestMetrics]


def epoch_record(experiment: Experiment, epoch: EpochMetrics) -> Record:
    """The record of an epoch. Errors are in percent."""
    step, values, seconds, validation = epoch
    means = {name: np.mean(each) for name, each in values.items()}
    images = len(values["loss"]) * experiment.config.optimisation.batch_size
    record = {
        "step": step,
        "train_loss": means["loss"],
        "train_error": 100 * means["error"],
        "gradient_norm": means["gradient_norm"],
        "learning_rate": experiment.schedule(step - 1),
        "seconds": seconds,
        "images_per_second": images / seconds,
        "validation_loss": validation["loss"],
        "validation_error": 100 * validation["error"],
    }
    record |= {"outside": validation["outside"]} if "outside" in validation else {}
    return {name: np.asarray(value).item() for name, value in record.items()}


def make_tester(experiment: Experiment, mesh: Mesh | None = None) -> Tester:
    """A function that evaluates a network on the test set. Nothing else reads the test labels.

    Args:
        experiment: the experiment. Seeds of one configuration can share its tester.
        mesh: spreads each batch over devices.

    Returns:
        A function from parameters and variables to test metrics. It compiles at its first call.
    """
    evaluate = jax.jit(
        functools.partial(
            training.per_example,
            experiment.per_example_objective,
            sharding.shard_batches(experiment.preprocess, mesh),
            batch_size=EVALUATION_BATCH,
        ),
        out_shardings=sharding.everywhere(mesh),
    )
    batch = preprocessing.as_batch(experiment.dataset.test)
    data, key = sharding.replicate((batch, jax.random.key(TEST_KEY)), mesh)
    count = preprocessing.num_classes(experiment.config.data, experiment.dataset.num_classes)

    def test(params: Params, variables: Variables | None) -> TestMetrics:
        values = jax.device_get(evaluate(key, params, data, variables=variables))
        label, prediction = values.pop("label"), values.pop("prediction")
        confusions = np.zeros((count, count), int)
        np.add.at(confusions, (label, prediction), 1)
        means = {name: float(np.mean(each, dtype=np.float64)) for name, each in values.items()}
        return TestMetrics(means, confusions)

    return test


def class_errors(confusions: np.ndarray) -> np.ndarray:
    """Computes the error of each class in %.

    Args:
        confusions: `[classes, classes]`, the number of examples by label (row) and prediction.

    Returns:
        The errors, `[classes]`; NaN for a class without examples.
    """
    counts = confusions.sum(axis=1)
    right = np.divide(np.diag(confusions), counts, np.full(len(counts), np.nan), where=counts > 0)
    return 100 * (1 - right)
