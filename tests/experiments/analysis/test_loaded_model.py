"""Loaded networks repeat the results of their run, and apply to images as they are."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

import experiments
import stn_jax
from experiments.analysis import loaded_model
from experiments.analysis.loaded_model import LoadedModel
from experiments.analysis.probe import sample_test_images
from experiments.analysis.restore import TrainedRun, describe_data
from experiments.datasets.image_files import pad_to_aspect, resize_to
from experiments.runs.records import RunError
from experiments.settings.access import replace_settings
from experiments.training.experiment import build_experiment
from tests.experiments.analysis.small_models import (
    NETWORK,
    random_images,
    random_params,
    small_experiment,
    small_model,
)
from tests.experiments.conftest import read_summary, save_npz


@pytest.fixture(scope="module")
def model(finished: pathlib.Path) -> LoadedModel:
    """The network of the finished run, trained on rotated images."""
    return experiments.load(finished)


def test_predictions_of_distorted_test_images_have_the_recorded_error(
    model: LoadedModel, finished: pathlib.Path
) -> None:
    experiment = build_experiment(model.config)
    sample = sample_test_images(experiment, len(experiment.dataset.test))
    labels, (mean, std) = sample.labels, np.float32(experiment.normalisation)
    images = np.asarray(sample.images) * std + mean
    probabilities = model.predict(np.clip(images, 0, 1))
    assert probabilities.shape == (len(labels), 3)
    error = 100 * np.mean(probabilities.argmax(axis=1) != labels)
    assert error == pytest.approx(read_summary(finished)["test_error"])
    loss = -np.mean(np.log(probabilities[np.arange(len(labels)), labels]))
    assert loss == pytest.approx(read_summary(finished)["test_loss"], rel=1e-4)


def test_images_are_normalised_but_not_distorted(model: LoadedModel) -> None:
    experiment = build_experiment(model.config)
    assert model.config.data.distortion == "r"
    images, (mean, std) = experiment.dataset.test.images, np.float32(experiment.normalisation)
    inputs = (images / np.float32(255) - mean) / std
    logits, found = experiment.apply(model.arrays["params"], inputs, None)
    np.testing.assert_allclose(model.predict(images), jax.nn.softmax(logits), atol=1e-6)
    np.testing.assert_allclose(model.theta(images), found["transformer_0"]["theta"], atol=1e-6)
    output = 255 * (np.asarray(found["transformer_0"]["output"]) * std + mean)
    np.testing.assert_allclose(model.straighten(images), output, atol=0.51)
    for method in (model.predict, model.theta, model.straighten):
        np.testing.assert_array_equal(method(images), method(images))


def test_bytes_and_floats_give_the_same_results(model: LoadedModel) -> None:
    images = random_images(model)
    for floats in (images / 255, jax.numpy.asarray(images / np.float32(255))):
        np.testing.assert_allclose(model.predict(floats), model.predict(images), atol=1e-6)
        straight = model.straighten(floats)
        assert straight.dtype == np.float32
        np.testing.assert_allclose(255 * straight, model.straighten(images), atol=0.51)


def test_results_do_not_depend_on_the_number_of_images(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(model, 5)
    methods = (model.predict, model.theta, model.straighten)
    expected = [method(images) for method in methods]
    monkeypatch.setattr(loaded_model, "EVALUATION_BATCH", 3)
    for method, each in zip(methods, expected, strict=True):
        np.testing.assert_allclose(method(images), each, atol=1e-6)
        assert method(images[:0]).shape == (0, *each.shape[1:])


def test_large_images_are_straightened_at_their_own_size(model: LoadedModel) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 31, 3), dtype=np.uint8)
    small = model.resize(images)
    np.testing.assert_array_equal(small, [resize_to(each, (9, 9, 1)) for each in images])
    theta = model.theta(small)
    expected = [
        stn_jax.straighten(np.float32(image), each, model.transforms[0], (9, 9))
        for image, each in zip(images, theta, strict=True)
    ]
    straight = model.straighten(images)
    assert straight.shape == images.shape
    np.testing.assert_allclose(straight, expected, atol=0.51)
    halves = np.full((2, 40, 62, 1), 0.5, np.float32)
    assert model.straighten(halves, theta).shape == halves.shape


def test_parallel_transformers_have_a_result_each_and_series_one(data_file: pathlib.Path) -> None:
    flags = f"{NETWORK} --transformers 2 --output-size 6 --placement"
    series, parallel = (
        small_model(data_file, f"{flags} {name}") for name in ("series", "parallel")
    )
    images = random_images(series)
    assert (series.theta(images).shape, series.straighten(images).shape) == ((3, 2), (3, 6, 6, 1))
    assert [theta.shape for theta in parallel.theta(images)] == [(3, 1)] * 2
    first, second = parallel.straighten(images, parallel.theta(images))
    assert first.shape == second.shape == (3, 6, 6, 1)
    assert not np.array_equal(first, second)
    assert parallel.transforms == (stn_jax.transforms.rotation,) * 2


def test_sum_of_two_digits_takes_both_as_channels(data_file: pathlib.Path) -> None:
    experiment = small_experiment(data_file, f"{NETWORK} --distortion r --task add")
    params = random_params(experiment)
    model = LoadedModel(TrainedRun(experiment, params, None))
    assert model.image_shape == (9, 9, 2)
    assert model.class_names == ("0", "1", "2", "3", "4")
    (mean,), (std,) = experiment.normalisation
    images = random_images(model)
    logits, _ = experiment.apply(params, np.float32((images / 255 - mean) / std), None)
    np.testing.assert_allclose(model.predict(images), jax.nn.softmax(logits), atol=1e-5)
    assert model.straighten(images).shape == images.shape


def test_images_on_a_canvas_have_its_size(data_file: pathlib.Path) -> None:
    model = small_model(data_file, f"{NETWORK} --distortion rts --canvas 12")
    assert model.image_shape == (12, 12, 1)
    assert model.predict(random_images(model)).shape == (3, 3)
    with pytest.raises(ValueError, match=r"must be \[n, 12, 12, 1\]; got \[3, 9, 9, 1\]"):
        model.predict(np.zeros((3, 9, 9, 1), np.uint8))


@pytest.mark.slow
def test_volumes_are_straightened_to_volumes(data_file: pathlib.Path) -> None:
    flags = "projection3d --canvas 10 --features 2 2"
    experiment = small_experiment(data_file, flags)
    params = random_params(experiment)
    model = LoadedModel(TrainedRun(experiment, params, None))
    volumes = random_images(model, dtype="float32")
    assert volumes.shape == (3, 10, 10, 10, 1)
    inputs = volumes / np.float32(experiment.normalisation.std)
    _, found = experiment.apply(params, inputs, None)
    output = np.asarray(found["transformer_0"]["output"]) * experiment.normalisation.std
    assert output.shape == (3, 24, 24, 24, 1)
    np.testing.assert_allclose(model.straighten(volumes), output, atol=1e-5)
    with pytest.raises(ValueError, match=r"volumes of shape \[10, 10, 10, 1\] cannot be resized"):
        model.straighten(volumes[:, :9])


def test_class_names_are_those_of_the_data_set_or_numbers(
    finished: pathlib.Path, data_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The summary keeps them, because a run is loaded without its data."""
    assert experiments.load(finished).class_names == ("0", "1", "2")
    experiment, names = small_experiment(data_file, NETWORK), ("stop", "yield", "go")
    named = dataclasses.replace(experiment.dataset, class_names=names)
    described = describe_data(dataclasses.replace(experiment, dataset=named))
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    summary = read_summary(folder) | {"data": described}
    (folder / "summary.json").write_text(json.dumps(summary))
    assert experiments.load(folder).class_names == names


