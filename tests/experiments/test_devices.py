"""A run comes to the same on any number of devices and processes."""

import concurrent.futures
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import config as configuration
from experiments import devices
from experiments.config import Run, mesh_sizes
from experiments.records import RunError
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
from experiments import config, devices, experiment, preparation
from experiments.train import compile_programs

made = experiment.build(config.parse(sys.argv[1:], "train")[1])
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


def summary(folder: Path) -> dict[str, float]:
    return json.loads((folder / "summary.json").read_text())


def test_the_same_in_two_processes(tiny: list[str], compiled: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    train = ["-m", "experiments.train", *tiny, *SETTINGS.split()]
    together = [*train, "--coordinator", address, "--num-processes", "2", "--mesh", "batch=4"]
    _, first, second = outputs(
        compiled,
        [*train, "--run-dir", str(tmp_path / "alone")],
        *([*together, "--process-id", str(i), "--run-dir", str(tmp_path / str(i))] for i in (0, 1)),
    )
    assert "test error" in first
    assert "test error" not in second
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "alone"]
    for name in ("validation_error", "test_loss"):
        expected = pytest.approx(summary(tmp_path / "alone")[name], rel=TOLERANCE)
        assert summary(tmp_path / "0")[name] == expected


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
        configuration.parse(["demo", "--mesh", mesh], "train")


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
        configuration.parse(["demo", *settings.split()], "train")


def test_more_devices_than_there_are_are_named() -> None:
    with pytest.raises(RunError, match="--mesh batch=64 takes 64 devices; there are 2"):
        devices.make_mesh({"batch": 64})


def test_where_it_runs_is_no_other_run() -> None:
    plain = configuration.parse(["demo"], "train")[1]
    spread = configuration.parse(["demo", "--mesh", "batch=2"], "train")[1]
    assert configuration.differences(plain, spread) == []
