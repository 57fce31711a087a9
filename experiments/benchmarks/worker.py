"""A process that builds and times programs of one implementation.

Run as `python -m experiments.benchmarks.worker MODULE:FUNCTION DEVICE`. It answers each line of
JSON on its input with one on its output. Besides the backend it needs Python and NumPy, no more.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TextIO

import numpy as np

from experiments.benchmarks.cases import Arrays, Job

LEAST_CALLS = 3


class Program(NamedTuple):
    """A computation that is ready to run.

    Attributes:
        values: what it computes, to be compared with other implementations.
        run: starts it.
        wait: returns when what `run` returned is there.
        steps: how many times `run` does what is timed.
        facts: what else is known of it, say its memory.
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
        build: from a job and its inputs to a program.
        parameters: the initial parameters of a job's network, where this backend gives them.
        clear: forgets what was compiled.
    """

    about: dict[str, Any]
    build: Callable[[Job, Arrays], Program]
    parameters: Callable[[Job], Arrays] | None = None
    clear: Callable[[], object] = lambda: None


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def seconds_of_calls(program: Program, seconds: float, calls: int) -> list[float]:
    """Times repeated calls for about `seconds`; seconds a step of each sample.

    Args:
        program: what to run.
        seconds: for how long.
        calls: from one wait to the next. One call is timed to its end; several, where a device
            works while the next is prepared, show what a training loop sees.
    """
    program.wait(program.run())  # another process has had the caches
    samples, end = [], time.perf_counter() + seconds
    while len(samples) < LEAST_CALLS or time.perf_counter() < end:
        started = time.perf_counter()
        for _ in range(calls - 1):
            program.run()
        program.wait(program.run())
        samples.append((time.perf_counter() - started) / (calls * program.steps))
    return samples


class Session:
    """Answers requests; holds the programs that were prepared."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._programs: dict[str, Program] = {}

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        return getattr(self, f"_{request['do']}")(request)

    def _prepare(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Builds a program and writes its values to a file."""
        with np.load(request["inputs"], allow_pickle=False) as inputs:
            program = self._backend.build(request["job"], dict(inputs))
        np.savez(request["outputs"], allow_pickle=False, **program.values())
        self._programs[request["name"]] = program
        return {"facts": dict(program.facts)}

    def _parameters(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Writes a network's initial parameters to a file."""
        assert self._backend.parameters is not None
        np.savez(request["outputs"], allow_pickle=False, **self._backend.parameters(request["job"]))
        return {}

    def _time(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Times a program that was prepared."""
        program = self._programs[request["name"]]
        return {"seconds": seconds_of_calls(program, request["seconds"], request["calls"])}

    def _clear(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Forgets all programs."""
        self._programs.clear()
        self._backend.clear()
        return {}


def one_line(error: BaseException) -> str:
    """An error as one line."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0]}"


def serve(target: str, device: str, requests: TextIO, answers: TextIO) -> None:
    """Answers requests until there are none; the first answer is about the backend."""

    def say(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    module, _, function = target.partition(":")
    try:
        backend = getattr(importlib.import_module(module), function)(device)
    except Exception as error:  # of a library, say: this backend is named, the others go on
        say({"error": one_line(error)})
        return
    session = Session(backend)
    say(backend.about)
    for line in requests:
        try:
            say(session.answer(json.loads(line)))
        except Exception as error:  # of a compiler, say: the other programs may do
            say({"error": one_line(error)})


if __name__ == "__main__":
    # What libraries print must not come between the answers.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.argv[2], sys.stdin, replies)
