"""The command draws the figures of runs again, or explains in one line why it cannot."""

import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments import figures
from experiments.analysis import run_figures
from experiments.runs.folder import lock_folder
from tests.experiments.conftest import keeping_compiled


@pytest.fixture
def without_figures(unfinished: pathlib.Path) -> pathlib.Path:
    """A run whose figures were deleted."""
    shutil.rmtree(unfinished / "figures")
    return unfinished


def test_redrawn_figures_equal_those_of_the_run(
    without_figures: pathlib.Path,
    finished: pathlib.Path,
    compiled: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with keeping_compiled(compiled):
        assert figures.main([str(without_figures)]) == 0
    assert capsys.readouterr().out == f"figures in {without_figures}/figures\n"
    names = {path.name for path in (finished / "figures").iterdir()}
    assert {path.name for path in (without_figures / "figures").iterdir()} == names
    for name in names:
        with (
            Image.open(without_figures / "figures" / name) as one,
            Image.open(finished / "figures" / name) as two,
        ):
            np.testing.assert_array_equal(np.asarray(one), np.asarray(two))


def test_run_without_recorded_frames_has_all_figures_but_the_animation(
    without_figures: pathlib.Path, compiled: pathlib.Path
) -> None:
    (without_figures / "frames.jsonl").unlink()
    with keeping_compiled(compiled):
        assert figures.main([str(without_figures)]) == 0
    names = {path.name for path in (without_figures / "figures").iterdir()}
    assert names == {"angles.png", "confusions.png", "curves.png", "frames.png", "images.png"}


def test_folder_without_a_run_is_rejected_and_unchanged(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        assert figures.main([str(tmp_path / name)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path}/{name}/config.json: not found")
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_run_without_a_checkpoint_is_rejected(
    without_figures: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(without_figures / "checkpoints")
    assert figures.main([str(without_figures)]) == 1
    assert capsys.readouterr().err == f"error: {without_figures}: no checkpoint found\n"


def test_figure_that_cannot_be_drawn_is_named_by_the_command(
    without_figures: pathlib.Path,
    compiled: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no font")

    monkeypatch.setattr(run_figures, "draw_curves", fail)
    with keeping_compiled(compiled):
        assert figures.main([str(without_figures)]) == 2
    line = f"error: {without_figures}/figures: not drawn: curves.png (ValueError: no font)\n"
    assert capsys.readouterr() == ("", line)
    assert (without_figures / "figures" / "angles.png").exists()


def test_locked_run_is_rejected_and_unchanged(
    without_figures: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock_folder(without_figures):
        assert figures.main([str(without_figures)]) == 1
    assert f"error: {without_figures}: in use by process" in capsys.readouterr().err
    assert not (without_figures / "figures").exists()


def test_missing_data_are_named(
    without_figures: pathlib.Path, data_file: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = without_figures / "config.json"
    settings.write_text(settings.read_text().replace(str(data_file), "gone.npz"))
    assert figures.main([str(without_figures)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: gone.npz: ")


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["--nonsense"], 2)])
def test_usage_is_printed(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert figures.main(arguments) == code
    assert "python -m experiments.figures RUN_DIR" in capsys.readouterr().out
