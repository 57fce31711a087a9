"""A population of configurations comes to what `experiments.train` makes of each alone."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import (
    command_line,
    datasets,
    devices,
    experiment,
    members,
    population,
    preparation,
)
from experiments import config as configuration
from experiments.config import Config
from experiments.population import Record
from experiments.train import compile_programs
from tests.experiments.conftest import keeping_compiled


def parsed(*arguments: str) -> Config:
    return command_line.parse(list(arguments), "train")[1]


def with_(config: Config, **numbers: Any) -> Config:
    return members.with_numbers(config, numbers)


@pytest.fixture
def compiling(compiled: Path) -> Iterator[None]:
    with keeping_compiled(compiled):
        yield


@pytest.fixture
def config(tiny: list[str]) -> Config:
    settings = "--distortion rts --canvas 12 --max-angle 30 --localisation-lr 1e-4 --clip-norm 1"
    return parsed(*tiny, *settings.split(), "--epochs", "2")


@pytest.fixture
def varied(config: Config) -> list[Config]:
    """Three members of one program that differ in all that may."""
    return [
        config,
        with_(config, seed=2**32 - 1, learning_rate=1e-2, localisation_lr=0.0, weight_decay=0.1),
        with_(config, clip_norm=1e-3, max_angle=180.0, seed=3),
    ]


def validation_after(config: Config) -> float:
    """The loss that the functions of `experiments.train` come to."""
    made = experiment.build(config)
    programs = compile_programs(made)
    state, data = experiment.initial_state(made), preparation.as_batch(made.dataset.train)
    for epoch in range(config.optimisation.epochs):
        state, _ = programs.steps(state, data, programs.order(state.key, epoch))
    validation = preparation.as_batch(made.dataset.validation)
    means = programs.evaluate(state.params, validation, made.key(experiment.VALIDATION))
    return float(means["loss"])


@pytest.mark.usefixtures("compiling")
def test_members_are_the_runs_alone(varied: list[Config]) -> None:
    assert members.programs(varied) == [[0, 1, 2]]
    last: list[Record] = []

    def keep(epoch: int, records: Sequence[Any]) -> list[bool]:
        last[:] = records
        return [True] * len(records)

    # Three members on two devices: one place stays empty.
    mesh = devices.make_mesh({"member": 2})
    results = population.train(varied, mesh=mesh, on_epoch=keep)
    for record, result in zip(last, results, strict=True):
        assert (result.steps, result.epochs, record["epoch"]) == (12, 2, 2)
        assert result.validation_error == record["validation_error"]
    # Numbers are arguments of one program and constants of the other: a few roundings.
    alone = validation_after(varied[1])
    np.testing.assert_allclose(last[1]["validation_loss"], alone, rtol=1e-4)
    losses = [record["validation_loss"] for record in last]
    assert len(set(losses)) == len({result.params_sha256 for result in results}) == 3


@pytest.mark.usefixtures("compiling")
def test_members_stop_by_themselves(config: Config) -> None:
    configs = [config, with_(config, learning_rate=1e30), with_(config, seed=1)]
    seen: list[list[bool]] = []

    def all_but_the_last(epoch: int, records: Sequence[Record | None]) -> list[bool]:
        seen.append([record is not None for record in records])
        return [True, True, False]

    good, diverged, pruned = population.train(configs, on_epoch=all_but_the_last)
    assert seen == [[True, True, True], [True, False, False]]
    assert (good.epochs, good.diverged_at) == (2, None)
    assert (pruned.epochs, pruned.diverged_at, pruned.steps) == (1, None, 6)
    assert diverged.diverged_at is not None
    assert diverged.diverged_at == diverged.steps + 1
    assert np.isnan(diverged.validation_error)


def test_programs_part_by_what_is_static(tiny: list[str]) -> None:
    base = parsed(*tiny)
    other = parsed(*tiny, "--transform", "affine")
    narrow = parsed(*tiny, "--max-angle", "10")
    elsewhere = parsed(*tiny, "--run-dir", "x", "--resume", "auto")
    configs = [base, other, with_(base, learning_rate=3.0), narrow, with_(other, seed=4), elsewhere]
    # --max-angle is None in some: there, no number enters the program.
    assert members.programs(configs) == [[0, 2, 5], [1, 4], [3]]


def test_every_number_is_a_setting() -> None:
    for group, names in members.DYNAMIC.items():
        fields = {field.name for field in dataclasses.fields(getattr(Config(), group))}
        assert set(names) <= fields


def test_what_does_not_fit_the_data_is_named(tiny: list[str], run: Callable[..., int]) -> None:
    config = parsed(*tiny, "--batch-size", "37")
    with pytest.raises(configuration.ConfigError, match="--batch-size must be at most"):
        population.train([config])
    config = parsed(*tiny, "--distortion", "rts", "--canvas", "3")
    with pytest.raises(configuration.ConfigError, match="--canvas must be at least"):
        population.train([config])


def test_populations_train_on_what_a_run_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load", lambda *names, **settings: (names, settings))
    data = configuration.Data("gtsrb", "d", "f", 9, image_size=48, keep_aspect=True)
    assert experiment.load(population._source(data)) == experiment.load(data)
    default: Any = experiment.load(configuration.Data())
    loaded: Any = experiment.load(data)
    assert all(loaded[1][name] != value for name, value in default[1].items())
