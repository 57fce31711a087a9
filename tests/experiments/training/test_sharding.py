"""A run has the same result on any number of devices and processes."""

import contextlib
import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import pytest

from experiments import train
from experiments.runs import records
from experiments.runs.records import RunError
from experiments.runs.signals import Stop
from experiments.settings import command_line
from experiments.settings.config import Run
from experiments.settings.conversion import config_differences
from experiments.settings.errors import ConfigError
from experiments.settings.validation import mesh_sizes
from experiments.training import loop, sharding
from experiments.training.experiment import build_experiment, initial_state
from experiments.training.single import SingleTrainer
from experiments.workflow import training_run
from tests.experiments import processes
from tests.experiments.conftest import read_summary
from tests.experiments.processes import keeping_compiled

# Clutter is cropped from other images of the batch, so it is the hardest to shard.
SETTINGS = "--batch-size 16 --epochs 2 --distortion tc --canvas 12 --crop-size 3 --no-figures"
COLLECTIVE = re.compile(r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(")
TOLERANCE = 1e-4  # relative, of a loss after four steps: sums over a batch round differently


def train_quietly(arguments: list[str], compiled: Path, output: Path) -> NoReturn:
    """Trains, and prints to a file."""
    with (
        output.open("w") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        processes.train_process(arguments, compiled)


def train_slowly(
    arguments: list[str], compiled: Path, output: Path, variables: dict[str, str]
) -> NoReturn:
    """Trains, and takes more than the time after which a silent process counts as dead."""
    os.environ.update(variables)
    finish_run = training_run.finish_run

    def slowly(*values: Any) -> Any:
        time.sleep(1.5 * sharding.HEARTBEAT_TIMEOUT_S)
        return finish_run(*values)

    training_run.finish_run = slowly
    train_quietly(arguments, compiled, output)


def write_losses(arguments: list[str], compiled: Path, output: Path) -> None:
    """Writes the losses of two epochs on 1, 2, 4 and 8 devices, and the collectives of a step."""
    jax.config.update("jax_num_cpu_devices", 8)
    experiment = build_experiment(command_line.parse(arguments, "train").config)
    results = []
    with keeping_compiled(compiled):
        for count in (1, 2, 4, 8):
            trainer = SingleTrainer(experiment, sharding.make_mesh({"batch": count}))
            state, data = trainer.join(trainer.initial_states()), trainer._training
            steps = trainer._train.lower(state, data, trainer.order(state, 0)).compile()
            losses = []
            for epoch in range(2):
                state, values = steps(state, data, trainer.order(state, epoch))
                losses += [float(loss) for loss in values["loss"][0]]
            results.append([losses, COLLECTIVE.findall(steps.as_text())])
    output.write_text(json.dumps(results))


@pytest.mark.slow
def test_result_is_the_same_on_any_number_of_devices(
    tiny: list[str], compiled: Path, tmp_path: Path
) -> None:
    arguments, output = [*tiny, *SETTINGS.split()], tmp_path / "losses.json"
    process = processes.start(write_losses, arguments, compiled, output)
    process.join(300)
    assert process.exitcode == 0
    (alone, _), *others = json.loads(output.read_text())
    assert len(alone) == 4
    assert len(others) == 3
    for losses, collectives in others:
        np.testing.assert_allclose(losses, alone, rtol=TOLERANCE)
        assert losses[0] == pytest.approx(alone[0], rel=1e-6)
        # The gradients are summed once, and no images are exchanged.
        assert collectives == ["all-reduce"]


def join_and_leave(address: str, number: int, seconds: float, joined: Path) -> None:
    """Joins a run of two processes, as a training does, and leaves it after some time."""
    sharding.start(Run(coordinator=address, num_processes=2, process_id=number))
    joined.touch()
    time.sleep(seconds)
    jax.distributed.shutdown()  # waits for the other process


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
def test_result_is_the_same_in_two_processes(
    tiny: list[str], compiled: Path, tmp_path: Path
) -> None:
    alone, runs = [*tiny, *SETTINGS.split()], tmp_path / "runs"
    joined = ["--coordinator", free_address(), "--num-processes", "2", "--mesh", "batch=4"]
    commands = {
        "alone": alone,
        "0": [*alone, *joined, "--process-id", "0"],
        "1": [*alone, *joined, "--process-id", "1"],
    }
    started = [
        processes.start(
            train_quietly, [*command, "--run-dir", str(runs / name)], compiled, tmp_path / name
        )
        for name, command in commands.items()
    ]
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0, 0, 0]
    assert "test error" in (tmp_path / "0").read_text()
    assert "test error" not in (tmp_path / "1").read_text()
    assert sorted(path.name for path in runs.iterdir()) == ["0", "alone"]
    for name in ("validation_error", "test_loss"):
        expected = pytest.approx(read_summary(runs / "alone")[name], rel=TOLERANCE)
        assert read_summary(runs / "0")[name] == expected


def test_joined_processes_are_not_joined_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("joined"))
    mesh = sharding.start(Run(coordinator="host:1", num_processes=1, process_id=0))
    assert mesh is not None
    assert dict(mesh.shape) == {"batch": jax.device_count()}


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


def tasks_of_a_job() -> list[dict[str, str]]:
    """The variables of both tasks of a SLURM job. JAX takes the port 61440 + JOB_ID."""
    number = next(each for each in range(os.getpid() % 2048, 4096) if is_free(61440 + each))
    job = {"JOB_ID": str(number), "STEP_NODELIST": "127.0.0.1", "NTASKS": "2"}
    tasks = [job | {"PROCID": str(task), "LOCALID": str(task)} for task in (0, 1)]
    return [{f"SLURM_{name}": value for name, value in task.items()} for task in tasks]


@pytest.mark.slow
def test_processes_of_a_slurm_job_find_each_other(
    tiny: list[str], compiled: Path, tmp_path: Path
) -> None:
    """The first one needs longer for the results than a silent process may."""
    arguments = [*tiny, *SETTINGS.split(), "--distributed", "--mesh", "batch=4"]
    arguments += ["--run-dir", str(tmp_path / "run")]
    outputs = [tmp_path / "0", tmp_path / "1"]
    started = [
        processes.start(train_slowly, arguments, compiled, output, task)
        for output, task in zip(outputs, tasks_of_a_job(), strict=True)
    ]
    for process in started:
        process.join(300)
    assert [process.exitcode for process in started] == [0, 0]
    assert ["test error" in output.read_text() for output in outputs] == [True, False]
    assert read_summary(tmp_path / "run")["test_loss"] > 0


def test_number_of_processes_of_a_job_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sharding.PROCESS_COUNTS:
        monkeypatch.delenv(name, raising=False)
    assert sharding._num_processes(Run()) == 1
    assert sharding._num_processes(Run(num_processes=3)) == 3
    assert sharding._num_processes(Run(distributed=True)) == 1
    for name in sharding.PROCESS_COUNTS:
        with monkeypatch.context() as job:
            job.setenv(name, "4")
            assert sharding._num_processes(Run(distributed=True)) == 4
            assert sharding._num_processes(Run()) == 1  # not a part of the job


def train_in_job(
    arguments: list[str], compiled: Path, output: Path, variables: dict[str, str]
) -> NoReturn:
    os.environ.update(variables)
    train_quietly(arguments, compiled, output)


def test_process_without_a_job_is_an_error(compiled: Path, tmp_path: Path) -> None:
    # What `sbatch` sets without `srun`.
    job = {"JOB_ID": "7", "NTASKS": "2", "PROCID": "0", "LOCALID": "0"}
    variables = {f"SLURM_{name}": value for name, value in job.items()}
    arguments = ["demo", "--distributed", "--run-dir", str(tmp_path / "run")]
    output = tmp_path / "output"
    process = processes.start(train_in_job, arguments, compiled, output, variables)
    process.join(300)
    assert process.exitcode == 2
    (line,) = output.read_text().splitlines()
    assert line.startswith("error: --distributed must be used in a process that SLURM's srun, ")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_others_end_if_the_first_process_is_killed_while_they_wait(tmp_path: Path) -> None:
    address, joined = free_address(), [tmp_path / "0", tmp_path / "1"]
    started = [
        processes.start(join_and_leave, address, i, seconds, joined[i])
        for i, seconds in enumerate([1000.0, 0.0])
    ]
    try:
        end = time.monotonic() + 200
        while not all(path.exists() for path in joined):
            assert time.monotonic() < end
            time.sleep(0.1)
        started[1].join(2)
        assert started[1].is_alive()  # it waits for the results of the first one
        started[0].kill()
        started[1].join(3 * sharding.HEARTBEAT_TIMEOUT_S)
        assert started[1].exitcode not in (None, 0)
    finally:
        for process in started:
            process.kill()
            process.join()


@pytest.mark.slow
def test_signal_to_one_process_stops_all(tiny: list[str], compiled: Path, tmp_path: Path) -> None:
    arguments = [*tiny, *SETTINGS.split(), "--epochs", "1000000", "--run-dir", str(tmp_path / "0")]
    arguments += ["--coordinator", free_address(), "--num-processes", "2", "--process-id"]
    started = [
        processes.start(processes.train_process, [*arguments, str(i)], compiled) for i in range(2)
    ]
    try:
        end = time.monotonic() + 200
        while not records.read_lines(tmp_path / "0" / "metrics.jsonl"):
            assert time.monotonic() < end
            assert [process.exitcode for process in started] == [None, None]
            time.sleep(0.1)
        started[1].terminate()
        for process in started:
            process.join(60)
        assert [process.exitcode for process in started] == [143, 143]
    finally:
        for process in started:
            process.kill()
            process.join()
    assert any((tmp_path / "0" / "checkpoints").iterdir())


def test_mesh_is_parsed() -> None:
    assert mesh_sizes(Run()) == {}
    assert mesh_sizes(Run(mesh="batch=4")) == {"batch": 4}
    assert list(mesh_sizes(Run(mesh="member=2,batch=1"))) == ["member", "batch"]


@pytest.mark.parametrize(
    "mesh", ["", "4", "batch", "batch=", "batch=0", "batch=-1", "batch=x", "rows=2", "batch=²"]
)
def test_invalid_mesh_is_an_error(mesh: str) -> None:
    with pytest.raises(ConfigError, match=f"--mesh must be .*; got {re.escape(mesh)}"):
        command_line.parse(["demo", "--mesh", mesh], "train")


TWO_PROCESSES = "--coordinator localhost:1 --num-processes 2 --process-id"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("--mesh batch=2,batch=2", "--mesh must be"),
        ("--mesh batch=3", "--mesh must be batch=N with N a divisor of --batch-size, 64; got"),
        ("--coordinator localhost:1", "--coordinator must be given together with"),
        ("--process-id 0", "--process-id must be given together with"),
        ("--num-processes 2 --process-id 0", "--num-processes must be given together with"),
        (
            "--coordinator localhost:1 --num-processes 2",
            "--coordinator must be given together with",
        ),
        ("--distributed --coordinator localhost:1", "--coordinator must be left out with --distri"),
        ("--distributed --num-processes 2", "--num-processes must be left out with --distributed"),
        ("--distributed --process-id 0", "--process-id must be left out with --distributed"),
        (f"{TWO_PROCESSES} 2", "--process-id must be in 0 .. 1; got 2"),
        (f"{TWO_PROCESSES} 0 --mesh batch=1", "--mesh must be devices in equal parts"),
        (
            f"{TWO_PROCESSES} 0 --coordinator localhost",
            "--coordinator must be of the form HOST:PORT",
        ),
        (f"{TWO_PROCESSES} 0 --coordinator :80", "--coordinator must be of the form HOST:PORT"),
        (f"{TWO_PROCESSES} 0 --num-processes 0", "--num-processes must be positive"),
    ],
)
def test_invalid_devices_are_an_error(settings: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        command_line.parse(["demo", *settings.split()], "train")


def test_too_few_devices_are_an_error() -> None:
    with pytest.raises(RunError, match="--mesh batch=64 takes 64 devices; there are 2"):
        sharding.make_mesh({"batch": 64})


def test_single_run_accepts_no_member_axis(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["demo", "--mesh", "member=2"]) == 2
    assert (
        capsys.readouterr().err
        == "error: --mesh must spread batches, as batch=N does; got member=2\n"
    )


def test_missing_process_0_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sharding, "START_TIMEOUT_S", 0)
    address = free_address()
    flags = ["--coordinator", address, "--num-processes", "2", "--process-id", "1"]
    assert train.main(["demo", *flags]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: --coordinator {address}: process 0 did not start in 0 s")
    assert error.count("\n") == 1


def test_signal_is_kept_if_it_comes_while_processes_communicate(
    monkeypatch: pytest.MonkeyPatch, tiny: list[str]
) -> None:
    stop = Stop()

    def largest(number: int) -> int:
        stop.number = signal.SIGTERM  # comes meanwhile
        return number

    monkeypatch.setattr(sharding, "largest", largest)
    state = initial_state(build_experiment(command_line.parse(tiny, "train").config))
    assert not loop._stop_requested(stop, state)
    assert stop.number == signal.SIGTERM


def test_mesh_is_not_a_difference_between_runs() -> None:
    plain = command_line.parse(["demo"], "train").config
    spread = command_line.parse(["demo", "--mesh", "batch=2"], "train").config
    assert config_differences(plain, spread) == []
