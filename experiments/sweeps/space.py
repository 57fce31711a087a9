"""What is searched: for each setting a choice or a range, from the command line or a file."""

import difflib
import math
import pathlib
import random
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from experiments import config as configuration
from experiments.config import (
    LOCATIONS,
    C,
    Config,
    ConfigError,
    Data,
    Model,
    Optimisation,
    flag,
    idle_beside,
    is_meant,
)
from experiments.presets import PRESETS

if typing.TYPE_CHECKING:
    import optuna

GRID_LIMIT = 1000  # combinations that a study handles with ease
ATTEMPTS = 30  # draws of the others beside which a value must be possible once

# What each setting that can be searched holds. The seed is not searched: --seeds is for that.
TYPES: Mapping[str, Any] = types.MappingProxyType(
    {
        name: hint
        for group in (Data, Model, Optimisation)
        for name, hint in typing.get_type_hints(group).items()
        if name not in (*LOCATIONS, "seed")
    }
)
ALIASES = types.MappingProxyType({"lr": "learning_rate"})


class Choice(NamedTuple):
    """One of some values."""

    options: tuple[Any, ...]

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """The trial's value of a setting."""
        stored = {to_stored(value): value for value in self.options}
        return stored[trial.suggest_categorical(name, list(stored))]

    def values(self) -> Sequence[Any] | None:
        """Every value."""
        return self.options

    def extremes(self) -> Sequence[Any]:
        """Values such that all are possible if these are."""
        return self.options

    def draw(self, rng: random.Random) -> Any:
        """A value at random."""
        return rng.choice(self.options)

    def __str__(self) -> str:
        return ",".join(map(_text, self.options))


