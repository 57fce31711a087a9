"""Runs that are killed at random moments, or cannot write their files, have the same result."""

import contextlib
import pathlib
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from experiments.analysis import run_figures
from experiments.workflow import training_run
from tests.experiments import processes
from tests.experiments.conftest import assert_same_result


def train_and_kill(
    arguments: list[str], compiled: pathlib.Path, seconds: float
) -> tuple[int | None, float]:
    """Runs a command, kills it after a time, and returns exit code and duration."""
    process = processes.start(processes.train_in_parts, arguments, compiled)
    began = time.monotonic()
    process.join(seconds)
    duration = time.monotonic() - began
    process.kill()
    process.join()
    return process.exitcode, duration


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.faults)])
def test_run_killed_at_random_moments_has_same_result(
    kills: int,
    finished: pathlib.Path,
    compiled: pathlib.Path,
    tiny: list[str],
    tmp_path: pathlib.Path,
) -> None:
    def command(name: str) -> list[str]:
        folder = str(tmp_path / name)
        return [*tiny, "--run-dir", folder, "--no-figures", "--resume", "auto"]

    rng, duration, killed, runs = random.Random(0), 30.0, 0, 0
    while killed < kills:
        runs += 1
        for tries in range(10):
            last = tries == 9 or killed == kills
            seconds = 300 if last else rng.uniform(0, duration)
            code, took = train_and_kill(command(str(runs)), compiled, seconds)
            if code == 0:
                duration = min(duration, took)
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert_same_result(tmp_path / str(runs), finished)


# --- A small file system --------------------------------------------------------------------------


@pytest.fixture
def mounted(tmp_path: pathlib.Path) -> Iterator[tuple[pathlib.Path, Callable[[str], None]]]:
    """A small file system, and a function that changes its mount options."""
    folder = tmp_path / "small"
    folder.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")

    try:
        mount("size=1m")
    except FileNotFoundError:
        pytest.skip("a tmpfs cannot be mounted here: no mount command")
    yield folder, lambda options: mount(f"remount,{options}")
    subprocess.run(["umount", str(folder)], check=True)


def filling(folder: pathlib.Path, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which first fills the file system of a folder."""

    def filled(*arguments: Any) -> Any:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        return function(*arguments)

    return filled


@pytest.mark.parametrize(
    ("size", "where", "step"),
    [
        ("4k", "config.json", None),
        ("16k", "metrics.jsonl", None),
        ("200k", "checkpoints/18.msgpack", 12),
        ("1m", "confusions.json", 18),
    ],
)
@pytest.mark.usefixtures("in_parts")
def test_full_disk_is_reported_and_the_previous_checkpoint_is_kept(
    size: str,
    where: str,
    step: int | None,
    mounted: tuple[pathlib.Path, Callable[[str], None]],
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, remount = mounted
    remount(f"size={size}")
    command = [*tiny, "--run-dir", small / "run"]
    with monkeypatch.context() as patched:
        if where == "confusions.json":  # `provenance` is called just before
            filled = filling(small, training_run.provenance)
            patched.setattr(training_run, "provenance", filled)
        assert run(*command) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("epoch")]
    assert line == f"error: {small}/run/{where}: cannot be written: No space left on device"
    assert not (small / "run" / "summary.json").exists()
    remount("size=9m")
    assert run(*command, "--resume", "auto", "--no-figures") == 0
    continued = capsys.readouterr().out
    assert (f"continuing after step {step}\n" in continued) == (step is not None)
    assert_same_result(small / "run", finished)


def test_disk_that_is_too_full_for_figures_does_not_cost_the_run(
    mounted: tuple[pathlib.Path, Callable[[str], None]],
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, _ = mounted
    monkeypatch.setattr(run_figures, "draw", filling(small, run_figures.draw))
    assert run(*tiny, "--run-dir", small / "run") == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("epoch")]
    assert line.startswith(f"warning: {small}/run/figures: not drawn: curves.png")
    assert line.endswith("; python -m experiments.figures draws them again")
    assert "cannot be written: No space left on device" in line
    assert_same_result(small / "run", finished)


def test_read_only_folder_is_reported(
    mounted: tuple[pathlib.Path, Callable[[str], None]],
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    small, remount = mounted
    (small / "empty").mkdir()
    (small / "held").mkdir()
    (small / "held" / "lock").write_text("")
    remount("ro")
    for name in ("new", "empty", "held"):
        assert run(*tiny, "--run-dir", small / name) == 1
        line = f"error: {small}/{name}: cannot be used as a run folder: Read-only file system\n"
        assert capsys.readouterr().err == line
