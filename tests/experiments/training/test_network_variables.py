"""A network with batch statistics is trained, tested, restored and drawn with its statistics."""

import pathlib
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import numpy as np
import pytest

from experiments.analysis import diagnostics, restore
from experiments.analysis.loaded_model import LoadedModel
from experiments.analysis.probe import Probe
from experiments.runs.checkpoints import at_start_of_epoch
from experiments.runs.records import read_config
from experiments.settings import command_line
from experiments.settings.config import Config
from experiments.training import loop, models, sharding
from experiments.training.experiment import build_experiment, initial_state
from experiments.training.metrics import make_tester
from experiments.training.population import PopulationTrainer
from experiments.training.single import SingleTrainer
from stn_jax import transforms
from stn_jax.linen import FCN, SpatialTransformer, SpatialTransformerNetwork
from tests.experiments.conftest import read_records, read_summary
from tests.experiments.processes import keeping_compiled


class Localisation(nn.Module):
    """A localisation network with batch normalisation, so that theta depends on its statistics."""

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        evaluates = not self.is_mutable_collection("batch_stats")
        # A bias has no gradient here, and Adam would scale its rounding errors.
        features = nn.Dense(8, use_bias=False)(images.reshape(images.shape[0], -1))
        return nn.BatchNorm(use_running_average=evaluates, momentum=0.5)(features)


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch, tiny: list[str]) -> list[str]:
    """The arguments of a short run of a network with batch normalisation."""

    def make_network(settings: Any, num_classes: int, _: Any) -> SpatialTransformerNetwork:
        transformer = SpatialTransformer(Localisation(), transforms.rotation)
        return SpatialTransformerNetwork((transformer, FCN(num_classes, (8,))))

    monkeypatch.setattr(models, "make_network", make_network)
    # No other run has these settings, whose compiled functions runs share.
    return [*tiny, "--transform", "rotation", "--features", "7", "--epochs", "2", "--no-figures"]


@pytest.fixture
def trained(normalised: list[str], run: Callable[..., int], tmp_path: pathlib.Path) -> pathlib.Path:
    assert run(*normalised, "--run-dir", tmp_path / "run") == 0
    return tmp_path / "run"


def test_restored_run_gives_the_recorded_results(trained: pathlib.Path) -> None:
    experiment = build_experiment(read_config(trained))
    initial = initial_state(experiment).variables
    for load in (None, lambda _: experiment.dataset):
        _, params, summary, variables = restore.restore(trained, load)
        chex.assert_trees_all_equal_shapes_and_dtypes(variables, initial)
        assert summary is not None
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(variables, initial)
    probe, test = Probe(experiment), make_tester(experiment)
    tested = test(params, variables)
    assert 100 * tested.means["error"] == summary["test_error"]
    assert tested.means["loss"] == summary["test_loss"]
    recorded = np.asarray(read_records(trained / "frames.jsonl")[-1]["theta"]["transformer_0"])
    theta = np.asarray(probe.theta(params, variables)["transformer_0"])
    np.testing.assert_allclose(theta, recorded, rtol=1e-5)
    # With other statistics, all of these differ.
    assert test(params, initial).means["loss"] != summary["test_loss"]
    assert np.abs(probe.theta(params, initial)["transformer_0"] - recorded).max() > 1e-3


def test_analyses_use_the_statistics(trained: pathlib.Path) -> None:
    experiment = build_experiment(read_config(trained))
    restored = restore.restore(trained)
    initial = initial_state(experiment).variables
    images = experiment.dataset.test.images[:4]
    measured, thetas = [], []
    for variables in (restored.variables, initial):
        measured.append(diagnostics.measure(experiment, restored.params, variables)["equivariance"])
        thetas.append(LoadedModel(restored._replace(variables=variables)).theta(images))
    assert measured[0] != measured[1]
    assert np.abs(np.subtract(*thetas)).max() > 1e-3


def test_resumed_run_has_the_statistics_of_an_uninterrupted_one(
    trained: pathlib.Path,
    normalised: list[str],
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, before = restore.restore(trained), read_summary(trained)
    (trained / "summary.json").unlink()
    newest = sorted((trained / "checkpoints").iterdir(), key=lambda path: int(path.stem))[-1]
    newest.unlink()
    assert run(*normalised, "--run-dir", trained, "--resume", "must") == 0
    assert "continuing after step 6\n" in capsys.readouterr().out
    found = restore.restore(trained)
    chex.assert_trees_all_equal(found.params, expected.params)
    chex.assert_trees_all_equal(found.variables, expected.variables)
    assert read_summary(trained)["test_loss"] == before["test_loss"]


def trained_loop(trainer: loop.Trainer, config: Config) -> loop.Loop:
    snapshots = [
        at_start_of_epoch(state, trainer.steps_per_epoch) for state in trainer.initial_states()
    ]
    found = loop.start(trainer, config.optimisation.epochs, snapshots)
    loop.run(found, [])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_members_have_the_statistics_of_separate_runs(
    devices: int, normalised: list[str], compiled: pathlib.Path
) -> None:
    configs = [
        command_line.parse([*normalised, "--seed", str(seed)], "train").config for seed in (0, 1)
    ]
    mesh = sharding.make_mesh({"member": 2}) if devices == 2 else None
    with keeping_compiled(compiled):
        population = trained_loop(PopulationTrainer(configs, None, mesh), configs[0])
        for i, config in enumerate(configs):
            batch_mesh = sharding.make_mesh({"batch": 2}) if devices == 2 else None
            trainer = SingleTrainer(build_experiment(config), batch_mesh)
            single = trained_loop(trainer, config)
            chex.assert_trees_all_close(
                (population.params(i), population.variables(i)),
                (single.params(0), single.variables(0)),
                rtol=1e-3,
                atol=1e-5,
            )
