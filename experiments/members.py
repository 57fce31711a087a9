"""Which settings may differ between the members of one program, and which need another."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config import Config

# Settings that are numbers of a program, not its shape, by their group.
DYNAMIC: Mapping[str, tuple[str, ...]] = {
    "data": ("max_angle", "min_scale", "max_scale", "sigma"),
    "model": ("dropout",),
    "optimisation": (
        "learning_rate",
        "localisation_lr",
        "momentum",
        "weight_decay",
        "clip_norm",
        "seed",
    ),
}


def programs(configs: Sequence[Config]) -> list[list[int]]:
    """The indices of the configurations that one program can train, in order."""
    found: dict[Config, list[int]] = {}
    for index, config in enumerate(configs):
        found.setdefault(shape(config), []).append(index)
    return list(found.values())


def shape(config: Config) -> Config:
    """What a program is compiled for: the configuration, but for its numbers and its folder."""
    bare = with_numbers(config, dict.fromkeys(numbers(config), 1))
    return Config(bare.data, bare.model, bare.optimisation)


def numbers(config: Config) -> dict[str, Any]:
    """The numbers of a program: what is dynamic and not None."""
    return {
        name: value
        for group, names in DYNAMIC.items()
        for name in names
        if (value := getattr(getattr(config, group), name)) is not None
    }


def with_numbers(config: Config, given: Mapping[str, Any]) -> Config:
    """The configuration with other numbers, which may be arrays."""
    groups = {
        group: dataclasses.replace(
            getattr(config, group), **{name: given[name] for name in names if name in given}
        )
        for group, names in DYNAMIC.items()
    }
    return dataclasses.replace(config, **groups)
