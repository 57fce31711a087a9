"""Trains in other processes, which fork from one that has imported all modules.

Compiled programs are cached on disk and shared by all processes.
"""

import contextlib
import math
import multiprocessing
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NoReturn

import jax
from jax.experimental.compilation_cache import compilation_cache

import experiments.datasets.npz  # noqa: F401, preloads what a run imports later
from experiments import train
from experiments.runs import checkpoints, progress
from experiments.training import loop
from experiments.workflow import training_run

COMPILATION_OPTIONS = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    # The runs are so short that optimising their programs would take most of the time.
    "jax_disable_most_optimizations": True,
}
NUM_DEVICES = 2  # as in the tests' own process, because programs depend on it

Moment = Literal["epoch", "checkpoint", "writing", "summary"]
KILLED_CALLS: dict[Moment, tuple[Any, str]] = {
    "epoch": (progress.Progress, "advance"),
    "checkpoint": (checkpoints.Checkpoints, "save"),
    "writing": (checkpoints, "write_atomically"),
    "summary": (training_run, "write_json"),
}


@contextlib.contextmanager
def keeping_compiled(folder: pathlib.Path) -> Iterator[None]:
    """Caches compiled programs in a folder, and compiles without most optimisations."""
    before = {name: jax.config.values[name] for name in COMPILATION_OPTIONS}
    for name, value in (COMPILATION_OPTIONS | {"jax_compilation_cache_dir": str(folder)}).items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def process_environment(folder: pathlib.Path) -> dict[str, str]:
    """The variables that make a new Python process use the programs cached in a folder."""
    options = COMPILATION_OPTIONS | {"jax_compilation_cache_dir": str(folder)}
    options |= {"jax_num_cpu_devices": NUM_DEVICES}
    return {name.upper(): str(value) for name, value in options.items()}


def start(target: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Starts a process that calls a function of this module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def train_process(arguments: list[str], compiled: pathlib.Path) -> NoReturn:
    """Trains, and exits with the exit code of the command."""
    jax.config.update("jax_num_cpu_devices", NUM_DEVICES)
    with keeping_compiled(compiled):
        code = train.main(arguments)
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()  # a forked process does not do this at exit
    sys.exit(code)


def train_in_parts(arguments: list[str], compiled: pathlib.Path) -> NoReturn:
    """Trains with a checkpoint after every epoch, and two parts in an epoch of 6 steps."""
    checkpoints.MAX_TIME_SHARE = math.inf
    loop.STEPS_PER_DISPATCH = 4
    train_process(arguments, compiled)


def train_until_killed(
    moment: Moment, n: int, arguments: list[str], compiled: pathlib.Path
) -> NoReturn:
    """Trains as `train_in_parts`, and kills the process at the n-th call of a function."""
    owner, name = KILLED_CALLS[moment]
    original, calls = getattr(owner, name), []

    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def killing(*values: Any, **options: Any) -> Any:
        calls.append(values)
        if len(calls) == n:
            if moment != "writing":
                kill()
            os.fsync = kill  # all bytes are written, but the file has not been renamed
        return original(*values, **options)

    setattr(owner, name, killing)
    train_in_parts(arguments, compiled)
