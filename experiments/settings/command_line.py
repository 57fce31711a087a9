"""Parse command lines into settings, and the reverse. Does not import jax, for a fast `--help`."""

import itertools
import json
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Generic, NamedTuple

import tyro

from experiments.settings.access import flag_of, replace_settings, settings_by_name
from experiments.settings.adaptation import adapt, describe_adaptations
from experiments.settings.config import OWN_DATASETS, Config, ConfigT, Run, SettingValue
from experiments.settings.conversion import config_from_dict
from experiments.settings.errors import ConfigError
from experiments.settings.presets import PRESETS
from experiments.settings.relations import REQUIREMENTS, has_effect, missing_requirement
from experiments.settings.validation import require, validate

CONFIG_NAME = "config"  # the name of the start of a run with --config


class Parsed(NamedTuple, Generic[ConfigT]):
    """A parsed command line.

    Attributes:
        name: the name of the preset, or `config` after `--config`.
        config: the settings, adapted to the flags.
        given: the names of the settings that flags gave.
        adapted: what changed so that other settings fit those that were given, each as in
            `--warmup 0.1 (was 1.0)`.
    """

    name: str
    config: ConfigT
    given: frozenset[str]
    adapted: list[str]


def parse(
    arguments: Sequence[str],
    program: str,
    kind: type[ConfigT] = Config,
    check: Callable[[ConfigT], None] = validate,
) -> Parsed[ConfigT]:
    """Parses `[PRESET] [flags]`, or `--config FILE [flags]`.

    Args:
        arguments: the command line after the program.
        program: the command, for `--help`.
        kind: `Config`, or a subclass with more groups of flags, which have defaults. A subclass has
            no `--config`.
        check: raises `ConfigError` for the first invalid setting.

    Raises:
        ConfigError: if settings are invalid, or a flag has no effect.
    """
    name, start, flags = _read_start(list(arguments), with_file=kind is Config)
    given_config = tyro.cli(
        tyro.conf.OmitArgPrefixes[kind],
        prog=f"{program} {name}",
        description=_description(kind, program, name),
        args=flags,
        default=kind(start.data, start.model, start.optimisation, start.run),
    )
    given = _names_of_flags(flags, given_config)
    config = adapt(given_config, start, given)
    check(config)
    _check_effects(config, given)
    return Parsed(name, config, given, describe_adaptations(given_config, config))


def to_arguments(preset: str, config: Config, listed: Collection[str] = ()) -> list[str]:
    """The command line `[PRESET] [flags]` that `parse` turns into a configuration.

    The group `run` is left out. Settings without an effect stay at the values of the preset.

    Args:
        preset: the name of the preset.
        config: the configuration.
        listed: settings with an effect that get a flag even if the preset has their value.
    """
    start, wanted = PRESETS[preset].config, settings_by_name(config)
    groups = (config.data, config.model, config.optimisation)
    names = [name for group in groups for name in vars(group) if has_effect(config, name)]
    given = {name: wanted[name] for name in names if name in listed}
    while True:  # a value of the preset must be given too if `parse` would adapt it
        parsed = settings_by_name(adapt(replace_settings(start, given), start, given))
        missing = {name: wanted[name] for name in names if parsed[name] != wanted[name]}
        if not missing:
            break
        given |= missing
    flags = [_to_flag(name, given[name]) for name in names if name in given]
    return [preset, *itertools.chain(*flags)]


def _to_flag(name: str, value: SettingValue) -> list[str]:
    if isinstance(value, bool):
        return [flag_of(name) if value else flag_of(f"no_{name}")]
    return [flag_of(name), *map(str, value if isinstance(value, tuple) else (value,))]


# --- The start: a preset or a file ----------------------------------------------------------------


def _read_start(arguments: list[str], with_file: bool) -> tuple[str, Config, list[str]]:
    """The name and the settings that a command line starts from, and its flags."""
    file, arguments = _pop_config(arguments) if with_file else (None, arguments)
    _check_preset_first(arguments)
    if arguments and not arguments[0].startswith("-"):
        name, *flags = arguments
        require(name in PRESETS, "PRESET", name, f"one of {', '.join(PRESETS)}")
        require(file is None, "--config", f"{file} and {name}", "left out with a PRESET")
        return name, PRESETS[name].config, flags
    if file is not None:
        return CONFIG_NAME, read_config_file(file), arguments
    name = "images" if _gives_own_data(arguments) else "demo"
    return name, PRESETS[name].config, arguments


