"""Commands work, or end with one line, on machines that differ from the one of the tests."""

import errno
import io
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import jax
import pytest

from experiments import train
from experiments.analysis import restore
from experiments.runs import records
from experiments.runs.records import write_atomically
from experiments.settings import errors, machine
from experiments.settings.errors import UserError, run_command
from experiments.sweep.__main__ import main as sweep
from tests.experiments.conftest import ROOT, read_summary
from tests.experiments.processes import process_environment
from tests.experiments.sweep import fake

Run = Callable[..., int]


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def run_python(
    code: str, *arguments: str, cwd: pathlib.Path = ROOT, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


# --- macOS and Windows ----------------------------------------------------------------------------


def test_cores_are_counted_on_systems_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.num_cores() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    for found, expected in [(3, 3), (None, 1)]:
        monkeypatch.setattr(os, "cpu_count", lambda found=found: found)
        assert machine.num_cores() == expected


# What a system lacks is removed before anything is imported.
MACOS = "import os\ndel os.sched_getaffinity\n"
# The package filelock takes this for another system, and warns when JAX imports it.
WINDOWS = MACOS + (
    "import select, signal, sys, warnings\nsys.modules['fcntl'] = None\n"
    "warnings.filterwarnings('ignore', 'only soft file lock')\n"
    "del signal.SIGPIPE, select.poll, os.getuid, os.fork\n"
)
COMMANDS = ("train", "apply", "figures", "report", "sweep.__main__", "paper.__main__")


@pytest.mark.parametrize("system", [MACOS, WINDOWS])
def test_commands_show_their_help_on_other_systems(system: str) -> None:
    code = system + (
        "import importlib, sys\n"
        f"for name in {COMMANDS}:\n"
        "    try: importlib.import_module(f'experiments.{name}').main(['--help'])\n"
        "    except SystemExit as end: assert not end.code\n"
        "    print('shown')\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("shown\n") == len(COMMANDS)


@pytest.mark.parametrize("command", ["train", "sweep.__main__"])
def test_system_without_locks_is_an_error(command: str, tmp_path: pathlib.Path) -> None:
    code = WINDOWS + (
        f"import sys\nfrom experiments import {command.split('.')[0]}\n"
        f"from experiments.{command} import main\nsys.exit(main(sys.argv[1:]))"
    )
    space = ["--space", "learning_rate=1,2"] if "sweep" in command else []
    done = run_python(code, *space, "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "cannot be locked: this system has no fcntl" in line
    assert line.endswith("the commands run on Linux and macOS, and on Windows in WSL")


def test_pipe_that_hung_up_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS reports it."""

    class Poll:
        def register(self, *_: object) -> None: ...

        def poll(self, _: int) -> list[tuple[int, int]]:
            return [(1, errors.select.POLLHUP)]

    monkeypatch.setattr(errors.select, "poll", Poll)
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdout", nothing)
        assert errors._stdout_is_broken()
    monkeypatch.undo()


# --- Home directories -----------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["~/run", "~nobody-of-this-name/run"])
def test_unknown_home_directory_is_an_error(
    path: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as if it were unknown
    expected = (
        f"error: {path}: no home directory {path.split('/')[0]} is known; give the whole path"
    )
    space = ["--space", "learning_rate=1,2"]
    for main, arguments in [(train.main, []), (sweep, space), (sweep, ["report"])]:
        flag = [path] if arguments == ["report"] else ["--run-dir", path]
        assert main([*arguments, *flag]) == 1
        assert one_line(capsys) == expected
    assert not list(tmp_path.iterdir())


def test_home_directory_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine.expand_user("~/run") == tmp_path / "run"
    with pytest.raises(UserError, match="~nobody-of-this-name"):
        machine.expand_user("~nobody-of-this-name")


# --- Terminals ------------------------------------------------------------------------------------


class Terminal(io.TextIOWrapper):
    """A terminal of an encoding that keeps what it shows."""

    def __init__(self, encoding: str) -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, write_through=True)

    def shown(self) -> str:
        return self.bytes.getvalue().decode(self.encoding)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("ascii", r"1.0 +- 0.1 \xfc\u6f22\udcff"), ("latin-1", r"1.0 ± 0.1 ü\u6f22\udcff")],
)
def test_terminal_shows_what_its_encoding_lacks_in_other_characters(
    encoding: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = Terminal(encoding), Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)

    def command() -> None:
        print("1.0 ± 0.1 ü漢\udcff")  # the last one is a byte of a file name
        raise UserError("ü漢")

    assert run_command(command) == 1
    assert out.shown() == expected + "\n"
    assert err.shown().startswith("error: ")


@pytest.mark.slow
def test_sweep_runs_on_an_ascii_terminal(tmp_path: pathlib.Path) -> None:
    flags = "demo --epochs 2 --seeds 2 --trials 2 --space learning_rate=log:1e-3..1e-1 --run-dir"
    code = f"import sys\nfrom {fake.__name__} import main, train\n"
    code += "sys.exit(main(sys.argv[1:], lambda run: train))"
    folder = tmp_path / "sweep ü"
    for environment in ({"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C"}):
        done = run_python(code, *flags.split(), str(folder), **environment)
        assert done.returncode == 0, done.stderr
        report = run_python(code, "report", str(folder), **environment)
        assert report.returncode == 0, report.stderr
    assert (folder / "report.html").exists()


# --- JAX's settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Unable to initialize\nbackend"), "Unable to initialize"),
        (AssertionError(), errors.NO_BACKEND),
    ],
)
def test_error_of_a_missing_backend_is_one_line(
    error: Exception,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    assert run_command(fail) == 1
    assert one_line(capsys) == f"error: JAX_PLATFORMS=cpu: {reason}"


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_missing_backend_is_an_error_that_names_the_variable(
    platform: str, tmp_path: pathlib.Path
) -> None:
    code = "import sys\nfrom experiments.train import main\nsys.exit(main(sys.argv[1:]))"
    flags = ["--epochs", "1", "--run-dir", str(tmp_path / "run")]
    done = run_python(code, *flags, JAX_PLATFORMS=platform)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS={platform}: ")
    assert not list(tmp_path.iterdir())


def test_other_errors_keep_their_traceback() -> None:
    jax.devices()  # works

    def command() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run_command(command)


@pytest.fixture(scope="module")
def rbg(
    tmp_path_factory: pytest.TempPathFactory, tiny: list[str], compiled: pathlib.Path
) -> pathlib.Path:
    """A finished run whose keys are of another implementation."""
    folder = tmp_path_factory.mktemp("rbg") / "run"
    code = "import sys\nfrom experiments.train import main\nsys.exit(main(sys.argv[1:]))"
    environment = process_environment(compiled) | {"JAX_DEFAULT_PRNG_IMPL": "rbg"}
    done = run_python(code, *tiny, "--no-figures", "--run-dir", str(folder), **environment)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_run_with_other_random_keys_is_restored_with_them(rbg: pathlib.Path) -> None:
    with restore.open_run(rbg) as run:
        assert run.summary is not None
        assert str(jax.random.key_impl(run.experiment.key(0))) == "rbg"
        assert str(jax.random.key_impl(jax.random.key(0))) == "rbg"
    assert str(jax.random.key_impl(jax.random.key(0))) == "threefry2x32"


@pytest.mark.slow
def test_run_with_other_random_keys_is_not_continued_with_these(
    rbg: pathlib.Path, run: Run, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    summary = read_summary(rbg)
    (rbg / "summary.json").unlink()
    try:
        assert run(*tiny, "--run-dir", rbg, "--resume", "auto", "--no-figures") == 1
    finally:
        records.write_json(rbg / "summary.json", summary)
    (line,) = [each for each in capsys.readouterr().err.splitlines() if "error" in each]
    assert "was trained with JAX_DEFAULT_PRNG_IMPL=rbg; set it to continue the run" in line


# --- File names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "[a]*" + "b" * 240, "short"])
def test_file_with_a_name_of_any_length_is_written_whole(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    write_atomically(path, b"first")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(records.RunError):
        write_atomically(path, b"second")
    assert path.read_bytes() == b"first"
    assert [each.name for each in tmp_path.iterdir()] == [name]
    monkeypatch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)  # as after a kill
    with pytest.raises(records.RunError):
        write_atomically(path, b"second")
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    records.remove_unwritten(path)
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_run_folder_may_have_a_name_of_255_bytes(untrained: None, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / ("r" * 255)
    assert train.main(["--run-dir", str(folder)]) == 0
    assert (folder / "config.json").exists()
