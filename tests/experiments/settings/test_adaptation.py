"""Settings of a preset adapt to the flags, and flags are never changed."""

import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.settings.access import get_setting, replace_settings, settings_by_name
from experiments.settings.command_line import Parsed, parse, to_arguments
from experiments.settings.config import Config
from experiments.settings.conversion import config_to_dict
from experiments.settings.errors import ConfigError
from experiments.settings.presets import PRESETS
from experiments.settings.relations import has_effect
from experiments.settings.validation import validate
from tests.experiments.settings.fields import (
    FIELDS,
    NEEDED,
    STARTS,
    choices,
    flag,
    start_of,
)

# Values of the settings that are not choices.
NUMBERS = {
    "data_dir": ["d"],
    "data_file": ["a.npz"],
    "validation_size": ["7"],
    "image_size": ["48", "48 64"],
    "max_angle": ["30"],
    "min_scale": ["0.5", "0.9", "1.5"],
    "max_scale": ["0.5", "0.9", "1.5"],
    "sigma": ["2"],
    "canvas": ["50"],
    "augment_angle": ["5"],
    "augment_scale": ["1.2"],
    "augment_shift": ["1"],
    "augment_sigma": ["1"],
    "clutter": ["4"],
    "crop_size": ["4"],
    "control_points": ["3 3"],
    "regularisation": ["0.1"],
    "transformers": ["1", "2", "3", "4"],
    "localisation_features": ["8", "8 8 8"],
    "features": ["8", "8 8", "8 8 8 8"],
    "output_size": ["24"],
    "pool": ["2"],
    "dropout": ["0.1"],
    "learning_rate": ["0.1"],
    "localisation_lr": ["0.1"],
    "momentum": ["0.5"],
    "weight_decay": ["0.1"],
    "clip_norm": ["2"],
    "warmup": ["0.2", "2", "100"],
    "epochs": ["1", "2", "100"],
    "batch_size": ["1", "63"],
    "seed": ["3"],
    "run_dir": ["r"],
    "checkpoint_every": ["2"],
    "mesh": ["batch=2", "batch=3"],
    "coordinator": ["host:1"],
    "num_processes": ["2"],
    "process_id": ["0"],
}
SWITCHES = (
    *("keep_aspect", "align_corners", "figures", "diagnostics", "distributed"),
    "compilation_cache",
)


def flags_of(name: str) -> list[list[str]]:
    """The words of a flag, with each of its values."""
    if name in SWITCHES:
        return [[flag(name)], [flag(f"no_{name}")]]
    return [[flag(name), *value.split()] for value in choices(name) or NUMBERS[name]]


def words_of(config: Config, name: str) -> list[str]:
    """The words of the flag that gives a setting its value."""
    value = get_setting(config, name)
    if isinstance(value, bool):
        return [flag(name if value else f"no_{name}")]
    values = value if isinstance(value, tuple) else (value,)
    return [flag(name), *(str(each).removesuffix(".0") for each in values)]


def parse_or_error(arguments: list[str]) -> tuple[Parsed[Config] | None, str]:
    """The parsed command line, or None and the error."""
    try:
        return parse(arguments, "train"), ""
    except ConfigError as error:
        return None, str(error)


