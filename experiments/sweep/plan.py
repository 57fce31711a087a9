"""Plans a search: its samplers, its pruner, its number of trials, and the points of a grid."""

import functools

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler, TPESampler

from experiments.sweep.definition import SweepDefinition, definition_differences, definition_to_dict
from experiments.sweep.distinct import UntriedPoints
from experiments.sweep.options import PrunerName, SamplerName, SweepConfig
from experiments.sweep.shared_study import SearchPlan
from experiments.sweep.space import grid_points, to_stored, validate_drawn

DEFAULT_TRIALS = 32
STARTUP_TRIALS = 8  # the median pruner stops no trial before so many are complete


def make_plan(definition: SweepDefinition, config: SweepConfig) -> SearchPlan:
    """Plans the search of a sweep.

    Raises:
        ConfigError: if a grid is infinite or too large.
    """
    sweep, seed = config.sweep, config.optimisation.seed
    is_grid = sweep.sampler == "grid"
    points = grid_points(definition.space, definition.base) if is_grid else []
    check = functools.partial(validate_drawn, run=config.run)
    return SearchPlan(
        definition=definition_to_dict(definition),
        differences=definition_differences,
        num_trials=None if is_grid else sweep.trials or DEFAULT_TRIALS,
        fixed_params=[
            {name: to_stored(value) for name, value in point.items()} for point in points
        ],
        heartbeat=sweep.heartbeat,
        points=None if is_grid else UntriedPoints(definition.space, definition.base, check),
        make_sampler=lambda number: _make_sampler(sweep.sampler, seed, number),
        pruner=_make_pruner(sweep.pruner, config.optimisation.epochs),
    )


def _make_sampler(name: SamplerName, seed: int, number: int) -> BaseSampler:
    """The sampler of one trial, seeded so that no two trials of a sweep are drawn alike."""
    if name == "qmc":  # one sequence; the study stores the position in it
        return QMCSampler(seed=seed, scramble=True)
    kind = TPESampler if name == "tpe" else RandomSampler
    return kind(seed=(seed * 1_000_003 + number) % 2**32)


def _make_pruner(name: PrunerName, epochs: int) -> BasePruner:
    if name == "median":
        return MedianPruner(STARTUP_TRIALS, n_warmup_steps=epochs // 5)
    if name == "hyperband":
        return HyperbandPruner(max(1, epochs // 27), epochs)
    return NopPruner()
