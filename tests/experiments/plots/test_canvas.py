"""Figures depend on no settings of the user, and are written whole or not at all."""

import importlib
import io
import os
import pathlib
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Mapping

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments import plots
from experiments.plots import draw_frames
from experiments.plots.angle_plot import draw_angles
from experiments.plots.canvas import save
from experiments.plots.class_labels import Caption
from experiments.plots.confusion_plot import draw_confusions
from experiments.plots.diagnostic_plot import draw_diagnostics
from experiments.plots.figure_folder import FigureFolder
from experiments.plots.frame_plot import animate_frames, draw_grids
from experiments.plots.image_grid import draw_boxes, draw_images
from experiments.plots.learning_curves import draw_curves
from experiments.settings.errors import UserError
from stn_jax import transforms
from tests.experiments.conftest import ROOT

IMAGES = np.random.default_rng(0).random((2, 8, 8, 1))
GRIDS = np.random.default_rng(1).uniform(-1, 1, (2, 3, 3, 2))
CAPTIONS = [Caption("1\n→ 2\n50 %", is_wrong=True), Caption("1\n→ 1\n50 %")]
ANGLES = np.arange(9.0)
BOXES = np.full((2, 4), 0.5)
RECORDS = [{"epoch": i, "train_loss": 1 / i, "train_error": 9.0 - i} for i in range(1, 10)]
MEASURED = {
    "images": 2,
    "by_amount": {"log_scale": {"amount": [-1.0, 1.0], "kl": [0.1, 0.2]}},
}
DRAWN: Mapping[str, Callable[[], Figure | bytes]] = {
    "draw_angles": lambda: draw_angles(ANGLES, ANGLES, ANGLES, 3.0, "title"),
    "draw_boxes": lambda: draw_boxes(IMAGES, BOXES, BOXES, columns=2, title="title"),
    "draw_confusions": lambda: draw_confusions(np.eye(3, dtype=int), np.zeros(3), "abc", "title"),
    "draw_curves": lambda: draw_curves(RECORDS, "title"),
    "draw_diagnostics": lambda: draw_diagnostics(MEASURED, "title"),
    "draw_frames": lambda: draw_frames(IMAGES, np.zeros((2, 1)), transforms.rotation),
    "draw_grids": lambda: draw_grids(IMAGES, GRIDS, captions=CAPTIONS, title="two\nlines"),
    "draw_images": lambda: draw_images(IMAGES, IMAGES, title="two\nlines", captions=CAPTIONS),
    "animate_frames": lambda: animate_frames(IMAGES, GRIDS[None], np.zeros(1)),
}
# Settings of a user, each of which changes figures or makes drawing fail.
OTHER_SETTINGS = {
    "text.usetex": True,
    "font.family": ["No Such Font"],
    "font.size": 20.0,
    "axes.facecolor": "red",
    "axes.formatter.use_mathtext": True,
    "figure.dpi": 30.0,
    "figure.autolayout": True,
    "image.cmap": "jet",
    "image.interpolation": "lanczos",
    "lines.linestyle": "--",
    "savefig.bbox": "tight",
    "savefig.transparent": True,
    "xtick.labelsize": 30.0,
}


def write(name: str, path: pathlib.Path) -> bytes:
    drawn = DRAWN[name]()
    if isinstance(drawn, bytes):
        return drawn
    save(drawn, path)
    return path.read_bytes()


def test_every_function_that_draws_is_tested_here() -> None:
    found = set()
    for module in pkgutil.iter_modules(plots.__path__):
        names = dir(importlib.import_module(f"experiments.plots.{module.name}"))
        found |= {name for name in names if name.startswith(("draw_", "animate_"))}
    assert found == DRAWN.keys()


@pytest.mark.parametrize("name", DRAWN)
def test_figures_do_not_depend_on_the_settings_of_the_user(
    name: str, tmp_path: pathlib.Path
) -> None:
    expected = write(name, tmp_path / "a.png")
    with matplotlib.rc_context(OTHER_SETTINGS):
        before = dict(matplotlib.rcParams)
        assert write(name, tmp_path / "b.png") == expected
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("name", [name for name in DRAWN if name.startswith("draw_")])
def test_no_text_is_cut_off(name: str) -> None:
    figure = DRAWN[name]()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    texts = [*figure.texts, *(each for legend in figure.legends for each in legend.get_texts())]
    for axes in figure.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    width, height = figure.bbox.size
    assert any(text.get_text() for text in texts)
    for text in texts:
        box = text.get_window_extent()
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside or not text.get_text(), text.get_text()


