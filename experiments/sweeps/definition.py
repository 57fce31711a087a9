"""What a sweep is: the settings that its workers agree on, and the best of what they found."""

import dataclasses
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from optuna.trial import FrozenTrial, TrialState

from experiments import command_line
from experiments import config as configuration
from experiments.config import Config, ConfigError, Run
from experiments.sweeps import space as search
from experiments.sweeps.settings import SweepConfig

# The sweep's own settings on which its result depends.
OPTIONS = ("sampler", "seeds", "pruner", "heartbeat")


class Definition(NamedTuple):
    """What all workers of a sweep have to agree on.

    Attributes:
        preset: the preset's name, from which command lines start.
        base: the settings, of which those that are searched are replaced.
        space: what is searched.
        options: the sweep's own settings, by name.
    """

    preset: str
    base: Config
    space: search.Space
    options: Mapping[str, Any]


def define(preset: str, config: SweepConfig) -> Definition:
    """The definition that settings stand for.

    Raises:
        ConfigError: if the space makes no sense.
    """
    space = search.read(config.sweep.space, config.sweep.space_file)
    base = Config(config.data, config.model, config.optimisation)
    on_devices = dataclasses.replace(base, run=Run(mesh=config.run.mesh))
    search.check(space, on_devices, preset)
    return Definition(preset, base, space, {name: getattr(config.sweep, name) for name in OPTIONS})


def to_dict(definition: Definition) -> dict[str, Any]:
    """The definition as JSON holds it."""
    return {
        "preset": definition.preset,
        "base": configuration.to_dict(definition.base),
        "space": search.to_specs(definition.space),
        "options": dict(definition.options),
    }


def from_dict(stored: Mapping[str, Any]) -> Definition:
    """The definition that `to_dict` made `stored` from.

    Raises:
        ConfigError: if it is none.
    """
    try:
        base = configuration.from_dict(stored["base"])
        space = search.from_specs(stored["space"])
        return Definition(stored["preset"], base, space, stored["options"])
    except (KeyError, TypeError) as error:
        raise ConfigError(f"not the settings of a sweep: {error}") from error


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The flags in which two stored definitions differ."""
    left, right = from_dict(a), from_dict(b)
    found = configuration.differences(left.base, right.base)
    pairs = [
        (f"--space {name}:", *(each["space"].get(name, "nothing") for each in (a, b)))
        for name in {**a["space"], **b["space"]}
    ]
    pairs += [(f"--{name}", left.options[name], right.options[name]) for name in OPTIONS]
    return found + [f"{name} {one} against {other}" for name, one, other in pairs if one != other]


class Best(NamedTuple):
    """The best trial so far.

    Attributes:
        trial: optuna's record of it.
        errors: the validation error of each seed, in %.
        config: the configuration of its first seed.
        command: what trains that.
    """

    trial: FrozenTrial
    errors: Sequence[float]
    config: Config
    command: str


def best(definition: Definition, trials: Sequence[FrozenTrial]) -> Best | None:
    """The best of the trials that were trained whole, the first of equals."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return None
    trial = min(complete, key=lambda trial: (trial.value, trial.number))
    found = search.settings(definition.space, trial.params)
    config = configuration.replace(definition.base, found)
    arguments = command_line.to_arguments(definition.preset, config)
    command = shlex.join(["python", "-m", "experiments.train", *arguments])
    return Best(trial, trial.user_attrs["outcome"]["errors"], config, command)


def spread(errors: Sequence[float]) -> float | None:
    """The standard deviation over seeds, estimated from the sample; None of one seed."""
    return statistics.stdev(errors) if len(errors) > 1 else None


def percent(errors: Sequence[float]) -> str:
    """Mean and spread of errors in %, for people."""
    deviation = spread(errors)
    return f"{statistics.fmean(errors):.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def counted(number: int) -> str:
    """A number of trials, for people."""
    return f"{number} trial" + ("" if number == 1 else "s")


def as_text(value: Any) -> str:
    """A setting's value, for people."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
