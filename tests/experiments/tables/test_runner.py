"""The runs of a table: in order, once, in folders that others may hold."""

import contextlib
import errno
import json
import os
import pathlib
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import pytest

from experiments import colocalisation, paper, train
from experiments import config as configuration
from experiments.colocalisation_settings import Settings
from experiments.config import Config
from experiments.records import RunError, read_config
from experiments.run_folder import lock
from experiments.stopping import Stopped
from experiments.tables import cells, folders, runner, together
from experiments.tables.cells import Cell

CELLS = [Cell(name, "fcn", None, "r", Config()) for name in ("a", "b")]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Trainings that end at once; the configurations that were trained."""
    found: list[Config] = []

    def finish(config: Config, folder: pathlib.Path, command: str, _: Any) -> dict[str, Any]:
        found.append(config)
        summary = {"test_error": 1.0, "num_params": 1, "command": command}
        (folder / "summary.json").write_text(json.dumps(summary))
        return summary

    monkeypatch.setattr(train, "train", finish)
    return found


def seeds(trained: list[Config]) -> list[tuple[str, int]]:
    return [
        (pathlib.Path(str(config.run.run_dir)).parent.name, config.optimisation.seed)
        for config in trained
    ]


def test_every_cell_comes_before_a_second_seed(
    tmp_path: pathlib.Path, trained: list[Config]
) -> None:
    wanted = runner.runs(CELLS, tmp_path, 2)
    assert runner.train_all(wanted, command="c", data_dir="here") == runner.Left([], [])
    assert seeds(trained) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {config.data.data_dir for config in trained} == {"here"}
    for run in runner.runs(CELLS, tmp_path, 2):
        assert run.folder == tmp_path / run.cell.name / f"seed-{run.seed}"
        assert (runner.outcome(run.folder) or {})["command"] == "c"


def test_what_is_finished_is_left_unless_asked(
    tmp_path: pathlib.Path, trained: list[Config]
) -> None:
    runner.train_all(runner.runs(CELLS, tmp_path, 1), command="first")
    runner.train_all(runner.runs(CELLS, tmp_path, 2), command="second")
    assert seeds(trained) == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    for summary in tmp_path.rglob("summary.json"):
        os.utime(summary, (0, 0))
    runner.train_all(runner.runs(CELLS[:1], tmp_path, 1), command="third", again=True)
    assert seeds(trained)[4:] == [("a", 0)]
    commands = {
        path.parent.name: json.loads(path.read_text())["command"]
        for path in (tmp_path / "a").rglob("summary.json")
    }
    assert commands.pop("seed-0") == "third"
    assert sorted(commands.values()) == ["first", "second"]


def test_again_leaves_what_another_process_has_just_finished(
    tmp_path: pathlib.Path, trained: list[Config]
) -> None:
    run = next(runner.runs(CELLS, tmp_path, 1))

    def taking_turns() -> Any:
        runner.train_all([run], command="the other's")
        yield run

    runner.train_all(taking_turns(), command="ours", again=True)
    assert (runner.outcome(run.folder) or {})["command"] == "the other's"


def test_what_another_process_holds_is_left_to_it(
    tmp_path: pathlib.Path, trained: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    runs = list(runner.runs(CELLS, tmp_path, 1))
    with lock(runs[0].folder):
        assert runner.train_all(runs, command="c") == runner.Left(runs[:1], [])
        assert runner.train_all(runs[:1], command="c", again=True).held == runs[:1]
    assert seeds(trained) == [("b", 0)]
    assert f"left out: {runs[0].folder}: in use by process {os.getpid()}" in capsys.readouterr().out


def other_settings(folder: pathlib.Path) -> str:
    path = folder / "config.json"
    before = json.loads(path.read_text())["optimisation"]["batch_size"]
    path.write_text(path.read_text().replace(f'"batch_size": {before}', '"batch_size": 65'))
    return f"{folder}: holds a run with other settings: --batch-size 65 against {before}"


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
def test_what_is_in_the_way_is_named_and_the_others_are_trained(
    spoil: Callable[[pathlib.Path], str],
    tmp_path: pathlib.Path,
    trained: list[Config],
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = runner.runs(CELLS, tmp_path, 1)
    runner.train_all([first], command="old")
    said = spoil(first.folder)
    assert runner.train_all([first, second], command="c") == runner.Left([], [first])
    assert seeds(trained) == [("a", 0), ("b", 0)]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert line.startswith(f"left out: {said}")
    assert line.endswith("; --again sets it aside")
    assert runner.train_all([first], command="new", again=True) == runner.Left([], [])
    assert seeds(trained)[2:] == [("a", 0)]
    assert (runner.outcome(first.folder) or {})["command"] == "new"
    assert len(list(first.folder.parent.glob("seed-0-until-*"))) == 1


def test_what_another_process_trains_by_other_settings_is_its_own(
    tmp_path: pathlib.Path, trained: list[Config]
) -> None:
    run = next(runner.runs(CELLS, tmp_path, 1))
    runner.train_all([run], command="c")
    unfinished(run.folder)
    with lock(run.folder):
        assert runner.train_all([run], command="c") == runner.Left([run], [])


def test_what_cannot_be_set_aside_is_named(
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


def test_of_seeds_at_once_only_the_held_one_is_left_out(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def together_run(configs: Sequence[Config], *_: Any) -> None:
        with contextlib.ExitStack() as held:
            for config in configs:
                held.enter_context(lock(pathlib.Path(str(config.run.run_dir))))
            found.append([config.optimisation.seed for config in configs])

    monkeypatch.setattr(together, "run", together_run)
    runs = list(runner.runs(CELLS[:1], tmp_path, 4, 4))
    with lock(runs[1].folder), lock(runs[2].folder):
        assert runner.train_all(runs, command="c", at_once=4).held == [runs[1], runs[2]]
    assert found == [[0, 3]]


def test_a_run_that_diverges_is_recorded_and_not_repeated(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def diverge(config: Config, *_: Any) -> None:
        tried.append(config)
        raise train.DivergedError("diverged at step 3")

    monkeypatch.setattr(train, "train", diverge)
    for _ in range(2):
        runner.train_all(runner.runs(CELLS, tmp_path, 1), command="c")
    assert len(tried) == 2
    for run in runner.runs(CELLS, tmp_path, 1):
        assert runner.outcome(run.folder) == {"error": "diverged at step 3", "seed": 0}
        assert configuration.differences(read_config(run.folder), run.cell.config) == []


def test_seeds_at_once_follow_each_other(tmp_path: pathlib.Path) -> None:
    found = [
        [(run.cell.name, run.seed) for run in group]
        for group in runner._groups(runner.runs(CELLS, tmp_path, 3, 2), 2)
    ]
    first = [[("a", 0), ("a", 1)], [("b", 0), ("b", 1)]]
    assert found == [*first, [("a", 2)], [("b", 2)]]


@pytest.mark.parametrize(
    ("saved", "alone", "programs"),
    [
        ([[], [], []], [], [[0, 1, 2]]),
        ([[4, 8], [8], [8, 12]], [], [[0, 1, 2]]),  # killed between checkpoints of two
        ([[4, 8], [8, 12], []], [0, 1], [[0], [1], [2]]),
        ([[8], [8], []], [], [[0, 1], [2]]),
        ([[], [8], []], [1], [[1], [0, 2]]),
        ([[4], [8], [12]], [], [[0], [1], [2]]),
    ],
)
def test_seeds_that_began_alone_end_alone(
    saved: list[list[int]], alone: list[int], programs: list[list[int]], tmp_path: pathlib.Path
) -> None:
    group = list(runner.runs(CELLS[:1], tmp_path, 3))
    for run, steps in zip(group, saved, strict=True):
        (run.folder / "checkpoints").mkdir(parents=True)
        for step in steps:
            (run.folder / "checkpoints" / f"{step}.msgpack").touch()
        if run.seed in alone:
            (run.folder / "frames.jsonl").touch()
    assert [[run.seed for run in each] for each in runner._programs(group)] == programs


COLOCALISATION = cells.select("colocalisation", "quick", [])[:1]


def test_a_colocalisation_that_diverges_is_recorded_and_the_next_is_run(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def diverge(settings: Settings, *_: Any) -> None:
        tried.append(settings.seed)
        raise train.DivergedError("training diverged for the digit 3")

    monkeypatch.setattr(colocalisation, "run", diverge)
    runs = list(runner.runs(COLOCALISATION, tmp_path, 2))
    for _ in range(2):
        runner.train_all(runs, command="c")
    assert tried == [0, 1]
    found, remarks = folders.ended(COLOCALISATION[0], tmp_path)
    assert ([(run.seed, run.summary) for run in found], remarks) == ([(0, None), (1, None)], [])


def test_colocalisations_at_once_are_held_one_by_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def finish(settings: Settings, *_: Any) -> dict[str, Any]:
        tried.append(settings.seed)
        return {"test_error": 1.0, "num_params": 1}

    monkeypatch.setattr(colocalisation, "run", finish)
    runs = list(runner.runs(COLOCALISATION, tmp_path, 3, 3))
    with lock(runs[1].folder):
        assert runner.train_all(runs, command="c", at_once=3).held == [runs[1]]
    assert tried == [0, 2]


def test_a_signal_ends_a_colocalisation_which_leaves_nothing_half_done(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(settings: Settings, folder: pathlib.Path, *_: Any) -> None:
        (folder / "config.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(colocalisation, "run", interrupted)
    with pytest.raises(Stopped, match="terminated; the same command continues"):
        runner.train_all(runner.runs(COLOCALISATION, tmp_path, 1), command="c")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_says_how_to_go_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(train, "train", stop)
    with pytest.raises(Stopped, match="terminated; the same command continues"):
        runner.train_all(runner.runs(CELLS, tmp_path, 1), command="c")


def test_the_command_trains_its_cells(
    tmp_path: pathlib.Path, trained: list[Config], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["addition", "--budget", "quick", "--run-dir", str(tmp_path), "--seeds", "2"]
    assert paper.main([*command, "--diagnostics"]) == 0
    assert all(config.run.diagnostics for config in trained)
    assert len(trained) == 2 * len(cells.select("addition", "quick", []))
    folder = tmp_path / "quick" / "addition-cnn" / "seed-1"
    recorded = (runner.outcome(folder) or {})["command"]
    assert recorded.startswith("python -m experiments.paper addition --budget quick")
    assert configuration.from_dict(json.loads((folder / "config.json").read_text()))
    count = len(trained)
    assert f"addition: {count} of {count} runs are finished" in capsys.readouterr().out
    unfinished(folder)
    for seed in (0, 1):  # that of 1 is in the way, and not counted
        (folder.with_name(f"seed-{seed}") / "diverged.json").write_text("{}")
    assert paper.main(command) == 1
    said = capsys.readouterr()
    assert f"{count - 1} of {count} runs are finished in {folder.parents[1]}, 1 of" in said.out
    assert said.err == f"error: left out, unless with --again: {folder}\n"


@pytest.mark.parametrize("budget", ["quick", "standard"])
def test_only_a_smoke_is_compiled_quickly(
    budget: cells.Budget, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    during: list[bool] = []

    def finish(*_: Any) -> None:
        during.append(jax.config.values["jax_disable_most_optimizations"])
        raise Stopped(signal.SIGTERM, "the same command continues")

    monkeypatch.setattr(train, "train", finish)
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
def test_refused_in_one_line(
    flags: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert paper.main(flags.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert all(part in line for part in parts)
