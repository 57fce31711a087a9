"""The training command: user-defined data, missing data, real data."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import pytest

from experiments.training.experiment import Experiment
from experiments.training.single import SingleTrainer
from experiments.workflow import training_run
from tests.experiments.conftest import ROOT, read_records, read_summary, save_npz
from tests.experiments.processes import process_environment


def test_user_defined_data(
    run: Callable[..., int], tiny: list[str], tmp_path: pathlib.Path
) -> None:
    """The images are in colour, not square, and floats."""
    path, folder = save_npz(tmp_path / "own.npz", (8, 12, 3), np.float64), tmp_path / "run"
    settings = "--distortion rts --canvas 14 --transform affine --precision bfloat16 --epochs 1"
    assert run(*tiny, "--data-file", path, "--run-dir", folder, *settings.split()) == 0
    summary = read_summary(folder)
    assert 0 <= summary["test_error"] <= 100
    assert np.isfinite(summary["test_loss"])
    assert (folder / "figures" / "images.png").exists()


def test_training_learns(run: Callable[..., int], tiny: list[str], tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    settings = "--distortion none --epochs 40 --learning-rate 0.02 --no-figures"
    assert run(*tiny, *settings.split(), "--run-dir", folder, "--checkpoint-every", 40) == 0
    assert read_summary(folder)["test_error"] <= 8
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["240.msgpack"]


def test_seed_changes_training_only(
    run: Callable[..., int], tiny: list[str], finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    assert run(*tiny, "--seed", 2**32 - 1, "--run-dir", folder, "--no-figures") == 0
    one, other = read_summary(finished), read_summary(folder)
    assert one["params_sha256"] != other["params_sha256"]
    assert one["num_params"] == other["num_params"]
    # The test images are the same.
    assert one["angle_std_before_deg"] == other["angle_std_before_deg"]


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        (["--data-file", "gone.npz"], 1, "gone.npz: is not a readable .npz file"),
        (
            ["--batch-size", "37"],
            2,
            "--batch-size must be at most the number of training examples, 36",
        ),
        (["--validation-size", "40"], 1, "validation_size must be 0 to 37, "),
        (["--model", "cnn", "--features", "8", "8"], 2, "--model cnn with --pool"),
        (
            ["--model", "st_compact", "--features", *["8"] * 4],
            2,
            "with VALID padding; got [5, 5] (--model st_fcn takes images of any size)",
        ),
        (
            ["--pool", "10"],
            2,
            "--model st_fcn with --pool 10 and no --output-size does not fit images",
        ),
        (
            ["--distortion", "tc", "--crop-size", "10"],
            2,
            "--crop-size must be a whole number between 1 and 9",
        ),
    ],
)
def test_settings_that_do_not_fit_the_data_leave_no_folder(
    settings: list[str],
    code: int,
    message: str,
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*tiny, *settings, "--run-dir", tmp_path / "run") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_missing_data_set_leaves_no_folder(
    run: Callable[..., int], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "data"
    empty.mkdir()
    assert run("tutorial", "--data-dir", empty, "--run-dir", tmp_path / "run") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert str(empty) in line
    assert os.listdir(tmp_path) == ["data"]
    assert not os.listdir(empty)


@pytest.mark.slow
def test_command_without_a_terminal(
    tiny: list[str], tmp_path: pathlib.Path, compiled: pathlib.Path
) -> None:
    """Runs in a process, in a folder with the default name."""
    command = [sys.executable, "-m", "experiments.train", *tiny, "--epochs", "1", "--no-figures"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | process_environment(compiled)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert done.stdout.startswith(f"demo: run folder runs/{folder.name}\n")
    summary = read_summary(folder)
    assert f"test error {summary['test_error']:.2f} %" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("epoch ")]


@pytest.mark.parametrize("name", ["train", "figures", "apply", "report"])
def test_broken_pipe_prints_no_error(name: str) -> None:
    """As in `| head`: the exit code is that of SIGPIPE."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", f"experiments.{name}", "--help"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=writes, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


class ShortTrainer(SingleTrainer):
    """Trains on MNIST, but only 100 steps per epoch, and evaluates 500 examples."""

    def __init__(self, experiment: Experiment, mesh: jax.sharding.Mesh | None = None) -> None:
        dataset = experiment.dataset
        sizes = [len(each) for each in (dataset.train, dataset.validation, dataset.test)]
        assert sizes == [55000, 5000, 10000]
        object.__setattr__(experiment, "steps_per_epoch", 100)
        super().__init__(experiment, mesh)
        self._validation = {name: each[:500] for name, each in self._validation.items()}


def test_tutorial_preset_on_mnist(
    data_dir: pathlib.Path,
    run: Callable[..., int],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a few steps on all data, the loss falls."""
    monkeypatch.setattr(training_run, "SingleTrainer", ShortTrainer)
    folder = tmp_path / "run"
    settings = ["--data-dir", data_dir, "--run-dir", folder, "--epochs", 2, "--no-figures"]
    assert run("tutorial", *settings) == 0
    history = read_records(folder / "metrics.jsonl")
    assert history[1]["train_loss"] < history[0]["train_loss"] < np.log(10) + 0.1
    summary = read_summary(folder)
    assert summary["steps"] == 200
    assert summary["test_error"] < 80
    assert summary["num_params"] > 20000
