"""The command exports a network that JAX runs without this project, or writes nothing."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import experiments
from experiments import export
from tests.experiments.processes import keeping_compiled, process_environment

# The annotations of the library say int where an exported batch has a symbol.
pytestmark = pytest.mark.usefixtures("unchecked")

# What the process that runs the snippet of the exported README cannot import.
BLOCKED = ("experiments", "stn_jax", "flax", "optax", "jaxtyping", "tests", "msgpack")
BLOCKER = f"""\
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED}:
            raise ModuleNotFoundError(f"{{name}} is blocked")


sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def run_export(compiled: pathlib.Path) -> Iterator[Callable[..., int]]:
    """The command, which returns the exit code."""

    def main(run: pathlib.Path, out: pathlib.Path) -> int:
        return export.main([str(run), "--out", str(out)])

    with keeping_compiled(compiled):
        yield main


def test_exported_readme_predicts_the_same_without_this_project(
    finished: pathlib.Path,
    data_file: pathlib.Path,
    tmp_path: pathlib.Path,
    compiled: pathlib.Path,
    run_export: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On the whole test set, in a process that cannot import this project or Flax."""
    out = tmp_path / "made" / "out"
    assert run_export(finished, out) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in printed] == [str(out / name) for name in FILES]
    assert sorted(os.listdir(out)) == sorted(FILES)

    with np.load(data_file, allow_pickle=False) as arrays:
        images = arrays["x_test"][..., None]
    np.save(tmp_path / "images.npy", images)
    (snippet,) = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(), re.DOTALL)
    snippet = snippet.replace('pathlib.Path(".")', f"pathlib.Path({str(out)!r})")
    made, given = "np.zeros((1, 9, 9, 1), np.uint8)", f"np.load({str(tmp_path / 'images.npy')!r})"
    assert made in snippet
    code = BLOCKER + snippet.replace(made, given)
    results = ("probabilities", "classes", "theta", "warped")
    arguments = ", ".join(f"{name}={name}" for name in results)
    code += f"np.savez({str(tmp_path / 'results.npz')!r}, {arguments})\n"
    environment = os.environ | process_environment(compiled)
    subprocess.run([sys.executable, "-I", "-c", code], env=environment, check=True)

    model = experiments.load(finished)
    with np.load(tmp_path / "results.npz", allow_pickle=False) as found:
        probabilities = model.predict(images)
        np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-6)
        assert found["classes"].tolist() == [
            model.class_names[i] for i in probabilities.argmax(axis=1)
        ]
        np.testing.assert_allclose(found["theta"], model.theta(images), atol=1e-6)
        np.testing.assert_allclose(found["warped"], model.straighten(images), atol=1)


FILES = [
    "params.safetensors",
    *(
        f"{name}_{dtype}.jax_export"
        for name in ("predict", "warp")
        for dtype in ("uint8", "float32")
    ),
    "model.json",
    "README.md",
]


def test_unusable_run_or_folder_gives_one_line_and_writes_nothing(
    finished: pathlib.Path,
    unfinished: pathlib.Path,
    tmp_path: pathlib.Path,
    run_export: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, full, file = tmp_path / "out", tmp_path / "full", tmp_path / "file"
    full.mkdir()
    file.touch()
    (full / "precious").write_text("text")
    without = tmp_path / "without"
    shutil.copytree(finished, without, ignore=shutil.ignore_patterns("checkpoints"))

    def message(code: int, run: pathlib.Path, out: pathlib.Path) -> str:
        assert run_export(run, out) == code
        (line,) = capsys.readouterr().err.splitlines()
        return line

    nowhere = tmp_path / "nowhere"
    assert message(1, nowhere, out).startswith(f"error: {nowhere}/config.json: not found")
    assert message(1, without, out) == f"error: {without}: no checkpoint found"
    unusable = "the run is not finished; continue it with --resume auto"
    assert message(1, unfinished, out) == f"error: {unfinished}: {unusable}"
    assert message(1, finished, file) == f"error: {file}: cannot be written: Not a directory"
    held = "must be empty or new; it holds precious"
    assert message(2, finished, full) == f"error: --out {full} {held}"
    assert not out.exists()
    assert os.listdir(full) == ["precious"]
