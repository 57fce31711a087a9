"""The folder of a run: never overwritten, never shared, and what is wrong with it is said."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from experiments import config as configuration
from experiments import run_folder, train
from experiments.presets import PRESETS
from experiments.records import RunError

pytestmark = pytest.mark.usefixtures("untrained")

ROOT = pathlib.Path(train.__file__).parent.parent


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line with which a command is refused, after which nothing in the folder changed."""

    def refuse(*arguments: str) -> str:
        before = contents()
        assert train.main(list(arguments)) == 1
        shown = capsys.readouterr()
        (line,) = shown.err.splitlines()
        assert contents() == before
        return line.removeprefix("error: ")

    return refuse


def contents() -> dict[str, bytes]:
    """Everything below the working directory but the locks, which every command writes."""
    found = pathlib.Path().rglob("*")
    return {
        str(path): path.is_file() and path.read_bytes() for path in found if path.name != "lock"
    }


def unfinished(*arguments: str) -> pathlib.Path:
    """The folder of a run that was begun and killed."""
    assert train.main([*arguments, "--run-dir", "run"]) == 0
    return pathlib.Path("run")


def finished(*arguments: str) -> pathlib.Path:
    folder = unfinished(*arguments)
    (folder / "summary.json").write_text('{"test_error": 2.5, "num_params": 1234}')
    return folder


def test_the_default_name_says_preset_and_time() -> None:
    assert train.main([]) == 0
    assert train.main(["rotation"]) == 0
    names = sorted(path.name for path in pathlib.Path("runs").iterdir())
    assert re.fullmatch(r"demo-\d{8}-\d{6}", names[0])
    assert re.fullmatch(r"rotation-\d{8}-\d{6}", names[1])


def test_runs_of_the_same_second_get_folders_of_their_own() -> None:
    folders = {run_folder.choose(PRESETS["demo"].config, "demo") for _ in range(5)}
    assert len(folders) == 5


def test_a_given_folder_is_made_with_its_parents() -> None:
    assert train.main(["--run-dir", "a/b c/d", "--seed", "7"]) == 0
    config = configuration.from_dict(json.loads(pathlib.Path("a/b c/d/config.json").read_text()))
    assert config.optimisation.seed == 7


def test_the_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "home")
    assert train.main(["--run-dir", "~/run"]) == 0
    assert pathlib.Path("home/run/config.json").exists()


def test_an_empty_folder_is_taken() -> None:
    pathlib.Path("run").mkdir()
    assert train.main(["--run-dir", "run"]) == 0


def test_finished_and_unfinished_runs_are_not_overwritten(refusal: Callable[..., str]) -> None:
    unfinished()
    line = refusal("--run-dir", "run")
    assert line == "run: holds an unfinished run; give another --run-dir, or --resume auto"
    finished_summary = pathlib.Path("run/summary.json")
    finished_summary.write_text("{}")
    line = refusal("--run-dir", "run")
    assert line == "run: holds a finished run; give another --run-dir, or --resume auto"


@pytest.mark.parametrize("resume", ["never", "auto", "must"])
def test_a_foreign_folder_is_left_alone(refusal: Callable[..., str], resume: str) -> None:
    pathlib.Path("photos").mkdir()
    pathlib.Path("photos/a.png").write_bytes(b"precious")
    line = refusal("--run-dir", "photos", "--resume", resume)
    assert line == "photos: is not a run folder and not empty; it holds a.png"
    assert os.listdir("photos") == ["a.png"]


