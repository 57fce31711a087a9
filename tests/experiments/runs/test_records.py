"""The records of a run are complete, readable, and written whole or not at all."""

import json
import math
import os
import pathlib
import shlex
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import stn_jax
from experiments.analysis.frames import frame_grids
from experiments.analysis.probe import Probe
from experiments.runs import records
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.records import JsonLines, RunError, read_lines
from experiments.settings import command_line
from experiments.settings.conversion import config_from_dict
from experiments.training.experiment import (
    build_experiment,
    initial_state,
    params_sha256,
)
from tests.experiments.conftest import read_records, read_summary

EPOCHS, STEPS = 3, 6  # of the finished run
METRICS = {
    "epoch",
    "step",
    "train_loss",
    "train_error",
    "gradient_norm",
    "learning_rate",
    "seconds",
    "images_per_second",
    "validation_loss",
    "validation_error",
    "outside",
}


# --- Records of a finished run --------------------------------------------------------------------


def test_config_holds_the_settings_of_the_command(finished: pathlib.Path, tiny: list[str]) -> None:
    found = config_from_dict(json.loads((finished / "config.json").read_text()))
    expected = command_line.parse([*tiny, "--run-dir", str(finished)], "train").config
    assert found == expected


def test_metrics_have_a_record_for_each_epoch(finished: pathlib.Path) -> None:
    found = read_records(finished / "metrics.jsonl")
    assert [record["epoch"] for record in found] == [1, 2, 3]
    assert [record["step"] for record in found] == [6, 12, 18]
    for record in found:
        assert record.keys() == METRICS
        assert all(math.isfinite(value) for value in record.values())
        assert 0 <= record["train_error"] <= 100
        assert 0 <= record["validation_error"] <= 100
        assert 0 <= record["outside"] <= 1
        assert record["images_per_second"] == pytest.approx(36 / record["seconds"])


def test_errors_are_in_percent(finished: pathlib.Path) -> None:
    # There are 36 training and 4 validation examples.
    for record in read_records(finished / "metrics.jsonl"):
        assert record["train_error"] * 36 / 100 == pytest.approx(
            round(record["train_error"] * 0.36)
        )
        assert record["validation_error"] in (0, 25, 50, 75, 100)


def test_recorded_learning_rate_is_that_of_the_last_step(finished: pathlib.Path) -> None:
    for record in read_records(finished / "metrics.jsonl"):
        progress = (record["step"] - 1) / (EPOCHS * STEPS)
        expected = 2e-3 * (1 + math.cos(math.pi * progress)) / 2
        assert record["learning_rate"] == pytest.approx(expected, rel=1e-5)


def test_frames_are_recorded_before_training_and_after_each_epoch(finished: pathlib.Path) -> None:
    found = read_records(finished / "frames.jsonl")
    assert [record["epoch"] for record in found] == [0, 1, 2, 3]
    thetas = np.asarray([record["theta"]["transformer_0"] for record in found])
    assert thetas.shape == (4, 8, 1)
    assert not thetas[0].any()  # the identity
    assert (thetas[1:] != thetas[:-1]).any(axis=(1, 2)).all()


def test_summary_has_the_results_and_their_provenance(
    finished: pathlib.Path, tiny: list[str]
) -> None:
    summary = read_summary(finished)
    history = read_records(finished / "metrics.jsonl")
    assert summary["test_error"] * 25 / 100 == pytest.approx(round(summary["test_error"] / 4))
    assert summary["validation_error"] == history[-1]["validation_error"]
    assert summary["train_seconds"] == pytest.approx(sum(each["seconds"] for each in history))
    assert summary["images_per_second"] == pytest.approx(3 * 36 / summary["train_seconds"])
    assert (summary["epochs"], summary["steps"], summary["seed"]) == (EPOCHS, EPOCHS * STEPS, 0)
    assert (summary["dataset"], summary["train_examples"]) == ("npz", 36)
    assert 0 < summary["angle_std_before_deg"] < 90
    assert 0 < summary["angle_std_after_deg"] < 180
    command = ["python", "-m", "experiments.train", *tiny, "--run-dir", str(finished)]
    assert shlex.split(summary["command"]) == command
    assert summary["versions"]["jax"] == metadata.version("jax")
    assert summary["versions"]["stn-jax"] == stn_jax.__version__
    assert {"python", "jaxlib", "flax", "optax", "numpy"} < summary["versions"].keys()
    assert summary["device"].startswith(jax.devices()[0].platform)
    assert "git_commit" in summary


