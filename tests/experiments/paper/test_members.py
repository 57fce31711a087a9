"""Seeds trained in one program leave the same files and results as single runs."""

import pathlib
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from experiments.paper import runner
from experiments.paper.cells import Cell
from experiments.runs.records import read_json
from experiments.runs.signals import Stopped
from experiments.settings import command_line
from experiments.settings.access import replace_settings
from experiments.settings.config import Config
from experiments.training import loop
from tests.experiments.conftest import (
    assert_same_result,
    keeping_compiled,
    read_records,
    read_summary,
    sharing_programs,
    untimed_metrics,
)

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def cell(tiny: list[str]) -> Cell:
    return Cell("tiny", "st_fcn", "rotation", "r", command_line.parse(tiny, "train").config)


def train_cell(cell: Cell, folder: pathlib.Path, *, figures: bool = False) -> None:
    runs = runner.runs([cell], folder, len(SEEDS), at_once=len(SEEDS))
    runner.train_all(runs, command="c", figures=figures, at_once=len(SEEDS))


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory,
    compiled: pathlib.Path,
    programs: dict[Any, Any],
    cell: Cell,
) -> pathlib.Path:
    """The folder of two finished members, each epoch trained in two parts. Read only."""
    folder = tmp_path_factory.mktemp("together")
    with (
        keeping_compiled(compiled),
        sharing_programs(programs),
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setattr(loop, "STEPS_PER_DISPATCH", 4)
        train_cell(cell, folder, figures=True)
    return folder / cell.name


@pytest.fixture
def in_one_program(
    compiled: pathlib.Path, programs: dict[Any, Any], in_parts: None
) -> Iterator[None]:
    """Trains as the finished members did."""
    with keeping_compiled(compiled), sharing_programs(programs):
        yield


@pytest.fixture
def diverging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the member with seed 1 diverge."""

    def spoil(config: Config, settings: Mapping[str, Any]) -> Config:
        rate = {"learning_rate": 1e30} if settings.get("seed") == 1 else {}
        return replace_settings(config, {**settings, **rate})

    monkeypatch.setattr(runner, "replace_settings", spoil)


def files(folder: pathlib.Path) -> list[str]:
    """All files of a run. The names of TensorBoard files contain the time."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path).partition(".tfevents.")[0] for path in found)


@pytest.mark.parametrize("seed", SEEDS)
def test_members_leave_the_files_of_a_single_run(
    seed: int, together: pathlib.Path, finished: pathlib.Path
) -> None:
    assert "tensorboard/events.out" in files(finished)
    assert files(together / f"seed-{seed}") == files(finished)


@pytest.mark.parametrize("seed", SEEDS)
def test_members_have_the_results_of_single_runs(
    seed: int,
    together: pathlib.Path,
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
) -> None:
    member, alone = together / f"seed-{seed}", finished
    if seed:
        alone = tmp_path / "run"
        assert run(*tiny, "--seed", seed, "--run-dir", alone, "--no-figures") == 0
    configs, summaries = zip(
        *((read_json(each / "config.json"), read_summary(each)) for each in (member, alone)),
        strict=True,
    )
    for group in ("data", "model", "optimisation"):
        assert configs[0][group] == configs[1][group]
    assert summaries[0].keys() == summaries[1].keys()
    assert summaries[0]["seed"] == summaries[1]["seed"] == seed
    # Settings are arguments of one program and constants of the other, so results round
    # differently.
    for name in ("metrics.jsonl", "frames.jsonl"):
        assert len(read_records(member / name)) == len(read_records(alone / name))
    for ours, theirs in zip(untimed_metrics(member), untimed_metrics(alone), strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4)
    frames = (
        [record["theta"]["transformer_0"] for record in read_records(each / "frames.jsonl")]
        for each in (member, alone)
    )
    np.testing.assert_allclose(*frames, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("in_one_program")
def test_interrupted_members_continue_to_same_result(
    together: pathlib.Path,
    tmp_path: pathlib.Path,
    cell: Cell,
    signal_at: Callable[[int, int], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    signal_at(signal.SIGTERM, 3)  # in the middle of the second epoch
    with pytest.raises(Stopped, match="terminated; the same command continues"):
        train_cell(cell, tmp_path)
    folders = [tmp_path / cell.name / f"seed-{seed}" for seed in SEEDS]
    for folder in folders:
        assert [line["epoch"] for line in untimed_metrics(folder)] == [1]
        saved = sorted(int(path.stem) for path in (folder / "checkpoints").iterdir())
        assert saved == [6, 10]
    # As if the process had been killed between the next checkpoints of the two.
    saved = folders[1] / "checkpoints"
    shutil.copy(saved / "10.msgpack", saved / "12.msgpack")
    train_cell(cell, tmp_path)
    assert "continuing after step 10\n" in capsys.readouterr().out
    for folder in folders:
        assert_same_result(folder, together / folder.name)


@pytest.mark.usefixtures("in_one_program", "diverging")
def test_member_that_diverges_does_not_affect_the_others(
    together: pathlib.Path, tmp_path: pathlib.Path, cell: Cell
) -> None:
    train_cell(cell, tmp_path)
    good, bad = (tmp_path / cell.name / f"seed-{seed}" for seed in SEEDS)
    assert_same_result(good, together / good.name)
    assert runner.outcome(bad) == {
        "error": "training diverged at step 2, in epoch 1: its loss is nan; lower --learning-rate "
        "or set --clip-norm, in another --run-dir; the last good state is "
        f"{bad}/checkpoints/1.msgpack",
        "seed": 1,
    }
    assert (bad / "checkpoints" / "1.msgpack").exists()
    assert not (bad / "summary.json").exists()
    assert untimed_metrics(bad) == []


@pytest.mark.usefixtures("in_one_program", "diverging")
def test_members_continue_after_another_diverged(
    tmp_path: pathlib.Path, cell: Cell, signal_at: Callable[[int, int], None]
) -> None:
    signal_at(signal.SIGTERM, 3)
    with pytest.raises(Stopped):
        train_cell(cell, tmp_path)
    good, bad = (tmp_path / cell.name / f"seed-{seed}" for seed in SEEDS)
    diverged = runner.outcome(bad)
    assert "error" in (diverged or {})
    before = (good / "metrics.jsonl").read_text()
    train_cell(cell, tmp_path)
    assert (good / "metrics.jsonl").read_text().startswith(before)  # with its durations
    assert [line["epoch"] for line in untimed_metrics(good)] == [1, 2, 3]
    assert "test_error" in (runner.outcome(good) or {})
    assert runner.outcome(bad) == diverged
