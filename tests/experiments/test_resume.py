"""A run that is killed and continued ends, bit for bit, as if it had not been."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from experiments import gallery, records, train
from experiments.checkpoints import Checkpoints
from tests.experiments.conftest import environment_of, keeping_compiled

ROOT = pathlib.Path(train.__file__).parent.parent
TIMINGS = ("seconds", "images_per_second")

# A training in a process of its own, which kills itself at the n-th call of a function: before it
# does anything, or just after. Epochs are so short here that the checkpoint before is waited for.
KILLED = """
import os, signal, sys, time
from experiments import checkpoints, progress, train

moment, n, before, *arguments = sys.argv[1:]
owner, name = {
    "epoch": (progress.Progress, "advance"),
    "checkpoint": (checkpoints.Checkpoints, "save"),
    "writing": (checkpoints.Checkpoints, "save"),
    "summary": (train, "write_json"),
}[moment]
original, calls = getattr(owner, name), []

def killing(*values):
    calls.append(values)
    if moment == "writing":
        original(*values)
    if len(calls) == int(n):
        while not os.path.exists(before):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    if moment != "writing":
        original(*values)

setattr(owner, name, killing)
train.STEPS_PER_DISPATCH = 4  # an epoch of 6 steps is two programs
train.main(arguments)
"""


@pytest.fixture(scope="module", autouse=True)
def in_parts() -> Iterator[None]:
    """An epoch of 6 steps is two programs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "STEPS_PER_DISPATCH", 4)
        yield


def kill(
    moment: str, n: int, before: pathlib.Path, arguments: list[str], compiled: pathlib.Path
) -> None:
    environment = os.environ | environment_of(compiled)
    command = [sys.executable, "-c", KILLED, moment, str(n), str(before), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The records of each epoch, read as a stranger would, without what the clock says."""
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if k not in TIMINGS} for record in found]


def assert_same_end(folder: pathlib.Path, reference: pathlib.Path) -> None:
    summaries = [json.loads((each / "summary.json").read_text()) for each in (folder, reference)]
    for name in ("params_sha256", "test_error", "test_loss", "validation_error", "steps"):
        assert summaries[0][name] == summaries[1][name]
    assert metrics(folder) == metrics(reference)
    assert (folder / "frames.jsonl").read_text() == (reference / "frames.jsonl").read_text()


@pytest.fixture(scope="module")
def reference(
    tmp_path_factory: pytest.TempPathFactory, compiled: pathlib.Path, tiny: list[str]
) -> pathlib.Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    with keeping_compiled(compiled):
        assert train.main([*tiny, "--run-dir", str(folder), "--no-figures"]) == 0
    return folder


@pytest.mark.parametrize(
    ("moment", "n", "step"),
    [
        ("epoch", 3, 6),  # in the middle of the second epoch
        ("checkpoint", 2, 6),  # the second epoch's records are there, its checkpoint is not
        ("writing", 2, 6),  # while its checkpoint is being written, or just after
        ("summary", 1, 18),  # when all is done but the summary
    ],
)
def test_killed_and_continued(
    moment: str,
    n: int,
    step: int,
    reference: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    compiled: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "killed"
    command = [*tiny, "--run-dir", str(folder), "--no-figures"]
    kill(moment, n, folder / "checkpoints" / str(step), command, compiled)
    assert not (folder / "summary.json").exists()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "st')  # a kill may cut a line short
    assert run(*command, "--resume", "auto") == 0
    continued = capsys.readouterr().out
    steps = (step, step + 6) if moment == "writing" else (step,)
    assert any(f"continuing after step {each}\n" in continued for each in steps)
    assert_same_end(folder, reference)


def test_killed_before_the_first_checkpoint_starts_again(
    reference: pathlib.Path, run: Callable[..., int], tiny: list[str], tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copy(reference / "config.json", folder)
    (folder / "checkpoints").mkdir()
    (folder / "frames.jsonl").write_text('{"epoch": 0, "theta": {}}\n')
    (folder / "metrics.jsonl").write_text('{"epoch": 1, "trai')
    assert run(*tiny, "--run-dir", folder, "--no-figures", "--resume", "must") == 0
    assert_same_end(folder, reference)


def test_interrupted_by_hand(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object, folder: pathlib.Path, __: object) -> None:
        (folder / "checkpoints").mkdir(exist_ok=True)
        (folder / "frames.jsonl").write_text('{"epoch": 0, "theta": {}}\n')
        (folder / "metrics.jsonl").write_text(recorded)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupt)
    monkeypatch.chdir(tmp_path)
    recorded = ""
    for _ in range(2):  # the same command again
        assert train.main(["--run-dir", "a run"]) == 130
        assert capsys.readouterr().err == "error: interrupted; nothing was recorded yet\n"
        assert not list(tmp_path.iterdir())
    recorded = '{"epoch": 1}\n'
    advice = "error: interrupted; --run-dir 'a run' --resume auto continues it\n"
    for again in ([], ["--resume", "auto"]):
        assert train.main(["--run-dir", "a run", *again]) == 130
        assert capsys.readouterr().err == advice
    assert train.main([]) == 130  # a folder that was not given
    line = capsys.readouterr().err.removesuffix("\n")
    (folder,) = (tmp_path / "runs").iterdir()
    advice = f"--run-dir runs/{folder.name} --resume auto"
    assert line == f"error: interrupted; {advice} continues it"
    assert train.main(advice.split()) == 130


def test_a_finished_run_is_left_untouched(
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "train", lambda *_: pytest.fail("trained again"))
    files = [path for path in finished.rglob("*") if path.name != "lock"]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert run(*tiny, "--run-dir", finished, "--resume", "auto") == 0
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_a_damaged_checkpoint_is_named(
    finished: pathlib.Path,
    run: Callable[..., int],
    tiny: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    (metadata,) = (folder / "checkpoints" / "18").rglob("_METADATA")
    metadata.write_bytes(metadata.read_bytes()[:10])
    # As it is reached by --resume, and by what draws the pictures.
    assert run(*tiny, "--run-dir", folder, "--resume", "auto") == 1
    assert gallery.main([str(folder)]) == 1
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith(f"error: {folder}/checkpoints/18: cannot be restored: ")


def test_checkpoints_are_not_skipped_while_one_is_written(tmp_path: pathlib.Path) -> None:
    import jax
    import jax.numpy as jnp
    import optax

    from stn_jax import training

    def state(step: int) -> training.TrainState:
        start = training.init_state(jax.random.key(5), {"a": jnp.full(3, step)}, optax.adam(1.0))
        return start._replace(step=jnp.int32(step))

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest is None
    with pytest.raises(records.RunError, match="holds no checkpoint"):
        checkpoints.restore(state(0))
    for step in (1, 2, 3, 3):
        checkpoints.save(state(step))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    restored = checkpoints.restore(state(0))
    checkpoints.close()
    assert int(restored.step) == 3
    assert restored.params["a"].tolist() == [3, 3, 3]
    assert jax.random.key_data(restored.key).tolist() == [0, 5]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]
