"""A run that is killed and continued ends, bit for bit, as if it had not been."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from experiments import train
from tests.experiments.conftest import assert_same_end, environment_of

pytestmark = pytest.mark.usefixtures("in_parts")

ROOT = pathlib.Path(train.__file__).parent.parent

# A training in a process of its own, which kills itself at the n-th call of a function, or while it
# is at work.
KILLED = """
import os, signal, sys
from experiments import checkpoints, progress, train

moment, n, *arguments = sys.argv[1:]
owner, name = {
    "epoch": (progress.Progress, "advance"),
    "checkpoint": (checkpoints.Checkpoints, "save"),
    "writing": (checkpoints, "write_atomically"),
    "summary": (train, "write_json"),
}[moment]
original, calls = getattr(owner, name), []

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def killing(*values, **options):
    calls.append(values)
    if len(calls) == int(n):
        if moment != "writing":
            kill()
        os.fsync = kill  # when all is written, but not yet under its name
    original(*values, **options)

setattr(owner, name, killing)
checkpoints.SHARE = float("inf")  # every epoch leaves a checkpoint
train.STEPS_PER_DISPATCH = 4  # an epoch of 6 steps is two programs
train.main(arguments)
"""


def kill(moment: str, n: int, arguments: list[str], compiled: pathlib.Path) -> None:
    environment = os.environ | environment_of(compiled)
    command = [sys.executable, "-c", KILLED, moment, str(n), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("moment", "n", "step"),
    [
        ("epoch", 3, 6),  # in the middle of the second epoch
        ("checkpoint", 2, 6),  # the second epoch's records are there, its checkpoint is not
        ("writing", 2, 6),  # while its checkpoint is being written
        ("summary", 1, 18),  # when all is done but the summary
    ],
)
def test_killed_and_continued(
    moment: str,
    n: int,
    step: int,
    reference: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    compiled: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "killed"
    command = [*tiny, "--run-dir", str(folder), "--no-figures"]
    kill(moment, n, command, compiled)
    assert not (folder / "summary.json").exists()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "st')  # a kill may cut a line short
    assert run(*command, "--resume", "auto") == 0
    assert f"continuing after step {step}\n" in capsys.readouterr().out
    assert_same_end(folder, reference)


def test_killed_before_the_first_checkpoint_starts_again(
    reference: pathlib.Path, run: Callable[..., int], tiny: list[str], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copy(reference / "config.json", folder)
    (folder / "checkpoints").mkdir()
    (folder / "frames.jsonl").write_text('{"epoch": 0, "theta": {}}\n')
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "trai')
    assert run(*tiny, "--run-dir", folder, "--no-figures", "--resume", "must") == 0
    assert_same_end(folder, reference)


def test_interrupted_by_hand(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object, folder: pathlib.Path, *__: object) -> None:
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "frames.jsonl").write_text('{"epoch": 0, "theta": {}}\n')
        (folder / "metrics.jsonl").write_text(recorded)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train, "train", interrupt)
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
    assert train.main([]) == 130  # a folder that was not given
    line = capsys.readouterr().err.removesuffix("\n")
    (folder,) = (tmp_path / "runs").iterdir()
    advice = f"--run-dir runs/{folder.name} --resume auto"
    assert line == f"error: interrupted; {advice} continues it"
    assert train.main(advice.split()) == 130


def test_a_finished_run_is_left_untouched(
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    files = [path for path in finished.rglob("*") if path.name != "lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run(*tiny, "--run-dir", finished, "--resume", "auto") == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before
