"""The process that builds and times the programs of one implementation.

Run as `python -m experiments.benchmark.peer_worker MODULE:FUNCTION DEVICE`. It answers each line of
JSON on stdin with a line of JSON on stdout. Apart from the libraries of the backend, it needs only
Python and NumPy.
"""

import ctypes
import importlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TextIO

import numpy as np

from experiments.benchmark.workloads import Arrays, Job

MIN_SAMPLES = 3


class Program(NamedTuple):
    """A computation that is ready to run.

    Attributes:
        values: returns the results, which are compared with those of other implementations.
        run: starts the computation.
        wait: blocks until the value that `run` returned is computed.
        steps: the number of timed steps in one call of `run`.
        facts: other measurements, such as memory in bytes.
    """

    values: Callable[[], Arrays]
    run: Callable[[], Any]
    wait: Callable[[Any], object]
    steps: int = 1
    facts: Mapping[str, float] = {}


class Backend(NamedTuple):
    """An implementation.

    Attributes:
        about: versions, device and number of threads.
        build: builds a program from a job and its inputs.
        parameters: returns the initial parameters of a job's network; None if another backend
            provides them.
        clear: clears the caches of compiled programs.
    """

    about: dict[str, Any]
    build: Callable[[Job, Arrays], Program]
    parameters: Callable[[Job], Arrays] | None = None
    clear: Callable[[], object] = lambda: None


def time_calls(program: Program, seconds: float, calls_per_sample: int) -> list[float]:
    """Times repeated calls of a program.

    Args:
        program: the program.
        seconds: the approximate total duration.
        calls_per_sample: the number of calls before each wait. With 1, a call is timed to its end.
            With more, a device can compute while the next call is prepared, as in a training loop.

    Returns:
        Seconds per step of each sample; at least `MIN_SAMPLES` samples.
    """
    program.wait(program.run())  # refills the caches, which another process has used
    samples, end = [], time.perf_counter() + seconds
    while len(samples) < MIN_SAMPLES or time.perf_counter() < end:
        started = time.perf_counter()
        for _ in range(calls_per_sample - 1):
            program.run()
        program.wait(program.run())
        samples.append((time.perf_counter() - started) / (calls_per_sample * program.steps))
    return samples


def resident_growth(program: Program) -> dict[str, float]:
    """Returns by how many bytes a run increases the resident memory of this process at most.

    Results count, and inputs do not. Empty on systems other than Linux.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)  # pages that earlier calls freed would count as resident
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
        program.wait(program.run())
        return {"resident_growth_bytes": max(0, _status("VmHWM") - before)}
    except (OSError, AttributeError):
        return {}


def _status(name: str) -> int:
    """Returns a number of bytes of this process's status on Linux."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


class Session:
    """Answers requests and holds the programs that they prepared."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._programs: dict[str, Program] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Answers one request; its item `do` names the method."""
        return getattr(self, f"_{request['do']}")(request)

    def _prepare(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Builds a program and writes its values to a file."""
        with np.load(request["inputs"], allow_pickle=False) as inputs:
            program = self._backend.build(request["job"], dict(inputs))
        np.savez(request["outputs"], allow_pickle=False, **program.values())
        self._programs[request["name"]] = program
        return {"facts": dict(program.facts) | resident_growth(program)}

    def _parameters(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the initial parameters of a network to a file."""
        assert self._backend.parameters is not None
        np.savez(request["outputs"], allow_pickle=False, **self._backend.parameters(request["job"]))
        return {}

    def _time(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Times a prepared program."""
        program = self._programs[request["name"]]
        return {"seconds": time_calls(program, request["seconds"], request["calls"])}

    def _clear(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Removes all programs."""
        self._programs.clear()
        self._backend.clear()
        return {}


def _first_line(error: BaseException) -> str:
    """Returns the type of an error and the first line of its text."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"


def serve(target: str, device: str, requests: TextIO, answers: TextIO) -> None:
    """Describes the backend, and then answers requests until the input ends."""

    def send(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    module, _, function = target.partition(":")
    try:
        backend = getattr(importlib.import_module(module), function)(device)
    except Exception as error:  # a library may raise any type; the other backends can still run
        send({"error": _first_line(error)})
        return
    session = Session(backend)
    send(backend.about)
    for line in requests:
        try:
            send(session.answer(json.loads(line)))
        except Exception as error:  # a compiler may raise any type; other programs can still run
            send({"error": _first_line(error)})


if __name__ == "__main__":
    # Libraries may print to stdout, so answers get a descriptor of their own.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.argv[2], sys.stdin, replies)
