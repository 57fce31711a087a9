"""The sweep's flags."""

import dataclasses
import re
from typing import Annotated, Literal

import tyro

from experiments import command_line
from experiments import config as configuration
from experiments.config import Config, ConfigError, OptionalInt, OptionalStr
from experiments.presets import PRESETS

PROGRAM = "python -m experiments.sweep"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is searched, and how."""

    space: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=SPEC")
    ] = ()
    """A setting to search, once for each: a,b,c (one of them), low..high, log:low..high, or
    low..high..step. Tuples are written 48x48."""
    space_file: OptionalStr = None
    """TOML file of them: a line NAME = "SPEC", or NAME = [a, b, c], for each."""
    sampler: Literal["tpe", "random", "qmc", "grid"] = "tpe"
    """How configurations are chosen: optuna's tree-structured Parzen estimator, at random, a
    quasi-random sequence, or every combination."""
    trials: OptionalInt = None
    """Configurations to try, counted over all workers; a finished sweep goes on if it is raised.
    Default: 32; of a grid, every combination."""
    seeds: int = 1
    """Networks that each configuration trains, with seeds from --seed on. What is minimised is
    their mean validation error."""
    population: int = 8
    """Configurations trained at a time."""
    pruner: Literal["median", "hyperband", "none"] = "median"
    """When a configuration is stopped early: if at some epoch it is worse than the median of those
    before it, by Hyperband, or never."""
    how: Literal["auto", "vmap", "loop"] = "auto"
    """Whether networks train side by side in one program or one after another. auto: what is
    quicker on this device."""
    storage: OptionalStr = None
    """postgresql://USER@HOST/DATABASE, for workers on many machines. Default: a file in the run
    folder, for those on one. Passwords are better left to ~/.pgpass or PGPASSWORD."""
    study: OptionalStr = None
    """The sweep's name there, and its run folder's; of letters, digits, _, - and ."""
    heartbeat: int = 10
    """Seconds between a worker's signs of life; what is silent for six times that is taken for
    dead, and its trials run again."""


@dataclasses.dataclass(frozen=True)
class SweepConfig(Config):
    """Search settings for the smallest validation error.

    Everything that is not searched is fixed by the flags of experiments.train. The same command
    with the sweep's --run-dir, at any time, joins it as another worker or continues it. `python -m
    experiments.sweep report RUN_DIR` makes tables and plots of it.
    """

    sweep: Sweep = Sweep()


@dataclasses.dataclass(frozen=True)
class Report:
    """Tables and plots of a sweep, finished or not: on the terminal, and as one HTML page."""

    run_dir: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR", help_behavior_hint="")
    ] = None
    """The sweep's run folder."""
    storage: OptionalStr = None
    """The --storage that the sweep was given, where it was."""
    study: OptionalStr = None
    """The sweep's name there."""
    out: OptionalStr = None
    """The page. Default: report.html in the run folder."""


def parse(arguments: list[str]) -> tuple[str, SweepConfig]:
    """Reads `[PRESET] [flags]`: the preset's name and the settings.

    Raises:
        ConfigError: on settings that make no sense.
    """
    if arguments and not arguments[0].startswith("-") and arguments[0] not in PRESETS:
        raise ConfigError(
            f"the first argument must be report, or a PRESET: {', '.join(PRESETS)}; "
            f"got {arguments[0]}"
        )
    return command_line.parse(arguments, PROGRAM, SweepConfig, _check)


def parse_report(arguments: list[str]) -> Report:
    """Reads `RUN_DIR [flags]`, what follows `report`.

    Raises:
        ConfigError: unless it names one sweep.
    """
    report = tyro.cli(Report, prog=f"{PROGRAM} report", args=arguments)
    if (report.run_dir is None) == (report.storage is None):
        raise ConfigError("report needs the sweep's RUN_DIR, or its --storage and --study")
    _check_storage(report.storage, report.study)
    return report


def _check(config: SweepConfig) -> None:
    """Raises `ConfigError` for the first setting that makes no sense."""
    sweep, run = config.sweep, config.run
    _check_left_out(config)  # before anything is asked to go with what a sweep has no use for
    configuration.check(config)
    for flag, value in {
        "--trials": sweep.trials,
        "--seeds": sweep.seeds,
        "--population": sweep.population,
        "--heartbeat": sweep.heartbeat,
    }.items():
        if value is not None and value < 1:
            raise ConfigError(f"{flag} must be positive; got {value}")
    if sweep.sampler == "grid" and sweep.trials is not None:
        raise ConfigError("--trials must be left out with --sampler grid, which tries everything")
    last = config.optimisation.seed + sweep.seeds - 1
    if last >= 2**32:
        raise ConfigError(f"--seed with --seeds must stay in 0 .. 2^32 - 1; got up to {last}")
    if run.mesh is not None and "member" not in configuration.mesh_sizes(run):
        raise ConfigError(f"--mesh must spread members, as member=M does; got {run.mesh}")
    _check_storage(sweep.storage, sweep.study)


def _check_left_out(config: SweepConfig) -> None:
    run = config.run
    for flag, given, default, why in [
        ("--resume", run.resume, "never", "a sweep's --run-dir is always continued"),
        ("--checkpoint-every", run.checkpoint_every, 1, "a sweep keeps no checkpoints"),
        ("--no-figures", run.figures, True, "a sweep draws no pictures"),
        ("--diagnostics", run.diagnostics, False, "a sweep does not look at the test set"),
        ("--coordinator", run.coordinator, None, "workers meet in the --storage"),
    ]:
        if given != default:
            raise ConfigError(f"{flag} must be left out: {why}")


def _check_storage(storage: str | None, study: str | None) -> None:
    if (storage is None) != (study is None):
        raise ConfigError("--storage and --study must be given together, or neither")
    if study is not None and not re.fullmatch(r"[\w-][\w.-]*", study):  # it names a folder
        raise ConfigError(
            f"--study must be of letters, digits, _, - and ., and not start with that; got {study}"
        )
    if storage is not None and not storage.startswith(("postgresql://", "postgresql+psycopg://")):
        kind = storage.partition(":")[0]
        raise ConfigError(f"--storage must be postgresql://USER@HOST/DATABASE; got {kind}:")
