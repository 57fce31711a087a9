"""Which settings are traced numbers of a compiled program, and which need another program.

Runs that differ only in traced settings can be trained by one program, as members of a population.
"""

from collections.abc import Sequence

from experiments.settings.access import replace_settings, settings_by_name
from experiments.settings.config import Config

TRACED_SETTINGS = (
    "max_angle",
    "min_scale",
    "max_scale",
    "sigma",
    "dropout",
    "learning_rate",
    "localisation_lr",
    "momentum",
    "weight_decay",
    "clip_norm",
    "seed",
)


def group_by_program(configs: Sequence[Config]) -> list[list[int]]:
    """Groups the indices of configurations that one program can train, in order."""
    groups: dict[Config, list[int]] = {}
    for index, config in enumerate(configs):
        groups.setdefault(static_config(config), []).append(index)
    return list(groups.values())


def static_config(config: Config) -> Config:
    """The settings that a program is compiled for: traced numbers are 1, and `run` is default."""
    static = replace_settings(config, dict.fromkeys(traced_values(config), 1))
    return Config(static.data, static.model, static.optimisation)


def traced_values(config: Config) -> dict[str, float]:
    """The value of each traced setting that is not None. None needs another program."""
    settings = settings_by_name(config)
    return {name: settings[name] for name in TRACED_SETTINGS if settings[name] is not None}
