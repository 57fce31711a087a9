"""Small trainings, made once and shared: most of their time is compilation, which is kept."""

import contextlib
import io
import json
import math
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import checkpoints, train

COMPILATION = {
    "jax_compilation_cache_dir": None,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    # Trainings last moments: with all optimisations, compiling would be most of their time.
    "jax_disable_most_optimizations": True,
}


@contextlib.contextmanager
def keeping_compiled(folder: pathlib.Path) -> Iterator[None]:
    """Programs that are compiled are found again by the next training."""
    before = {name: jax.config.values[name] for name in COMPILATION}
    for name, value in (COMPILATION | {"jax_compilation_cache_dir": str(folder)}).items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def environment_of(folder: pathlib.Path) -> dict[str, str]:
    """What makes another process keep its compiled programs there."""
    settings = COMPILATION | {"jax_compilation_cache_dir": str(folder)}
    settings |= {"jax_num_cpu_devices": 2}  # as here: programs for other devices are others
    return {name.upper(): str(value) for name, value in settings.items()}


def save_npz(
    path: pathlib.Path, shape: tuple[int, ...] = (9, 9), dtype: type = np.uint8
) -> pathlib.Path:
    """40 training and 25 test images of three classes that differ in where they are bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(65) % 3
    images = rng.integers(0, 100, (65, *shape))
    images[np.arange(65), labels] += 150
    images = images.astype(np.uint8) if dtype == np.uint8 else (images / 50 - 2).astype(dtype)
    np.savez(path, x_train=images[:40], y_train=labels[:40], x_test=images[40:], y_test=labels[40:])
    return path


TIMINGS = ("seconds", "images_per_second")


def metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The records of each epoch, read as a stranger would, without what the clock says."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in found]


def assert_same_end(folder: pathlib.Path, reference: pathlib.Path) -> None:
    """Asserts that two runs ended alike, bit for bit."""
    summaries = [json.loads((each / "summary.json").read_text()) for each in (folder, reference)]
    for name in ("params_sha256", "test_error", "test_loss", "validation_error", "steps"):
        assert summaries[0][name] == summaries[1][name]
    assert metrics(folder) == metrics(reference)
    assert (folder / "frames.jsonl").read_text() == (reference / "frames.jsonl").read_text()


@pytest.fixture(scope="session", autouse=True)
def every_epoch() -> Iterator[None]:
    """Epochs are moments here: each may leave its checkpoint."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(checkpoints, "SHARE", math.inf)
        yield


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of compiled programs."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A tiny data set."""
    return save_npz(tmp_path_factory.mktemp("data") / "tiny.npz")


@pytest.fixture(scope="session")
def tiny(data_file: pathlib.Path) -> list[str]:
    """Arguments of a training of moments: 36 examples, 6 steps an epoch, 3 epochs."""
    settings = "--model st_fcn --features 8 --batch-size 6 --epochs 3"
    return ["demo", "--dataset", "npz", "--data-file", str(data_file), *settings.split()]


@pytest.fixture
def run(compiled: pathlib.Path) -> Iterator[Callable[..., int]]:
    """`experiments.train.main`, which answers with the exit code."""

    def main(*arguments: object) -> int:
        return train.main([str(argument) for argument in arguments])

    with keeping_compiled(compiled):
        yield main


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, compiled: pathlib.Path, tiny: list[str]
) -> pathlib.Path:
    """The folder of a finished run with pictures: to be read, not written."""
    folder = tmp_path_factory.mktemp("finished") / "a run"
    with keeping_compiled(compiled), contextlib.redirect_stdout(io.StringIO()):
        assert train.main([*tiny, "--run-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def unfinished(finished: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder of a run that was killed when all was done but the summary: to be written."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    return folder


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings that end at once, for what happens around them."""
    summary = {"test_error": 1.0, "num_params": 1}
    monkeypatch.setattr(train, "train", lambda *_: summary)


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of 6 steps is two programs."""
    monkeypatch.setattr(train, "STEPS_PER_DISPATCH", 4)


@pytest.fixture(scope="session")
def reference(
    tmp_path_factory: pytest.TempPathFactory, compiled: pathlib.Path, tiny: list[str]
) -> pathlib.Path:
    """The run in parts that nothing interrupts."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    with keeping_compiled(compiled), pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "STEPS_PER_DISPATCH", 4)
        assert train.main([*tiny, "--run-dir", str(folder), "--no-figures"]) == 0
    return folder
