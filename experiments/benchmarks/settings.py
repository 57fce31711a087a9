"""The benchmark's flags."""

import dataclasses
import math
import pathlib
from typing import Literal

import tyro

from experiments.config import ConfigError

Part = Literal["sampler", "step", "overhead", "population"]
PARTS: tuple[Part, ...] = ("sampler", "step", "overhead", "population")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Time this project against others: the sampler, training steps, and what they consist of.

    Every implementation runs in a process of its own, is checked to give the same values, and then
    takes turns with the others. Implementations that are not installed are named and left out.
    """

    part: Literal["sampler", "step", "overhead", "population", "all"] = "all"
    """sampler: an affine warp and its gradients. step: training steps. overhead: what the
    transformer adds to a step. population: several networks in one program."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where everything runs."""
    repeats: int = 5
    """Turns of each implementation."""
    seconds: float = 0.25
    """Of repeated calls in each turn."""
    peer_python: str | None = None
    """Interpreter that runs the implementations which this one cannot import."""
    peers: tuple[str, ...] | None = None
    """Only these implementations besides this project's. Default: all that are installed."""
    cases: tuple[str, ...] | None = None
    """Only these cases. Default: all of the part."""
    sweep: bool = False
    """Also time the sampler while pixels, batch and channels grow by a factor of 64."""
    out: str | None = None
    """JSON file for the numbers."""
    smoke: bool = False
    """Tiny cases: shows that everything runs, and nothing about speed."""


def check(settings: Settings) -> None:
    """Raises `ConfigError` for the first setting that makes no sense."""
    for flag, value in {"--repeats": settings.repeats, "--seconds": settings.seconds}.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{flag} must be positive; got {value}")
    if settings.cases == ():
        raise ConfigError("--cases must be one case or more; got none")
    out = pathlib.Path(settings.out or "out.json").absolute()
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out must be a file in a folder that exists; got {settings.out}")


def parse(arguments: list[str], program: str) -> Settings:
    """Reads the flags."""
    settings = tyro.cli(Settings, prog=program, args=arguments)
    check(settings)
    return settings
