"""Whatever kills a run or refuses to be written, the run ends as if nothing had happened."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from experiments import gallery, train
from tests.experiments.conftest import assert_same_end, environment_of

ROOT = pathlib.Path(train.__file__).parent.parent

# A training that waits for its arguments when all is imported.
WAITING = """
import json, sys
from experiments import board, checkpoints, experiment, gallery, preparation, progress, train
from experiments.datasets import arrays

checkpoints.SHARE = float("inf")  # every epoch leaves a checkpoint
train.STEPS_PER_DISPATCH = 4  # an epoch of 6 steps is two programs
print("ready", flush=True)
sys.exit(train.main(json.loads(sys.stdin.readline())))
"""
Start = Callable[[list[str], float], tuple[int, float]]


@pytest.fixture
def start(compiled: pathlib.Path) -> Iterator[Start]:
    """Runs a command and kills it after some seconds; its exit code, and how long it ran.

    Its successor imports meanwhile what it needs, which takes longer than the training.
    """
    environment = os.environ | environment_of(compiled)
    pipe = subprocess.PIPE

    def waiting() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WAITING]
        pipes = {"stdin": pipe, "stdout": pipe, "stderr": pipe}
        return processes.enter_context(
            subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
        )

    def run(arguments: list[str], seconds: float) -> tuple[int, float]:
        process = ahead.pop()
        assert process.stdout.readline() == "ready\n"
        ahead.append(waiting())
        began = time.monotonic()
        try:
            _, said = process.communicate(json.dumps(arguments) + "\n", timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
        print(said)  # for who reads of a failure
        return process.returncode, time.monotonic() - began

    with contextlib.ExitStack() as processes:
        ahead = [waiting()]
        yield run
        for process in ahead:
            process.kill()


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=pytest.mark.faults)])
def test_killed_at_random_moments(
    kills: int, start: Start, reference: pathlib.Path, tiny: list[str], tmp_path: pathlib.Path
) -> None:
    def command(name: str) -> list[str]:
        folder = str(tmp_path / name)
        return [*tiny, "--run-dir", folder, "--no-figures", "--resume", "auto"]

    rng, duration, killed, runs = random.Random(0), 30.0, 0, 0
    while killed < kills:
        runs += 1
        for tries in range(10):
            last = tries == 9 or killed == kills
            code, took = start(command(str(runs)), 300 if last else rng.uniform(0, duration))
            if code == 0:
                duration = min(duration, took)
                break
            assert code == -signal.SIGKILL
            killed += 1
        assert_same_end(tmp_path / str(runs), reference)


# A file system of its own, that can be full or only read.


@pytest.fixture
def mounted(tmp_path: pathlib.Path) -> Iterator[tuple[pathlib.Path, Callable[[str], None]]]:
    """A small file system, and what changes its options."""
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


@pytest.mark.parametrize(
    ("size", "where", "step"),
    [
        ("4k", "config.json", None),
        ("16k", "metrics.jsonl", None),
        ("200k", "checkpoints/18.msgpack", 12),
        ("1m", "confusions.json", 18),
        ("1m", "figures", 18),
    ],
)
@pytest.mark.usefixtures("in_parts")
def test_a_full_disk_is_named_and_the_checkpoint_before_is_kept(
    size: str,
    where: str,
    step: int | None,
    mounted: tuple[pathlib.Path, Callable[[str], None]],
    reference: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, remount = mounted
    remount(f"size={size}")

    def filling(function: Callable[..., Any]) -> Callable[..., Any]:
        def filled(*arguments: Any) -> Any:
            with contextlib.suppress(OSError), (small / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            return function(*arguments)

        return filled

    command = [*tiny, "--run-dir", small / "run"]
    with monkeypatch.context() as patched:
        if where == "confusions.json":  # provenance is asked for just before they are written
            patched.setattr(train, "provenance", filling(train.provenance))
        if where == "figures":
            patched.setattr(gallery, "draw", filling(gallery.draw))
        assert run(*command) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("epoch")]
    assert line == f"error: {small}/run/{where}: cannot be written: No space left on device"
    assert not (small / "run" / "summary.json").exists()
    remount("size=9m")
    assert run(*command, "--resume", "auto", "--no-figures") == 0
    continued = capsys.readouterr().out
    assert (f"continuing after step {step}\n" in continued) == (step is not None)
    assert_same_end(small / "run", reference)


def test_a_folder_that_can_only_be_read(
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
