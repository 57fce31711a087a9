"""After a signal a run stops where it can continue later, to the bit-identical result."""

import contextlib
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from experiments.runs import checkpoints, records, signals
from experiments.training.experiment import build_experiment, initial_state
from tests.experiments.conftest import ROOT, assert_same_result, read_records

SIGNAL_NAMES = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}


@pytest.mark.parametrize(
    ("number", "n", "step"),
    [
        (signal.SIGTERM, 3, 10),  # in the middle of the second epoch
        (signal.SIGINT, 6, 18),  # at the end of the last
    ],
)
@pytest.mark.usefixtures("in_parts")
def test_stopped_run_continues_to_same_result(
    number: int,
    n: int,
    step: int,
    signal_at: Callable[[int, int], None],
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "stopped"
    command = [*tiny, "--run-dir", folder, "--no-figures"]
    signal_at(number, n)
    assert run(*command, "--checkpoint-every", 99) == 128 + number
    lines = capsys.readouterr().err.splitlines()
    name = SIGNAL_NAMES[signal.Signals(number)]
    assert lines[-1] == f"error: {name}; --run-dir {folder} --resume auto continues it"
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"{step}.msgpack"]
    state = initial_state(build_experiment(records.read_config(folder)))
    before = checkpoints.Checkpoints(folder / "checkpoints").restore(state)
    assert run(*command, "--resume", "auto") == 0
    assert f"continuing after step {step}\n" in capsys.readouterr().out
    assert_same_result(folder, finished)
    epochs = read_records(folder / "metrics.jsonl")
    assert epochs[min(step // 6, 2)]["seconds"] > before.seconds
    assert (before.seconds > 0) == (step % 6 > 0)


def test_signal_before_the_first_step_leaves_no_folder(
    signal_at: Callable[[int, int], None],
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    signal_at(signal.SIGTERM, 1)
    assert run(*tiny, "--run-dir", tmp_path / "run") == 143
    assert capsys.readouterr().err == "error: terminated; nothing was recorded yet\n"
    assert not list(tmp_path.iterdir())


def test_listening_restores_signal_handlers() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with signals.listening(lambda _: None):
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


# A process whose main thread runs no Python code for a while, as when XLA compiles.
BUSY = """
import hashlib, sys
from experiments import train
from experiments.runs import signals
from experiments.workflow import training_run

def busy(configs, folders, command, stop, on_diverged):
    stop.patient = sys.argv[1] == "training"
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

training_run._train = busy
signals.GRACE_S = 0.2
sys.exit(train.main(["--run-dir", sys.argv[2]]))
"""


@contextlib.contextmanager
def busy(phase: str, folder: pathlib.Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", BUSY, phase, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        while process.stdout.readline() != "busy\n":
            assert process.poll() is None
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", list(SIGNAL_NAMES))
def test_signal_during_compilation_ends_the_process_soon(
    number: signal.Signals, tmp_path: pathlib.Path
) -> None:
    with busy("compiling", tmp_path / "run") as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert errors == f"error: {SIGNAL_NAMES[number]}; nothing was recorded yet\n"
    assert not list(tmp_path.iterdir())


def test_second_signal_ends_the_process_immediately(tmp_path: pathlib.Path) -> None:
    with busy("training", tmp_path / "run") as process:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert process.returncode == 130
    assert (tmp_path / "run" / "config.json").exists()
