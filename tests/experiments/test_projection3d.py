"""Networks on volumes are trained, recorded and drawn like networks on images."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from experiments.analysis import run_figures
from experiments.analysis.probe import displayable, sample_test_images
from experiments.settings import command_line
from experiments.settings.errors import ConfigError
from experiments.training.experiment import build_experiment, initial_state, share_outside

SOLIDS = "--canvas 10 --features 2 2 --batch-size 6 --epochs 1"


@pytest.fixture
def arguments(data_file: pathlib.Path) -> list[str]:
    """Arguments of a training that takes moments."""
    return ["projection3d", "--dataset", "npz", "--data-file", str(data_file), *SOLIDS.split()]


@pytest.mark.slow
def test_learned_view_is_trained_and_drawn(
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


def test_fixed_view_draws_curves_and_input_only(
    arguments: list[str], tmp_path: pathlib.Path
) -> None:
    fixed = [*arguments, "--model", "projection_cnn", "--canvas", "24"]
    experiment = build_experiment(command_line.parse(fixed, "train").config)
    assert run_figures.draw(tmp_path, experiment, initial_state(experiment).params) is None
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"curves.png", "images.png", "sides.png"}


def test_background_is_zero_and_views_are_sums(arguments: list[str]) -> None:
    experiment = build_experiment(command_line.parse(arguments, "train").config)
    assert experiment.normalisation.background == (0.0,)
    images = sample_test_images(experiment, 3).images
    assert images.shape == (3, 10, 10, 10, 1)
    for axis in range(3):
        np.testing.assert_allclose(
            displayable(images, axis), np.asarray(images).sum(axis=1 + axis), rtol=1e-6
        )
    flat = np.ones((2, 4, 4, 1), np.float32)
    np.testing.assert_array_equal(displayable(flat), flat)


def test_share_outside_counts_all_three_axes() -> None:
    grid = np.zeros((2, 3, 4, 5, 3), np.float32)
    grid[1, 0, :, :, 2] = 2
    found = share_outside({"transformer_0": {"grid": grid}})
    np.testing.assert_allclose(found["outside"], [0, 1 / 3])


def test_canvas_that_is_too_small_raises_config_error(arguments: list[str]) -> None:
    config = command_line.parse([*arguments, "--canvas", "8"], "train").config
    with pytest.raises(ConfigError, match="--canvas must be at least 9 on each axis"):
        initial_state(build_experiment(config))
