"""What is said about the images before training."""

from typing import Any

import pytest

from experiments.settings.access import flag_of, replace_settings
from experiments.settings.command_line import parse
from experiments.settings.config import Config
from experiments.settings.relations import REQUIREMENTS
from experiments.training.experiment import build_experiment
from experiments.training.image_description import describe_images


def describe(tiny: list[str], *arguments: str) -> str:
    return describe_images(build_experiment(parse([*tiny, *arguments], "train").config))


def test_images_are_described_in_one_line(tiny: list[str]) -> None:
    assert describe(tiny, "--distortion", "none") == (
        "9 x 9 pixels, 1 channel; normalised by the mean and standard deviation of each channel; "
        "not distorted; not augmented; 4 of 40 training images, stratified, for validation"
    )
    assert "; distorted in all splits: rotation up to 90 degrees; " in describe(tiny)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--distortion rts --canvas 14", "14 x 14 pixels, 1 channel; "),
        ("--distortion rts --canvas 14", "rotation up to 45 degrees, scale 0.7 to 1.2, anywhere"),
        ("--distortion p", "corners shifted by 5 px (standard deviation), scale 0.75 to 1;"),
        ("--distortion e", "control points shifted by 1.5 px (standard deviation)"),
        ("--distortion t", "84 x 84 pixels, 1 channel; "),
        ("--distortion tc", "on 60 x 60 pixels, with 6 crops of 6 x 6 pixels of other images"),
        ("--distortion extruded", "32 x 32 x 32 voxels, 1 channel; "),
        ("--task add", "9 x 9 pixels, 2 channels; "),
        ("--normalisation local", "of each channel, and of the neighbourhood of each pixel; "),
        ("--validation-size 7", "7 of 40 training images"),
        (
            "--augment-angle 5 --augment-shift 2",
            "; augmented in training: rotation up to 5 degrees, shift up to 2 px; ",
        ),
    ],
)
def test_description_has_the_settings(arguments: str, part: str, tiny: list[str]) -> None:
    start = [each for each in tiny if each not in ("--model", "st_fcn", "--features", "8")]
    model = [] if "extruded" in arguments else ["--model", "st_fcn"]
    assert part in describe(start, *model, *arguments.split())


CHANGES: dict[str, dict[str, Any]] = {
    "max_angle": {"max_angle": 33.0},
    "min_scale": {"min_scale": 0.66},
    "max_scale": {"max_scale": 1.33},
    "sigma": {"sigma": 3.3},
    "canvas": {"canvas": 33},
    "clutter": {"clutter": 3},
    "crop_size": {"crop_size": 3},
}


@pytest.mark.parametrize(
    ("setting", "distortion"),
    [
        (name, value)
        for name, (other, values) in REQUIREMENTS.items()
        if other == "distortion"
        for value in values
        if value != "extruded"
    ],
)
def test_every_setting_of_a_distortion_is_shown(
    setting: str, distortion: str, tiny: list[str]
) -> None:
    config = parse([*tiny, "--distortion", distortion], "train").config
    changed = replace_settings(config, CHANGES[setting])
    value = f"{CHANGES[setting][setting]:g}"
    assert value not in describe_images(build_experiment(config)), flag_of(setting)
    assert value in describe_images(build_experiment(changed))


@pytest.mark.parametrize("name", ["augment_angle", "augment_scale", "augment_shift"])
def test_every_augmentation_is_shown(name: str, tiny: list[str]) -> None:
    config: Config = parse(tiny, "train").config
    described = describe_images(build_experiment(replace_settings(config, {name: 3.33})))
    assert "; augmented in training: " in described
    assert "up to 3.33" in described
