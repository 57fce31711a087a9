"""The benchmark's flags."""

import dataclasses
import math
import pathlib
from typing import Annotated, Any, Literal

import tyro

from experiments.benchmark.workloads import Device
from experiments.settings.config import OptionalFloat, OptionalStr
from experiments.settings.errors import ConfigError

Part = Literal["sampler", "step", "overhead", "population"]
PARTS: tuple[Part, ...] = ("sampler", "step", "overhead", "population")


def _names(metavar: str) -> Any:
    """Shows the values of a flag by a name; its default is in its text."""
    return tyro.conf.arg(metavar=f"{metavar} ...", help_behavior_hint="")


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """Time this project against others: the sampler, training steps, and their components.

    Each implementation runs in its own process. Its values are compared with those of this project,
    and then the implementations take turns. Those that are not installed are listed and left out.
    """

    part: Literal["sampler", "step", "overhead", "population", "all"] = "all"
    """sampler: warps of all transformations, modes and
    paddings, and their gradients. step: training steps.
    overhead: the time that the transformer adds to a
    step. population: several networks in one program."""
    device: Device = "cpu"
    """Device of all implementations."""
    repeats: int = 5
    """Number of turns of each implementation."""
    seconds: float = 0.1
    """Duration of each turn, in seconds; an implementation
    repeats its calls for that long."""
    peer_python: Annotated[tuple[str, ...], _names("PYTHON")] = ()
    """Interpreters for the implementations that this one
    cannot import. The first one that has the packages of
    an implementation runs it."""
    peers: Annotated[tuple[str, ...] | None, _names("NAME")] = None
    """Compare only with these implementations. Default: all
    that are installed. torch.compile takes long to
    compile, so by default it runs a few of the warps;
    name it here to run all."""
    cases: Annotated[tuple[str, ...] | None, _names("TEXT")] = None
    """Time only cases whose name contains one of these
    texts, as in --cases bicubic "gradient to grid".
    Default: all cases of the part."""
    sweep: bool = False
    """Also time the sampler while pixels, batch and channels
    grow by a factor of 64."""
    minutes: OptionalFloat = None
    """Start no case after this time. Default: no limit."""
    out: OptionalStr = None
    """JSON file for the results, written after each case.
    Next to it are the table of the sampler (.md) and its
    chart (.png)."""
    resume: bool = False
    """Keep the results in --out, and time only the cases
    that it lacks."""
    smoke: bool = False
    """Use tiny cases, to check that everything runs; the
    times mean nothing."""


def check(settings: BenchmarkSettings) -> None:
    """Checks the settings.

    Raises:
        ConfigError: for the first invalid setting.
    """
    limits = {"--repeats": settings.repeats, "--seconds": settings.seconds}
    for flag, value in (limits | {"--minutes": settings.minutes}).items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{flag} must be positive; got {value}")
    if settings.cases == ():
        raise ConfigError("--cases must be at least one case; got none")
    if settings.resume and settings.out is None:
        raise ConfigError("--resume must be given with --out, the file to continue")
    out = pathlib.Path(settings.out or "out.json").absolute()
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out must be a file in an existing folder; got {settings.out}")
    if out.suffix != ".json":
        raise ConfigError(f"--out must end with .json; got {settings.out}")


def parse(arguments: list[str], program: str) -> BenchmarkSettings:
    """Parses and checks the flags.

    Raises:
        ConfigError: for the first invalid setting.
    """
    settings = tyro.cli(BenchmarkSettings, prog=program, args=arguments)
    check(settings)
    return settings
