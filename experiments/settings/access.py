"""Read, replace and show settings by name. Does not import jax."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.settings.config import Config, ConfigT


def settings_by_name(config: Config) -> dict[str, Any]:
    """All settings of all groups. Names are unique among the groups."""
    return {name: value for group in vars(config).values() for name, value in vars(group).items()}


def get_setting(config: Config, name: str) -> Any:
    """The value of one setting."""
    return settings_by_name(config)[name]


def replace_settings(config: ConfigT, settings: Mapping[str, Any]) -> ConfigT:
    """Returns a copy of the configuration with other values of the settings that are given."""
    groups = {
        group: dataclasses.replace(
            values, **{name: value for name, value in settings.items() if hasattr(values, name)}
        )
        for group, values in vars(config).items()
    }
    return dataclasses.replace(config, **groups)


def flag_of(name: str) -> str:
    """The flag of a setting."""
    return "--" + name.replace("_", "-")


def format_value(value: object) -> str:
    """A value as on a command line. None is a default that depends on other settings."""
    if value is None:
        return "not set"
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