def test_summary_describes_the_last_checkpoint(finished: pathlib.Path) -> None:
    summary = read_summary(finished)
    experiment = build_experiment(records.read_config(finished))
    checkpoints = Checkpoints(finished / "checkpoints")
    assert checkpoints.steps[-1] == EPOCHS * STEPS
    start = initial_state(experiment)
    state = checkpoints.restore(start).state
    assert int(state.step) == EPOCHS * STEPS
    assert params_sha256(state.params) == summary["params_sha256"]
    assert params_sha256(start.params) != summary["params_sha256"]
    # Dense layers: localisation 81-32-32-32-1, classifier 81-8-3.
    layers = [(81, 32), (32, 32), (32, 32), (32, 1), (81, 8), (8, 3)]
    assert summary["num_params"] == sum((i + 1) * o for i, o in layers)


def test_the_newest_two_checkpoints_are_kept(finished: pathlib.Path) -> None:
    found = sorted(path.name for path in (finished / "checkpoints").iterdir())
    assert found == ["12.msgpack", "18.msgpack"]


def test_figures_are_readable(finished: pathlib.Path) -> None:
    found = sorted(path.name for path in (finished / "figures").iterdir())
    assert found == [
        "angles.png",
        "confusions.png",
        "curves.png",
        "frames.gif",
        "frames.png",
        "images.png",
    ]
    for name in found:
        with Image.open(finished / "figures" / name) as figure:
            figure.load()
            assert min(figure.size) > 50
            assert getattr(figure, "n_frames", 1) == (1 + EPOCHS if name == "frames.gif" else 1)


def test_finished_run_has_no_other_files(finished: pathlib.Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        "checkpoints",
        "config.json",
        "confusions.json",
        "figures",
        "frames.jsonl",
        "lock",
        "metrics.jsonl",
        "summary.json",
        "tensorboard",
    ]


def test_images_without_contrast_can_be_displayed(tmp_path: pathlib.Path, tiny: list[str]) -> None:
    path = tmp_path / "grey.npz"
    labels = np.arange(20) % 2
    grey = np.full((20, 9, 9), 7, np.uint8)
    np.savez(path, x_train=grey, y_train=labels, x_test=grey, y_test=labels)
    arguments = [*tiny, "--data-file", str(path), "--distortion", "e"]
    experiment = build_experiment(command_line.parse(arguments, "train").config)
    probe = Probe(experiment)
    probe.images = jnp.zeros_like(probe.images)
    shown = probe.display_images(initial_state(experiment).params)
    assert all(np.isfinite(each).all() for each in shown.values())


def test_grid_of_a_null_theta_is_nan(finished: pathlib.Path) -> None:
    settings = records.read_config(finished).model
    (grid,) = frame_grids(settings, {"transformer_0": [[0.0], [None]]}).values()
    assert np.isfinite(grid[0]).all()
    assert not np.isfinite(grid[1]).any()


# --- Files ----------------------------------------------------------------------------------------


def test_json_is_written_whole_or_not_at_all(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    records.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        records.write_json(path, {"a": object()})

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"a\.json: cannot be written: Input/output error"):
        records.write_json(path, {"a": 2})
    assert records.read_json(path) == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("ending", ["", '{"ep', "\n", '{"epoch": 3}', "null\n", b"\xff\xff", "7\n"])
def test_damaged_last_line_is_replaced(tmp_path: pathlib.Path, ending: str | bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = [{"epoch": 1, "a": 0.5}, {"epoch": 2, "a": None}]
    text = "".join(json.dumps(record) + "\n" for record in whole).encode()
    path.write_bytes(text + (ending if isinstance(ending, bytes) else ending.encode()))
    assert read_lines(path, 2) == whole
    file = JsonLines(path, 2)
    file.append({"epoch": 3, "a": 1.0})
    assert read_records(path) == [*whole, {"epoch": 3, "a": 1.0}]  # before the file is closed
    file.close()


def test_non_finite_numbers_are_written_as_null(tmp_path: pathlib.Path) -> None:
    values = {"epoch": 1, "a": [math.nan, (np.float64(math.inf), 1.5)], "b": {"c": -math.inf}}
    expected = {"epoch": 1, "a": [None, [None, 1.5]], "b": {"c": None}}
    records.write_json(tmp_path / "a.json", values)
    assert records.read_json(tmp_path / "a.json") == expected
    file = JsonLines(tmp_path / "a.jsonl", 0)
    file.append(values)
    file.close()
    assert read_records(tmp_path / "a.jsonl") == [expected]


def test_records_after_the_checkpoint_are_removed(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"epoch": {i}}}\n' for i in range(5)))
    JsonLines(path, 2).close()
    assert [record["epoch"] for record in read_records(path)] == [0, 1, 2]


def test_missing_file_has_no_records(tmp_path: pathlib.Path) -> None:
    assert read_lines(tmp_path / "metrics.jsonl") == []


def test_missing_config_is_an_error_and_missing_summary_is_not(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RunError, match=r"config\.json: not found"):
        records.read_config(tmp_path)
    assert records.read_summary(tmp_path) is None


def test_commit_is_none_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert records.git_commit() is None


def test_provenance_has_the_commit_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "git_commit", lambda: "a later commit")
    assert records.provenance()["git_commit"] == records.COMMIT != "a later commit"
