"""Members of a population train as `experiments.train` trains each of them alone."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments import datasets
from experiments.runs.checkpoints import at_start_of_epoch
from experiments.settings import command_line
from experiments.settings.access import replace_settings
from experiments.settings.config import Config, Data
from experiments.settings.errors import ConfigError
from experiments.settings.traced import TRACED_SETTINGS, group_by_program
from experiments.training import loop, population, sharding
from experiments.training.experiment import build_experiment, load_dataset
from experiments.training.metrics import Record
from experiments.training.population import train_population
from experiments.training.single import SingleTrainer
from tests.experiments.conftest import keeping_compiled


def parsed(*arguments: str) -> Config:
    return command_line.parse(list(arguments), "train").config


def with_settings(config: Config, **settings: Any) -> Config:
    return replace_settings(config, settings)


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
    """Three members of one program that differ in every kind of traced setting."""
    rates = {"learning_rate": 1e-2, "localisation_lr": 0.0, "weight_decay": 0.1}
    return [
        config,
        with_settings(config, seed=2**32 - 1, **rates),
        with_settings(config, clip_norm=1e-3, max_angle=180.0, seed=3),
    ]


class RecordKeeper(loop.Callback):
    """Keeps the records of the first member."""

    def __init__(self) -> None:
        self.records: list[Record | None] = []

    def on_epoch(self, loop: loop.Loop, records: Sequence[Record | None]) -> None:
        self.records.append(records[0])


def records_alone(config: Config) -> list[Record | None]:
    """The records of a configuration that trains alone."""
    trainer, keeper = SingleTrainer(build_experiment(config)), RecordKeeper()
    steps = trainer.steps_per_epoch
    snapshots = [at_start_of_epoch(state, steps) for state in trainer.initial_states()]
    loop.run(loop.start(trainer, config.optimisation.epochs, snapshots), [keeper])
    return keeper.records


@pytest.mark.slow
@pytest.mark.usefixtures("compiling")
def test_members_train_as_runs_alone(varied: list[Config]) -> None:
    assert group_by_program(varied) == [[0, 1, 2]]
    history: list[Sequence[Record | None]] = []

    def keep(epoch: int, records: Sequence[Record | None]) -> list[bool]:
        history.append(records)
        return [True] * len(records)

    # With three members on two devices, one place stays empty.
    mesh = sharding.make_mesh({"member": 2})
    results = train_population(varied, mesh=mesh, on_epoch=keep)
    for record, result in zip(history[-1], results, strict=True):
        assert record is not None
        assert (result.steps, result.epochs, record["epoch"]) == (12, 2, 2)
        assert result.validation_error == record["validation_error"]
    # Settings are arguments of one program and constants of the other, so results round
    # differently.
    for records, alone in zip(history, records_alone(varied[1]), strict=True):
        member = records[1]
        assert member is not None
        assert alone is not None
        assert member.keys() == alone.keys()
        for name in member.keys() - {"seconds", "images_per_second"}:
            np.testing.assert_allclose(member[name], alone[name], rtol=1e-4, err_msg=name)
    losses = [record["validation_loss"] for record in history[-1] if record is not None]
    assert len(set(losses)) == len({result.params_sha256 for result in results}) == 3


@pytest.mark.usefixtures("compiling")
def test_members_stop_independently(config: Config) -> None:
    diverging = with_settings(config, learning_rate=1e30)
    configs = [config, diverging, with_settings(config, seed=1)]
    recorded: list[list[bool]] = []

    def stop_the_last(epoch: int, records: Sequence[Record | None]) -> list[bool]:
        recorded.append([record is not None for record in records])
        return [True, True, False]

    good, diverged, pruned = train_population(configs, on_epoch=stop_the_last)
    assert recorded == [[True, False, True], [True, False, False]]
    assert (good.epochs, good.diverged_at) == (2, None)
    assert (pruned.epochs, pruned.diverged_at, pruned.steps) == (1, None, 6)
    assert diverged.diverged_at is not None
    assert diverged.diverged_at == diverged.steps + 1
    assert np.isnan(diverged.validation_error)


def test_static_settings_need_another_program(tiny: list[str]) -> None:
    base = parsed(*tiny)
    other = parsed(*tiny, "--transform", "affine")
    narrow = parsed(*tiny, "--max-angle", "10")
    elsewhere = parsed(*tiny, "--run-dir", "x", "--resume", "auto")
    faster, reseeded = with_settings(base, learning_rate=3.0), with_settings(other, seed=4)
    # A setting that is None in some configurations is not a number in their programs.
    configs = [base, other, faster, narrow, reseeded, elsewhere]
    assert group_by_program(configs) == [[0, 2, 5], [1, 4], [3]]


def test_traced_settings_are_settings() -> None:
    groups = (vars(Config())[field.name] for field in dataclasses.fields(Config))
    assert set(TRACED_SETTINGS) <= {
        setting.name for group in groups for setting in dataclasses.fields(group)
    }


def test_settings_that_do_not_fit_the_data_are_an_error(
    tiny: list[str], run: Callable[..., int]
) -> None:
    config = parsed(*tiny, "--batch-size", "37")
    with pytest.raises(ConfigError, match="--batch-size must be at most"):
        train_population([config])
    config = parsed(*tiny, "--distortion", "rts", "--canvas", "3")
    with pytest.raises(ConfigError, match="--canvas must be at least"):
        train_population([config])


def test_populations_load_the_data_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load", lambda *names, **settings: (names, settings))
    data = Data("gtsrb", "d", "f", 9, image_size=48, keep_aspect=True)
    assert load_dataset(population._source(data)) == load_dataset(data)
    default: Any = load_dataset(Data())
    loaded: Any = load_dataset(data)
    assert all(loaded[1][name] != value for name, value in default[1].items())
