"""Runs of a table are trained in order and once, in folders that other processes may hold."""

import errno
import json
import os
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import pytest

from experiments.colocalisation.options import ColocalisationSettings
from experiments.paper import __main__ as paper
from experiments.paper import collect, runner
from experiments.paper.cells import Budget, Cell
from experiments.paper.registry import select_cells
from experiments.paper.runner import CellRun, Skipped
from experiments.runs.folder import lock_folder
from experiments.runs.records import RunError, read_config
from experiments.runs.signals import Stopped
from experiments.settings.config import Config
from experiments.settings.conversion import config_differences, config_from_dict
from experiments.training.loop import DivergedError
from experiments.workflow import training_run

CELLS = [Cell(name, "fcn", None, "r", Config()) for name in ("a", "b")]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Replaces trainings by ones that finish immediately. Returns their configurations."""
    found: list[Config] = []

    def finish(
        configs: Sequence[Config], folders: Sequence[pathlib.Path], command: str, *_: Any
    ) -> list[dict[str, Any]]:
        found.extend(configs)
        summary = {"test_error": 1.0, "num_params": 1, "command": command}
        for folder in folders:
            (folder / "summary.json").write_text(json.dumps(summary))
        return [summary] * len(configs)

    monkeypatch.setattr(training_run, "_train", finish)
    return found


def cells_and_seeds(trained: list[Config]) -> list[tuple[str, int]]:
    return [
        (pathlib.Path(str(config.run.run_dir)).parent.name, config.optimisation.seed)
        for config in trained
    ]


def test_first_seed_of_every_cell_is_trained_first(
    tmp_path: pathlib.Path, trained: list[Config]
) -> None:
    wanted = runner.runs(CELLS, tmp_path, 2)
    assert runner.train_all(wanted, command="c", data_dir="here") == Skipped([], [])
    assert cells_and_seeds(trained) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {config.data.data_dir for config in trained} == {"here"}
    for run in runner.runs(CELLS, tmp_path, 2):
        assert run.folder == tmp_path / run.cell.name / f"seed-{run.seed}"
        assert (runner.outcome(run.folder) or {})["command"] == "c"


def test_finished_runs_are_repeated_only_if_requested(
    tmp_path: pathlib.Path, trained: list[Config]
) -> None:
    runner.train_all(runner.runs(CELLS, tmp_path, 1), command="first")
    runner.train_all(runner.runs(CELLS, tmp_path, 2), command="second")
    assert cells_and_seeds(trained) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    for summary in tmp_path.rglob("summary.json"):
        os.utime(summary, (0, 0))
    runner.train_all(runner.runs(CELLS[:1], tmp_path, 1), command="third", again=True)
    assert cells_and_seeds(trained)[4:] == [("a", 0)]
    commands = {
        path.parent.name: json.loads(path.read_text())["command"]
        for path in (tmp_path / "a").rglob("summary.json")
    }
    assert commands.pop("seed-0") == "third"
    assert sorted(commands.values()) == ["first", "second"]


def test_again_does_not_repeat_what_another_process_just_finished(
    tmp_path: pathlib.Path, trained: list[Config]
) -> None:
    run = next(runner.runs(CELLS, tmp_path, 1))

    def wanted() -> Iterator[CellRun]:
        runner.train_all([run], command="other process")
        yield run

    runner.train_all(wanted(), command="this process", again=True)
    assert (runner.outcome(run.folder) or {})["command"] == "other process"


def test_runs_that_another_process_holds_are_skipped(
    tmp_path: pathlib.Path, trained: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = list(runner.runs(CELLS, tmp_path, 1))
    with lock_folder(runs[0].folder):
        assert runner.train_all(runs, command="c") == Skipped(runs[:1], [])
        assert runner.train_all(runs[:1], command="c", again=True).held == runs[:1]
    assert cells_and_seeds(trained) == [("b", 0)]
    assert f"left out: {runs[0].folder}: in use by process {os.getpid()}" in capsys.readouterr().out


# Each function spoils the folder of a finished run, and returns the start of the message.


def other_settings(folder: pathlib.Path) -> str:
    path = folder / "config.json"
    before = json.loads(path.read_text())["optimisation"]["batch_size"]
    path.write_text(path.read_text().replace(f'"batch_size": {before}', '"batch_size": 65'))
    return f"{folder}: holds a run with other settings: --batch-size 65 (requested: {before})"


def unfinished(folder: pathlib.Path) -> str:
    (folder / "summary.json").unlink()
    return other_settings(folder)


def cut(folder: pathlib.Path) -> str:
    (folder / "summary.json").write_text("{")
    return f"{folder}/summary.json: cannot be read as JSON"


def without_settings(folder: pathlib.Path) -> str:
    (folder / "config.json").unlink()
    return f"{folder}/config.json: not found"


def without_beginning_or_end(folder: pathlib.Path) -> str:
    (folder / "summary.json").unlink()
    (folder / "config.json").unlink()
    (folder / "metrics.jsonl").touch()
    return f"{folder}: holds files, and no config.json"


@pytest.mark.parametrize(
    "spoil", [other_settings, unfinished, cut, without_settings, without_beginning_or_end]
)
def test_runs_in_the_way_are_reported_and_the_others_are_trained(
    spoil: Callable[[pathlib.Path], str],
    tmp_path: pathlib.Path,
    trained: list[Config],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = runner.runs(CELLS, tmp_path, 1)
    runner.train_all([first], command="old")
    message = spoil(first.folder)
    assert runner.train_all([first, second], command="c") == Skipped([], [first])
    assert cells_and_seeds(trained) == [("a", 0), ("b", 0)]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert line.startswith(f"left out: {message}")
    assert line.endswith("; --again sets it aside")
    assert runner.train_all([first], command="new", again=True) == Skipped([], [])
    assert cells_and_seeds(trained)[2:] == [("a", 0)]
    assert (runner.outcome(first.folder) or {})["command"] == "new"
    assert len(list(first.folder.parent.glob("seed-0-until-*"))) == 1


def test_run_with_other_settings_is_not_in_the_way_while_another_process_holds_it(
    tmp_path: pathlib.Path, trained: list[Config]
) -> None:
    run = next(runner.runs(CELLS, tmp_path, 1))
    runner.train_all([run], command="c")
    unfinished(run.folder)
    with lock_folder(run.folder):
        assert runner.train_all([run], command="c") == Skipped([run], [])


def test_folder_that_cannot_be_renamed_is_an_error(
    tmp_path: pathlib.Path, trained: list[Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(runner.runs(CELLS, tmp_path, 1))
    runner.train_all([run], command="c")
    os.utime(run.folder / "summary.json", (0, 0))

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "rename", refuse)
    with pytest.raises(RunError, match=r"seed-0-until-.*: cannot be written: Permission denied"):
        runner.train_all([run], command="c", again=True)
    assert runner.outcome(run.folder) is not None


def test_only_held_seeds_of_a_program_are_skipped(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def finish(configs: Sequence[Config], *_: Any) -> list[None]:
        found.append([config.optimisation.seed for config in configs])
        return [None] * len(configs)

    monkeypatch.setattr(training_run, "_train", finish)
    runs = list(runner.runs(CELLS[:1], tmp_path, 4, 4))
    with lock_folder(runs[1].folder), lock_folder(runs[2].folder):
        assert runner.train_all(runs, command="c", at_once=4).held == [runs[1], runs[2]]
    assert found == [[0, 3]]


def test_diverged_run_is_recorded_and_not_repeated(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def diverge(
        configs: Sequence[Config],
        folders: Sequence[pathlib.Path],
        command: str,
        stop: object,
        on_diverged: training_run.OnDiverged,
    ) -> list[None]:
        tried.extend(configs)
        on_diverged(0, DivergedError("diverged at step 3"))
        return [None]

    monkeypatch.setattr(training_run, "_train", diverge)
    for _ in range(2):
        runner.train_all(runner.runs(CELLS, tmp_path, 1), command="c")
    assert len(tried) == 2
    for run in runner.runs(CELLS, tmp_path, 1):
        assert runner.outcome(run.folder) == {"error": "diverged at step 3", "seed": 0}
        assert config_differences(read_config(run.folder), run.cell.config) == []


def test_groups_hold_consecutive_seeds_of_a_cell(tmp_path: pathlib.Path) -> None:
    found = [
        [(run.cell.name, run.seed) for run in group]
        for group in runner._groups(runner.runs(CELLS, tmp_path, 3, 2), 2)
    ]
    first = [[("a", 0), ("a", 1)], [("b", 0), ("b", 1)]]
    assert found == [*first, [("a", 2)], [("b", 2)]]


@pytest.mark.parametrize(
    ("saved", "programs"),
    [
        ([[], [], []], [[0, 1, 2]]),
        ([[4, 8], [8], [8, 12]], [[0, 1, 2]]),  # killed between the saves of two seeds
        ([[4, 8], [8, 12], []], [[0, 1], [2]]),
        ([[8], [8], []], [[0, 1], [2]]),
        ([[], [8], []], [[1], [0, 2]]),
        ([[4], [8], [12]], [[0], [1], [2]]),
    ],
)
def test_seeds_continue_in_one_program_only_from_a_common_checkpoint(
    saved: list[list[int]], programs: list[list[int]], tmp_path: pathlib.Path
) -> None:
    group = list(runner.runs(CELLS[:1], tmp_path, 3))
    for run, steps in zip(group, saved, strict=True):
        (run.folder / "checkpoints").mkdir(parents=True)
        for step in steps:
            (run.folder / "checkpoints" / f"{step}.msgpack").touch()
    assert [[run.seed for run in each] for each in runner._programs(group)] == programs


# --- Co-localisation ------------------------------------------------------------------------------

COLOCALISATION = select_cells("colocalisation", "quick", [])[:1]
TRAIN_COLOCALISATION = "experiments.colocalisation.train._train_and_record"


def test_diverged_colocalisation_is_recorded_and_the_next_is_trained(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def diverge(settings: ColocalisationSettings, *_: Any) -> None:
        tried.append(settings.seed)
        raise DivergedError("training diverged for the digit 3")

    monkeypatch.setattr(TRAIN_COLOCALISATION, diverge)
    runs = list(runner.runs(COLOCALISATION, tmp_path, 2))
    for _ in range(2):
        runner.train_all(runs, command="c")
    assert tried == [0, 1]
    found, warnings = collect.find_ended_runs(COLOCALISATION[0], tmp_path)
    assert ([(run.seed, run.summary) for run in found], warnings) == ([(0, None), (1, None)], [])


def test_colocalisations_are_locked_one_by_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def finish(settings: ColocalisationSettings, *_: Any) -> dict[str, Any]:
        tried.append(settings.seed)
        return {"test_error": 1.0, "num_params": 1}

    monkeypatch.setattr(TRAIN_COLOCALISATION, finish)
    runs = list(runner.runs(COLOCALISATION, tmp_path, 3, 3))
    with lock_folder(runs[1].folder):
        assert runner.train_all(runs, command="c", at_once=3).held == [runs[1]]
    assert tried == [0, 2]


def test_interrupted_colocalisation_leaves_no_folder(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(settings: ColocalisationSettings, folder: pathlib.Path, *_: Any) -> None:
        assert (folder / "config.json").exists()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(TRAIN_COLOCALISATION, interrupted)
    with pytest.raises(Stopped, match="terminated; the same command continues"):
        runner.train_all(runner.runs(COLOCALISATION, tmp_path, 1), command="c")
    assert list(tmp_path.iterdir()) == []


# --- The command ----------------------------------------------------------------------------------


def test_signal_prints_how_to_continue(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(training_run, "_train", stop)
    with pytest.raises(Stopped, match="terminated; the same command continues"):
        runner.train_all(runner.runs(CELLS, tmp_path, 1), command="c")


def test_command_trains_the_cells_of_a_table(
    tmp_path: pathlib.Path, trained: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["addition", "--budget", "quick", "--run-dir", str(tmp_path), "--seeds", "2"]
    assert paper.main([*command, "--diagnostics"]) == 0
    assert all(config.run.diagnostics for config in trained)
    assert len(trained) == 2 * len(select_cells("addition", "quick", []))
    folder = tmp_path / "quick" / "addition-cnn" / "seed-1"
    recorded = (runner.outcome(folder) or {})["command"]
    assert recorded.startswith("python -m experiments.paper addition --budget quick")
    assert config_from_dict(json.loads((folder / "config.json").read_text()))
    count = len(trained)
    printed = capsys.readouterr().out
    assert f"addition: {count} of {count} runs are finished" in printed
    assert f"TensorBoard: tensorboard --logdir {tmp_path / 'quick'}" in printed.splitlines()
    unfinished(folder)
    for seed in (0, 1):  # the folder of seed 1 is in the way, so it is not counted
        (folder.with_name(f"seed-{seed}") / "diverged.json").write_text("{}")
    assert paper.main(command) == 1
    shown = capsys.readouterr()
    assert f"{count - 1} of {count} runs are finished in {folder.parents[1]}, 1 of" in shown.out
    expected = "runs that are damaged or have other settings need --again"
    assert shown.err == f"error: {expected}: {folder}\n"


@pytest.mark.parametrize("budget", ["quick", "standard"])
def test_only_budget_quick_disables_optimisations(
    budget: Budget, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during: list[bool] = []

    def finish(*_: Any) -> None:
        during.append(jax.config.values["jax_disable_most_optimizations"])
        raise Stopped(signal.SIGTERM, "the same command continues")

    monkeypatch.setattr(training_run, "_train", finish)
    command = ["table1", "--cells", "r-fcn", "--run-dir", str(tmp_path), "--budget", budget]
    assert paper.main(command) == 128 + signal.SIGTERM
    assert during == [budget == "quick"]
    assert not jax.config.values["jax_disable_most_optimizations"]


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("table1 --seeds 0", ("--seeds", "positive", "got 0")),
        ("table1 --cells x", ("--cells: table1 has no 'x'; its cells are",)),
        ("table1 --cells", ("--cells must name cells", "got none")),
        ("projection3d --diagnostics", ("--diagnostics", "left out with projection3d")),
    ],
)
def test_invalid_options_are_one_line_errors(
    flags: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert paper.main(flags.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in parts)
