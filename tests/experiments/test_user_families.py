"""User-defined families on the command line: `--transform package.module:object`."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from PIL import Image

from experiments import train
from experiments.sweep.__main__ import main as sweep
from experiments.training import user_families
from tests.experiments.conftest import ROOT, read_records, read_summary
from tests.experiments.processes import process_environment
from tests.experiments.sweep import fake
from tests.experiments.user_modules import REJECTED, SHEARS, parts_of_error

WriteModule = Callable[..., str]


@pytest.fixture
def in_empty_folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes to a folder in which a command would create `runs/`."""
    monkeypatch.chdir(tmp_path)


def run_sweep(*arguments: str) -> int:
    """Runs a sweep whose networks are a formula."""
    return sweep(["demo", "--epochs", "4", "--heartbeat", "1", *arguments], lambda run: fake.train)


@pytest.mark.usefixtures("in_empty_folder", "untrained")
@pytest.mark.parametrize("kind", ["missing module", "function", "error", "family for volumes"])
@pytest.mark.parametrize("command", ["train", "sweep", "sweep over families"])
def test_unusable_families_give_one_line_and_write_nothing(
    command: str,
    kind: str,
    write_module: WriteModule,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, attribute, *_ = REJECTED[kind]
    name = write_module(source)
    family = f"{name}:{attribute}"
    if command == "train":
        code = train.main(["--transform", family])
    elif command == "sweep":
        code = run_sweep("--transform", family, "--space", "dropout=0,0.1", "--model", "st_compact")
    else:
        code = run_sweep("--space", f"transform=affine,{family}")
    assert code == 2
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert all(part in line for part in ["error: ", *parts_of_error(kind, name)])
    assert not shown.out
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("in_empty_folder")
def test_sweep_searches_user_defined_families(
    write_module: WriteModule,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    family = f"{write_module()}:shear"
    space = f"transform=rotation,{family}"
    assert run_sweep("--space", space, "--sampler", "grid", "--run-dir", "found") == 0
    shown = capsys.readouterr().out
    assert f"transform {family}" in shown
    stored = json.loads(pathlib.Path("found", "sweep.json").read_text())
    assert stored["space"] == {"transform": f"rotation,{family}"}
    monkeypatch.setattr(user_families, "load_family", lambda _: pytest.fail("imported"))
    assert sweep(["report", "found"]) == 0
    assert family in capsys.readouterr().out


@pytest.mark.usefixtures("in_empty_folder")
def test_sweep_over_models_accepts_families_that_fit_some_of_them(
    write_module: WriteModule, capsys: pytest.CaptureFixture[str]
) -> None:
    space = ["--space", "distortion=r,extruded", "--space", "model=st_cnn,st_projection_cnn"]
    space += ["--space", f"transform=affine,{write_module()}:shift_3d", "--sampler", "grid"]
    assert run_sweep(*space, "--run-dir", "found") == 0
    assert "best: trial" in capsys.readouterr().out


# --- In processes of their own, as a user runs them -----------------------------------------------


def run_in(
    folder: pathlib.Path, compiled: pathlib.Path, command: Sequence[object]
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m experiments.COMMAND` in a folder. The devices are those it asks for."""
    environment = process_environment(compiled) | {"PYTHONPATH": str(ROOT)}
    del environment["JAX_NUM_CPU_DEVICES"]
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{command[0]}", *map(str, command[1:])],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_run_with_a_user_defined_family(
    tiny: list[str], tmp_path: pathlib.Path, compiled: pathlib.Path
) -> None:
    """Trains on two devices, resumes, draws figures and straightens, also from another folder."""
    (tmp_path / "shears.py").write_text(SHEARS)
    (tmp_path / "images").mkdir()
    Image.fromarray(np.eye(12, dtype=np.uint8) * 255).save(tmp_path / "images" / "a.png")
    command = ["train", *tiny, "--transform", "shears:shear", "--run-dir", "run"]
    command += ["--mesh", "batch=2", "--diagnostics"]
    done = run_in(tmp_path, compiled, command)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    recorded = json.loads((folder / "config.json").read_text())
    assert recorded["model"]["transform"] == "shears:shear"
    first = read_summary(folder)
    drawn = {path.name for path in (folder / "figures").iterdir()}
    assert {"frames.png", "frames.gif", "images.png", "diagnostics.png"} <= drawn

    (folder / "summary.json").unlink()
    assert run_in(tmp_path, compiled, [*command, "--resume", "must"]).returncode == 0
    assert read_summary(folder)["params_sha256"] == first["params_sha256"]
    assert run_in(tmp_path, compiled, ["figures", "run"]).returncode == 0
    straighten = ["apply", "--run", folder, "--images", tmp_path / "images", "--out"]
    assert run_in(tmp_path, compiled, [*straighten, "out"]).returncode == 0
    (record,) = read_records(tmp_path / "out" / "theta.jsonl")
    assert (record["transform"], len(record["theta"])) == ("shears:shear", 1)

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    reason = "--transform shears:shear: there is no module shears; run the command in the folder"
    for again, start, code in [
        (["figures", folder], f"{folder}/config.json: ", 1),
        ([*straighten, "out"], f"{folder}/config.json: ", 1),
        (["train", "--config", folder / "config.json"], "", 2),
    ]:
        done = run_in(elsewhere, compiled, again)
        assert done.returncode == code
        assert done.stderr.startswith(f"error: {start}{reason}")
        assert done.stderr.count("\n") == 1
    assert not list(elsewhere.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [["--mesh", "member=3"], []])
def test_sweep_starts_its_devices_before_it_imports_a_family(
    mesh: list[str], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "shears.py").write_text(SHEARS)
    arguments = ["demo", "--space", "transform=rotation,shears:shear", *mesh]
    code = (
        "import sys, jax\nfrom experiments.sweep import definition, options\n"
        f"definition.define_sweep(options.parse_sweep({arguments}))\n"
        "print('shears' in sys.modules, jax.device_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "JAX_NUM_CPU_DEVICES"}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    cores = len(os.sched_getaffinity(0))
    assert done.stdout.split() == ["True", "3" if mesh else str(cores)]
