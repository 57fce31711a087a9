"""A run that is killed and continued has the bit-identical result of one that is not."""

import pathlib
import shutil
import signal
from collections.abc import Callable

import pytest

from experiments import train
from experiments.workflow import training_run
from tests.experiments import processes
from tests.experiments.conftest import assert_same_result
from tests.experiments.processes import Moment

pytestmark = pytest.mark.usefixtures("in_parts")


@pytest.mark.parametrize(
    ("moment", "n", "step"),
    [
        ("epoch", 3, 6),  # in the middle of the second epoch
        ("checkpoint", 2, 6),  # before the second checkpoint, after the records of its epoch
        ("writing", 2, 6),  # while the second checkpoint is being written
        ("summary", 2, 18),  # just before the summary is written
    ],
)
def test_killed_run_continues_to_same_result(
    moment: Moment,
    n: int,
    step: int,
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    compiled: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "killed"
    command = [*tiny, "--run-dir", str(folder), "--no-figures"]
    process = processes.start(processes.train_until_killed, moment, n, command, compiled)
    process.join(300)
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "st')  # as a kill may leave it
    assert run(*command, "--resume", "auto") == 0
    assert f"continuing after step {step}\n" in capsys.readouterr().out
    assert_same_result(folder, finished)


def test_run_killed_before_the_first_checkpoint_starts_again(
    finished: pathlib.Path, run: Callable[..., int], tiny: list[str], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copy(finished / "config.json", folder)
    (folder / "checkpoints").mkdir()
    (folder / "frames.jsonl").write_text('{"epoch": 0, "theta": {}}\n')
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "trai')
    assert run(*tiny, "--run-dir", folder, "--no-figures", "--resume", "must") == 0
    assert_same_result(folder, finished)


def test_interrupt_prints_how_to_continue(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object, folders: list[pathlib.Path], *__: object) -> None:
        (folder,) = folders
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "frames.jsonl").write_text('{"epoch": 0, "theta": {}}\n')
        (folder / "metrics.jsonl").write_text(recorded)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training_run, "_train", interrupt)
    monkeypatch.chdir(tmp_path)
    recorded = ""
    for _ in range(2):  # the same command again
        assert train.main(["--run-dir", "a run"]) == 130
        assert capsys.readouterr().err == "error: interrupted; nothing was recorded yet\n"
        assert not list(tmp_path.iterdir())
    recorded = '{"epoch": 1}\n'
    advice = "error: interrupted; --run-dir 'a run' --resume auto continues it\n"
    for again in ([], ["--resume", "auto"]):
        assert train.main(["--run-dir", "a run", *again]) == 130
        assert capsys.readouterr().err == advice
    assert train.main([]) == 130  # a folder with the default name
    line = capsys.readouterr().err.removesuffix("\n")
    (folder,) = (tmp_path / "runs").iterdir()
    advice = f"--run-dir runs/{folder.name} --resume auto"
    assert line == f"error: interrupted; {advice} continues it"
    assert train.main(advice.split()) == 130


def test_resuming_a_finished_run_changes_no_file(
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_run, "_train", lambda *_: pytest.fail("trained again"))
    files = [path for path in finished.rglob("*") if path.name != "lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run(*tiny, "--run-dir", finished, "--resume", "auto") == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before
