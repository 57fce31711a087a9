"""Settings as JSON, and comparisons of settings."""

import json
from typing import Any

import pytest

from experiments.settings.conversion import (
    config_differences,
    config_from_dict,
    config_to_dict,
    differences,
)
from experiments.settings.errors import ConfigError
from experiments.settings.presets import PRESETS
from tests.experiments.settings.fields import FIELDS, GROUPS, parse, start_of


@pytest.mark.parametrize("name", PRESETS)
def test_settings_survive_json(name: str) -> None:
    config = start_of(name)
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_missing_settings_have_their_defaults() -> None:
    assert config_from_dict({group: {} for group in GROUPS}) == type(parse("demo"))()


def test_whole_numbers_are_floats_in_json() -> None:
    stored = config_to_dict(parse("rotation"))
    stored["data"]["max_angle"] = 45
    assert config_from_dict(stored) == parse("rotation")


WHOLE = {group: {} for group in GROUPS}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "not the settings of a run"),
        ([], "not the settings of a run"),
        ({}, "not the settings of a run: the group data is missing"),
        ({"data": {}}, "the group model is missing"),
        (WHOLE | {"data": []}, "the group data is missing"),
        (WHOLE | {"data": {"datum": 1}}, "there is no setting datum"),
        (WHOLE | {"data": {"dataset": "cifar"}}, "--dataset has an invalid value: cifar"),
        (WHOLE | {"optimisation": {"epochs": "many"}}, "--epochs has an invalid value: many"),
        (WHOLE | {"optimisation": {"epochs": True}}, "--epochs has an invalid value: True"),
        (WHOLE | {"optimisation": {"epochs": 1.5}}, "--epochs has an invalid value: 1.5"),
        (WHOLE | {"optimisation": {"epochs": -1}}, "--epochs must be positive"),
        (WHOLE | {"model": {"control_points": [4]}}, "--control-points has an invalid value: 4"),
        (WHOLE | {"model": {"features": [8, "8"]}}, "--features has an invalid value: 8 8"),
        (WHOLE | {"model": {"transform": "afine"}}, "--transform must be one of .*; got afine"),
        (WHOLE | {"model": {"transform": "a:b:c"}}, "--transform must be one of .*; got a:b:c"),
        (WHOLE | {"run": {"figures": 1}}, "--figures has an invalid value: 1"),
    ],
)
def test_other_json_is_rejected(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_dict(values)


def test_user_defined_family_survives_json_without_importing_it() -> None:
    config = parse("--transform", "no.such_module:shear")
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_is_checked_for_its_type(name: str) -> None:
    group = next(group for group, kind in GROUPS.items() if kind is FIELDS[name][0])
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} has an invalid value"):
        config_from_dict(WHOLE | {group: {name: {"a": 1}}})


def test_differences_name_both_values() -> None:
    recorded = {"epochs": 3, "features": (8, 16), "old": 1, "same": 2, "size": None}
    requested = {"epochs": 5, "features": None, "same": 2}
    assert differences(recorded, requested) == [
        "epochs 3 (requested: 5)",
        "features 8 16 (requested: not set)",
        "old 1 (requested: not set)",
    ]


def test_config_differences_name_flags() -> None:
    recorded = parse("--seed", "1", "--run-dir", "x", "--no-figures")
    requested = parse("--seed", "2", "--run-dir", "y", "--transform", "affine")
    assert config_differences(recorded, requested) == [
        "--transform rotation (requested: affine)",
        "--seed 1 (requested: 2)",
    ]
    assert config_differences(recorded, recorded) == []


def test_locations_of_data_are_no_differences() -> None:
    here, there = (parse("tutorial", "--data-dir", folder) for folder in ("a", "b"))
    assert config_differences(here, there) == []
    here, there = (parse("--dataset", "npz", "--data-file", file) for file in ("a.npz", "b.npz"))
    assert config_differences(here, there) == []
