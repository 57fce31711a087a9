"""Run folders are never overwritten or shared, and errors say what is wrong with a folder."""

import errno
import fcntl
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from experiments import train
from experiments.runs.folder import choose_folder, lock_folder
from experiments.runs.records import RunError
from experiments.settings.conversion import config_from_dict, config_to_dict
from experiments.settings.presets import PRESETS
from experiments.workflow import training_run
from tests.experiments.conftest import ROOT

pytestmark = pytest.mark.usefixtures("untrained")


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """A function that runs a command that must fail without changes, and returns the error."""

    def refuse(*arguments: str) -> str:
        before = contents()
        assert train.main(list(arguments)) == 1
        shown = capsys.readouterr()
        (line,) = shown.err.splitlines()
        assert contents() == before
        return line.removeprefix("error: ")

    return refuse


def contents() -> dict[str, bytes]:
    """All files below the working directory except locks, which every command writes."""
    found = pathlib.Path().rglob("*")
    return {
        str(path): path.is_file() and path.read_bytes() for path in found if path.name != "lock"
    }


def unfinished(*arguments: str) -> pathlib.Path:
    """The folder of a run that was started and killed."""
    assert train.main([*arguments, "--run-dir", "run"]) == 0
    return pathlib.Path("run")


def finished(*arguments: str) -> pathlib.Path:
    """The folder of a finished run."""
    folder = unfinished(*arguments)
    (folder / "summary.json").write_text('{"test_error": 2.5, "num_params": 1234}')
    return folder


def test_default_name_has_preset_and_time() -> None:
    assert train.main([]) == 0
    assert train.main(["rotation"]) == 0
    names = sorted(path.name for path in pathlib.Path("runs").iterdir())
    assert re.fullmatch(r"demo-\d{8}-\d{6}", names[0])
    assert re.fullmatch(r"rotation-\d{8}-\d{6}", names[1])


def test_runs_of_the_same_second_get_different_folders() -> None:
    folders = {choose_folder(None, "demo") for _ in range(5)}
    assert len(folders) == 5


def test_run_folder_is_made_with_its_parents() -> None:
    assert train.main(["--run-dir", "a/b c/d", "--seed", "7"]) == 0
    config = config_from_dict(json.loads(pathlib.Path("a/b c/d/config.json").read_text()))
    assert config.optimisation.seed == 7


def test_run_dir_may_start_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "home")
    assert train.main(["--run-dir", "~/run"]) == 0
    assert pathlib.Path("home/run/config.json").exists()


def test_empty_folder_can_be_used() -> None:
    pathlib.Path("run").mkdir()
    assert train.main(["--run-dir", "run"]) == 0


def test_runs_are_not_overwritten(refusal: Callable[..., str]) -> None:
    unfinished()
    line = refusal("--run-dir", "run")
    assert line == "run: holds an unfinished run; give another --run-dir, or --resume auto"
    finished_summary = pathlib.Path("run/summary.json")
    finished_summary.write_text("{}")
    line = refusal("--run-dir", "run")
    assert line == "run: holds a finished run; give another --run-dir, or --resume auto"


@pytest.mark.parametrize("resume", ["never", "auto", "must"])
def test_folder_with_other_files_is_not_used(refusal: Callable[..., str], resume: str) -> None:
    pathlib.Path("photos").mkdir()
    pathlib.Path("photos/a.png").write_bytes(b"precious")
    line = refusal("--run-dir", "photos", "--resume", resume)
    assert line == "photos: is not a run folder and not empty; it holds a.png"
    assert os.listdir("photos") == ["a.png"]


