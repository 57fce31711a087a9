"""Experiments whose settings do not fit the number of images."""

import pathlib

import numpy as np
import pytest

from experiments.settings.command_line import parse
from experiments.settings.errors import ConfigError
from experiments.training.experiment import build_experiment


def save_images(path: pathlib.Path, train: int, test: int) -> list[str]:
    """Saves images of two classes. Returns the arguments of a run that trains on them."""
    arrays = {"x_train": train, "x_test": test}
    images = {name: np.zeros((count, 9, 9), np.uint8) for name, count in arrays.items()}
    labels = {f"y{name[1:]}": np.arange(count) % 2 for name, count in arrays.items()}
    np.savez(path, **images, **labels)
    return ["demo", "--data-file", str(path), "--model", "st_fcn"]


@pytest.mark.parametrize("setting", ["--task add", "--distortion tc"])
@pytest.mark.parametrize(("test", "validation", "split"), [(5, 1, "validation"), (1, 3, "test")])
def test_combined_images_need_a_partner(
    setting: str, test: int, validation: int, split: str, tmp_path: pathlib.Path
) -> None:
    arguments = save_images(tmp_path / "own.npz", 9, test)
    arguments += ["--batch-size", "2", "--validation-size", str(validation)]
    expected = f"{setting} must be used with at least 2 {split} images, .*; got 1 {split} image"
    with pytest.raises(ConfigError, match=expected):
        build_experiment(parse([*arguments, *setting.split()], "train").config)
    build_experiment(parse(arguments, "train").config)


@pytest.mark.parametrize(("train", "batch_size"), [(9, 64), (9, 9), (3, 3)])
def test_a_batch_is_at_most_the_training_images(
    train: int, batch_size: int, tmp_path: pathlib.Path
) -> None:
    arguments = save_images(tmp_path / "own.npz", train, 5)
    expected = f"--batch-size must be at most the number of training examples, {train - 1}; got"
    with pytest.raises(ConfigError, match=expected):
        build_experiment(parse([*arguments, "--batch-size", str(batch_size)], "train").config)
    build_experiment(parse([*arguments, "--batch-size", str(train - 1)], "train").config)
