"""The implementations, and the processes that run them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.benchmarks.settings import Part

ROOT = pathlib.Path(__file__).parents[2]
FIND = (
    "import importlib.util, sys; "
    "print([name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])"
)


class BenchmarkError(Exception):
    """What went wrong, in one line."""


class Peer(NamedTuple):
    """An implementation.

    Attributes:
        backend: `MODULE:FUNCTION` for the worker.
        needs: modules that must be there.
        parts: of the benchmark that it takes part in.
    """

    backend: str
    needs: tuple[str, ...]
    parts: tuple[Part, ...]


OURS = "stn_jax"
REFERENCE = "torch"  # the one that the others are compared with, where it is there
_JAX, _TORCH = "experiments.benchmarks.jax_backend", "experiments.benchmarks.torch_backend"
_STEPS: tuple[Part, ...] = ("sampler", "step", "overhead", "population")
PEERS: dict[str, Peer] = {
    OURS: Peer(f"{_JAX}:ours", ("jax", "flax", "optax"), _STEPS),
    "torch": Peer(f"{_TORCH}:eager", ("torch",), _STEPS),
    "torch.compile": Peer(f"{_TORCH}:compiled", ("torch",), _STEPS),
    "kornia": Peer(f"{_TORCH}:kornia", ("torch", "kornia"), ("sampler",)),
    "map_coordinates": Peer(f"{_JAX}:map_coordinates", ("jax",), ("sampler",)),
    "dm_pix": Peer(f"{_JAX}:dm_pix", ("jax", "dm_pix"), ("sampler",)),
}


def missing_modules(python: str, needs: tuple[str, ...]) -> str:
    """Which modules an interpreter lacks, as text; empty if none."""
    try:
        found = subprocess.run(
            [python, "-c", FIND, *needs], capture_output=True, text=True, check=True, cwd=ROOT
        )
    except subprocess.CalledProcessError as error:
        reason = f"it ended with {error.returncode}"
        raise BenchmarkError(f"--peer-python {python} does not run: {reason}") from None
    except OSError as error:
        raise BenchmarkError(f"--peer-python {python} does not run: {error.strerror}") from None
    if not found.stdout.startswith("["):
        raise BenchmarkError(f"--peer-python {python} is no Python interpreter")
    return found.stdout.strip("[]\n").replace("'", "")


def interpreter(peer: Peer, peer_python: str | None) -> tuple[str | None, str]:
    """The interpreter that can run a peer, or None and why there is none."""
    lacking = missing_modules(sys.executable, peer.needs)
    if not lacking:
        return sys.executable, ""
    if peer_python is not None and not missing_modules(peer_python, peer.needs):
        return peer_python, ""
    return None, f"{lacking} not installed"


class Worker:
    """A process that runs one implementation; a context manager that ends it.

    Args:
        name: of the implementation.
        python: the interpreter.
        device: cpu or gpu.
    """

    def __init__(self, name: str, python: str, device: str) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [python, "-m", "experiments.benchmarks.worker", PEERS[name].backend, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=ROOT,
            env=_environment(device),
        )
        self._about: dict[str, Any] | None = None

    @property
    def about(self) -> dict[str, Any]:
        """Versions, device and threads; waits for the process to be ready.

        Raises:
            BenchmarkError: if the implementation does not start.
        """
        if self._about is None:
            self._about = self._receive()
        return self._about

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            BenchmarkError: if it failed.
        """
        _ = self.about
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # its process ended; what follows says how
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            last = (self._errors.read().strip().splitlines() or ["no message"])[-1]
            raise BenchmarkError(
                f"{self.name}: its process ended with {self._process.returncode}: {last}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def _environment(device: str) -> Mapping[str, str]:
    """The workers' environment: JAX on the device, and not with all of its memory."""
    platform = "cpu" if device == "cpu" else "cuda,cpu"
    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return os.environ | {"JAX_PLATFORMS": platform} | memory


def start(
    names: list[str], peer_python: str | None, device: str
) -> tuple[dict[str, Worker], dict[str, str]]:
    """Starts the implementations that are installed; those that are not, with the reason.

    Raises:
        BenchmarkError: if this project's own does not start.
    """
    if peer_python is not None and shutil.which(peer_python) is None:
        raise BenchmarkError(f"--peer-python must be an interpreter; got {peer_python}")
    workers: dict[str, Worker] = {}
    missing: dict[str, str] = {}
    for name in names:
        python, reason = interpreter(PEERS[name], peer_python)
        if python is None:
            missing[name] = reason
        else:
            workers[name] = Worker(name, python, device)
    for name, worker in list(workers.items()):
        try:
            _ = worker.about
        except BenchmarkError as error:
            missing[name] = str(error).removeprefix(f"{name}: ")
            workers.pop(name).close()
    if OURS in missing:
        for worker in workers.values():
            worker.close()
        raise BenchmarkError(f"{OURS}: {missing[OURS]}")
    return workers, missing
