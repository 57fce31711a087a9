"""A short co-localisation: its records, its images, and its independence of the true boxes."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import datasets
from experiments.colocalisation import train
from experiments.colocalisation.digit_images import Sets, make_sets
from experiments.colocalisation.model import INITIAL_SIDE, Localiser
from experiments.colocalisation.options import (
    BUDGETS,
    ColocalisationSettings,
    colocalisation_differences,
)
from experiments.runs.records import RunError
from experiments.training.loop import DivergedError
from tests.experiments.conftest import (
    keeping_compiled,
    read_records,
    read_scalars,
    read_summary,
)

QUICK = dataclasses.replace(BUDGETS["quick"], images=4, batch_size=4, epochs=2, encoder_epochs=1)


@pytest.fixture(scope="module", autouse=True)
def fast_compilation(compiled: pathlib.Path) -> Iterator[None]:
    """Compiles without most optimisations."""
    with keeping_compiled(compiled):
        yield


@pytest.fixture(scope="module")
def dataset() -> datasets.Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="module")
def sets(dataset: datasets.Dataset) -> Sets:
    return make_sets(QUICK, dataset)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, fast_compilation: None) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "colocalisation"
    train.run(QUICK, folder, "a command", lambda: "")
    return folder


def flatten(images: jax.Array) -> jax.Array:
    """The pixels as features, instead of a trained encoder."""
    return images.reshape(len(images), -1)


@pytest.mark.slow
def test_run_leaves_its_records(finished: pathlib.Path) -> None:
    summary = read_summary(finished)
    assert [each["digit"] for each in summary["per_digit"]] == list(range(10))
    for each in summary["per_digit"]:
        assert 0 <= each["success"] <= 100
        assert 0 <= each["mean_iou"] <= 1
    mean = np.mean([each["success"] for each in summary["per_digit"]])
    assert summary["test_error"] == pytest.approx(100 - mean)
    assert summary["command"] == "a command"
    assert summary["epochs"] == 2
    assert summary["train_seconds"] > 0
    assert {"num_params", "seed", "versions", "device", "git_commit"} <= summary.keys()
    assert ColocalisationSettings(**json.loads((finished / "config.json").read_text())) == QUICK
    records = read_records(finished / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [1, 2]
    assert records[-1]["success"] == [each["success"] for each in summary["per_digit"]]
    for name in ("windows.png", "training.png"):
        with Image.open(finished / "figures" / name) as image:
            assert min(image.size) > 200


def test_run_writes_tensorboard_files(finished: pathlib.Path) -> None:
    scalars = read_scalars(finished / "tensorboard")
    assert len(scalars) == 4
    for record in read_records(finished / "metrics.jsonl"):
        for name in ("loss", "success"):
            mean = np.mean(record[name])
            assert scalars[record["epoch"], name] == pytest.approx(mean, rel=1e-6)


def test_location_of_the_data_is_not_a_difference() -> None:
    recorded = dataclasses.asdict(QUICK)
    assert (
        colocalisation_differences(recorded, dataclasses.replace(QUICK, data_dir="elsewhere")) == []
    )
    assert colocalisation_differences(recorded, dataclasses.replace(QUICK, images=7)) == [
        "images 4 (requested: 7)"
    ]


def test_folder_of_a_run_with_other_settings_is_not_used(finished: pathlib.Path) -> None:
    other = dataclasses.replace(QUICK, seed=5)
    with pytest.raises(RunError, match=r"other settings: seed 0 \(requested: 5\)"):
        train.run(other, finished, "a command", lambda: "")


def test_too_many_images_are_an_error(dataset: datasets.Dataset) -> None:
    message = r"images must be at most \d+, the number of images of the digit 0 in the test split"
    with pytest.raises(RunError, match=message):
        make_sets(dataclasses.replace(QUICK, images=400), dataset)


@pytest.mark.parametrize("distortion", ["t", "tc"])
def test_true_box_contains_the_digit(distortion: str, dataset: datasets.Dataset) -> None:
    sets = make_sets(dataclasses.replace(QUICK, distortion=distortion), dataset)
    assert sets.images.shape == (10, 4, 84, 84, 1)
    centres = (np.arange(84) + 0.5) / 42 - 1
    ink = []
    for image, box in zip(sets.images.reshape(40, 84, 84), sets.boxes.reshape(40, 4), strict=True):
        left, top, right, bottom = box
        assert right - left == pytest.approx(28 / 42, rel=1e-5)
        assert bottom - top == pytest.approx(28 / 42, rel=1e-5)
        columns, rows = (centres > left) & (centres < right), (centres > top) & (centres < bottom)
        ink.append(float(image[np.ix_(rows, columns)].sum() / image.sum()))
    # Without clutter all ink is in the box. With clutter most images have ink elsewhere.
    if distortion == "t":
        assert min(ink) > 0.999
    else:
        assert np.mean(np.asarray(ink) < 0.95) > 0.5


def test_initial_windows_are_central_and_shifted_towards_ink() -> None:
    images = jnp.zeros((3, 84, 84, 1)).at[1, 60:80, 5:25].set(1).at[2, 5:25, 60:80].set(1)
    variables = jax.jit(Localiser().init)(jax.random.key(0), images)
    theta = np.asarray(Localiser().apply(variables, images))
    np.testing.assert_allclose(theta[:, 0], INITIAL_SIDE, rtol=1e-5)
    np.testing.assert_allclose(theta[0, 1:], 0, atol=1e-5)  # an empty image: the edge has no effect
    middle = np.asarray([(5 + 25) / 84 - 1, (60 + 80) / 84 - 1])
    for place, ink in zip(theta[1:, 1:], (middle, middle[::-1]), strict=True):
        np.testing.assert_array_less(0.05, place / ink)


def test_window_of_a_reflected_image_is_reflected() -> None:
    """Windows are therefore centred on the pattern that they follow."""
    image = jnp.zeros((84, 84, 1)).at[10:40, 30:35].set(1).at[12:17, 20:50].set(0.5)
    images = jnp.stack([image, image[:, ::-1], image[::-1]])
    variables = jax.jit(Localiser().init)(jax.random.key(1), images)
    (_, *place), (_, *left), (_, *up) = np.asarray(Localiser().apply(variables, images))
    np.testing.assert_allclose(left, np.multiply(place, [-1, 1]), atol=1e-5)
    np.testing.assert_allclose(up, np.multiply(place, [1, -1]), atol=1e-5)
    assert np.min(np.abs(place)) > 0.01


@pytest.mark.slow
def test_training_does_not_depend_on_the_true_boxes(sets: Sets, tmp_path: pathlib.Path) -> None:
    settings = dataclasses.replace(QUICK, epochs=1)
    ends = []
    for boxes in (sets.boxes, sets.boxes[::-1] / 2):
        result = train.train(settings, flatten, sets._replace(boxes=boxes), tmp_path)
        ends.append(result.stages[1])
    np.testing.assert_array_equal(*ends)


def test_divergence_is_an_error_that_names_the_digit(sets: Sets, tmp_path: pathlib.Path) -> None:
    settings = dataclasses.replace(QUICK, learning_rate=1e38)
    with pytest.raises(DivergedError, match="training diverged for the digit 0: lower learning_ra"):
        train.train(settings, flatten, sets, tmp_path)
    assert len(read_records(tmp_path / "metrics.jsonl")) < 2