def test_run_with_keep_aspect_pads_images_to_squares(finished: pathlib.Path) -> None:
    model = experiments.load(finished)
    model.config = replace_settings(model.config, {"keep_aspect": True})
    images = np.random.default_rng(0).integers(0, 256, (2, 12, 21, 1), dtype=np.uint8)
    padded = np.stack([pad_to_aspect(image, model.image_shape[:2])[0] for image in images])
    assert padded.shape == (2, 21, 21, 1)
    np.testing.assert_array_equal(model.resize(images), model.resize(padded))
    np.testing.assert_array_equal(model.straighten(images), model.straighten(padded))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 9, 9), np.uint8), r"must be an array \[n, h, w, c\]; got \[2, 9, 9\]"),
        (np.zeros((2, 9, 0, 1), np.uint8), r"must be an array \[n, h, w, c\]; got \[2, 9, 0, 1\]"),
        (np.zeros((2, 8, 9, 1), np.uint8), r"must be \[n, 9, 9, 1\]; got \[2, 8, 9, 1\]; `resize`"),
        (np.zeros((2, 9, 9, 3)), r"must be \[n, 9, 9, 1\]; got \[2, 9, 9, 3\]"),
        (np.zeros((2, 9, 9, 1), int), "images must be uint8 or floats; got int64"),
        (np.zeros((2, 9, 9, 1), bool), "images must be uint8 or floats; got bool"),
        (np.full((2, 9, 9, 1), 255.0), r"must be in \[0, 1\]; got 255 to 255"),
        (np.full((2, 9, 9, 1), -0.5), r"must be in \[0, 1\]; got -0.5 to -0.5"),
        (np.full((2, 9, 9, 1), np.nan), r"must be in \[0, 1\]; got nan to nan"),
    ],
)
def test_unusable_images_raise(model: LoadedModel, images: np.ndarray, message: str) -> None:
    for method in (model.predict, model.theta):
        with pytest.raises(ValueError, match=message):
            method(images)