def test_resume_must_requires_a_run(refusal: Callable[..., str]) -> None:
    line = refusal("--run-dir", "run", "--resume", "must")
    assert line == "run: holds no run to resume; --resume auto starts one"
    assert not pathlib.Path("run").exists()


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_run_settings_may_change_when_resuming(
    resume: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished("--seed", "3")
    again = ["--run-dir", "run", "--seed", "3", "--resume", resume, "--no-figures"]
    assert train.main([*again, "--checkpoint-every", "2"]) == 0
    assert "finished already" not in capsys.readouterr().out


def test_resume_auto_starts_a_new_run() -> None:
    assert train.main(["--run-dir", "run", "--resume", "auto"]) == 0
    assert pathlib.Path("run/config.json").exists()


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_run_killed_while_writing_its_settings_can_be_repeated(resume: str) -> None:
    """The folder holds only the temporary file."""
    pathlib.Path("run").mkdir()
    pathlib.Path("run/.config.json.123").write_bytes(b"{")
    assert train.main(["--run-dir", "run", "--resume", resume]) == 0
    assert pathlib.Path("run/config.json").exists()
    assert not pathlib.Path("run/.config.json.123").exists()


def test_resuming_a_finished_run_prints_its_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished()
    monkeypatch.setattr(training_run, "_train", lambda *_: pytest.fail("trained again"))
    before = contents()
    capsys.readouterr()
    assert train.main(["--run-dir", "run", "--resume", "auto"]) == 0
    shown = capsys.readouterr().out
    assert "run: finished already" in shown
    assert "test error 2.50 %, 1,234 parameters" in shown
    assert "figures" not in shown
    assert contents() == before
    pathlib.Path("run/figures").mkdir()
    assert train.main(["--run-dir", "run", "--resume", "auto"]) == 0
    assert "figures in run/figures\n" in capsys.readouterr().out


def test_settings_that_differ_are_listed(refusal: Callable[..., str]) -> None:
    finished("--seed", "3", "--epochs", "5")
    line = refusal("--run-dir", "run", "--resume", "auto", "--seed", "4", "--transform", "affine")
    assert line == (
        "run: holds a run with other settings: "
        "--transform rotation (requested: affine), --epochs 5 (requested: 60), "
        "--seed 3 (requested: 4)"
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"data": {}}', "\x00", '{"seed": 1}'], ids=repr
)
def test_damaged_config_is_an_error(refusal: Callable[..., str], text: str) -> None:
    folder = unfinished()
    (folder / "config.json").write_text(text)
    line = refusal("--run-dir", "run", "--resume", "auto")
    assert line.startswith("run/config.json: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"test_error": 1.0}'])
def test_damaged_summary_is_an_error(refusal: Callable[..., str], text: str) -> None:
    folder = unfinished()
    (folder / "summary.json").write_text(text)
    line = refusal("--run-dir", "run", "--resume", "auto")
    assert line.startswith("run/summary.json: ")


def test_config_that_is_not_text_is_an_error(refusal: Callable[..., str]) -> None:
    folder = unfinished()
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    assert refusal("--run-dir", "run", "--resume", "auto").startswith("run/config.json: ")


def test_file_in_place_of_a_folder_is_an_error(refusal: Callable[..., str]) -> None:
    pathlib.Path("file").write_text("")
    assert refusal("--run-dir", "file").startswith("file: cannot be used as a run folder: ")
    assert refusal("--run-dir", "file/run").startswith("file/run: cannot be used as a run folder: ")
    pathlib.Path("runs").write_text("")
    assert re.match(r"runs/demo-.*: cannot be made: ", refusal())


def test_too_long_name_is_an_error(refusal: Callable[..., str]) -> None:
    folder = f"{300 * 'a'}/run"
    expected = f"{folder}: cannot be used as a run folder: File name too long"
    assert refusal("--run-dir", folder) == expected


def test_read_only_folder_is_an_error(refusal: Callable[..., str]) -> None:
    folder = pathlib.Path("run")
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user can write to every folder")
    assert refusal("--run-dir", "run") == "run: cannot be used as a run folder: Permission denied"


def test_full_disk_is_an_error(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    line = refusal("--run-dir", "run")
    assert line == "run/config.json: cannot be written: No space left on device"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_file_system_without_locks_is_an_error(
    number: int, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    pathlib.Path("run").mkdir()
    assert refusal("--run-dir", "run") == (
        f"run: cannot be locked: {os.strerror(number)}; its file system has no locks: use a folder "
        "on another one, such as a local disk"
    )


@pytest.mark.parametrize("started", [False, True])
def test_run_that_fails_before_its_first_record_leaves_no_files(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    def fail(*_: object) -> None:
        raise RunError("no data")

    monkeypatch.setattr(training_run, "_train", fail)
    assert refusal("--run-dir", "run") == "no data"
    assert not pathlib.Path("run").exists()
    if started:  # earlier files are kept
        pathlib.Path("run").mkdir()
        settings = config_to_dict(PRESETS["demo"].config)
        pathlib.Path("run/config.json").write_text(json.dumps(settings))
        assert refusal("--run-dir", "run", "--resume", "must") == "no data"


def test_run_that_fails_leaves_no_new_parent_folders(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RunError("no data")

    monkeypatch.setattr(training_run, "_train", fail)
    assert refusal("--run-dir", "all/cell/run") == "no data"
    assert not pathlib.Path("all").exists()
    pathlib.Path("all/other").mkdir(parents=True)
    assert refusal("--run-dir", "all/cell/run") == "no data"
    assert os.listdir("all") == ["other"]


def test_run_that_fails_keeps_its_records(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, folders: Sequence[pathlib.Path], *__: object) -> None:
        (folders[0] / "metrics.jsonl").write_text('{"epoch": 1}\n')
        raise RunError("failed")

    monkeypatch.setattr(training_run, "_train", fail)
    assert train.main(["--run-dir", "run"]) == 1
    assert sorted(os.listdir("run")) == ["config.json", "lock", "metrics.jsonl"]


@pytest.mark.parametrize("stray", ["notes.txt", "checkpoints/6"])
def test_run_that_fails_keeps_files_of_others(monkeypatch: pytest.MonkeyPatch, stray: str) -> None:
    def fail(_: object, folders: Sequence[pathlib.Path], *__: object) -> None:
        (folders[0] / stray).parent.mkdir(exist_ok=True)
        (folders[0] / stray).write_text("precious")
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "_train", fail)
    assert train.main(["--run-dir", "run"]) == 130
    assert pathlib.Path("run", stray).exists()


def test_removed_lock_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process removes the file after this one opens it and before this one locks it."""
    flock, calls = fcntl.flock, []

    def late(file: object, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            pathlib.Path("run/lock").unlink()
            pathlib.Path("run").rmdir()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    folder, message = pathlib.Path("run"), f"in use by process {os.getpid()}"
    with lock_folder(folder), pytest.raises(RunError, match=message), lock_folder(folder):
        pass
    assert len(calls) == 3


# --- Locked by another process --------------------------------------------------------------------

HOLDER = """
import pathlib, sys, time
from experiments.runs.folder import lock_folder
with lock_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """A process that locks the folder of an unfinished run."""
    unfinished()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_locked_folder_is_an_error_that_names_the_process(
    holder: subprocess.Popen[str], refusal: Callable[..., str]
) -> None:
    for resume in ("never", "auto", "must"):
        line = refusal("--run-dir", "run", "--resume", resume)
        assert line.startswith(f"run: in use by process {holder.pid} on ")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert train.main(["--run-dir", "run", "--resume", "must"]) == 0