def _gives_own_data(flags: Sequence[str]) -> bool:
    """Whether flags select a user's own data."""
    words = [part for word in flags for part in word.split("=", maxsplit=1)]
    pairs = [(flag.replace("_", "-"), value) for flag, value in itertools.pairwise(words)]
    return any(
        flag == "--data-file" or (flag == "--dataset" and value in OWN_DATASETS)
        for flag, value in pairs
    )


def _pop_config(arguments: list[str]) -> tuple[str | None, list[str]]:
    """Splits the arguments into the file of `--config FILE` or `--config=FILE`, and the others."""
    for index, word in enumerate(arguments):
        flag, equals, file = word.partition("=")
        if flag == "--config":
            others = arguments[index + 1 :]
            if not equals:
                ok = bool(others) and not others[0].startswith("-")
                require(ok, "--config", "none", "followed by a FILE")
                file, *others = others
            return file, arguments[:index] + others
    return None, arguments


def read_config_file(path: str) -> Config:
    """Reads the settings of a run to repeat from its `config.json`.

    Its folder, `--resume` and the flags of its processes are left out.

    Raises:
        ConfigError: if the file cannot be read or does not hold the settings of a run.
    """
    try:
        config = config_from_dict(json.loads(pathlib.Path(path).read_text()))
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--config {path}: is not JSON: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"--config {path}: {error}") from error
    default = Run()
    own = ("run_dir", "resume", "coordinator", "num_processes", "process_id", "distributed")
    return replace_settings(config, {name: getattr(default, name) for name in own})


def _check_preset_first(arguments: list[str]) -> None:
    """Raises `ConfigError` if the name of a preset is neither first nor the value of a flag."""
    switches = {name for name, value in settings_by_name(Config()).items() if type(value) is bool}
    for before, word in itertools.pairwise(arguments):
        takes_value = before.startswith("-") and "=" not in before
        takes_value = takes_value and _setting_of(before) not in switches
        ok = word not in PRESETS or takes_value
        require(ok, "PRESET", f"{word} after {before}", "the first argument")


def _description(kind: type[Config], program: str, name: str) -> str:
    """The text at the top of `--help`."""
    usage = f"Usage: {program} [PRESET] [flags]"
    if kind is Config:
        usage += f"\n\nOr: {program} --config FILE [flags], to repeat the run of a config.json"
    presets = "\n\n".join(f"{key}: {preset.summary}." for key, preset in PRESETS.items())
    return (
        f"{kind.__doc__}\n\n{usage}\n\nA flag overrides a setting of the preset. Other settings of "
        "the preset that do not fit it are adapted. Presets (default: images for your own data, "
        f"otherwise demo):\n\n{presets}\n\n"
        f"The defaults below are those of {name}."
    )


# --- Given flags ----------------------------------------------------------------------------------


def _names_of_flags(flags: list[str], config: Config) -> frozenset[str]:
    """The names of the settings that flags gave. The flags have been parsed successfully.

    Values cannot be mistaken for flags: a value that starts with -- is only accepted after =.
    """
    names = {_setting_of(flag) for flag in flags if flag.startswith("--")}
    return frozenset(names & settings_by_name(config).keys())


def _setting_of(flag: str) -> str:
    """The name of the setting of a flag, as in `--no-figures` or `--epochs=3`."""
    name = flag.removeprefix("--").partition("=")[0].replace("-", "_")
    return name.removeprefix("no_")


def _check_effects(config: Config, given: Collection[str]) -> None:
    """Raises `ConfigError` for the first flag that has no effect."""
    settings = settings_by_name(config)
    for name in REQUIREMENTS:
        missing = missing_requirement(config, name)
        if name in given and missing is not None:
            other, values = missing
            reason = f"because it has an effect only with {', '.join(values)}"
            allowed = f"left out with {flag_of(other)} {settings[other]}, {reason}"
            require(False, flag_of(name), settings[name], allowed)
