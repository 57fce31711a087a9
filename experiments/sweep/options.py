"""The flags of `python -m experiments.sweep`."""

import dataclasses
import re
from typing import Annotated, Literal

import tyro

from experiments.settings import command_line
from experiments.settings.config import Config, OptionalInt, OptionalStr
from experiments.settings.errors import ConfigError
from experiments.settings.presets import PRESETS
from experiments.settings.validation import mesh_sizes, validate

PROGRAM = "python -m experiments.sweep"

SamplerName = Literal["tpe", "random", "qmc", "grid"]
PrunerName = Literal["median", "hyperband", "none"]
StrategyName = Literal["auto", "vmap", "loop"]


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """What to search, and how."""

    space: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME=SPEC")
    ] = ()
    """A setting to search; repeat the flag for several. SPEC lists values (a,b,c) or gives a range:
    low..high, log:low..high or low..high..step. A tuple is written 48x48."""
    space_file: OptionalStr = None
    """TOML file of settings to search, one per line: NAME = "SPEC" or NAME = [a, b, c]."""
    sampler: SamplerName = "tpe"
    """How to choose configurations: optuna's tree-structured Parzen estimator, random values, a
    quasi-random sequence, or every combination."""
    trials: OptionalInt = None
    """Number of configurations to try, summed over all workers. Raise it to continue a finished
    sweep. Default: 32; every combination with --sampler grid."""
    seeds: int = 1
    """Networks to train per configuration, with seeds --seed, --seed + 1, ... The sweep minimises
    their mean validation error."""
    population: int = 8
    """Number of configurations that a worker trains at a time."""
    pruner: PrunerName = "median"
    """When to stop a configuration early. median: if it is worse than the median of the earlier
    ones at the same epoch. hyperband: by Hyperband's brackets. none: never."""
    how: StrategyName = "auto"
    """Train networks side by side in one program (vmap) or one after another (loop). auto: the
    faster one on this device."""
    storage: OptionalStr = None
    """postgresql://USER@HOST/DATABASE, for workers on several machines. Keep the password in
    ~/.pgpass or PGPASSWORD. Default: a file in the run folder, for workers on one machine."""
    study: OptionalStr = None
    """Name of the sweep in --storage, and of its run folder: letters, digits, _, - and ."""
    heartbeat: int = 10
    """Seconds between the heartbeats of a worker. After six missed heartbeats a worker counts as
    dead, and other workers run its trials again."""


@dataclasses.dataclass(frozen=True)
class SweepConfig(Config):
    """Search settings for the smallest validation error.

    The flags of experiments.train fix all settings that are not searched. To add a worker, or to
    continue a sweep, repeat the command with the sweep's --run-dir. `python -m experiments.sweep
    report RUN_DIR` shows tables and plots.
    """

    sweep: SweepOptions = SweepOptions()


@dataclasses.dataclass(frozen=True)
class SweepReportOptions:
    """Show a sweep, finished or not: a table on the terminal, and an HTML page with plots."""

    run_dir: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR", help_behavior_hint="")
    ] = None
    """Run folder of the sweep."""
    storage: OptionalStr = None
    """The sweep's --storage, if it has one."""
    study: OptionalStr = None
    """The sweep's --study."""
    out: OptionalStr = None
    """Path of the page. Default: report.html in the run folder."""


def parse_sweep(arguments: list[str]) -> command_line.Parsed[SweepConfig]:
    """Parses `[PRESET] [flags]`.

    Raises:
        ConfigError: if the settings are invalid.
    """
    if arguments and not arguments[0].startswith("-") and arguments[0] not in PRESETS:
        raise ConfigError(
            f"the first argument must be report or a PRESET: {', '.join(PRESETS)}; "
            f"got {arguments[0]}"
        )
    return command_line.parse(arguments, PROGRAM, SweepConfig, _check)


def parse_report(arguments: list[str]) -> SweepReportOptions:
    """Parses `RUN_DIR [flags]`, the arguments after `report`.

    Raises:
        ConfigError: unless they name one sweep.
    """
    options = tyro.cli(SweepReportOptions, prog=f"{PROGRAM} report", args=arguments)
    if (options.run_dir is None) == (options.storage is None):
        raise ConfigError("report needs the sweep's RUN_DIR, or its --storage and --study")
    _check_storage(options.storage, options.study)
    return options


def _check(config: SweepConfig) -> None:
    """Raises `ConfigError` for the first invalid setting."""
    sweep, run = config.sweep, config.run
    # First, because `validate` may require another flag to go with one that a sweep rejects.
    _check_unused_flags(config)
    validate(config)
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
    if run.mesh is not None and "member" not in mesh_sizes(run):
        raise ConfigError(f"--mesh must have a member axis, as in member=4; got {run.mesh}")
    _check_storage(sweep.storage, sweep.study)


def _check_unused_flags(config: SweepConfig) -> None:
    run = config.run
    for flag, value, default, reason in [
        ("--resume", run.resume, "never", "a sweep's --run-dir is always continued"),
        ("--checkpoint-every", run.checkpoint_every, 1, "a sweep keeps no checkpoints"),
        ("--no-figures", run.figures, True, "a sweep draws no figures"),
        ("--diagnostics", run.diagnostics, False, "a sweep does not use the test set"),
        ("--coordinator", run.coordinator, None, "workers share the --storage instead"),
        ("--distributed", run.distributed, False, "workers share the --storage instead"),
        ("--tracker", run.tracker, "none", "a sweep records its trials in its study"),
    ]:
        if value != default:
            raise ConfigError(f"{flag} must be left out: {reason}")


def _check_storage(storage: str | None, study: str | None) -> None:
    if (storage is None) != (study is None):
        raise ConfigError("--storage and --study must be given together, or neither")
    if study is not None and not re.fullmatch(r"[\w-][\w.-]*", study):  # it names a folder
        raise ConfigError(
            "--study must consist of letters, digits, _, - and ., and not start with a dot; "
            f"got {study}"
        )
    if storage is not None and not storage.startswith(("postgresql://", "postgresql+psycopg://")):
        # Only the scheme is repeated: the rest may contain a password.
        scheme = storage.partition(":")[0]
        raise ConfigError(f"--storage must be postgresql://USER@HOST/DATABASE; got {scheme}:")
