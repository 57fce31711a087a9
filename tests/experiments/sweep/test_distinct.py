"""A sweep trains no configuration twice, and ends when its search space is exhausted."""

import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pytest

from experiments.settings.config import Config
from experiments.settings.presets import PRESETS
from experiments.sweep.distinct import UntriedPoints
from experiments.sweep.space_specs import read_space
from experiments.sweep.storage import StudyLocation, load_study
from tests.experiments.sweep import fake
from tests.experiments.sweep.conftest import BASE, Search

EXHAUSTED = "every configuration of the search space was tried\n"
FOUR = [*("--space", "transform=affine,rotation"), *("--space", "padding_mode=zeros,border")]


def drawn(folder: pathlib.Path) -> list[Mapping[str, Any]]:
    with load_study(StudyLocation(folder)) as study:
        return [trial.params for trial in study.get_trials()]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_finite_space_is_tried_once_and_then_the_sweep_ends(
    sampler: str,
    pruner: str,
    search: Search,
    folder: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [*FOUR, "--sampler", sampler, "--pruner", pruner, "--trials", 16, "--population", 3]
    assert search(*given, base=BASE[:5]) == 0
    assert len({tuple(params.items()) for params in drawn(folder)}) == len(drawn(folder)) == 4
    assert EXHAUSTED in capsys.readouterr().out
    assert search(*given, base=BASE[:5]) == 0  # continuing trains nothing
    assert len(drawn(folder)) == 4


def test_space_with_unused_settings_is_exhausted(search: Search, folder: pathlib.Path) -> None:
    spaces = ["transform=affine,thin_plate_spline", "control_points=2x2,3x3"]
    given = [word for spec in spaces for word in ("--space", spec)]
    assert search(*given, "--trials", 9, base=BASE[:5]) == 0
    affine = {"transform": "affine"}
    spline = {"transform": "thin_plate_spline"}
    found = Counter(tuple(sorted(params.items())) for params in drawn(folder))
    expected = [affine, spline | {"control_points": "2x2"}, spline | {"control_points": "3x3"}]
    assert found == Counter(tuple(sorted(params.items())) for params in expected)


def test_space_whose_other_configurations_are_invalid_is_exhausted(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--space", "batch_size=32..34", "--mesh", "member=1,batch=2", "--trials", 9]
    assert search(*given, base=BASE[:5]) == 0
    assert EXHAUSTED in capsys.readouterr().out
    assert {32, 34} <= {params["batch_size"] for params in drawn(folder)}


def test_continuous_space_is_not_exhausted(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Although half of the draws would be the same configuration."""
    spaces = [*("--space", "transform=affine,thin_plate_spline"), "--space", "regularisation=0..1"]
    assert search(*spaces, "--trials", 12, base=BASE[:5]) == 0
    found = [tuple(params.items()) for params in drawn(folder)]
    assert len(set(found)) == len(found) == 12
    assert [params for params in found if len(params) == 1] == [(("transform", "affine"),)]
    assert EXHAUSTED not in capsys.readouterr().out


def test_configuration_that_does_not_fit_the_data_is_not_trained_again(
    search: Search, folder: pathlib.Path
) -> None:
    trained: list[int] = []

    def train(configs: Sequence[Config], **options: Any) -> list[fake.FakeResult]:
        trained.extend(config.model.pool for config in configs)
        return fake.train(configs, **options)

    given = ["--space", "pool=1,2,4", "--trials", 8, "--population", 1]
    assert search(*given, base=BASE[:5], train=train) == 0
    assert sorted(trained) == [1, 2, 4]


def test_draws_of_a_large_space_are_those_of_the_sampler(
    search: Search, folder: pathlib.Path
) -> None:
    assert search("--sampler", "random", "--trials", 5) == 0
    rates = [params["learning_rate"] for params in drawn(folder)]
    for number, rate in enumerate(rates):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=number))
        assert rate == study.ask().suggest_float("learning_rate", 1e-4, 1, log=True)


def test_untried_points_are_found_in_a_space_of_millions() -> None:
    space = read_space(["batch_size=1..4000", "epochs=1..4000"], None)
    points = UntriedPoints(space, PRESETS["demo"].config, lambda config: None)
    tried = [
        optuna.create_trial(
            value=1.0,
            params={"batch_size": 1, "epochs": epochs},
            distributions={name: optuna.distributions.IntDistribution(1, 4000) for name in space},
        )
        for epochs in range(1, 300)
    ]
    assert not points.exhausted(tried)
    chosen = points.choose({frozenset(trial.params.items()) for trial in tried}, 0)
    assert chosen is not None
    assert chosen not in [trial.params for trial in tried]
