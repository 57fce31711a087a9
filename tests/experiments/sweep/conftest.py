"""Fixtures that run sweeps, in this process or in others, and a PostgreSQL server."""

import contextlib
import functools
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from experiments.sweep.__main__ import main
from tests.experiments.sweep import fake

ROOT = pathlib.Path(__file__).parents[3]
BASE = ["demo", "--epochs", "4", "--heartbeat", "1", "--space", "learning_rate=log:1e-4..1"]


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "a {sweep} 100%"


Search = Callable[..., int]


def run_search(
    *arguments: object, base: Sequence[str] = BASE, train: Callable[..., Any] = fake.train
) -> int:
    """Runs a worker in this process; returns the exit code."""
    return main([*base, *map(str, arguments)], lambda run: train)


@pytest.fixture
def search(folder: pathlib.Path) -> Search:
    """`run_search` in `folder`."""
    return functools.partial(run_search, "--run-dir", folder)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts workers in other processes; kills those that still run at the end."""
    started = []

    def process(*arguments: object, epoch_seconds: float = 0.0) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.experiments.sweep.fake"]
        started.append(
            subprocess.Popen(
                [*command, *(str(argument) for argument in arguments)],
                cwd=ROOT,
                env=os.environ | {"EPOCH_SECONDS": str(epoch_seconds), "MISSED_HEARTBEATS": "3"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield process
    for each in started:
        each.kill()
        each.communicate()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The address of a temporary PostgreSQL server on loopback."""
    found = [
        shutil.which("initdb"),
        *map(str, pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")),
    ]
    programs = pathlib.Path(next(filter(None, found), "initdb")).resolve().parent
    # The server refuses to run as root.
    as_owner = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        home = pathlib.Path(name)
        if as_owner:
            shutil.chown(home, "postgres")
        data = home / "data"
        init = [programs / "initdb", "-D", data, "-U", "tester", "-A", "trust", "--no-sync"]
        subprocess.run([*as_owner, *init], check=True, capture_output=True, cwd=home)
        options = ["-c", "listen_addresses=127.0.0.1", "-p", str(port), "-k", home, "-F"]
        log = (home / "log").open("w")
        server = subprocess.Popen(
            [*as_owner, programs / "postgres", "-D", data, *options], stderr=log, cwd=home
        )
        try:
            ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
            for _ in range(200):
                if subprocess.run(ready, capture_output=True).returncode == 0:
                    break
                assert server.poll() is None, (home / "log").read_text()
                time.sleep(0.1)
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            stop = [programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"]
            subprocess.run([*as_owner, *stop], check=True, capture_output=True, cwd=home)
            server.wait()
            log.close()
