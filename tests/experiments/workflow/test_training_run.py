"""A run evaluates the test set once, and says if it has failed. Figures never cost a run."""

import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.analysis import run_figures
from experiments.training import optimizers
from experiments.training.experiment import Experiment
from experiments.training.single import SingleTrainer
from experiments.workflow import training_run
from stn_jax.training import Params
from tests.experiments.conftest import ROOT, assert_same_result, read_records, read_summary
from tests.experiments.processes import process_environment


@pytest.fixture
def evaluate_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """A function that replaces `SingleTrainer.evaluate`. The replacement receives the original."""
    original = SingleTrainer.evaluate

    def patch(evaluate: Callable[..., Any]) -> None:
        monkeypatch.setattr(
            SingleTrainer, "evaluate", lambda *arguments: evaluate(original, *arguments)
        )

    return patch


def test_test_set_is_evaluated_once(
    evaluate_by: Callable[[Callable[..., Any]], None],
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluated, make_tester = [], training_run.make_tester

    def validate(original: Callable[..., Any], trainer: SingleTrainer, *arguments: Any) -> Any:
        evaluated.append(len(trainer._validation["label"]))
        return original(trainer, *arguments)

    def counting(experiment: Experiment, mesh: Any) -> Callable[[Params], Any]:
        tester = make_tester(experiment, mesh)

        def test(params: Params, variables: Any) -> Any:
            metrics = tester(params, variables)
            evaluated.append(metrics.confusions.sum())
            return metrics

        return test

    evaluate_by(validate)
    monkeypatch.setattr(training_run, "make_tester", counting)
    assert run(*tiny, "--run-dir", tmp_path / "run", "--no-figures") == 0
    assert evaluated == [4, 4, 4, 25]
    assert not (tmp_path / "run" / "figures").exists()


# --- Figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [ValueError("no\nfont"), MemoryError(), ImportError("no Agg")])
def test_figures_that_cannot_be_drawn_do_not_cost_the_run(
    error: Exception,
    run: Callable[..., int],
    tiny: list[str],
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"

    def fail(*_: Any, **__: Any) -> None:
        assert (folder / "summary.json").exists()  # the records are complete
        raise error

    for name in ("draw_curves", "draw_images", "animate_frames", "draw_angles"):
        monkeypatch.setattr(run_figures, name, fail)
    assert run(*tiny, "--run-dir", folder) == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("epoch")]
    failed = "curves.png, images.png, animations of frames, angles.png"
    assert line.startswith(
        f"warning: {folder}/figures: not drawn: {failed} ({type(error).__name__}"
    )
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "confusions.png",
        "frames.png",
    }
    assert_same_result(folder, finished)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLBACKEND": "no_such_backend"},
        {"MATPLOTLIBRC": "rc", "PATH": "/usr/bin:/bin"},
    ],
    ids=["notebook", "nonsense", "usetex"],
)
def test_environment_of_matplotlib_does_not_matter(
    variables: dict[str, str], tiny: list[str], tmp_path: pathlib.Path, compiled: pathlib.Path
) -> None:
    (tmp_path / "rc").mkdir()
    (tmp_path / "rc" / "matplotlibrc").write_text("text.usetex: True\nfont.family: No Such Font\n")
    command = [
        sys.executable,
        "-m",
        "experiments.train",
        *tiny,
        "--epochs",
        "1",
        "--run-dir",
        "run",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | process_environment(compiled) | variables
    options: Any = {"capture_output": True, "text": True, "timeout": 300}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("epoch")] == []
    names = {path.name for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"curves.png", "confusions.png", "images.png", "frames.png", "frames.gif"} <= names


# --- Failed runs ----------------------------------------------------------------------------------


def warnings_of(error_output: str) -> list[str]:
    return [line for line in error_output.splitlines() if line.startswith("warning: ")]


LABELLED = ["--distortion", "none", "--validation-size", "20", "--batch-size", "5", "--no-figures"]


