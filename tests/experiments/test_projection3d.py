"""Solids in volumes: trained, recorded and drawn as everything else is."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from experiments import command_line, gallery
from experiments import config as configuration
from experiments import experiment as setup

SOLIDS = "--canvas 10 --features 2 2 --batch-size 6 --epochs 1"


@pytest.fixture
def arguments(data_file: pathlib.Path) -> list[str]:
    """Of a training of moments."""
    return ["projection3d", "--dataset", "npz", "--data-file", str(data_file), *SOLIDS.split()]


def test_a_learned_view_is_trained_and_drawn(
    arguments: list[str], run: Callable[..., int], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    assert run(*arguments, "--run-dir", folder) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 <= summary["outside"] <= 1
    assert not any("angle" in name for name in summary)
    frames = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
    assert [np.shape(each["theta"]["transformer_0"]) for each in frames] == [(8, 12)] * 2
    names = {"confusions.png", "curves.png", "images.png", "sides.png"}
    assert {path.name for path in (folder / "figures").iterdir()} == names


def test_of_a_fixed_view_only_the_input_is_drawn(
    arguments: list[str], tmp_path: pathlib.Path
) -> None:
    fixed = [*arguments, "--model", "projection_cnn", "--canvas", "24"]
    made = setup.build(command_line.parse(fixed, "train")[1])
    gallery.draw(tmp_path, made, setup.initial_state(made).params)
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"curves.png", "sides.png"}


def test_the_background_is_zero_and_views_are_sums(arguments: list[str]) -> None:
    made = setup.build(command_line.parse(arguments, "train")[1])
    assert made.normalisation.background == (0.0,)
    images = gallery.test_images(made, 3)
    assert images.shape == (3, 10, 10, 10, 1)
    for axis in range(3):
        np.testing.assert_allclose(
            gallery.visible(images, axis), np.asarray(images).sum(axis=1 + axis), rtol=1e-6
        )
    flat = np.ones((2, 4, 4, 1), np.float32)
    np.testing.assert_array_equal(gallery.visible(flat), flat)


def test_the_share_outside_is_of_all_three_axes() -> None:
    grid = np.zeros((2, 3, 4, 5, 3), np.float32)
    grid[1, 0, :, :, 2] = 2
    found = setup.share_outside({"transformer_0": {"grid": grid}})
    np.testing.assert_allclose(found["outside"], [0, 1 / 3])


def test_a_canvas_that_is_too_small_is_named(arguments: list[str]) -> None:
    config = command_line.parse([*arguments, "--canvas", "8"], "train")[1]
    with pytest.raises(configuration.ConfigError, match="--canvas must be at least 9 on each axis"):
        setup.initial_state(setup.build(config))