def test_images_or_theta_that_cannot_be_straightened_raise(model: LoadedModel) -> None:
    images = random_images(model)
    with pytest.raises(ValueError, match=r"images must have 1 channels; got 2"):
        model.straighten(np.zeros((2, 9, 9, 2), np.uint8))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]; got 0 to 255"):
        model.straighten(random_images(model).astype(float))
    for theta in (np.zeros((2, 1)), (np.zeros((3, 1)),) * 2, np.zeros((3, 6))):
        with pytest.raises(ValueError, match=r"theta must have the shapes \[\[3, 1\]\]; got"):
            model.straighten(images, theta)


def test_network_trained_on_floats_takes_only_floats(tmp_path: pathlib.Path) -> None:
    data_file = save_npz(tmp_path / "floats.npz", dtype=np.float32)
    model = small_model(data_file, NETWORK)
    with np.load(data_file, allow_pickle=False) as arrays:
        images = arrays["x_test"][..., None]
    assert images.min() < 0
    assert model.predict(images).shape == (25, 3)
    assert model.image_dtypes == ("float32",)
    with pytest.raises(ValueError, match="images must be floats; got uint8"):
        model.predict(np.zeros((2, 9, 9, 1), np.uint8))


def test_network_without_transformer_only_predicts(data_file: pathlib.Path) -> None:
    model = small_model(data_file, "demo --model fcn --features 8")
    images = random_images(model)
    assert model.predict(images).shape == (3, 3)
    assert model.transforms == ()
    for method in (model.theta, model.straighten):
        with pytest.raises(ValueError, match="--model fcn has no transformer of images"):
            method(images)


def test_only_finished_runs_with_a_checkpoint_are_loaded(
    unfinished: pathlib.Path, finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(RunError, match="the run is not finished; continue it with --resume auto"):
        experiments.load(unfinished)
    with pytest.raises(RunError, match=r"nowhere/config\.json: not found"):
        experiments.load(str(tmp_path / "nowhere"))
    shutil.copy(finished / "summary.json", unfinished)
    assert experiments.load(str(unfinished)).class_names == ("0", "1", "2")
    shutil.rmtree(unfinished / "checkpoints")
    with pytest.raises(RunError, match="no checkpoint found"):
        experiments.load(unfinished)
