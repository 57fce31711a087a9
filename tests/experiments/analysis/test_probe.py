"""Probes hold a sample of the test set that is seeded and has all classes."""

import pathlib
from typing import Any

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from experiments.analysis.probe import Probe, balanced_sample, sample_test_images
from experiments.settings import command_line
from experiments.training import preprocessing
from experiments.training.experiment import TEST_KEY, build_experiment, initial_state
from tests.experiments.analysis.fixed_network import fixed_experiment

LABELS = strategies.lists(strategies.integers(0, 5), min_size=1, max_size=60)


@hypothesis.given(labels=LABELS, count=strategies.integers(1, 70))
def test_sample_has_as_many_of_each_class_as_possible(labels: list[int], count: int) -> None:
    array = np.array(labels)
    chosen = balanced_sample(array, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(labels))
    drawn = np.bincount(array[chosen], minlength=6)
    available = np.bincount(array, minlength=6)
    left = drawn[drawn < available]  # classes that are not exhausted
    assert left.size == 0 or drawn.max() <= left.min() + 1


@hypothesis.given(labels=LABELS, count=strategies.integers(1, 70))
def test_smaller_sample_is_the_start_of_a_larger_one(labels: list[int], count: int) -> None:
    whole = balanced_sample(np.array(labels), len(labels))
    np.testing.assert_array_equal(balanced_sample(np.array(labels), count), whole[:count])


def test_sample_of_a_sorted_test_set_has_different_classes() -> None:
    labels = np.repeat(np.arange(10), 50)
    assert len(set(labels[balanced_sample(labels, 8)])) == 8
    assert len(set(balanced_sample(labels, 20) % 50)) > 10  # and not only their first examples


@pytest.mark.parametrize(
    "data",
    [
        {"distortion": "r"},
        {"distortion": "none", "task": "add"},
        {"distortion": "tc", "canvas": 20, "crop_size": 3},
    ],
    ids=["r", "add", "tc"],
)
def test_images_do_not_depend_on_the_size_of_the_sample(
    data_file: pathlib.Path, data: dict[str, Any]
) -> None:
    """Not even if images depend on others of their batch."""
    experiment = fixed_experiment(data_file, data)
    few, more = (sample_test_images(experiment, count) for count in (8, 1000))
    assert (len(few.images), len(more.images)) == (8, 25)
    for one, other in zip(few, more, strict=True):
        np.testing.assert_array_equal(_host(one), _host(other)[:8])


def _host(array: Any) -> np.ndarray:
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(array) if is_key else array)


def test_images_are_those_of_the_evaluation(data_file: pathlib.Path) -> None:
    experiment = fixed_experiment(data_file, {"distortion": "r"})
    test = experiment.dataset.test
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    keys = fold(jax.random.key(TEST_KEY), jnp.arange(len(test)))
    evaluated = experiment.preprocess(keys, preprocessing.as_batch(test))
    sample = sample_test_images(experiment, 10)
    np.testing.assert_array_equal(sample.labels, test.labels[sample.examples])
    expected = np.asarray(evaluated["image"])[sample.examples]
    np.testing.assert_allclose(sample.images, expected, atol=1e-5)


def test_given_examples_are_used(data_file: pathlib.Path) -> None:
    experiment = fixed_experiment(data_file, {"distortion": "none"})
    probe = Probe(experiment, examples=[4, 2])
    np.testing.assert_array_equal(probe.labels, experiment.dataset.test.labels[[4, 2]])
    whole = Probe(experiment, examples=range(25))
    np.testing.assert_array_equal(probe.images, whole.images[jnp.array([4, 2])])


def test_predictions_have_the_probability_of_their_class(tiny: list[str]) -> None:
    experiment = build_experiment(command_line.parse(tiny, "train").config)
    probe, params = Probe(experiment), initial_state(experiment).params
    predicted = probe.predict(params)
    logits = np.asarray(experiment.apply(params, probe.images, None)[0], np.float64)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(predicted.classes, probabilities.argmax(axis=1))
    np.testing.assert_allclose(predicted.confidences, probabilities.max(axis=1), rtol=1e-4)


def test_images_can_be_displayed(data_file: pathlib.Path) -> None:
    experiment = fixed_experiment(data_file, {"distortion": "r"})
    images = Probe(experiment).display_images({"transformer_0": jnp.zeros((8, 6))})
    assert images["images"].min() == 0
    assert images["images"].max() == 1
    assert images["transformer_0"].shape == (8, 9, 9, 1)