def test_resume_must_demands_a_run(refusal: Callable[..., str]) -> None:
    line = refusal("--run-dir", "run", "--resume", "must")
    assert line == "run: holds no run to resume; --resume auto starts one"
    assert not pathlib.Path("run").exists()


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_resuming_continues_the_same_settings(
    resume: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished("--seed", "3")
    # Where and how a run is written may change.
    again = ["--run-dir", "run", "--seed", "3", "--resume", resume, "--no-figures"]
    assert train.main([*again, "--checkpoint-every", "2"]) == 0
    assert "finished already" not in capsys.readouterr().out


def test_resume_auto_starts_a_run() -> None:
    assert train.main(["--run-dir", "run", "--resume", "auto"]) == 0
    assert pathlib.Path("run/config.json").exists()


@pytest.mark.parametrize("resume", ["never", "auto"])
def test_killed_while_its_settings_were_written(resume: str) -> None:
    """Nothing of them is there but what was to become the file."""
    pathlib.Path("run").mkdir()
    pathlib.Path("run/.config.json.123").write_bytes(b"{")
    assert train.main(["--run-dir", "run", "--resume", resume]) == 0
    assert pathlib.Path("run/config.json").exists()
    assert not pathlib.Path("run/.config.json.123").exists()


def test_a_finished_run_is_reported_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished()
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    before = contents()
    capsys.readouterr()
    assert train.main(["--run-dir", "run", "--resume", "auto"]) == 0
    shown = capsys.readouterr().out
    assert "run: finished already" in shown
    assert "test error 2.50 %, 1,234 parameters" in shown
    assert "pictures" not in shown
    assert contents() == before
    pathlib.Path("run/figures").mkdir()
    assert train.main(["--run-dir", "run", "--resume", "auto"]) == 0
    assert "pictures in run/figures\n" in capsys.readouterr().out


def test_other_settings_are_named(refusal: Callable[..., str]) -> None:
    finished("--seed", "3", "--epochs", "5")
    line = refusal("--run-dir", "run", "--resume", "auto", "--seed", "4", "--transform", "affine")
    assert line == (
        "run: holds a run with other settings: --transform rotation against affine, "
        "--epochs 5 against 60, --seed 3 against 4"
    )


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"data": {}}', "\x00", '{"seed": 1}'], ids=repr
)
def test_a_damaged_configuration(refusal: Callable[..., str], text: str) -> None:
    folder = unfinished()
    (folder / "config.json").write_text(text)
    line = refusal("--run-dir", "run", "--resume", "auto")
    assert line.startswith("run/config.json: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"test_error": 1.0}'])
def test_a_damaged_summary(refusal: Callable[..., str], text: str) -> None:
    folder = unfinished()
    (folder / "summary.json").write_text(text)
    line = refusal("--run-dir", "run", "--resume", "auto")
    assert line.startswith("run/summary.json: ")


def test_bytes_that_are_no_text(refusal: Callable[..., str]) -> None:
    folder = unfinished()
    (folder / "config.json").write_bytes(b"\xff\xfe{}")
    assert refusal("--run-dir", "run", "--resume", "auto").startswith("run/config.json: ")


def test_a_file_in_the_way(refusal: Callable[..., str]) -> None:
    pathlib.Path("file").write_text("")
    assert refusal("--run-dir", "file").startswith("file: cannot be used as a run folder: ")
    assert refusal("--run-dir", "file/run").startswith("file/run: cannot be used as a run folder: ")
    pathlib.Path("runs").write_text("")
    assert re.match(r"runs/demo-.*: cannot be made: ", refusal())


def test_a_name_that_is_too_long(refusal: Callable[..., str]) -> None:
    folder = f"{300 * 'a'}/run"
    expected = f"{folder}: cannot be used as a run folder: File name too long"
    assert refusal("--run-dir", folder) == expected


def test_a_folder_that_cannot_be_written(refusal: Callable[..., str]) -> None:
    folder = pathlib.Path("run")
    folder.mkdir(mode=0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    assert refusal("--run-dir", "run") == "run: cannot be used as a run folder: Permission denied"


def test_a_full_disk(refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    line = refusal("--run-dir", "run")
    assert line == "run/config.json: cannot be written: No space left on device"


def test_a_file_system_without_locks(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_folder.fcntl, "flock", fail)
    pathlib.Path("run").mkdir()
    assert refusal("--run-dir", "run") == "run: cannot be locked: No locks available"


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_cannot_begin_leaves_nothing(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def fail(*_: object) -> None:
        raise RunError("no data")

    monkeypatch.setattr(train, "train", fail)
    assert refusal("--run-dir", "run") == "no data"
    assert not pathlib.Path("run").exists()
    if there:  # what was begun before is kept
        pathlib.Path("run").mkdir()
        settings = configuration.to_dict(PRESETS["demo"].config)
        pathlib.Path("run/config.json").write_text(json.dumps(settings))
        assert refusal("--run-dir", "run", "--resume", "must") == "no data"


def test_nor_the_folders_above_it_that_were_made_for_it(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RunError("no data")

    monkeypatch.setattr(train, "train", fail)
    assert refusal("--run-dir", "all/cell/run") == "no data"
    assert not pathlib.Path("all").exists()
    pathlib.Path("all/other").mkdir(parents=True)
    assert refusal("--run-dir", "all/cell/run") == "no data"
    assert os.listdir("all") == ["other"]


def test_a_run_that_left_records_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, folder: pathlib.Path, *__: object) -> None:
        (folder / "metrics.jsonl").write_text('{"epoch": 1}\n')
        raise RunError("the machine is on fire")

    monkeypatch.setattr(train, "train", fail)
    assert train.main(["--run-dir", "run"]) == 1
    assert sorted(os.listdir("run")) == ["config.json", "lock", "metrics.jsonl"]


@pytest.mark.parametrize("stray", ["notes.txt", "checkpoints/6"])
def test_what_a_run_did_not_make_is_kept(monkeypatch: pytest.MonkeyPatch, stray: str) -> None:
    def fail(_: object, folder: pathlib.Path, *__: object) -> None:
        (folder / stray).parent.mkdir(exist_ok=True)
        (folder / stray).write_text("precious")
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", fail)
    assert train.main(["--run-dir", "run"]) == 130
    assert pathlib.Path("run", stray).exists()


def test_a_lock_that_was_removed_is_taken_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its holder fails and cleans up, between this process's opening and locking the file."""
    flock, calls = run_folder.fcntl.flock, []

    def late(file: object, how: int) -> None:
        calls.append(how)
        if len(calls) == 1:
            pathlib.Path("run/lock").unlink()
            pathlib.Path("run").rmdir()
        flock(file, how)

    monkeypatch.setattr(run_folder.fcntl, "flock", late)
    folder, message = pathlib.Path("run"), f"in use by process {os.getpid()}"
    with run_folder.lock(folder), pytest.raises(RunError, match=message), run_folder.lock(folder):
        pass
    assert len(calls) == 3


# Another process.

HOLDER = """
import pathlib, sys, time
from experiments import run_folder
with run_folder.lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder of an unfinished run."""
    unfinished()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_folder_in_use_names_who_uses_it(
    holder: subprocess.Popen[str], refusal: Callable[..., str]
) -> None:
    for resume in ("never", "auto", "must"):
        line = refusal("--run-dir", "run", "--resume", resume)
        assert line.startswith(f"run: in use by process {holder.pid} on ")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert train.main(["--run-dir", "run", "--resume", "must"]) == 0
