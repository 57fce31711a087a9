"""Small training runs, trained once and shared. Compiled programs are cached on disk."""

import contextlib
import functools
import importlib
import io
import json
import math
import pathlib
import shutil
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from experiments import train
from experiments.analysis.probe import Probe
from experiments.runs import checkpoints
from experiments.training import loop, optimizers
from experiments.training.experiment import Experiment
from experiments.training.metrics import make_tester
from experiments.training.population import PopulationTrainer
from experiments.training.single import SingleTrainer
from experiments.workflow import training_run
from tests.experiments.processes import keeping_compiled
from tests.experiments.user_modules import SHEARS

ROOT = pathlib.Path(train.__file__).parent.parent


@contextlib.contextmanager
def sharing_programs(programs: dict[Any, Any]) -> Iterator[None]:
    """Lets runs with equal settings share their compiled functions: tracing them takes seconds.

    Args:
        programs: the functions that were compiled so far. New ones are added.
    """

    def shared(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(experiment: Experiment, *arguments: Any) -> Any:
            config = experiment.config
            key = (make, config.data, config.model, config.optimisation, *arguments)
            key += (optimizers.make_optimizer,)  # some tests replace it
            if key not in programs:
                programs[key] = make(experiment, *arguments)
            return programs[key]

        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training_run, "SingleTrainer", shared(_single_trainer))
        patched.setattr(training_run, "make_tester", shared(make_tester))
        patched.setattr(training_run, "Probe", shared(Probe))
        yield


def _single_trainer(experiment: Experiment, mesh: jax.sharding.Mesh | None) -> SingleTrainer:
    trainer = SingleTrainer(experiment, mesh)
    trainer.initial_states = functools.cache(trainer.initial_states)
    return trainer


def save_npz(
    path: pathlib.Path, shape: tuple[int, ...] = (9, 9), dtype: type = np.uint8
) -> pathlib.Path:
    """Saves 40 training and 25 test images of three classes, each with its own bright column."""
    rng = np.random.default_rng(0)
    labels = np.arange(65) % 3
    images = rng.integers(0, 100, (65, *shape))
    images[np.arange(65), labels] += 150
    images = images.astype(np.uint8) if dtype == np.uint8 else (images / 50 - 2).astype(dtype)
    np.savez(path, x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    return path


# --- Reading runs ---------------------------------------------------------------------------------


def read_records(path: pathlib.Path) -> list[dict[str, Any]]:
    """The records of a `.jsonl` file, read without the code under test."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_summary(folder: pathlib.Path) -> dict[str, Any]:
    """The summary of a run, read without the code under test."""
    return json.loads((folder / "summary.json").read_text())


def untimed_metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The metrics of each epoch without those that are measured with a clock."""
    timings = ("seconds", "images_per_second")
    records = read_records(folder / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k not in timings} for record in records]


def read_events(folder: pathlib.Path) -> list[Event]:
    """The events in TensorBoard files: for each a length, a checksum, the event, a checksum."""
    events = []
    for path in sorted(folder.glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[12 + length + 4 :]
    return events


def read_scalars(folder: pathlib.Path) -> dict[tuple[int, str], float]:
    """The scalars in TensorBoard files, by epoch and name."""
    return {
        (event.step, value.tag): value.simple_value
        for event in read_events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def assert_same_result(folder: pathlib.Path, reference: pathlib.Path) -> None:
    """Asserts that two runs have bit-identical results."""
    summaries = [read_summary(each) for each in (folder, reference)]
    for name in ("params_sha256", "test_error", "test_loss", "validation_error", "steps"):
        assert summaries[0][name] == summaries[1][name]
    assert untimed_metrics(folder) == untimed_metrics(reference)
    assert (folder / "frames.jsonl").read_text() == (reference / "frames.jsonl").read_text()


# --- Fixtures -------------------------------------------------------------------------------------


@pytest.fixture(scope="session", autouse=True)
def checkpoint_every_epoch() -> Iterator[None]:
    """Allows a checkpoint after every epoch, although epochs are short."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoints, "MAX_TIME_SHARE", math.inf)
        yield


@pytest.fixture(scope="session")
def compiled() -> pathlib.Path:
    """The folder of cached programs, which outlives the session."""
    return pathlib.Path(str(jax.config.values["jax_compilation_cache_dir"]))


@pytest.fixture(scope="session")
def programs() -> dict[Any, Any]:
    """The compiled functions of runs in this process, by settings."""
    return {}


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tiny data set."""
    return save_npz(tmp_path_factory.mktemp("data") / "tiny.npz")


@pytest.fixture(scope="session")
def tiny(data_file: pathlib.Path) -> list[str]:
    """The arguments of a short run: 36 examples, 6 steps per epoch, 3 epochs."""
    settings = "--distortion r --model st_fcn --features 8 --batch-size 6 --epochs 3"
    return ["demo", "--dataset", "npz", "--data-file", str(data_file), *settings.split()]


@pytest.fixture
def run(compiled: pathlib.Path, programs: dict[Any, Any]) -> Iterator[Callable[..., int]]:
    """`experiments.train.main` with cached programs. Returns the exit code."""

    def main(*arguments: object) -> int:
        return train.main([str(argument) for argument in arguments])

    with keeping_compiled(compiled), sharing_programs(programs):
        yield main


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    compiled: pathlib.Path,
    programs: dict[Any, Any],
    tiny: list[str],
) -> pathlib.Path:
    """The folder of a finished run with figures, each epoch trained in two parts. Read only."""
    folder = tmp_path_factory.mktemp("finished") / "a run"
    with (
        keeping_compiled(compiled),
        sharing_programs(programs),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setattr(loop, "STEPS_PER_DISPATCH", 4)
        assert train.main([*tiny, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def unfinished(finished: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A writable copy of the finished run, as if killed just before it wrote its summary."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture
def write_module(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str | None], str]]:
    """Writes a module that can be imported during the test, and returns its name.

    The name is new each time, because families are cached by name. None writes no module.
    """
    folder = tmp_path_factory.mktemp("modules")
    monkeypatch.syspath_prepend(folder)
    names = []

    def write(source: str | None = SHEARS) -> str:
        names.append(f"{folder.name}_{len(names)}")
        if source is not None:
            (folder / f"{names[-1]}.py").write_text(source)
            importlib.invalidate_caches()
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end at once without training, for tests of everything around it."""
    summary = {"test_error": 1.0, "num_params": 1}
    monkeypatch.setattr(training_run, "_train", lambda *_: [summary])


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Divides an epoch of 6 steps into two parts."""
    monkeypatch.setattr(loop, "STEPS_PER_DISPATCH", 4)


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """A function that makes this process receive a signal just before the n-th part of a run."""

    def patch(number: int, n: int) -> None:
        calls = []
        for trainer in (SingleTrainer, PopulationTrainer):
            original = trainer.train

            def train(*arguments: Any, original: Callable[..., Any] = original) -> Any:
                calls.append(arguments)
                if len(calls) == n:
                    signal.raise_signal(number)
                    signal.raise_signal(number)  # immediately again, as `timeout` does
                return original(*arguments)

            monkeypatch.setattr(trainer, "train", train)

    return patch
