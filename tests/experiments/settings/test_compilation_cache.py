"""Commands keep compiled programs for the next command, unless a flag turns this off."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from experiments import apply, figures, report, train
from experiments.paper import __main__ as paper
from experiments.settings import compilation_cache
from experiments.settings.config import Run
from experiments.settings.errors import UserError
from experiments.sweep import __main__ as sweep

# Compiles a program, and prints how many programs were loaded.
COMPILE = """
import sys
from experiments.settings.compilation_cache import use_compilation_cache
use_compilation_cache(sys.argv[1] == "on")
import jax
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
assert jax.jit(lambda x: 2 * x + 1)(3.0) == 7.0
print(events.count("/jax/compilation_cache/cache_hits"))
"""


def start(home: pathlib.Path, wanted: str = "on", **environment: str) -> subprocess.Popen[str]:
    """Starts the process of a user whose caches are in a folder."""
    inherited = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", COMPILE, wanted],
        env=inherited | {"XDG_CACHE_HOME": str(home)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Returns the number of programs that a process loaded, and what it wrote on stderr."""
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return int(output), errors


def test_processes_at_once_fill_the_cache_for_later_ones(tmp_path: pathlib.Path) -> None:
    at_once = [start(tmp_path) for _ in range(2)]
    assert [finish(process)[1] for process in at_once] == ["", ""]
    loaded, errors = finish(start(tmp_path))
    assert loaded > 0
    assert errors == ""
    assert (tmp_path / "stn_jax").stat().st_mode & 0o077 == 0


def test_flag_keeps_no_programs(tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    assert finish(start(tmp_path, "off", JAX_COMPILATION_CACHE_DIR=str(other))) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_folder_of_the_variable_of_jax_is_kept(tmp_path: pathlib.Path) -> None:
    other = tmp_path / "other"
    options = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    finish(start(tmp_path / "home", JAX_COMPILATION_CACHE_DIR=str(other), **options))
    assert list(other.iterdir())
    assert not (tmp_path / "home").exists()


def test_folder_that_cannot_be_made_is_a_warning(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").touch()
    loaded, errors = finish(start(tmp_path / "file"))
    assert loaded == 0
    assert errors == (
        f"warning: compiled programs are not kept: {tmp_path}/file/stn_jax: Not a directory; "
        "--no-compilation-cache omits this warning\n"
    )


COMMANDS: dict[Any, list[str]] = {
    train: ["demo"],
    paper: ["table1", "--budget", "quick"],
    report: [],
    apply: ["--run", "run", "--images", "images", "--out", "out"],
    figures: ["run"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("wanted", [True, False])
def test_every_command_has_the_flag(
    command: Any, wanted: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").touch()
    results = [] if command is not report else ["--results", str(RESULTS)]
    monkeypatch.chdir(tmp_path)
    used: list[bool] = []
    monkeypatch.setattr(command, "use_compilation_cache", stopping(used))
    flags = [] if wanted else [compilation_cache.FLAG]
    assert command.main([*COMMANDS[command], *results, *flags]) == 1
    assert used == [wanted]


RESULTS = pathlib.Path(report.__file__).parent / "results"


def stopping(used: list[bool]) -> Any:
    """A function that notes its argument and ends the command."""

    def stop(wanted: bool) -> None:
        used.append(wanted)
        raise UserError("stop")

    return stop


@pytest.mark.parametrize("wanted", [True, False])
def test_sweep_has_the_flag(wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[bool] = []
    monkeypatch.setattr(sweep, "use_compilation_cache", stopping(used))
    trainer = sweep.population_trainer(Run(compilation_cache=wanted))
    with pytest.raises(UserError):
        trainer([], strategy="auto", on_epoch=lambda *_: None)
    assert used == [wanted]