# Flags that no setting of a preset adapts to. With some presets they are errors.
NEED_OTHER_FLAGS = {
    *("transform", "placement", "localisation", "normalisation", "diagnostics"),
    *("features", "localisation_features", "min_scale", "max_scale", "warmup", "transformers"),
    *("mesh", "resume", "coordinator", "num_processes", "process_id", "image_size"),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_accepts_each_flag_or_names_it(preset: str, name: str) -> None:
    for words in flags_of(name):
        parsed, error = parse_or_error([*STARTS[preset], *words])
        if parsed is None:
            assert error.startswith(f"{flag(name)} ")
            without_effect = "because it has an effect only with" in error
            needs_others = name in NEED_OTHER_FLAGS or words[1:] in (["npz"], ["folder"])
            assert without_effect or needs_others
            continue
        validate(parsed.config)
        assert parsed.given == {name, *(["data_dir"] if preset in NEEDED else [])}
        unadapted = replace_settings(start_of(preset), {name: get_setting(parsed.config, name)})
        changed = {
            flag(key)
            for key, value in settings_by_name(unadapted).items()
            if get_setting(parsed.config, key) != value
        }
        assert {line.split()[0] for line in parsed.adapted} == changed


@pytest.mark.parametrize(
    ("arguments", "adapted"),
    [
        ("gtsrb --epochs 1", ["--warmup 0.1 (was 1.0)"]),
        ("distorted --epochs 1", ["--warmup 0.1 (was 1.0)"]),
        ("projection3d --epochs 1", []),
        ("gtsrb --epochs 2", []),
        ("gtsrb --model compact", []),
        ("gtsrb --model cnn", ["--features not set (was 32 64 128 131)"]),
        ("gtsrb --model tutorial", ["--placement input (was between)"]),
        (
            "gtsrb --model st_fcn",
            ["--features not set (was 32 64 128 131)", "--placement input (was between)"],
        ),
        ("gtsrb --model st_fcn --transformers 2", ["--features", "--placement series (was b"]),
        ("gtsrb --placement series", []),
        ("demo --transformers 2", ["--placement series (was input)"]),
        ("demo --transformers 2 --placement parallel", []),
        ("distorted --transform thin_plate_spline", []),
        (
            "demo --data-file a.npz",
            ["--dataset npz (was digits)", "--distortion none (was r)"],
        ),
        ("demo --data-file a.npz --distortion r", ["--dataset npz (was digits)"]),
        ("demo --data-file a.npz --max-angle 30", ["--dataset npz (was digits)"]),
        (
            "rotation --dataset folder --data-dir d",
            ["--image-size 64 (was 32)", "--distortion none (was r)"],
        ),
        ("gtsrb --dataset folder --data-dir d", ["--image-size 64 (was 32)"]),
        ("gtsrb --dataset folder --data-dir d --image-size 32 48", []),
        ("images --dataset gtsrb", ["--image-size 32 (was 64)"]),
        ("images --data-file a.npz", ["--dataset npz (was folder)"]),
        ("images --data-dir d --distortion r", []),
        ("projection3d --dataset folder --data-dir d", ["--image-size 64 (was 32)"]),
        (
            "projection3d --data-file a.npz --model cnn",
            ["--dataset npz (was mnist)", "--distortion none (was extruded)"],
        ),
        (
            "demo --distortion extruded",
            ["--model st_projection_cnn (was st_cnn)", "--transform affine_3d (was rotation)"],
        ),
        ("demo --distortion extruded --transform rigid_3d", ["--model st_projection_cnn"]),
        ("demo --model projection_cnn", ["--distortion extruded (was r)"]),
        ("projection3d --model cnn", ["--distortion r (was extruded)"]),
        (
            "projection3d --distortion rts",
            [
                "--model st_cnn (was st_projection_cnn)",
                "--output-size not set (was 24)",
                "--transform affine (was affine_3d)",
            ],
        ),
        (
            "gtsrb --distortion extruded",
            [
                *("--model", "--normalisation channel (was local)", "--features"),
                *("--output-size", "--transform affine_3d", "--placement input"),
            ],
        ),
    ],
)
def test_settings_adapt(arguments: str, adapted: list[str]) -> None:
    found = parse(arguments.split(), "train").adapted
    assert len(found) == len(adapted)
    assert all(line.startswith(start) for line, start in zip(found, adapted, strict=True))


@pytest.mark.parametrize("name", FIELDS)
def test_given_settings_are_recognised_at_their_present_value(name: str) -> None:
    """A flag counts as given even if it repeats the value of the preset."""
    for preset in PRESETS:
        config = PRESETS[preset].config
        if has_effect(config, name) and get_setting(config, name) is not None:
            parsed = parse([*STARTS[preset], *words_of(config, name)], "train")
            assert (name in parsed.given, parsed.config) == (True, start_of(preset))


@pytest.mark.parametrize(
    "arguments",
    [
        "gtsrb --warmup 1 --epochs 1",
        "gtsrb --features 32 64 128 131 --model cnn",
        "gtsrb --placement between --model st_fcn",
        "projection3d --distortion extruded --model st_cnn",
        "gtsrb --normalisation local --distortion extruded",
        "demo --mesh batch=3 --batch-size 64",
    ],
)
def test_given_settings_never_change(arguments: str) -> None:
    """These repeat a value of the preset, which adapts if it is not given."""
    with pytest.raises(ConfigError, match="must be"):
        parse(arguments.split(), "train")


WORDS = st.sampled_from(list(FIELDS)).flatmap(lambda name: st.sampled_from(flags_of(name)))


@given(st.sampled_from(list(PRESETS)), st.lists(WORDS, min_size=1, max_size=3))
def test_errors_name_flags_that_were_given(preset: str, flags: list[list[str]]) -> None:
    arguments = [word for words in flags for word in words]
    parsed, error = parse_or_error([*STARTS[preset], *arguments])
    if parsed is None:
        assert error.split()[0] in {words[0].replace("--no-", "--") for words in flags}
        return
    validate(parsed.config)
    for name in parsed.given - {"data_dir"}:
        spellings = (flag(name), flag(f"no_{name}"))
        last = next(words for words in reversed(flags) if words[0] in spellings)
        assert words_of(parsed.config, name) == last


@pytest.mark.parametrize("own", ["--data-file a.npz", "--dataset folder --data-dir d"])
@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_own_data_are_distorted_only_on_request(preset: str | None, own: str) -> None:
    """The preset for volumes is the only one that cannot do without."""
    start = [] if preset is None else [preset]
    found = parse([*start, *own.split()], "train")
    assert found.name == (preset or "images")
    assert found.config.data.distortion == ("extruded" if preset == "projection3d" else "none")
    for distortion in ("r", "e"):
        if preset != "projection3d":
            arguments = [*start, *own.split(), "--distortion", distortion]
            assert parse(arguments, "train").config.data.distortion == distortion


def test_a_repeated_run_keeps_its_distortion(tmp_path: pathlib.Path) -> None:
    recorded = parse(["demo", "--data-file", "a.npz", "--distortion", "r"], "train").config
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(recorded)))
    repeated = ["--config", str(tmp_path / "config.json")]
    assert parse([*repeated, "--seed", "3"], "train").config.data.distortion == "r"
    assert parse([*repeated, "--data-file", "b.npz"], "train").config.data.distortion == "r"


def test_command_line_of_a_configuration_gives_values_that_would_adapt() -> None:
    changes = {"model": "st_fcn", "placement": "input"}
    config = replace_settings(PRESETS["gtsrb"].config, changes)
    arguments = to_arguments("gtsrb", config)
    assert arguments == [
        "gtsrb",
        "--model",
        "st_fcn",
        "--placement",
        "input",
        "--features",
        "32",
        "64",
        "128",
        "131",
    ]
    assert parse(arguments, "train").config == config
