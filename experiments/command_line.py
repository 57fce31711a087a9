"""From a command line to settings and back. Imports no jax, so that `--help` is quick."""

import itertools
from collections.abc import Callable

import tyro

from experiments.config import (
    MEANT_FOR,
    C,
    Config,
    ConfigError,
    by_name,
    check,
    demand,
    flag,
    idle_beside,
    is_meant,
)
from experiments.presets import PRESETS


def parse(
    arguments: list[str],
    program: str,
    kind: type[C] = Config,
    check: Callable[[C], None] = check,
) -> tuple[str, C]:
    """Reads `[PRESET] [flags]`: the preset's name and the configuration.

    Args:
        arguments: what stands after the program.
        program: how it is called.
        kind: `Config`, or one with more groups of flags, which have defaults.
        check: raises `ConfigError` for the first setting that makes no sense.

    Raises:
        ConfigError: on settings that make no sense, or that would do nothing.
    """
    given, name = arguments, "demo"
    if arguments and not arguments[0].startswith("-"):
        name, arguments = arguments[0], arguments[1:]
    if name not in PRESETS:
        raise ConfigError(f"PRESET must be one of {', '.join(PRESETS)}; got {name}")
    _check_preset_first(given)
    listing = "\n\n".join(f"{key}: {preset.summary}." for key, preset in PRESETS.items())
    preset = PRESETS[name].config
    config = tyro.cli(
        tyro.conf.OmitArgPrefixes[kind],
        prog=f"{program} {name}",
        description=(
            f"{kind.__doc__}\n\nUsage: {program} [PRESET] [flags]. Presets (demo, if none is "
            f"named):\n\n{listing}\n\nThe defaults below are those of {name}."
        ),
        args=arguments,
        default=kind(preset.data, preset.model, preset.optimisation, preset.run),
    )
    check(config)
    _check_meant(config, preset)
    return name, config


def to_arguments(preset: str, config: Config) -> list[str]:
    """`[PRESET] [flags]` from which `parse` makes this configuration, but for where it is written.

    A setting that means nothing beside the others is left at the preset's.
    """
    defaults, arguments = PRESETS[preset].config, [preset]
    for group in (config.data, config.model, config.optimisation):
        for name, value in vars(group).items():
            if value == by_name(defaults)[name] or not is_meant(config, name):
                continue
            if isinstance(value, bool):
                arguments.append(flag(name) if value else flag(f"no_{name}"))
            else:
                values = value if isinstance(value, tuple) else (value,)
                arguments += [flag(name), *map(str, values)]
    return arguments


def _check_preset_first(arguments: list[str]) -> None:
    """Raises `ConfigError` where a preset's name stands elsewhere, and not as a flag's value."""
    names = ("figures", "diagnostics", "align-corners", "keep-aspect")
    switches = [f"--{no}{name}" for name in names for no in ("", "no-")]
    for before, word in itertools.pairwise(arguments):
        is_value = before.startswith("-") and "=" not in before and before not in switches
        ok = word not in PRESETS or is_value
        demand(ok, "PRESET", f"{word} after {before}", "the first argument")


def _check_meant(config: Config, preset: Config) -> None:
    """Raises `ConfigError` for the first setting that was given and would do nothing.

    What the preset itself sets is not the user's: it may be idle beside what the user changes.
    """
    given, defaults = by_name(config), by_name(preset)
    for name in MEANT_FOR:
        idle = idle_beside(config, name)
        if idle is not None and given[name] != defaults[name]:
            other, values = idle
            beside = f"{flag(other)} {given[other]}, being meant for {', '.join(values)}"
            raise ConfigError(f"{flag(name)} must be left out with {beside}; got {given[name]}")
