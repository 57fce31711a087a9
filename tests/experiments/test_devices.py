"""A run comes to the same on any number of devices and processes."""

import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import command_line, devices, records, train
from experiments import config as configuration
from experiments.config import Run, mesh_sizes
from experiments.records import RunError
from experiments.stopping import Stop
from tests.experiments.conftest import environment_of

ROOT = Path(__file__).parents[2]
# Clutter is made of other images of the batch: what is hardest to spread.
SETTINGS = "--batch-size 16 --epochs 2 --distortion tc --canvas 12 --crop-size 3 --no-figures"
# By how much of itself a loss may differ after four steps: sums over a batch are rounded in another
# order, and steps carry that on.
TOLERANCE = 1e-4


def outputs(compiled: Path, *commands: list[str]) -> list[str]:
    """What Python prints, of commands that run at the same time."""

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | environment_of(compiled),
            capture_output=True,
            text=True,
            timeout=300,
        )

    with concurrent.futures.ThreadPoolExecutor() as threads:
        results = list(threads.map(run, commands))
    for result in results:
        assert result.returncode == 0, result.stderr
    return [result.stdout for result in results]


# On eight virtual devices: what the epochs come to on some of them, and the collectives of a step.
ON_DEVICES = r"""
import json, re, sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
from experiments import command_line, devices, experiment, preparation
from experiments.train import compile_programs

made = experiment.build(command_line.parse(sys.argv[1:], "train")[1])
start, data = experiment.initial_state(made), preparation.as_batch(made.dataset.train)
for count in (1, 2, 4, 8):
    programs = compile_programs(made, devices.make_mesh({"batch": count}))
    state, train = programs.place((start, data))
    steps = programs.steps.lower(state, train, programs.order(state.key, 0)).compile()
    losses = []
    for epoch in range(2):
        state, means = steps(state, train, programs.order(state.key, epoch))
        losses += [float(loss) for loss in means["loss"]]
    named = re.findall(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", steps.as_text())
    print(json.dumps([losses, named]))
"""


def test_the_same_on_any_number_of_devices(tiny: list[str], compiled: Path) -> None:
    (out,) = outputs(compiled, ["-c", ON_DEVICES, *tiny, *SETTINGS.split()])
    (alone, _), *others = [json.loads(line) for line in out.splitlines()]
    assert len(alone) == 4
    assert len(others) == 3
    for losses, collectives in others:
        np.testing.assert_allclose(losses, alone, rtol=TOLERANCE)
        assert losses[0] == pytest.approx(alone[0], rel=1e-6)
        # One sum of all gradients; no image goes from one device to another.
        assert collectives == ["all-reduce"]


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def summary(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())


def test_the_same_in_two_processes(tiny: list[str], compiled: Path, tmp_path: Path) -> None:
    alone = ["-m", "experiments.train", *tiny, *SETTINGS.split()]
    together = [
        *alone,
        "--coordinator",
        free_address(),
        "--num-processes",
        "2",
        "--mesh",
        "batch=4",
    ]
    _, first, second = outputs(
        compiled,
        [*alone, "--run-dir", str(tmp_path / "alone")],
        *([*together, "--process-id", str(i), "--run-dir", str(tmp_path / str(i))] for i in (0, 1)),
    )
    assert "test error" in first
    assert "test error" not in second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "alone"]
    for name in ("validation_error", "test_loss"):
        expected = pytest.approx(summary(tmp_path / "alone")[name], rel=TOLERANCE)
        assert summary(tmp_path / "0")[name] == expected


def test_a_signal_to_one_process_stops_all(tiny: list[str], compiled: Path, tmp_path: Path) -> None:
    alone = ["-m", "experiments.train", *tiny, *SETTINGS.split(), "--epochs", "1000000"]
    together = [*alone, "--coordinator", free_address(), "--num-processes", "2"]
    processes = [
        subprocess.Popen(
            [sys.executable, *together, "--process-id", str(i), "--run-dir", str(tmp_path / "0")],
            cwd=ROOT,
            env=os.environ | environment_of(compiled),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for i in range(2)
    ]
    try:
        end = time.monotonic() + 200
        while not records.read_lines(tmp_path / "0" / "metrics.jsonl"):
            assert time.monotonic() < end
            time.sleep(0.1)
        processes[1].send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in processes] == [143, 143]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert any((tmp_path / "0" / "checkpoints").iterdir())


def test_mesh_sizes() -> None:
    assert mesh_sizes(Run()) == {}
    assert mesh_sizes(Run(mesh="batch=4")) == {"batch": 4}
    assert list(mesh_sizes(Run(mesh="member=2,batch=1"))) == ["member", "batch"]


@pytest.mark.parametrize(
    "mesh", ["", "4", "batch", "batch=", "batch=0", "batch=-1", "batch=x", "rows=2", "batch=²"]
)
def test_a_mesh_that_makes_no_sense_is_named(mesh: str) -> None:
    with pytest.raises(
        configuration.ConfigError, match=f"--mesh must be .*; got {re.escape(mesh)}"
    ):
        command_line.parse(["demo", "--mesh", mesh], "train")


JOINED = "--coordinator localhost:1 --num-processes 2 --process-id"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("--mesh batch=2,batch=2", "--mesh must be"),
        ("--mesh batch=3", "--batch-size must be a multiple of --mesh batch=3; got 64"),
        ("--coordinator localhost:1", "--coordinator must be given together with"),
        ("--process-id 0", "--coordinator must be given together with"),
        (f"{JOINED} 2", "--process-id must be in 0 .. 1; got 2"),
        (f"{JOINED} 0 --mesh batch=1", "--mesh must be devices in equal parts"),
        (f"{JOINED} 0 --coordinator localhost", "--coordinator must be of the form HOST:PORT"),
        (f"{JOINED} 0 --coordinator :80", "--coordinator must be of the form HOST:PORT"),
        (f"{JOINED} 0 --num-processes 0", "--num-processes must be positive"),
    ],
)
def test_devices_that_make_no_sense_are_named(settings: str, error: str) -> None:
    with pytest.raises(configuration.ConfigError, match=error):
        command_line.parse(["demo", *settings.split()], "train")


def test_more_devices_than_there_are_are_named() -> None:
    with pytest.raises(RunError, match="--mesh batch=64 takes 64 devices; there are 2"):
        devices.make_mesh({"batch": 64})


def test_members_are_for_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["demo", "--mesh", "member=2"]) == 2
    assert (
        capsys.readouterr().err
        == "error: --mesh must spread batches, as batch=N does; got member=2\n"
    )


def test_no_process_0_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "START_S", 0)
    address = free_address()
    flags = ["--coordinator", address, "--num-processes", "2", "--process-id", "1"]
    assert train.main(["demo", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: --coordinator {address}: no process 0 came in 0 s")
    assert error.count("\n") == 1


def test_a_signal_while_processes_agree_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()

    def largest(number: int) -> int:
        stop.number = signal.SIGTERM  # comes meanwhile
        return number

    monkeypatch.setattr(devices, "largest", largest)
    assert not train._agreed(stop, None)
    assert stop.number == signal.SIGTERM


def test_where_it_runs_is_no_other_run() -> None:
    plain = command_line.parse(["demo"], "train")[1]
    spread = command_line.parse(["demo", "--mesh", "batch=2"], "train")[1]
    assert configuration.differences(plain, spread) == []
