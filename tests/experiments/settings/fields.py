"""The settings of a run, by name, as these tests enumerate them."""

import dataclasses
import typing

from experiments.settings import command_line
from experiments.settings.access import replace_settings
from experiments.settings.config import Config
from experiments.settings.presets import PRESETS

GROUPS = {field.name: type(field.default) for field in dataclasses.fields(Config)}
FIELDS = {
    field.name: (kind, field) for kind in GROUPS.values() for field in dataclasses.fields(kind)
}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def start_of(preset: str) -> Config:
    """The settings of a preset with what it needs."""
    return replace_settings(PRESETS[preset].config, {"data_dir": "d"} if preset in NEEDED else {})


def choices(name: str) -> tuple[str, ...]:
    """The options of a setting; empty unless its type is or contains a `Literal`."""
    kind, _ = FIELDS[name]
    hint = typing.get_type_hints(kind)[name]
    literals = [
        each for each in (hint, *typing.get_args(hint)) if typing.get_origin(each) is typing.Literal
    ]
    return typing.get_args(literals[0]) if literals else ()


# What a preset needs besides its name.
NEEDED = {"images": ["--data-dir", "d"]}
STARTS = {name: [name, *NEEDED.get(name, [])] for name in PRESETS}

CHOICES = [name for name in FIELDS if choices(name)]


def parse(*arguments: str) -> Config:
    return command_line.parse(arguments, "train").config
