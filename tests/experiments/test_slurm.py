"""The batch script of the documentation survives a preemption."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.experiments.conftest import ROOT, read_records, read_summary
from tests.experiments.processes import process_environment
from tests.experiments.training.test_sharding import tasks_of_a_job

SETTINGS = "--batch-size 16 --epochs 400 --distortion none --no-figures"

# Starts a command as two tasks, and passes on signals, as SLURM's command does.
SRUN = """#!{python}
import json, os, signal, subprocess, sys
tasks = json.loads(os.environ["TASKS"])
started = [subprocess.Popen(sys.argv[1:], env=os.environ | task) for task in tasks]
signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in started])
sys.exit(max(task.wait() for task in started))
"""
SCONTROL = '#!/bin/bash\necho "$@" >> "$REQUEUED"\n'


def batch_script() -> str:
    """The script, which must be the only one in the page."""
    page = (ROOT / "docs" / "slurm.md").read_text()
    (script,) = re.findall(r"^```bash\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return script


def write_program(path: pathlib.Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path: pathlib.Path, compiled: pathlib.Path) -> dict[str, str]:
    """The variables of a job on a machine with fakes of SLURM's commands."""
    programs = tmp_path / "bin"
    programs.mkdir()
    write_program(programs / "srun", SRUN.format(python=sys.executable))
    write_program(programs / "scontrol", SCONTROL)
    tasks = tasks_of_a_job()
    path = f"{programs}:{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "TASKS": json.dumps(tasks),
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": tasks[0]["SLURM_JOB_ID"],
        "RUN_DIR": str(tmp_path / "run"),
    }
    return os.environ | process_environment(compiled) | variables


def start_job(
    tmp_path: pathlib.Path, arguments: list[str], environment: dict[str, str]
) -> subprocess.Popen[bytes]:
    script, output = tmp_path / "train.sbatch", tmp_path / "output"
    script.write_text(batch_script())
    with output.open("ab") as file:
        return subprocess.Popen(
            ["bash", str(script), *arguments],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def wait_for_an_epoch(folder: pathlib.Path, job: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 200
    while not (folder / "metrics.jsonl").exists() or not read_records(folder / "metrics.jsonl"):
        assert time.monotonic() < end
        assert job.poll() is None
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("preempted", ["the script", "its tasks"])
def test_batch_script_survives_a_preemption(
    preempted: str, tiny: list[str], tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    arguments, folder = [*tiny, *SETTINGS.split()], tmp_path / "run"
    job = start_job(tmp_path, arguments, environment)
    try:
        wait_for_an_epoch(folder, job)
        if preempted == "the script":
            job.send_signal(signal.SIGTERM)
        else:  # as --signal does at the end of the time
            (step,) = pathlib.Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
            os.kill(int(step), signal.SIGTERM)
        assert job.wait(100) == 143, (tmp_path / "output").read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert (tmp_path / "requeued").read_text() == f"requeue {environment['SLURM_JOB_ID']}\n"
    assert len(read_records(folder / "metrics.jsonl")) < 400
    assert not (folder / "summary.json").exists()
    again = start_job(tmp_path, arguments, environment)
    assert again.wait(200) == 0, (tmp_path / "output").read_text()
    assert "continuing after step" in (tmp_path / "output").read_text()
    epochs = [record["epoch"] for record in read_records(folder / "metrics.jsonl")]
    assert epochs == list(range(1, 401))
    assert read_summary(folder)["steps"] == 800
    assert (tmp_path / "requeued").read_text().count("requeue") == 1


def test_batch_script_ends_with_the_code_of_a_failed_run(
    tmp_path: pathlib.Path, environment: dict[str, str]
) -> None:
    write_program(tmp_path / "bin" / "srun", "#!/bin/bash\nexit 7\n")
    assert start_job(tmp_path, [], environment).wait(10) == 7
    assert not (tmp_path / "requeued").exists()
    done = subprocess.run(["bash", "-n", str(tmp_path / "train.sbatch")])
    assert done.returncode == 0
