"""Seeds in one program leave what runs alone leave."""

import json
import pathlib
import signal
from typing import Any

import numpy as np
import pytest

from experiments import command_line
from experiments import config as configuration
from experiments.config import Config
from experiments.stopping import Stop, Stopped
from experiments.tables import runner
from experiments.tables.cells import Cell
from tests.experiments.conftest import keeping_compiled, metrics

FILES = ("config.json", "metrics.jsonl", "summary.json")


@pytest.fixture
def cell(tiny: list[str]) -> Cell:
    config = command_line.parse([*tiny, "--epochs", "2", "--no-figures"], "train")[1]
    return Cell("tiny", "st_fcn", "rotation", "r", config)


def train_cell(cell: Cell, folder: pathlib.Path, at_once: int, command: str = "c") -> None:
    runs = runner.runs([cell], folder, 2, at_once)
    file = cell.config.data.data_dir
    runner.train_all(runs, command=command, data_dir=file, at_once=at_once, figures=False)


@pytest.fixture
def whole(tmp_path: pathlib.Path, compiled: pathlib.Path, cell: Cell) -> pathlib.Path:
    with keeping_compiled(compiled):
        train_cell(cell, tmp_path / "whole", at_once=2)
    return tmp_path / "whole" / "tiny"


def test_each_is_a_run_of_its_own(
    whole: pathlib.Path, tmp_path: pathlib.Path, compiled: pathlib.Path, cell: Cell
) -> None:
    with keeping_compiled(compiled):
        train_cell(cell, tmp_path / "alone", at_once=1)
    for seed in ("seed-0", "seed-1"):
        together_, alone = whole / seed, tmp_path / "alone" / "tiny" / seed
        read = [
            [json.loads((folder / name).read_text()) for name in ("config.json", "summary.json")]
            for folder in (together_, alone)
        ]
        assert read[0][0]["optimisation"] == read[1][0]["optimisation"]
        assert read[0][1].keys() == read[1][1].keys()
        assert [each[1]["seed"] for each in read] == [int(seed[-1])] * 2
        for ours, theirs in zip(metrics(together_), metrics(alone), strict=True):
            assert ours.keys() == theirs.keys()
            np.testing.assert_allclose(
                [ours["train_loss"], ours["validation_loss"]],
                [theirs["train_loss"], theirs["validation_loss"]],
                rtol=1e-4,  # numbers are arguments of one program and constants of the other
            )


def test_a_training_that_is_stopped_goes_on_to_the_same_end(
    whole: pathlib.Path,
    tmp_path: pathlib.Path,
    compiled: pathlib.Path,
    cell: Cell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check, folder = Stop.check, tmp_path / "stopped"
    monkeypatch.setattr(Stop, "check", lambda _: (_ for _ in ()).throw(Stopped(signal.SIGTERM)))
    with keeping_compiled(compiled), pytest.raises(Stopped, match="the same command continues"):
        train_cell(cell, folder, at_once=2)
    monkeypatch.setattr(Stop, "check", check)
    assert [line["epoch"] for line in metrics(folder / "tiny" / "seed-1")] == [1]
    # One that was killed between the checkpoints of two seeds goes back to what both have.
    for path in (folder / "tiny" / "seed-1" / "checkpoints").iterdir():
        later = path.with_name("12.msgpack")
        later.write_bytes(path.read_bytes())
    with keeping_compiled(compiled):
        train_cell(cell, folder, at_once=2)
    for seed in ("seed-0", "seed-1"):
        ours, theirs = folder / "tiny" / seed, whole / seed
        assert metrics(ours) == metrics(theirs)
        summaries = [json.loads((each / "summary.json").read_text()) for each in (ours, theirs)]
        assert summaries[0]["params_sha256"] == summaries[1]["params_sha256"]


def test_one_that_diverges_is_recorded_and_leaves_the_others(
    tmp_path: pathlib.Path, compiled: pathlib.Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = configuration.replace

    def spoil(config: Config, settings: dict[str, Any]) -> Config:
        rate = {"learning_rate": 1e30} if settings.get("seed") == 1 else {}
        return replace(config, settings | rate)

    monkeypatch.setattr(configuration, "replace", spoil)
    with keeping_compiled(compiled):
        train_cell(cell, tmp_path, at_once=2)
    good, bad = (runner.outcome(tmp_path / "tiny" / f"seed-{seed}") or {} for seed in (0, 1))
    assert "test_error" in good
    assert bad == {"error": "training diverged in epoch 1", "seed": 1}


def test_a_kill_after_one_diverged_leaves_the_others_where_they_were(
    tmp_path: pathlib.Path, compiled: pathlib.Path, cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, check = configuration.replace, Stop.check

    def spoil(config: Config, settings: dict[str, Any]) -> Config:
        rate = {"learning_rate": 1e30} if settings.get("seed") == 1 else {}
        return replace(config, settings | rate)

    monkeypatch.setattr(configuration, "replace", spoil)
    monkeypatch.setattr(Stop, "check", lambda _: (_ for _ in ()).throw(Stopped(signal.SIGTERM)))
    with keeping_compiled(compiled):
        with pytest.raises(Stopped):
            train_cell(cell, tmp_path, at_once=2)
        monkeypatch.setattr(Stop, "check", check)
        folder = tmp_path / "tiny" / "seed-0"
        before = (folder / "metrics.jsonl").read_text()
        train_cell(cell, tmp_path, at_once=2)
    assert (folder / "metrics.jsonl").read_text().startswith(before)  # its seconds too
    assert [line["epoch"] for line in metrics(folder)] == [1, 2]
    assert "test_error" in (runner.outcome(folder) or {})
