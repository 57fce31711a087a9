"""A signal stops a run where it can be continued, to the bit-identical end."""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from experiments import checkpoints, records, stopping, train
from experiments import experiment as setup
from tests.experiments.conftest import assert_same_end

ROOT = pathlib.Path(train.__file__).parent.parent
WORDS = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Signals this process while the n-th part of a training is dispatched."""
    compile_programs = train.compile_programs

    def patch(number: int, n: int) -> None:
        calls = []

        def signalling(experiment: Any, mesh: Any) -> train.Programs:
            programs = compile_programs(experiment, mesh)

            def steps(*arguments: Any) -> Any:
                calls.append(arguments)
                if len(calls) == n:
                    signal.raise_signal(number)
                    signal.raise_signal(number)  # at once: as `timeout` does
                return programs.steps(*arguments)

            return programs._replace(steps=steps)

        monkeypatch.setattr(train, "compile_programs", signalling)

    return patch


@pytest.mark.parametrize(
    ("number", "n", "step"),
    [
        (signal.SIGTERM, 3, 10),  # in the middle of the second epoch
        (signal.SIGINT, 6, 18),  # at the end of the last
    ],
)
@pytest.mark.usefixtures("in_parts")
def test_stopped_and_continued(
    number: int,
    n: int,
    step: int,
    signal_at: Callable[[int, int], None],
    reference: pathlib.Path,
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
    advice = (
        f"error: {WORDS[signal.Signals(number)]}; --run-dir {folder} --resume auto continues it"
    )
    assert lines[-1] == advice
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"{step}.msgpack"]
    state = setup.initial_state(setup.build(records.read_config(folder)))
    before = checkpoints.Checkpoints(folder / "checkpoints").restore(state)
    assert run(*command, "--resume", "auto") == 0
    assert f"continuing after step {step}\n" in capsys.readouterr().out
    assert_same_end(folder, reference)
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs[min(step // 6, 2)]["seconds"] > before.seconds
    assert (before.seconds > 0) == (step % 6 > 0)


def test_a_signal_before_the_first_step_leaves_nothing(
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


def test_handlers_are_put_back() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with stopping.listening(lambda _: None):
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


# Processes whose main thread is busy where Python does not run, as XLA is when it compiles.
BUSY = """
import hashlib, sys
from experiments import stopping, train

def busy(config, folder, command, stop):
    stop.patient = sys.argv[1] == "training"
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

train.train = busy
stopping.GRACE_S = 0.2
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


@pytest.mark.parametrize("number", list(WORDS))
def test_a_signal_while_compiling_ends_soon_and_leaves_nothing(
    number: signal.Signals, tmp_path: pathlib.Path
) -> None:
    with busy("compiling", tmp_path / "run") as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert errors == f"error: {WORDS[number]}; nothing was recorded yet\n"
    assert not list(tmp_path.iterdir())


def test_a_second_signal_ends_at_once(tmp_path: pathlib.Path) -> None:
    with busy("training", tmp_path / "run") as process:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
    assert process.returncode == 130
    assert (tmp_path / "run" / "config.json").exists()
