"""The report: its table, and its page in a real browser."""

import html
import json
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest

from experiments import sweep
from tests.experiments.sweeps import fake
from tests.experiments.sweeps.conftest import BASE

CHROMIUM = shutil.which("chromium")
# No network of its own accord, and a home of its own.
QUIET = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # what it would fetch for itself
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--enable-unsafe-swiftshader",  # WebGL without a GPU, which it may only be asked for
    *("--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1240,1600"),
]


def report(*arguments: object) -> int:
    return sweep.main(["report", *(str(argument) for argument in arguments)])


@pytest.fixture
def swept(search: Callable[..., int], folder: pathlib.Path) -> pathlib.Path:
    """A sweep of which some trials were pruned, one diverged, and some were left."""
    spaces = [
        *("--space", "learning_rate=log:1e-3..10"),
        *("--space", "transform=affine,thin_plate_spline"),
        *("--space", "regularisation=0..1"),
    ]
    given = [*spaces, "--seeds", "2", "--sampler", "random", "--epochs", "8", "--trials", "20"]
    assert search(*given, base=BASE[:5]) == 0
    return folder


def test_the_table_has_the_best_first_and_its_command_last(
    swept: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = json.loads((swept / "best.json").read_text())
    capsys.readouterr()
    assert report(swept) == 0
    summary, headings, first, *_, said, command, where = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"20 trials: \d+ trained whole, \d+ pruned, \d+ diverged", summary)
    assert headings.split() == [
        *("trial", "error,", "%"),
        *("learning_rate", "transform", "regularisation", "epochs", "seconds"),
    ]
    assert first.split()[0] == str(best["trial"])
    assert said.startswith(f"best: trial {best['trial']}, validation error ")
    assert command == best["command"]
    assert where == f"plots in {swept / 'report.html'}"


def test_a_report_of_a_sweep_that_goes_on(
    search: Callable[..., int], folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert search("--trials", 1) == 0
    for trials in (1, 2, 5):
        assert search("--trials", trials) == 0
        assert report(folder, "--out", folder / "page.html") == 0
    assert (folder / "page.html").stat().st_size > 1e6
    assert "\n1 trial: 1 trained whole\n" in capsys.readouterr().out
    capsys.readouterr()
    assert report(folder, "--out", folder / "deep" / "page.html") == 1
    missing = (
        f"error: {folder / 'deep' / 'page.html'}: cannot be written: No such file or directory\n"
    )
    assert capsys.readouterr().err == missing
    assert not (folder / "deep").exists()


def test_errors_that_are_all_equal_have_no_importance(
    search: Callable[..., int], folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "error", lambda config, epoch: 5.0)
    assert search("--trials", 5, "--pruner", "none") == 0
    assert report(folder) == 0
    assert "Importance of settings" not in (folder / "report.html").read_text()


def test_what_is_no_sweep_is_named(
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


def test_the_page_needs_nothing_else(page: str) -> None:
    without_code = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)=["'](?!data:)""", without_code)
    assert "default-src 'none'" in page


def test_names_are_no_markup(search: Callable[..., int], tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "<b>bold</b> $title"
    assert search("--trials", 1, "--run-dir", folder) == 0
    assert report(folder) == 0
    page = (folder / "report.html").read_text()
    assert "<b>bold" not in page
    assert html.escape(folder.name) in page


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_a_browser_draws_the_page(swept: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert report(swept) == 0
    page = swept / "report.html"

    def browse(*arguments: str) -> subprocess.CompletedProcess[str]:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [CHROMIUM, *QUIET, profile, *arguments, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    drawn = browse("--dump-dom")
    # What the page's own policy keeps it from fetching would stand there too.
    said = [line for line in drawn.stderr.splitlines() if "CONSOLE" in line]
    assert [line for line in said if "GL Driver Message" not in line] == []
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
def test_a_report_from_postgresql(
    search: Callable[..., int],
    postgresql: str,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stored = ["--storage", postgresql, "--study", "reported"]
    assert search("--trials", 2, *stored) == 0
    capsys.readouterr()
    assert report(*stored, "--out", tmp_path / "page.html") == 0
    assert "2 trials: 2 trained whole" in capsys.readouterr().out
    assert report("--storage", postgresql, "--study", "unknown") == 1
    assert "--study unknown: not in this storage, which has" in capsys.readouterr().err
