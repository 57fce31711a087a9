"""Co-localisation, in moments: what a run leaves behind, and what it may look at."""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import colocalisation, datasets
from experiments.colocalisation_settings import BUDGETS, Settings, differences
from experiments.colocaliser import INITIAL_SIDE, Localiser
from experiments.records import Lines, RunError
from tests.experiments.conftest import keeping_compiled

QUICK = dataclasses.replace(BUDGETS["quick"], images=4, batch_size=4, epochs=2, encoder_epochs=1)


@pytest.fixture(scope="module", autouse=True)
def kept(compiled: pathlib.Path) -> Iterator[None]:
    """What is compiled serves all tests here."""
    with keeping_compiled(compiled):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, kept: None) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("runs") / "colocalisation"
    folder.mkdir()
    colocalisation.run(QUICK, folder, "a command")
    return folder


def read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text())


def test_a_run_leaves_all_its_records(finished: pathlib.Path) -> None:
    summary = read(finished / "summary.json")
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
    assert Settings(**read(finished / "config.json")) == QUICK
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[-1]["success"] == [each["success"] for each in summary["per_digit"]]
    for name in ("windows.png", "training.png"):
        with Image.open(finished / "figures" / name) as image:
            assert min(image.size) > 200


def test_where_data_lie_is_no_difference() -> None:
    recorded = dataclasses.asdict(QUICK)
    assert differences(recorded, dataclasses.replace(QUICK, data_dir="elsewhere")) == []
    assert differences(recorded, dataclasses.replace(QUICK, images=7)) == ["images 4 against 7"]


def test_a_run_with_other_settings_is_refused(finished: pathlib.Path) -> None:
    other = dataclasses.replace(QUICK, seed=5)
    with pytest.raises(RunError, match="other settings: seed 0 against 5"):
        colocalisation.run(other, finished, "a command")


def test_more_images_than_there_are_are_refused() -> None:
    dataset = datasets.load("digits")
    with pytest.raises(RunError, match="images must be at most the test split's of the digit 0"):
        colocalisation.make_sets(dataclasses.replace(QUICK, images=400), dataset)


@pytest.mark.parametrize("distortion", ["t", "tc"])
def test_the_true_box_holds_the_digit(distortion: str) -> None:
    settings = dataclasses.replace(QUICK, distortion=distortion)
    sets = colocalisation.make_sets(settings, datasets.load("digits"))
    assert sets.images.shape == (10, 4, 84, 84, 1)
    centres = (np.arange(84) + 0.5) / 42 - 1
    ink = []
    for image, box in zip(sets.images.reshape(40, 84, 84), sets.boxes.reshape(40, 4), strict=True):
        left, top, right, bottom = box
        assert right - left == pytest.approx(28 / 42, rel=1e-5)
        assert bottom - top == pytest.approx(28 / 42, rel=1e-5)
        columns, rows = (centres > left) & (centres < right), (centres > top) & (centres < bottom)
        ink.append(float(image[np.ix_(rows, columns)].sum() / image.sum()))
    # Without clutter all ink is in the box; with it most images have some elsewhere.
    if distortion == "t":
        assert min(ink) > 0.999
    else:
        assert np.mean(np.asarray(ink) < 0.95) > 0.5


def test_windows_start_in_the_middle_and_lean_towards_ink() -> None:
    images = jnp.zeros((3, 84, 84, 1)).at[1, 60:80, 5:25].set(1).at[2, 5:25, 60:80].set(1)
    variables = jax.jit(Localiser().init)(jax.random.key(0), images)
    theta = np.asarray(Localiser().apply(variables, images))
    np.testing.assert_allclose(theta[:, 0], INITIAL_SIDE, rtol=1e-5)
    np.testing.assert_allclose(theta[0, 1:], 0, atol=1e-5)  # nothing there, not even an edge
    middle = np.asarray([(5 + 25) / 84 - 1, (60 + 80) / 84 - 1])
    for place, ink in zip(theta[1:, 1:], (middle, middle[::-1]), strict=True):
        np.testing.assert_array_less(0.05, place / ink)


def test_windows_know_no_left_and_no_up() -> None:
    """Where an image is mirrored, so is its window: what it follows, it has in its middle."""
    image = jnp.zeros((84, 84, 1)).at[10:40, 30:35].set(1).at[12:17, 20:50].set(0.5)
    images = jnp.stack([image, image[:, ::-1], image[::-1]])
    variables = jax.jit(Localiser().init)(jax.random.key(1), images)
    (_, *place), (_, *left), (_, *up) = np.asarray(Localiser().apply(variables, images))
    np.testing.assert_allclose(left, np.multiply(place, [-1, 1]), atol=1e-5)
    np.testing.assert_allclose(up, np.multiply(place, [1, -1]), atol=1e-5)
    assert np.min(np.abs(place)) > 0.01


def test_training_does_not_see_the_truth(tmp_path: pathlib.Path) -> None:
    """Other boxes, the same windows."""
    dataset = datasets.load("digits")
    settings = dataclasses.replace(QUICK, epochs=1)
    sets = colocalisation.make_sets(settings, dataset)

    def embed(images: jax.Array) -> jax.Array:
        return images.reshape(len(images), -1)

    ends = []
    for boxes in (sets.boxes, sets.boxes[::-1] / 2):
        with contextlib.closing(Lines(tmp_path / "metrics.jsonl", 0)) as lines:
            result = colocalisation.train(settings, embed, sets._replace(boxes=boxes), lines)
        ends.append(result.stages[1])
    np.testing.assert_array_equal(*ends)
