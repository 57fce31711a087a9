"""Keeps a sweep from training a configuration twice, and tells when a finite space is exhausted.

Training is deterministic, so a second training of a configuration would have the same result.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalChoiceType,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from experiments.settings.access import replace_settings
from experiments.settings.config import Config, SettingValue
from experiments.settings.errors import ConfigError
from experiments.sweep.space import Space, combinations, suggest_config, to_stored

Params = Mapping[str, Any]
DRAWS = 20  # by the sampler, before a new configuration is chosen at random
CANDIDATES = 100  # new configurations to choose from
LIMIT = 10_000  # of combinations to look at; most are invalid if so many give no new configuration


class UntriedPoints:
    """The configurations of a search space that no trial has.

    Args:
        space: the settings that are searched.
        base: the other settings.
        check: raises `ConfigError` for an invalid configuration.
    """

    def __init__(self, space: Space, base: Config, check: Callable[[Config], None]) -> None:
        self.space, self.base = space, base
        self._check = check
        self._continuous = {name for name, each in space.items() if each.values() is None}

    def exhausted(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether every valid configuration has a trial. A continuous range is never exhausted."""
        tried = _tried(trials)
        every = combinations(self.space, self.base, random.Random(0))
        for count, settings in enumerate(every):
            if count == LIMIT or self._continuous & settings.keys():
                return False
            if self._is_untried(settings, tried):
                return False
        return True

    def choose(self, tried: set[frozenset], seed: int) -> Params | None:
        """One of the first untried configurations, at random; None if there is none."""
        rng = random.Random(seed)
        every = itertools.islice(combinations(self.space, self.base, rng), LIMIT)
        untried = (settings for settings in every if self._is_untried(settings, tried))
        found = list(itertools.islice(untried, CANDIDATES))
        return _to_params(rng.choice(found)) if found else None

    def _is_untried(self, settings: Mapping[str, SettingValue], tried: set[frozenset]) -> bool:
        """Whether a configuration is valid and has no trial."""
        if _key(_to_params(settings)) in tried:
            return False
        try:
            self._check(replace_settings(self.base, settings))
        except ConfigError:
            return False
        return True


class DistinctSampler(BaseSampler):
    """Draws with another sampler, and again if there is a trial of the same configuration.

    If the other sampler repeats itself, a configuration is chosen from those that no trial has.

    Args:
        sampler: the other sampler.
        points: the untried configurations.
        tried: returns all trials of the study. A pruner may show the sampler some of them only.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        points: UntriedPoints,
        tried: Callable[[], Sequence[FrozenTrial]],
    ) -> None:
        self._sampler, self._points, self._tried = sampler, points, tried
        self._drawn: Params = {}

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Draws the configuration of a trial."""
        self._sampler.before_trial(study, trial)
        tried = _tried([each for each in self._tried() if each.number != trial.number])
        for _ in range(DRAWS):
            draft = _Draft(self._sampler, study, trial)
            suggest_config(self._points.space, self._points.base, draft)
            self._drawn = draft.params
            if not draft.is_sampled or _key(draft.params) not in tried:
                return
        if not trial.system_attrs.get("fixed_params"):
            self._drawn = self._points.choose(tried, trial.number) or self._drawn

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Nothing, because `before_trial` has drawn all values."""
        del study, trial
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing, because `before_trial` has drawn all values."""
        del study, trial, search_space
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The value that was drawn."""
        del study, trial, param_distribution
        return self._drawn[param_name]

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Passes the result on."""
        self._sampler.after_trial(study, trial, state, values)


class _Draft:
    """Draws values as `optuna.Trial` does, but stores none.

    Attributes:
        params: the values so far.
        is_sampled: whether any of them is new. A trial that repeats another one has fixed values.
    """

    def __init__(self, sampler: BaseSampler, study: optuna.Study, trial: FrozenTrial) -> None:
        self._sampler, self._study, self._trial = sampler, study, trial
        self._fixed: Params = trial.system_attrs.get("fixed_params", {})
        self._relative: Params | None = None
        self.params: dict[str, Any] = {}
        self.is_sampled = False

    def suggest_categorical(self, name: str, choices: Sequence[CategoricalChoiceType]) -> Any:
        return self._suggest(name, CategoricalDistribution(choices))

    def suggest_int(
        self, name: str, low: int, high: int, *, step: int = 1, log: bool = False
    ) -> int:
        return self._suggest(name, IntDistribution(low, high, log, step))

    def suggest_float(
        self,
        name: str,
        low: float,
        high: float,
        *,
        step: float | None = None,
        log: bool = False,
    ) -> float:
        return self._suggest(name, FloatDistribution(low, high, log, step))

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._fixed:
            value = self._fixed[name]
        else:
            self.is_sampled = True
            value = self._sample(name, distribution)
        self.params[name] = value
        return value

    def _sample(self, name: str, distribution: BaseDistribution) -> Any:
        arguments = self._study, self._trial
        if self._relative is None:
            space = self._sampler.infer_relative_search_space(*arguments)
            self._relative = self._sampler.sample_relative(*arguments, space)
        if name in self._relative:
            return self._relative[name]
        return self._sampler.sample_independent(*arguments, name, distribution)


def _tried(trials: Sequence[FrozenTrial]) -> set[frozenset]:
    """The configurations of trials, also of those that wait to be run again."""
    return {_key(trial.params or trial.system_attrs.get("fixed_params", {})) for trial in trials}


def _to_params(settings: Mapping[str, SettingValue]) -> Params:
    return {name: to_stored(value) for name, value in settings.items()}


def _key(params: Params) -> frozenset:
    return frozenset(params.items())
