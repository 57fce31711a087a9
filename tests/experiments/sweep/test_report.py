"""The report: its table, and its page in a browser."""

import html
import json
import pathlib
import re
import shlex
import shutil
import subprocess

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.sweep.__main__ import main
from experiments.sweep.report_plots import (
    MAX_TICKS,
    MIN_TICKS,
    _error_axis,
    _range_scale,
    log_ticks,
)
from experiments.sweep.space import Range
from experiments.sweep.storage import StudyLocation, closing_connections, dashboard_command
from tests.experiments.sweep import fake
from tests.experiments.sweep.conftest import BASE, Search, run_search

CHROMIUM = shutil.which("chromium")
# Chromium without its own network requests.
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    *("--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1240,1600"),
]


def report(*arguments: object) -> int:
    return main(["report", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A sweep in which some trials were pruned, some diverged, and some have unused settings."""
    folder = tmp_path_factory.mktemp("swept") / "a {sweep} 100%"
    spaces = [
        *("--space", "learning_rate=log:1e-3..10"),
        *("--space", "transform=affine,thin_plate_spline"),
        *("--space", "regularisation=0..1"),
    ]
    given = [*spaces, "--seeds", "2", "--sampler", "random", "--epochs", "8", "--trials", "20"]
    assert run_search(*given, "--run-dir", folder, base=BASE[:5]) == 0
    return folder


def test_table_lists_best_trial_first_and_its_command_last(
    swept: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = json.loads((swept / "best.json").read_text())
    capsys.readouterr()
    assert report(swept) == 0
    summary, headings, first, *_, best_line, command, where = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"20 trials: \d+ complete, \d+ pruned, \d+ diverged", summary)
    assert headings.split() == [
        *("trial", "error,", "%"),
        *("learning_rate", "transform", "regularisation", "epochs", "seconds"),
    ]
    assert first.split()[0] == str(best["trial"])
    assert best_line.startswith(f"best: trial {best['trial']}, validation error ")
    assert command == best["command"]
    assert where == f"plots in {swept / 'report.html'}"


def test_title_names_the_study_and_what_it_searches(
    search: Search, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert search("--trials", 1, "--run-dir", tmp_path / "rates") == 0
    monkeypatch.chdir(tmp_path / "rates")
    assert report(".") == 0
    title = "Sweep rates of demo: learning_rate"
    assert f"<title>{title}</title>" in (tmp_path / "rates" / "report.html").read_text()


@given(st.floats(-9, 4), st.floats(0.01, 9))
def test_logarithmic_axes_have_enough_labels(start: float, decades: float) -> None:
    low, high = 10**start, 10 ** (start + decades)
    ticks = log_ticks(low, high)
    assert MIN_TICKS <= len(ticks) <= 2 * MAX_TICKS
    assert ticks == sorted(set(ticks))
    assert low <= ticks[0]
    assert ticks[-1] <= high * (1 + 1e-9)
    axis = _range_scale(Range(low, high, log=True))
    assert len(axis.ticks) >= 3
    assert axis.ticks == sorted(set(axis.ticks))
    assert len(set(axis.texts)) == len(axis.texts) == len(axis.ticks)
    errors = _error_axis([low, high])
    assert len(set(errors["ticktext"])) == len(errors["tickvals"]) >= MIN_TICKS


def test_sweep_and_report_say_how_to_open_the_dashboard(
    search: Search, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "rates"
    assert search("--trials", 2, "--run-dir", folder) == 0
    assert report(folder) == 0
    line = f"dashboard: optuna-dashboard sqlite:///{folder / 'sweep.db'}"
    assert capsys.readouterr().out.splitlines().count(line) == 2
    storage = optuna.storages.RDBStorage(shlex.split(line)[-1])  # as the dashboard opens it
    with closing_connections(storage):
        assert len(optuna.load_study(study_name=None, storage=storage).trials) == 2


@pytest.mark.parametrize("name", ["a {sweep} 100%", "what?"])
def test_no_command_is_shown_if_the_dashboard_cannot_open_the_file(
    name: str, search: Search, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--trials", 1, "--run-dir", tmp_path / name) == 0
    assert "dashboard" not in capsys.readouterr().out


def test_command_of_the_dashboard_has_no_password() -> None:
    location = StudyLocation(pathlib.Path("runs"), "postgresql://me:secret@host/data", "s")
    expected = "optuna-dashboard postgresql+psycopg://me@host/data"
    assert dashboard_command(location) == expected


def test_report_of_unfinished_sweep(
    search: Search, folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--trials", 1) == 0
    for trials in (1, 2, 5):
        assert search("--trials", trials) == 0
        assert report(folder, "--out", folder / "page.html") == 0
    assert (folder / "page.html").stat().st_size > 1e6
    assert "\n1 trial: 1 complete\n" in capsys.readouterr().out
    capsys.readouterr()
    assert report(folder, "--out", folder / "deep" / "page.html") == 1
    missing = (
        f"error: {folder / 'deep' / 'page.html'}: cannot be written: No such file or directory\n"
    )
    assert capsys.readouterr().err == missing
    assert not (folder / "deep").exists()


def test_equal_errors_have_no_importance_plot(
    search: Search, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "error", lambda config, epoch: 5.0)
    assert search("--trials", 5, "--pruner", "none") == 0
    assert report(folder) == 0
    assert "Importance of settings" not in (folder / "report.html").read_text()


def test_folder_without_sweep_is_rejected(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(tmp_path / "none") == 1
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path / 'none'}: holds no sweep; sweep.db not found\n"
    )


@pytest.fixture
def page(swept: pathlib.Path) -> str:
    assert report(swept) == 0
    return (swept / "report.html").read_text()


def test_page_is_self_contained(page: str) -> None:
    without_code = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:)""", without_code)
    assert "default-src 'none'" in page


def test_names_are_escaped(search: Search, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "<b>bold</b> $title"
    assert search("--trials", 1, "--run-dir", folder) == 0
    assert report(folder) == 0
    page = (folder / "report.html").read_text()
    assert "<b>bold" not in page
    assert html.escape(folder.name) in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_browser_draws_the_page(swept: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert report(swept) == 0
    page = swept / "report.html"

    def browse(*arguments: str) -> subprocess.CompletedProcess[str]:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *QUIET, profile, *arguments, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    drawn = browse("--dump-dom")
    # A violation of the page's content security policy is a console message too.
    messages = [line for line in drawn.stderr.splitlines() if "CONSOLE" in line]
    assert [line for line in messages if "GL Driver Message" not in line] == []
    # Parallel coordinates, history, learning curves, importance.
    assert drawn.stdout.count('class="parcoords"') == 1
    assert drawn.stdout.count('class="cartesianlayer"') == 4
    assert drawn.stdout.count('class="trace scatter') > 10
    assert drawn.stdout.count('class="point"') >= 3
    for name in ("learning_rate", "transform", "regularisation", "validation error, %"):
        assert f">{name}</text>" in drawn.stdout
    shot = tmp_path / "page.png"
    browse(f"--screenshot={shot}")
    assert shot.stat().st_size > 50_000


@pytest.mark.postgres
def test_report_from_postgresql(
    search: Search,
    postgresql: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stored = ["--storage", postgresql, "--study", "reported"]
    assert search("--trials", 2, *stored) == 0
    capsys.readouterr()
    assert report(*stored, "--out", tmp_path / "page.html") == 0
    assert "2 trials: 2 complete" in capsys.readouterr().out
    assert report("--storage", postgresql, "--study", "unknown") == 1
    assert "--study unknown: not found; the storage holds" in capsys.readouterr().err