@pytest.mark.parametrize("imported", [False, True])
def test_backend_of_a_notebook_is_not_needed(imported: bool, tmp_path: pathlib.Path) -> None:
    """A kernel exports its own backend to commands, whose environment may not have it."""
    code = (
        f"{'import matplotlib; ' * imported}import os, sys\n"
        "os.environ['MPLBACKEND'] = 'module://no_such_backend'\n"
        "from experiments.plots.canvas import save\n"
        "from experiments.plots.learning_curves import draw_curves\n"
        "save(draw_curves([]), sys.argv[1])\n"
        "print(os.environ['MPLBACKEND'], 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "module://no_such_backend False\n"
    assert (tmp_path / "a.png").exists()


class TestFigureFolder:
    def test_failure_does_not_stop_other_figures(self, tmp_path: pathlib.Path) -> None:
        figures = FigureFolder(tmp_path / "figures")
        with figures.drawing("a.png"):
            raise ValueError("two\nlines")
        with figures.drawing("b.png"):
            figures.save(draw_curves([]), "b.png")
        assert [path.name for path in (tmp_path / "figures").iterdir()] == ["b.png"]
        reason = f"{tmp_path}/figures: not drawn: a.png (ValueError: two lines)"
        assert figures.explain() == reason

    def test_figures_with_one_reason_are_named_together(self, tmp_path: pathlib.Path) -> None:
        figures = FigureFolder(tmp_path)
        for name, error in (("a", UserError("full")), ("b", KeyError()), ("c", UserError("full"))):
            with figures.drawing(name):
                raise error
        assert figures.explain() == f"{tmp_path}: not drawn: a, c (full); b (KeyError)"

    def test_nothing_is_explained_if_all_are_drawn(self, tmp_path: pathlib.Path) -> None:
        figures = FigureFolder(tmp_path)
        with figures.drawing("a.png"):
            figures.write(b"GIF", "a.gif")
        assert figures.explain() is None
        assert (tmp_path / "a.gif").read_bytes() == b"GIF"

    def test_signals_are_not_caught(self, tmp_path: pathlib.Path) -> None:
        figures = FigureFolder(tmp_path)
        with pytest.raises(KeyboardInterrupt), figures.drawing("a.png"):
            raise KeyboardInterrupt


def test_importing_plots_imports_neither_jax_nor_matplotlib():
    modules = "angle_plot, confusion_plot, diagnostic_plot, frame_plot, image_grid, learning_curves"
    code = f"import sys; from experiments.plots import {modules}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"jax", "flax", "matplotlib"} & set(loaded)


class TestAtomicWrites:
    def fail_halfway(self, target, *_, **__):
        if isinstance(target, io.IOBase):
            target.write(b"half")
        else:
            pathlib.Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    @pytest.mark.parametrize("was_there", [False, True])
    def test_failed_drawing_keeps_the_previous_file(self, tmp_path, monkeypatch, was_there):
        monkeypatch.setattr(Figure, "savefig", lambda _, *a, **k: self.fail_halfway(*a, **k))
        path = tmp_path / "a.png"
        if was_there:
            path.write_bytes(b"whole")
        with pytest.raises(KeyboardInterrupt):
            save(draw_curves([]), path)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"whole"] * was_there

    def test_figure_replaces_the_previous_file(self, tmp_path):
        path = tmp_path / "not" / "there" / "a.png"
        for _ in range(2):
            save(draw_curves([]), path)
            with Image.open(path) as figure:
                assert figure.format == "PNG"
            assert list(path.parent.iterdir()) == [path]
            path.write_bytes(b"old")

    def test_suffix_selects_the_format(self, tmp_path):
        save(draw_curves([]), tmp_path / "a.svg")
        assert "<svg" in (tmp_path / "a.svg").read_text()
        with pytest.raises(ValueError, match="nonsense"):
            save(draw_curves([]), tmp_path / "a.nonsense")
        assert [file.name for file in tmp_path.iterdir()] == ["a.svg"]
