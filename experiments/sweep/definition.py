"""The definition of a sweep, which its workers share, and the best trial found."""

import dataclasses
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from experiments.settings import command_line
from experiments.settings.access import replace_settings
from experiments.settings.config import Config, Run
from experiments.settings.conversion import (
    config_differences,
    config_from_dict,
    config_to_dict,
    differences,
)
from experiments.settings.errors import ConfigError
from experiments.settings.relations import is_user_defined
from experiments.sweep.options import SweepConfig
from experiments.sweep.space import Space, check_space, settings_from_params
from experiments.sweep.space_specs import read_space, space_from_specs, space_to_specs

# The options of a sweep on which its result depends.
SHARED_OPTIONS = ("sampler", "seeds", "pruner", "heartbeat")


class SweepDefinition(NamedTuple):
    """The settings on which all workers of a sweep agree.

    Attributes:
        preset: name of the preset from which command lines start.
        base: the fixed settings; each trial replaces those in `space`.
        space: the settings to search.
        options: `SHARED_OPTIONS` by name.
    """

    preset: str
    base: Config
    space: Space
    options: Mapping[str, str | int]


def define_sweep(parsed: command_line.Parsed[SweepConfig]) -> SweepDefinition:
    """Defines a sweep by its settings.

    Raises:
        ConfigError: if the search space is invalid, or a user-defined family cannot be used.
        RunError: if there are too few devices for a user-defined family.
    """
    config = parsed.config
    space = read_space(config.sweep.space, config.sweep.space_file)
    base = Config(config.data, config.model, config.optimisation)
    check_space(space, dataclasses.replace(base, run=Run(mesh=config.run.mesh)), parsed.given)
    _check_families(space, base, config.run)
    options = {name: getattr(config.sweep, name) for name in SHARED_OPTIONS}
    return SweepDefinition(parsed.name, base, space, options)


def _check_families(space: Space, base: Config, run: Run) -> None:
    """Imports the user-defined families that trials may use, before anything is written."""
    searched = space.get("transform")
    values = (base.model.transform,) if searched is None else searched.extremes()
    families = [value for value in map(str, values) if is_user_defined(value)]
    if not families:
        return
    from experiments.training import sharding, user_families  # import JAX, unlike `sweep report`

    sharding.start_members(run)  # first, because importing a module may start JAX
    for reference in families:
        if {"model", "distortion"} & space.keys():  # then a family may fit some trials only
            user_families.load_family(reference)
        else:
            model = dataclasses.replace(base.model, transform=reference)
            user_families.load_fitting_family(model)


def definition_to_dict(definition: SweepDefinition) -> dict[str, Any]:
    """Converts a definition to JSON values."""
    return {
        "preset": definition.preset,
        "base": config_to_dict(definition.base),
        "space": space_to_specs(definition.space),
        "options": dict(definition.options),
    }


def definition_from_dict(stored: Mapping[str, Any]) -> SweepDefinition:
    """The inverse of `definition_to_dict`.

    Raises:
        ConfigError: if `stored` is not a definition.
    """
    try:
        base = config_from_dict(stored["base"])
        space = space_from_specs(stored["space"])
        return SweepDefinition(stored["preset"], base, space, stored["options"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"not the settings of a sweep: {error}") from error


def definition_differences(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Lists the flags in which two stored definitions differ."""
    left, right = definition_from_dict(recorded), definition_from_dict(requested)
    return config_differences(left.base, right.base) + differences(_flags(left), _flags(right))


def _flags(definition: SweepDefinition) -> dict[str, object]:
    """The sweep's own flags, without those of the base."""
    space = {f"--space {k}:": spec for k, spec in space_to_specs(definition.space).items()}
    return {**space, **{f"--{name}": definition.options[name] for name in SHARED_OPTIONS}}


class BestTrial(NamedTuple):
    """The best trial of a sweep so far.

    Attributes:
        trial: optuna's record of it.
        errors: validation error of each seed, in %.
        config: configuration of its first seed.
        command: command line that trains this configuration.
    """

    trial: FrozenTrial
    errors: Sequence[float]
    config: Config
    command: str


def find_best(definition: SweepDefinition, trials: Sequence[FrozenTrial]) -> BestTrial | None:
    """The complete trial with the smallest error; the first one in a tie, None without any."""
    complete = complete_trials(trials)
    if not complete:
        return None
    trial = min(complete, key=lambda trial: (trial.value, trial.number))
    settings = settings_from_params(definition.space, trial.params)
    config = replace_settings(definition.base, settings)
    arguments = command_line.to_arguments(definition.preset, config, settings.keys())
    command = shlex.join(["python", "-m", "experiments.train", *arguments])
    return BestTrial(trial, trial.user_attrs["outcome"]["errors"], config, command)


def complete_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that trained to the last epoch."""
    return [trial for trial in trials if trial.state == TrialState.COMPLETE]


def standard_deviation(errors: Sequence[float]) -> float | None:
    """Sample standard deviation over seeds; None for a single seed."""
    return statistics.stdev(errors) if len(errors) > 1 else None


def format_errors(errors: Sequence[float]) -> str:
    """Formats errors in % as "mean ± standard deviation"."""
    deviation = standard_deviation(errors)
    return f"{statistics.fmean(errors):.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def format_trial_count(count: int) -> str:
    """Formats a number of trials, as in "1 trial"."""
    return f"{count} trial" + ("" if count == 1 else "s")


def abbreviate_value(value: object) -> str:
    """Formats the value of a setting."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
