"""The search space of a sweep: for each setting that is searched, a choice or a range of values."""

import random
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from experiments.settings.access import flag_of, replace_settings
from experiments.settings.config import Config, ConfigT, Run, SettingValue
from experiments.settings.errors import ConfigError
from experiments.settings.relations import has_effect, missing_requirement
from experiments.settings.validation import validate

if typing.TYPE_CHECKING:
    from optuna.distributions import CategoricalChoiceType

GRID_LIMIT = 1000  # combinations that a study handles without getting slow
DRAWS = 30  # of the other settings, to find one with which a value is valid

# optuna stores no tuples.
StoredValue = bool | int | float | str | None


class Suggests(typing.Protocol):
    """Draws values, as `optuna.Trial` does."""

    def suggest_categorical(  # noqa: D102
        self, name: str, choices: "Sequence[CategoricalChoiceType]"
    ) -> "CategoricalChoiceType": ...

    def suggest_int(  # noqa: D102
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int: ...

    def suggest_float(  # noqa: D102
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float: ...


class Choice(NamedTuple):
    """One of several values."""

    options: tuple[SettingValue, ...]

    def suggest(self, trial: Suggests, name: str) -> SettingValue:
        """Draws the value of a setting for a trial."""
        by_stored = {to_stored(value): value for value in self.options}
        return by_stored[trial.suggest_categorical(name, list(by_stored))]

    def values(self) -> Sequence[SettingValue]:
        """All values."""
        return self.options

    def extremes(self) -> Sequence[SettingValue]:
        """Values such that the whole dimension is valid if they are."""
        return self.options

    def draw(self, rng: random.Random) -> SettingValue:
        """Draws a random value."""
        return rng.choice(self.options)

    def __str__(self) -> str:
        return ",".join(map(format_option, self.options))


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included; integers if `low` is one."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def suggest(self, trial: Suggests, name: str) -> float:
        """Draws the value of a setting for a trial."""
        if isinstance(self.low, int):
            step = int(self.step or 1)
            return trial.suggest_int(name, self.low, int(self.high), step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def values(self) -> Sequence[float] | None:
        """All values; None for a continuous range."""
        if isinstance(self.low, int):
            return range(self.low, int(self.high) + 1, int(self.step or 1))
        if self.step is None:
            return None
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        count = int((Decimal(str(self.high)) - low) / step) + 1
        return [float(low + i * step) for i in range(min(count, GRID_LIMIT + 1))]

    def extremes(self) -> Sequence[float]:
        """Values such that the whole dimension is valid if they are."""
        return (self.low, self.high)

    def draw(self, rng: random.Random) -> float:
        """Draws a random value."""
        values = self.values()
        return rng.uniform(self.low, self.high) if values is None else rng.choice(values)

    def __str__(self) -> str:
        step = "" if self.step is None else f"..{self.step}"
        return ("log:" if self.log else "") + f"{self.low}..{self.high}{step}"


Dimension = Choice | Range
Space = Mapping[str, Dimension]


def to_stored(value: SettingValue) -> StoredValue:
    """Converts a value to one that optuna can store."""
    return format_option(value) if isinstance(value, tuple) else value


def format_option(value: SettingValue) -> str:
    """Formats a value as in a specification: 32x32, true, none."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def suggest_config(space: Space, base: ConfigT, trial: Suggests) -> ConfigT:
    """Replaces the searched settings of `base` by values drawn for a trial.

    A setting that has no effect with the values drawn before it is not drawn. The result may be
    invalid.
    """
    for name, dimension in space.items():
        if has_effect(base, name):
            base = replace_settings(base, {name: dimension.suggest(trial, name)})
    return base


def validate_drawn(config: Config, run: Run) -> None:
    """Raises `ConfigError` if a configuration that was drawn is invalid, on the mesh of `run`."""
    validate(Config(config.data, config.model, config.optimisation, Run(mesh=run.mesh)))


def settings_from_params(
    space: Space, params: Mapping[str, StoredValue]
) -> dict[str, SettingValue]:
    """Converts the parameters of a trial from optuna's values to values of settings."""
    by_stored = {
        name: {to_stored(value): value for value in dimension.options}
        for name, dimension in space.items()
        if isinstance(dimension, Choice)
    }
    return {name: by_stored.get(name, {}).get(value, value) for name, value in params.items()}


def grid_points(space: Space, base: Config) -> list[dict[str, SettingValue]]:
    """Every combination of values, without settings that have no effect in the combination.

    Raises:
        ConfigError: if the grid is infinite or has more than `GRID_LIMIT` points.
    """
    total = 1
    for name, dimension in space.items():
        values = dimension.values()
        if values is None:
            raise ConfigError(
                f"--space {name}={dimension}: must have a step with --sampler grid, as in "
                f"low..high..step, or list its values"
            )
        total *= len(values)
    if total > GRID_LIMIT:
        raise ConfigError(f"--sampler grid must have at most {GRID_LIMIT:,} points; got {total:,}")
    return list(combinations(space, base))


def combinations(
    space: Space, base: Config, rng: random.Random | None = None
) -> Iterator[dict[str, SettingValue]]:
    """Yields every combination of values, without settings that have no effect in it.

    Args:
        space: the settings to combine.
        base: the other settings.
        rng: draws a value in place of those of a continuous range. None: there is no such range.
    """
    return (settings for settings, _ in _combine(list(space.items()), base, rng))


def _combine(
    dimensions: Sequence[tuple[str, Dimension]], base: Config, rng: random.Random | None
) -> Iterator[tuple[dict[str, SettingValue], Config]]:
    if not dimensions:
        yield {}, base
        return
    *others, (name, dimension) = dimensions
    for settings, config in _combine(others, base, rng):
        if not has_effect(config, name):
            yield settings, config
            continue
        values = dimension.values()
        if values is None:
            assert rng is not None
            values = [dimension.draw(rng)]
        for value in values:
            yield settings | {name: value}, replace_settings(config, {name: value})


def check_space(space: Space, base: Config, given: Collection[str] = ()) -> None:
    """Checks that each setting can have an effect, and that each value can be valid.

    A value is rejected if it is invalid with all of many draws of the other settings.

    Args:
        space: the settings to search.
        base: the other settings.
        given: the settings that flags fix.

    Raises:
        ConfigError: for the first setting or value that fails, or a setting that is also fixed.
    """
    draws = _draws(space)
    for name, dimension in space.items():
        where = f"--space {name}={dimension}"
        if name in given:
            raise ConfigError(f"{flag_of(name)} must be left out, because {where} searches it")
        idle = missing_requirement(base, name)
        if idle and not any(has_effect(replace_settings(base, draw), name) for draw in draws):
            other, values = idle
            raise ConfigError(f"{where}: is meant for {flag_of(other)} {', '.join(values)}")
        for value in dimension.extremes():
            errors = [_error(replace_settings(base, draw | {name: value})) for draw in draws]
            if all(errors):
                raise ConfigError(f"{where}: {errors[0]}")


def _draws(space: Space) -> list[dict[str, SettingValue]]:
    """The base, and pseudo-random points of a space.

    Half of them consist of extremes, because one setting's extreme may only be valid with another
    setting's.
    """
    rng = random.Random(0)
    draws: list[dict[str, SettingValue]] = [{}]
    for _ in range(DRAWS):
        draws.append({name: dimension.draw(rng) for name, dimension in space.items()})
        draws.append({name: rng.choice(each.extremes()) for name, each in space.items()})
    return draws


def _error(config: Config) -> str | None:
    """The error message of an invalid configuration."""
    try:
        validate(config)
    except ConfigError as error:
        return str(error)
    return None
