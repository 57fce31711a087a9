"""The command as a user gives it: data of their own, data that are not there, real data."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from experiments import train
from tests.experiments.conftest import environment_of, save_npz

ROOT = pathlib.Path(train.__file__).parent.parent


def test_data_of_ones_own(run: Callable[..., int], tiny: list[str], tmp_path: pathlib.Path) -> None:
    """In colour, not square, floating: where the shared data are grey, square bytes."""
    path, folder = save_npz(tmp_path / "own.npz", (8, 12, 3), np.float64), tmp_path / "run"
    settings = "--distortion rts --canvas 14 --transform affine --precision bfloat16 --epochs 1"
    assert run(*tiny, "--data-file", path, "--run-dir", folder, *settings.split()) == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert 0 <= summary["test_error"] <= 100
    assert np.isfinite(summary["test_loss"])
    assert (folder / "figures" / "images.png").exists()


def test_it_learns(run: Callable[..., int], tiny: list[str], tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run"
    settings = "--distortion none --epochs 40 --learning-rate 0.02 --no-figures"
    assert run(*tiny, *settings.split(), "--run-dir", folder, "--checkpoint-every", 40) == 0
    assert json.loads((folder / "summary.json").read_text())["test_error"] <= 8
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["240.msgpack"]


def test_another_seed_is_another_run(
    run: Callable[..., int], tiny: list[str], finished: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "run"
    assert run(*tiny, "--seed", 2**32 - 1, "--run-dir", folder, "--no-figures") == 0
    one, other = (json.loads((each / "summary.json").read_text()) for each in (finished, folder))
    assert one["params_sha256"] != other["params_sha256"]
    assert one["num_params"] == other["num_params"]
    # The test images are the same: nothing but the training's seed changes.
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
        (["--validation-size", "40"], 1, "validation_size is 40"),
        (["--model", "cnn", "--features", "8", "8"], 2, "--model cnn with --pool"),
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
def test_what_does_not_fit_the_data_leaves_nothing(
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


def test_data_sets_that_are_not_there(
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


def test_the_command(tiny: list[str], tmp_path: pathlib.Path, compiled: pathlib.Path) -> None:
    """In a process of its own, where output is no terminal and the folder has a default name."""
    command = [sys.executable, "-m", "experiments.train", *tiny, "--epochs", "1", "--no-figures"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment_of(compiled)
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert done.stdout.startswith(f"demo: run folder runs/{folder.name}\n")
    summary = json.loads((folder / "summary.json").read_text())
    assert f"test error {summary['test_error']:.2f} %" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("epoch ")]


@pytest.mark.parametrize("name", ["train", "gallery", "apply", "report"])
def test_nobody_reads_on(name: str) -> None:
    """As after `| head`: no error, and the code that a pipe's signal gives."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", f"experiments.{name}", "--help"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=writes, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_tutorial_on_mnist(
    data_dir: pathlib.Path,
    run: Callable[..., int],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A few steps of it, on all its data: the loss falls, and the records are of MNIST."""
    build = train.compile_programs

    def shortened(experiment: Any, mesh: Any) -> train.Programs:
        assert len(experiment.dataset.train) == 55000
        assert len(experiment.dataset.validation) == 5000
        assert len(experiment.dataset.test) == 10000
        object.__setattr__(experiment, "steps_per_epoch", 100)
        programs = build(experiment, mesh)

        def evaluate(params: Any, data: dict[str, Any], key: Any) -> Any:
            return programs.evaluate(params, {name: each[:500] for name, each in data.items()}, key)

        return programs._replace(evaluate=evaluate)

    monkeypatch.setattr(train, "compile_programs", shortened)
    folder = tmp_path / "run"
    settings = ["--data-dir", data_dir, "--run-dir", folder, "--epochs", 2, "--no-figures"]
    assert run("tutorial", *settings) == 0
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert history[1]["train_loss"] < history[0]["train_loss"] < np.log(10) + 0.1
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == 200
    assert summary["test_error"] < 80
    assert summary["num_params"] > 20000
