"""Parses the specifications of a search space, from the command line or a TOML file."""

import contextlib
import difflib
import math
import pathlib
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from experiments.settings.config import Data, Model, Optimisation
from experiments.settings.conversion import LOCATIONS
from experiments.settings.errors import ConfigError
from experiments.settings.relations import dependency_depth
from experiments.sweep.space import (
    GRID_LIMIT,
    Choice,
    Dimension,
    Range,
    Space,
    format_option,
)

# The type of each setting that can be searched. --seeds takes the place of searching the seed.
SEARCHABLE: Mapping[str, Any] = types.MappingProxyType(
    {
        name: hint
        for group in (Data, Model, Optimisation)
        for name, hint in typing.get_type_hints(group).items()
        if name not in (*LOCATIONS, "seed")
    }
)
ALIASES = types.MappingProxyType({"lr": "learning_rate"})


def read_space(arguments: Sequence[str], file: str | None) -> Space:
    """Reads the search space that the flags `--space` and `--space-file` give.

    Args:
        arguments: each NAME=SPEC.
        file: a TOML file, if any.

    Raises:
        ConfigError: if any specification is invalid, or there is none.
    """
    specs: dict[str, str] = {}
    for text, spec, source in [*_from_flags(arguments), *_from_file(file)]:
        name = _setting_name(text, source)
        if name in specs:
            raise ConfigError(f"{source}: {name} is searched twice")
        specs[name] = spec
    if not specs:
        raise ConfigError(
            "--space must name a setting to search, as in --space learning_rate=log:1e-4..1e-1"
        )
    return space_from_specs(specs)


def space_from_specs(specs: Mapping[str, str]) -> Space:
    """Parses the specification of each setting; the inverse of `space_to_specs`.

    Settings come after those that decide whether they have an effect.

    Raises:
        ConfigError: if any specification is invalid.
    """
    space = {name: _dimension(name, spec) for name, spec in specs.items()}
    return {name: space[name] for name in sorted(space, key=dependency_depth)}


def space_to_specs(space: Space) -> dict[str, str]:
    """The canonical specification of each setting."""
    return {name: str(dimension) for name, dimension in space.items()}


def _from_flags(arguments: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yields names, specifications, and how error messages refer to them."""
    for argument in arguments:
        name, equals, spec = argument.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--space must be NAME=SPEC; got {argument}")
        yield name, spec, f"--space {argument}"


def _from_file(file: str | None) -> Iterator[tuple[str, str, str]]:
    """Yields names, specifications, and how error messages refer to them."""
    if file is None:
        return
    source = f"--space-file {file}"
    try:
        specs = tomllib.loads(pathlib.Path(file).read_text())
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from error
    except ValueError as error:  # invalid TOML or UTF-8
        raise ConfigError(f"{source}: cannot be read as TOML: {error}") from error
    for name, spec in specs.items():
        options = spec if isinstance(spec, list) else [spec]
        if not all(isinstance(option, str | int | float) for option in options):
            raise ConfigError(f'{source}: {name} must be a "SPEC" or a list of values; got {spec}')
        yield name, ",".join(map(format_option, options)), source


def _setting_name(text: str, source: str) -> str:
    """The setting that a name, an alias or a flag refers to."""
    name = text.strip().removeprefix("--").replace("-", "_")
    name = ALIASES.get(name, name)
    if name == "seed":
        raise ConfigError(f"{source}: the seed cannot be searched; --seeds trains with several")
    if name not in SEARCHABLE:
        near = difflib.get_close_matches(name, SEARCHABLE, n=1)
        hint = (
            f"perhaps you meant {near[0]}" if near else f"the settings are {', '.join(SEARCHABLE)}"
        )
        raise ConfigError(f"{source}: no setting {text.strip()} to search; {hint}")
    return name


def _dimension(name: str, spec: str) -> Dimension:
    """Parses the specification of one setting."""
    source = f"--space {name}={spec}"
    kinds = _alternatives(SEARCHABLE[name])
    # The text log:shear may also name a family in a module log.
    if ".." in spec or (spec.startswith("log:") and str not in kinds):
        return _range(name, spec, source)
    options = tuple(_value(SEARCHABLE[name], part.strip(), source) for part in spec.split(","))
    for i, option in enumerate(options):
        if option in options[:i]:
            raise ConfigError(f"{source}: lists {format_option(option)} twice")
    return Choice(options)


def _range(name: str, spec: str, source: str) -> Range:
    log, parts = spec.startswith("log:"), spec.removeprefix("log:").split("..")
    kinds = _alternatives(SEARCHABLE[name])
    kind = int if int in kinds else float if float in kinds else None
    if kind is None:
        raise ConfigError(f"{source}: {name} is not a number, so it has no range; list its values")
    if log and len(parts) != 2:
        raise ConfigError(f"{source}: log: must be followed by low..high")
    if len(parts) > 3:
        raise ConfigError(f"{source}: must be low..high, log:low..high or low..high..step")
    low, high, *steps = [_value(kind, part.strip(), source) for part in parts]
    found = Range(low, high, steps[0] if steps else None, log)
    _check_range(found, source)
    values = None if found.step is None else found.values()
    # The last step may end below the given end.
    return found if values is None else found._replace(high=values[-1])


def _check_range(found: Range, source: str) -> None:
    if not found.low < found.high:
        raise ConfigError(f"{source}: its low end must be below its high end")
    if found.log and found.low <= 0:
        raise ConfigError(f"{source}: its low end must be positive on a logarithmic scale")
    if found.step is None:
        return
    if not 0 < found.step <= found.high - found.low:
        raise ConfigError(f"{source}: its step must be positive and at most the range")
    if len(found.values() or ()) > GRID_LIMIT:
        raise ConfigError(f"{source}: must have at most {GRID_LIMIT:,} steps")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _value(hint: Any, text: str, source: str) -> Any:
    """Parses a value of a setting of type `hint`."""
    kinds = _alternatives(hint)
    optional = type(None) in kinds
    if optional and text.lower() == "none":
        return None
    if str in kinds:
        return text  # any text; `validate` checks it
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    for kind in kinds:
        with contextlib.suppress(ValueError):
            return _parse(kind, text)
    expected = " or ".join([*map(_expected, kinds), *(["none"] if optional else [])])
    options = [each for kind in kinds for each in typing.get_args(kind) if isinstance(each, str)]
    near = difflib.get_close_matches(text, options, n=1)
    suggestion = f"; perhaps you meant {near[0]}" if near else ""
    raise ConfigError(f"{source}: must be {expected}; got {text or 'nothing'}{suggestion}")


def _parse(kind: Any, text: str) -> Any:
    """Parses a value.

    Raises:
        ValueError: if the text is not of type `kind`.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
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


def _expected(kind: Any) -> str:
    """Describes the values of a type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin is tuple:
        return "integers, as in 48x48"
    return {bool: "true or false", int: "an integer", float: "a number"}[kind]