class Range(NamedTuple):
    """Numbers from `low` to `high`, both included; whole ones if these are."""

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def suggest(self, trial: "optuna.Trial", name: str) -> Any:
        """The trial's value of a setting."""
        if isinstance(self.low, int):
            step = int(self.step or 1)
            return trial.suggest_int(name, self.low, int(self.high), step=step, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def values(self) -> Sequence[Any] | None:
        """Every value; None of a range without steps."""
        if isinstance(self.low, int):
            return range(self.low, int(self.high) + 1, int(self.step or 1))
        if self.step is None:
            return None
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        count = int((Decimal(str(self.high)) - low) / step) + 1
        return [float(low + i * step) for i in range(min(count, GRID_LIMIT + 1))]

    def extremes(self) -> Sequence[Any]:
        """Values such that all are possible if these are."""
        return (self.low, self.high)

    def draw(self, rng: random.Random) -> Any:
        """A value at random."""
        values = self.values()
        return rng.uniform(self.low, self.high) if values is None else rng.choice(values)

    def __str__(self) -> str:
        step = "" if self.step is None else f"..{self.step}"
        return ("log:" if self.log else "") + f"{self.low}..{self.high}{step}"


Dimension = Choice | Range
Space = Mapping[str, Dimension]


def to_stored(value: Any) -> Any:
    """A value as optuna keeps it, which takes no tuples."""
    return _text(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    """A value as it is written in a specification."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def read(given: Sequence[str], file: str | None) -> Space:
    """The space of the flags `--space` and `--space-file`.

    Raises:
        ConfigError: if any is not understood, or there is none.
    """
    specs: dict[str, str] = {}
    for name, spec, source in [*_from_flags(given), *_from_file(file)]:
        known = _known(name, source)
        if known in specs:
            raise ConfigError(f"{source}: {known} is searched twice")
        specs[known] = spec
    if not specs:
        raise ConfigError(
            "--space must name a setting to search, as in --space learning_rate=log:1e-4..1e-1"
        )
    return from_specs(specs)


def from_specs(specs: Mapping[str, str]) -> Space:
    """The space of which these are the specifications, and that `to_specs` gives back.

    Settings on which it depends whether others mean anything come first.

    Raises:
        ConfigError: if any is not understood.
    """
    space = {name: _dimension(name, spec) for name, spec in specs.items()}
    return {name: space[name] for name in sorted(space, key=configuration.depth)}


def to_specs(space: Space) -> dict[str, str]:
    """The specifications of a space, each written in one way."""
    return {name: str(dimension) for name, dimension in space.items()}


def _from_flags(given: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for argument in given:
        name, equals, spec = argument.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--space must be NAME=SPEC; got {argument}")
        yield name, spec, f"--space {argument}"


def _from_file(file: str | None) -> Iterator[tuple[str, str, str]]:
    if file is None:
        return
    where = f"--space-file {file}"
    try:
        lines = tomllib.loads(pathlib.Path(file).read_text())
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not even text
        raise ConfigError(f"{where}: cannot be read as TOML: {error}") from error
    for name, spec in lines.items():
        options = spec if isinstance(spec, list) else [spec]
        if not all(isinstance(option, str | int | float) for option in options):
            raise ConfigError(f'{where}: {name} must be a "SPEC" or a list of values; got {spec}')
        yield name, ",".join(map(_text, options)), where


def _known(name: str, source: str) -> str:
    """The setting that is meant by a name."""
    plain = name.strip().removeprefix("--").replace("-", "_")
    plain = ALIASES.get(plain, plain)
    if plain == "seed":
        raise ConfigError(f"{source}: the seed is not searched; --seeds trains with several")
    if plain not in TYPES:
        near = difflib.get_close_matches(plain, TYPES, n=1)
        hint = f"perhaps you meant {near[0]}" if near else f"there are {', '.join(TYPES)}"
        raise ConfigError(f"{source}: no setting {name.strip()} to search; {hint}")
    return plain


def _dimension(name: str, spec: str) -> Dimension:
    """What a specification says about a setting."""
    where = f"--space {name}={spec}"
    if ".." in spec or spec.startswith("log:"):
        return _range(name, spec, where)
    options = tuple(_value(TYPES[name], part.strip(), where) for part in spec.split(","))
    for i, option in enumerate(options):
        if option in options[:i]:
            raise ConfigError(f"{where}: {_text(option)} stands there twice")
    return Choice(options)


def _range(name: str, spec: str, where: str) -> Range:
    log, parts = spec.startswith("log:"), spec.removeprefix("log:").split("..")
    kind = next((kind for kind in (int, float) if kind in _alternatives(TYPES[name])), None)
    if kind is None:
        raise ConfigError(f"{where}: {name} is not a number, so it has no range; list its values")
    if log and len(parts) != 2:
        raise ConfigError(f"{where}: log: must be followed by low..high")
    if len(parts) > 3:
        raise ConfigError(f"{where}: must be low..high, log:low..high or low..high..step")
    low, high, *steps = [_value(kind, part.strip(), where) for part in parts]
    step = steps[0] if steps else None
    if not low < high:
        raise ConfigError(f"{where}: its low end must be below its high one")
    if log and low <= 0:
        raise ConfigError(f"{where}: its low end must be positive, being on a logarithmic scale")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{where}: its step must be positive and at most the range")
    found = Range(low, high, step, log)
    values = None if step is None else found.values()
    if values is None:
        return found
    if len(values) > GRID_LIMIT:
        raise ConfigError(f"{where}: must have at most {GRID_LIMIT:,} steps")
    return found._replace(high=values[-1])  # the last step may end before what was given


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of which a setting may be."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _value(hint: Any, text: str, where: str) -> Any:
    """The value of a setting that a text stands for."""
    kinds = _alternatives(hint)
    optional = type(None) in kinds
    if optional and text.lower() == "none":
        return None
    kind = next(kind for kind in kinds if kind is not type(None))
    try:
        return _parse(kind, text)
    except ValueError:
        options = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
        near = difflib.get_close_matches(text, options, n=1)
        raise ConfigError(
            f"{where}: must be {_allowed(kind)}{' or none' if optional else ''}; "
            f"got {text or 'nothing'}{f'; perhaps you meant {near[0]}' if near else ''}"
        ) from None


def _parse(kind: Any, text: str) -> Any:
    """Raises `ValueError` where the text is not of that kind."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return arguments[arguments.index(text)]
    if origin is tuple:
        numbers = tuple(int(part) for part in text.split("x"))
        if arguments[-1] is not Ellipsis and len(numbers) != len(arguments):
            raise ValueError(text)
        return numbers
    if kind is bool:
        return bool(("false", "true").index(text.lower()))
    number = kind(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _allowed(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"among {', '.join(arguments)}"
    if origin is tuple:
        return "whole numbers, as in 48x48"
    return {bool: "true or false", int: "a whole number", float: "a number"}[kind]


def suggest(space: Space, base: C, trial: "optuna.Trial") -> C:
    """The base with the trial's values; a setting that would mean nothing beside them is not drawn.

    Whether they go together is another question.
    """
    for name, dimension in space.items():
        if is_meant(base, name):
            base = configuration.replace(base, {name: dimension.suggest(trial, name)})
    return base


def settings(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The values of settings that optuna keeps as `params`."""
    stored = {
        name: {to_stored(value): value for value in dimension.options}
        for name, dimension in space.items()
        if isinstance(dimension, Choice)
    }
    return {name: stored.get(name, {}).get(value, value) for name, value in params.items()}


def combinations(space: Space, base: Config) -> list[dict[str, Any]]:
    """Every combination of values, but for settings that mean nothing beside the others.

    Raises:
        ConfigError: if there are infinitely many, or more than can be handled.
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
    return [settings for settings, _ in _combine(list(space.items()), base)]


def _combine(
    dimensions: Sequence[tuple[str, Dimension]], base: Config
) -> Iterator[tuple[dict[str, Any], Config]]:
    if not dimensions:
        yield {}, base
        return
    *others, (name, dimension) = dimensions
    for settings, config in _combine(others, base):
        if not is_meant(config, name):
            yield settings, config
            continue
        for value in dimension.values() or ():
            yield settings | {name: value}, configuration.replace(config, {name: value})


def check(space: Space, base: Config, preset: str) -> None:
    """Raises `ConfigError` for the first setting that would do nothing, or cannot be so.

    A value is refused if it is possible beside none of many values of the others.
    """
    defaults = PRESETS[preset].config
    rng = random.Random(0)
    others = [{}]
    for _ in range(ATTEMPTS):  # ends as well, since those of one may go with those of another only
        others.append({name: dimension.draw(rng) for name, dimension in space.items()})
        others.append({name: rng.choice(each.extremes()) for name, each in space.items()})
    for name, dimension in space.items():
        where = f"--space {name}={dimension}"
        given = configuration.replace(base, {name: configuration.setting(defaults, name)})
        if given != base:
            raise ConfigError(f"{flag(name)} must be left out, since {where} searches it")
        idle = idle_beside(base, name)
        if idle and not any(is_meant(configuration.replace(base, each), name) for each in others):
            other, values = idle
            raise ConfigError(f"{where}: is meant for {flag(other)} {', '.join(values)}")
        for value in dimension.extremes():
            tried = [_fault(configuration.replace(base, each | {name: value})) for each in others]
            if all(tried):
                raise ConfigError(f"{where}: {tried[0]}")


def _fault(config: Config) -> str | None:
    """What is wrong with a configuration."""
    try:
        configuration.check(config)
    except ConfigError as error:
        return str(error)
    return None