def test_run_that_learned_nothing_says_so(
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All images are equal."""
    path, folder, labels = tmp_path / "equal.npz", tmp_path / "run", np.arange(60) % 3
    grey = np.full((60, 9, 9), 7, np.uint8)
    np.savez(path, x_train=grey, y_train=labels, x_test=grey, y_test=labels)
    command = [*tiny, "--data-file", path, *LABELLED, "--epochs", 1, "--run-dir", folder]
    assert run(*command) == 0
    (line,) = warnings_of(capsys.readouterr().err)
    assert line.startswith(f"warning: {folder}: the run ended at the level of chance: ")
    assert "; try --learning-rate 0.0005, --epochs 2 or --localisation-lr " in line


def test_run_whose_frames_left_the_image_says_so(
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = ["--transform", "translation", "--localisation-lr", 50, "--epochs", 1]
    folder = tmp_path / "run"
    assert run(*tiny, *LABELLED, *settings, "--run-dir", folder) == 0
    assert read_summary(folder)["outside"] > 0.9
    line = warnings_of(capsys.readouterr().err)[0]
    assert line.startswith(f"warning: {folder}: ")
    assert (
        "% of the transformer's samples are outside the image; try --localisation-lr 12.5 " in line
    )


def test_run_that_has_learned_warns_of_nothing(
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = ["--epochs", 40, "--learning-rate", 0.02, "--checkpoint-every", 40]
    assert run(*tiny, *LABELLED, *settings, "--run-dir", tmp_path / "run") == 0
    assert read_summary(tmp_path / "run")["validation_error"] < 40
    assert warnings_of(capsys.readouterr().err) == []


# --- Divergence -----------------------------------------------------------------------------------


def failure(capsys: pytest.CaptureFixture[str]) -> str:
    """The error message, which must be one line."""
    (line,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error")]
    return line.removeprefix("error: ")


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], None]:
    """A function that multiplies the update of a step, counted from 1, by a factor."""
    make_optimizer = optimizers.make_optimizer

    def patch(step: int, factor: float) -> None:
        def spoiling(*arguments: Any) -> optax.GradientTransformation:
            spoiled = optax.scale_by_schedule(lambda n: jnp.where(n == step - 1, factor, 1.0))
            return optax.chain(make_optimizer(*arguments), spoiled)

        monkeypatch.setattr(optimizers, "make_optimizer", spoiling)

    return patch


def test_run_that_diverges_at_the_first_step_leaves_no_folder(
    spoil: Callable[[int, float], None],
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(1, math.inf)
    folder = tmp_path / "run"
    for again in ([], ["--resume", "auto"]):
        assert run(*tiny, "--run-dir", folder, "--no-figures", *again) == 1
        assert failure(capsys) == (
            "training diverged at step 1, in epoch 1: its parameters are not finite; lower "
            "--learning-rate or set --clip-norm, in another --run-dir; no step was good"
        )
        assert not folder.exists()


@pytest.mark.parametrize(
    ("spoiled", "factor", "bad", "epoch", "reason"),
    [
        (15, math.inf, 15, 3, "its parameters are not finite"),
        (9, 1e30, 10, 2, "its loss is nan"),
    ],
)
def test_run_that_diverges_later_keeps_the_last_good_state(
    spoiled: int,
    factor: float,
    bad: int,
    epoch: int,
    reason: str,
    spoil: Callable[[int, float], None],
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(spoiled, factor)
    folder = tmp_path / "run"
    for again in ([], ["--resume", "must"]):
        assert run(*tiny, "--run-dir", folder, "--no-figures", *again) == 1
        assert failure(capsys) == (
            f"training diverged at step {bad}, in epoch {epoch}: {reason}; lower --learning-rate "
            "or set --clip-norm, in another --run-dir; the last good state is "
            f"{folder}/checkpoints/{bad - 1}.msgpack"
        )
        assert (folder / "checkpoints" / f"{bad - 1}.msgpack").exists()
        assert not (folder / "summary.json").exists()
        found = read_records(folder / "metrics.jsonl")
        assert [record["epoch"] for record in found] == list(range(1, epoch))
        assert [type(record["step"]) for record in found] == [int] * len(found)


def test_epoch_with_non_finite_validation_loss_is_not_recorded(
    evaluate_by: Callable[[Callable[..., Any]], None],
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluated = []

    def spoilt(original: Callable[..., Any], *arguments: Any) -> Any:
        evaluated.append(arguments)
        means = original(*arguments)
        return means | ({"loss": jnp.asarray([jnp.inf])} if len(evaluated) == 2 else {})

    evaluate_by(spoilt)
    folder = tmp_path / "run"
    assert run(*tiny, "--run-dir", folder, "--no-figures") == 1
    assert failure(capsys) == (
        "training diverged in epoch 2: the validation loss is inf; lower --learning-rate or set "
        "--clip-norm, in another --run-dir; the last good checkpoint is "
        f"{folder}/checkpoints/6.msgpack"
    )
    assert [record["epoch"] for record in read_records(folder / "metrics.jsonl")] == [1]


def test_missing_records_of_trained_epochs_are_an_error(
    unfinished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (unfinished / "metrics.jsonl").unlink()
    assert run(*tiny, "--run-dir", unfinished, "--resume", "auto") == 1
    assert failure(capsys) == (
        f"{unfinished}/metrics.jsonl: must hold a record of each of the 3 epochs that were "
        "trained; got 0; start anew in another --run-dir"
    )
