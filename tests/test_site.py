"""The snippets of the README and the site run, their commands parse, and the README is short.

Notebooks and other executed pages are run by `make docs`, which also checks the links of the site.
"""

import importlib.util
import pathlib
import re
import shlex
from collections.abc import Iterator

import matplotlib as mpl
import pytest
import tyro

import stn_jax
from experiments import train
from experiments.apply import Apply
from experiments.benchmark.options import BenchmarkSettings
from experiments.export import Export
from experiments.paper.__main__ import PaperOptions
from experiments.report import ReportOptions
from experiments.settings import command_line
from experiments.sweep.options import parse_report, parse_sweep
from tests.compilation import compile_quickly  # noqa: F401

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in path.parts
}
# Every fence with Python, also of executed pages.
CODE = re.compile(
    r"^```(?:python|\{code-cell\} python|\{code-block\} python)\n(.*?)^```$", re.M | re.S
)


def snippets(page: str) -> list[str]:
    """The Python snippets that a page shows, and that the build does not execute."""
    return re.findall(r"^```python\n(.*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """A folder with the trained demo that snippets load."""
    path = tmp_path_factory.mktemp("site")
    run_dir = str(path / "runs" / "demo")
    assert train.main(["demo", "--epochs", "1", "--no-figures", "--run-dir", run_dir]) == 0
    with mpl.rc_context({"backend": "agg"}):
        yield path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if snippets(page)])
def test_python_snippets_run_in_order(
    page: str, folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    namespace: dict = {}
    for snippet in snippets(page):
        exec(compile(snippet, page, "exec"), namespace)
    assert {name: namespace[name].shape for name in SHAPES.get(page, {})} == SHAPES.get(page, {})


# What the comments of the snippets promise.
SHAPES = {
    "README.md": {"logits": (8, 10), "theta": (8, 6), "rotated": (8, 28, 28, 1)},
    "docs/guides/networks.md": {"logits": (8, 10), "theta": (8, 6)},
    "docs/guides/training.md": {"losses": (2, 1, 2)},
    "docs/guides/trained_networks.md": {
        "small": (2, 28, 28, 1),
        "probabilities": (2, 10),
        "straight": (2, 56, 56, 1),
        "moved": (4, 2),
    },
}


@pytest.mark.parametrize("page", PAGES)
def test_snippets_fit_a_narrow_column(page: str) -> None:
    lines = [line for code in CODE.findall(PAGES[page]) for line in code.splitlines()]
    assert [line for line in lines if len(line) > 70] == []


def commands() -> list[tuple[str, str]]:
    """Each command of the pages with its page, continued lines joined."""
    found = []
    for page, text in PAGES.items():
        for block in re.findall(
            r"^```(?:sh|bash|\{code-cell\} python)\n(.*?)^```", text, re.M | re.S
        ):
            joined = re.sub(r"\\\n *", "", block)
            lines = re.findall(r"^(?:srun |!)?python -m (experiments\..*)$", joined, re.MULTILINE)
            found += [(page, line) for line in lines if "$" not in line]
    return found


PARSERS = {
    "train": lambda words: command_line.parse(words, "train"),
    "sweep": lambda words: parse_report(words[1:]) if words[0] == "report" else parse_sweep(words),
    "apply": lambda words: tyro.cli(Apply, args=words),
    "export": lambda words: tyro.cli(Export, args=words),
    "paper": lambda words: tyro.cli(PaperOptions, args=words),
    "report": lambda words: tyro.cli(ReportOptions, args=words),
    "benchmark": lambda words: tyro.cli(BenchmarkSettings, args=words),
    "figures": lambda words: None,
}


@pytest.mark.parametrize(("page", "command"), commands())
def test_commands_parse(page: str, command: str) -> None:
    program, *words = shlex.split(command, comments=True)
    if "--help" not in words:
        PARSERS[program.removeprefix("experiments.")](words)


def test_files_that_the_readme_names_exist() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


def test_citation_names_the_version() -> None:
    (version,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert version == stn_jax.__version__


def test_readme_is_short() -> None:
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    prose = "\n".join(line for line in prose.splitlines() if not line.startswith("|"))
    prose = re.sub(r"\]\([^)]*\)", "]", prose)  # the targets of links
    assert len(prose.split()) <= 700
    assert len(README.splitlines()) <= 150


def test_every_page_is_in_a_table_of_contents() -> None:
    """The build warns too, but needs minutes."""
    listed = set()
    for page, text in PAGES.items():
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            listed |= {str(pathlib.Path(page).parent / f"{name}.md") for name in names}
    assert set(PAGES) - listed == {"README.md", "docs/index.md"}


def test_figures_command_names_what_it_can_draw(capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location("draw_figures", DOCS / "draw_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["nothing"]) == 2
    assert "NAME must be one of transformations, " in capsys.readouterr().err
    for name in (*module.DRAWINGS, *module.OF_RUNS):
        assert (DOCS / "figures" / f"{name}.png").exists()
