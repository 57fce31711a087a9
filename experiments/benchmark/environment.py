"""The hardware and the versions on which the results depend."""

import datetime
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

from experiments.benchmark.peers import OURS, PeerProcess
from experiments.benchmark.workloads import Device
from experiments.runs.records import COMMIT


def describe_environment(workers: Mapping[str, PeerProcess], device: Device) -> dict[str, Any]:
    """Returns the date, the commit, the hardware, and versions and threads of each worker."""
    abouts = {name: worker.about for name, worker in workers.items()}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": COMMIT,
        "processor": processor_name(),
        "gpu": abouts[OURS]["device"] if device == "gpu" else None,
        "versions": {name: about["versions"] for name, about in abouts.items()},
        "threads": {name: about["threads"] for name, about in abouts.items()},
    }


def processor_name() -> str:
    """Returns the model name of the processor."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
