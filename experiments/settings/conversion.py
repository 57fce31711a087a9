"""Convert settings to JSON and back, and compare them. Does not import jax."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from typing import Any

from experiments.settings.access import flag_of, format_value
from experiments.settings.config import Config, Data, Model, Optimisation, Run
from experiments.settings.errors import ConfigError
from experiments.settings.validation import validate

# Settings that say where the data are. They do not change what is learned.
LOCATIONS = ("data_dir", "data_file")


def config_to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The configuration as in `config.json`: a dictionary of settings for each group."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def config_from_dict(values: object) -> Config:
    """The inverse of `config_to_dict`.

    A setting that is missing gets its default: the file may be older than the setting.

    Raises:
        ConfigError: if `values` are not the settings of a run, or not valid.
    """
    if not isinstance(values, Mapping):
        raise ConfigError("not the settings of a run: expected an object with groups of settings")
    config = Config(
        _group_from_dict(Data, "data", values),
        _group_from_dict(Model, "model", values),
        _group_from_dict(Optimisation, "optimisation", values),
        _group_from_dict(Run, "run", values),
    )
    validate(config)
    return config


Group = typing.TypeVar("Group")


def _group_from_dict(kind: type[Group], group: str, values: Mapping[str, Any]) -> Group:
    if not isinstance(values.get(group), Mapping):
        raise ConfigError(f"not the settings of a run: the group {group} is missing")
    hints = typing.get_type_hints(kind)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in values[group].items()}
    for name, value in settings.items():
        if name not in hints:
            raise ConfigError(f"not the settings of a run: there is no setting {name}")
        if not _is_of_type(value, hints[name]):
            raise ConfigError(f"{flag_of(name)} has an invalid value: {format_value(value)}")
    return kind(**settings)


def _is_of_type(value: object, hint: Any) -> bool:
    """Whether a value is of the type of a setting. JSON may hold a float as an integer."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return value in arguments
    if typing.get_origin(hint) is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        ok = isinstance(value, tuple) and length in (None, len(value))
        return ok and all(type(each) is int for each in value)
    if arguments:
        return any(_is_of_type(value, each) for each in arguments)
    return type(value) is hint or (hint is float and type(value) is int)


def differences(recorded: Mapping[str, object], requested: Mapping[str, object]) -> list[str]:
    """Lists the settings that differ, each as in `--epochs 3 (requested: 5)`.

    Args:
        recorded: the value of each setting of an earlier run, by the name to show.
        requested: those of the present command. A missing setting equals None.
    """
    return [
        f"{name} {format_value(recorded.get(name))} "
        f"(requested: {format_value(requested.get(name))})"
        for name in {**requested, **recorded}
        if recorded.get(name) != requested.get(name)
    ]


def config_differences(recorded: Config, requested: Config) -> list[str]:
    """Lists the flags that differ, except for the locations of data and the group `run`."""
    return differences(_learning_flags(recorded), _learning_flags(requested))


def _learning_flags(config: Config) -> dict[str, object]:
    """The value of each flag that changes what is learned."""
    return {
        flag_of(name): value
        for group in (config.data, config.model, config.optimisation)
        for name, value in vars(group).items()
        if name not in LOCATIONS
    }
