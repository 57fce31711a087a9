"""A sweep of real networks."""

import json
import pathlib

import pytest

from experiments.sweep.__main__ import main
from experiments.sweep.storage import StudyLocation, load_study
from tests.experiments.conftest import keeping_compiled


@pytest.mark.slow
def test_sweep_trains_real_networks(
    tiny: list[str],
    compiled: pathlib.Path,
    tmp_path: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "sweep"
    space = ["--space", "learning_rate=log:1e-4..1e-2", "--space", "max_angle=10,90"]
    with keeping_compiled(compiled):
        assert main([*tiny, *space, "--trials", "2", "--run-dir", str(folder)]) == 0
    best = json.loads((folder / "best.json").read_text())
    with load_study(StudyLocation(folder)) as study:
        assert min(trial.value for trial in study.trials) == best["validation_error"]
        for trial in study.trials:
            assert list(trial.intermediate_values) == [1, 2, 3]
            assert trial.value == trial.intermediate_values[3]
            assert trial.user_attrs["outcome"]["num_params"] > 1000
    assert best["command"] in capfd.readouterr().out
