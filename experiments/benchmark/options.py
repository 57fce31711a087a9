"""The benchmark's flags."""

import dataclasses
import math
import pathlib
from typing import Literal

import tyro

from experiments.benchmark.workloads import Device
from experiments.settings.errors import ConfigError

Part = Literal["sampler", "step", "overhead", "population"]
PARTS: tuple[Part, ...] = ("sampler", "step", "overhead", "population")


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """Time this project against others: the sampler, training steps, and their components.

    Each implementation runs in its own process. Its values are compared with those of this project,
    and then the implementations take turns. Those that are not installed are listed and left out.
    """

    part: Literal["sampler", "step", "overhead", "population", "all"] = "all"
    """sampler: an affine warp and its gradients. step: training steps. overhead: the time that the
    transformer adds to a step. population: several networks in one program."""
    device: Device = "cpu"
    """Device of all implementations."""
    repeats: int = 5
    """Number of turns of each implementation."""
    seconds: float = 0.25
    """Duration of each turn, in seconds; an implementation repeats its calls for that long."""
    peer_python: str | None = None
    """Interpreter for the implementations that this one cannot import."""
    peers: tuple[str, ...] | None = None
    """Compare only with these implementations. Default: all that are installed."""
    cases: tuple[str, ...] | None = None
    """Time only these cases. Default: all cases of the part."""
    sweep: bool = False
    """Also time the sampler while pixels, batch and channels grow by a factor of 64."""
    out: str | None = None
    """JSON file for the results."""
    smoke: bool = False
    """Use tiny cases, to check that everything runs; the times mean nothing."""


def check(settings: BenchmarkSettings) -> None:
    """Checks the settings.

    Raises:
        ConfigError: for the first invalid setting.
    """
    for flag, value in {"--repeats": settings.repeats, "--seconds": settings.seconds}.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{flag} must be positive; got {value}")
    if settings.cases == ():
        raise ConfigError("--cases must be at least one case; got none")
    out = pathlib.Path(settings.out or "out.json").absolute()
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out must be a file in an existing folder; got {settings.out}")


def parse(arguments: list[str], program: str) -> BenchmarkSettings:
    """Parses and checks the flags.

    Raises:
        ConfigError: for the first invalid setting.
    """
    settings = tyro.cli(BenchmarkSettings, prog=program, args=arguments)
    check(settings)
    return settings
