"""The implementations, and the processes in which they run."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.benchmark.options import PARTS, Part
from experiments.benchmark.warps import MATRICES, WarpSpec
from experiments.benchmark.workloads import Device
from experiments.settings.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]
_PRINT_MISSING = (
    "import importlib.util, sys; "
    "print([name for name in sys.argv[1:] if importlib.util.find_spec(name) is None])"
)


class BenchmarkError(UserError):
    """An implementation that cannot run. Its text is one line."""


class Peer(NamedTuple):
    """An implementation.

    Attributes:
        backend: `MODULE:FUNCTION`, which returns the backend.
        needs: modules that must be installed.
        parts: the parts of the benchmark that time it.
        supports: whether it has a quantity of a warp; None: it has all.
        tolerance: largest allowed `distance` of its forward values.
    """

    backend: str
    needs: tuple[str, ...]
    parts: tuple[Part, ...]
    supports: Callable[[WarpSpec, str], bool] | None = None
    tolerance: float = 1e-4  # rounding of positions, times the derivative of noise


def _torch(spec: WarpSpec, quantity: str) -> bool:
    del quantity
    return spec.transform == "grid" or spec.transform in MATRICES


def _kornia(spec: WarpSpec, quantity: str) -> bool:
    plane = spec.ndim == 2 and spec.transform in MATRICES
    return _torch(spec, quantity) and plane and spec.dtype == "float32"


def _map_coordinates(spec: WarpSpec, quantity: str) -> bool:
    return _torch(spec, quantity) and spec.mode != "bicubic" and spec.dtype == "float32"


def _dm_pix(spec: WarpSpec, quantity: str) -> bool:
    supported = spec.mode == "bilinear" and spec.padding_mode != "reflection"
    return _map_coordinates(spec, quantity) and supported


def _opencv(spec: WarpSpec, quantity: str) -> bool:
    forward = quantity == "forward" and spec.ndim == 2 and spec.channels <= 4
    return _torch(spec, quantity) and forward and spec.dtype == "float32"


OURS = "stn_jax"
COMPILED = "torch.compile"
REFERENCE = "torch"  # if it is installed, times are given relative to it
_TORCH, _JAX_PEERS = "experiments.benchmark.torch_backend", "experiments.benchmark.jax_peers"
PEERS: dict[str, Peer] = {
    OURS: Peer("experiments.benchmark.jax_backend:ours", ("jax", "flax", "optax"), PARTS),
    REFERENCE: Peer(f"{_TORCH}:eager", ("torch",), PARTS, _torch),
    COMPILED: Peer(f"{_TORCH}:compiled", ("torch",), PARTS, _torch),
    "kornia": Peer(f"{_TORCH}:kornia", ("torch", "kornia"), ("sampler",), _kornia),
    # Before version 5, its fractions of a pixel have five bits.
    "opencv": Peer(
        "experiments.benchmark.opencv_backend:opencv", ("cv2",), ("sampler",), _opencv, 0.05
    ),
    "map_coordinates": Peer(
        f"{_JAX_PEERS}:map_coordinates", ("jax",), ("sampler",), _map_coordinates
    ),
    "dm_pix": Peer(f"{_JAX_PEERS}:dm_pix", ("jax", "dm_pix"), ("sampler",), _dm_pix),
}


def missing_modules(python: str, needs: tuple[str, ...]) -> str:
    """Returns the modules that an interpreter lacks, as text; empty if it has all of them."""
    try:
        found = subprocess.run(
            [python, "-c", _PRINT_MISSING, *needs],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
    except subprocess.CalledProcessError as error:
        reason = f"exit code {error.returncode}"
        raise BenchmarkError(f"--peer-python {python} does not run: {reason}") from None
    except OSError as error:
        raise BenchmarkError(f"--peer-python {python} does not run: {error.strerror}") from None
    if not found.stdout.startswith("["):
        raise BenchmarkError(f"--peer-python {python} is not a Python interpreter")
    return found.stdout.strip("[]\n").replace("'", "")


def interpreter(peer: Peer, peer_python: Sequence[str]) -> tuple[str | None, str]:
    """Returns the first interpreter that can run a peer, or None and the reason."""
    lacking = missing_modules(sys.executable, peer.needs)
    if not lacking:
        return sys.executable, ""
    for python in peer_python:
        if not missing_modules(python, peer.needs):
            return python, ""
    return None, f"{lacking} not installed"


class PeerProcess:
    """The parent's handle of a process that runs one implementation.

    Args:
        name: the name of the implementation.
        python: the interpreter.
        device: the device on which it runs.
    """

    def __init__(self, name: str, python: str, device: Device) -> None:
        self.name = name
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        self._process = subprocess.Popen(
            [python, "-m", "experiments.benchmark.peer_worker", PEERS[name].backend, device],
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
        """Versions, device and threads; blocks until the process is ready.

        Raises:
            BenchmarkError: the implementation does not start.
        """
        if self._about is None:
            self._about = self._receive()
        return self._about

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and returns the answer.

        Raises:
            BenchmarkError: the request failed, or the process ended.
        """
        _ = self.about
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process ended; `_receive` reports how
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
        """Kills the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


def _environment(device: Device) -> Mapping[str, str]:
    """Returns environment variables that put JAX on the device without preallocating memory.

    Nothing is loaded from the compilation cache, because compilation is timed.
    """
    platform = "cpu" if device == "cpu" else "cuda,cpu"
    options = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return os.environ | {"JAX_PLATFORMS": platform} | options


def start(
    names: list[str], peer_python: Sequence[str], device: Device
) -> tuple[dict[str, PeerProcess], dict[str, str]]:
    """Starts the implementations that are installed.

    Returns:
        (the processes by name, the reason for each implementation that does not run)

    Raises:
        BenchmarkError: this project's implementation does not start.
    """
    for python in peer_python:
        if shutil.which(python) is None:
            raise BenchmarkError(f"--peer-python must be an interpreter; got {python}")
    workers: dict[str, PeerProcess] = {}
    missing: dict[str, str] = {}
    for name in names:
        python, reason = interpreter(PEERS[name], peer_python)
        if python is None:
            missing[name] = reason
        else:
            workers[name] = PeerProcess(name, python, device)
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
