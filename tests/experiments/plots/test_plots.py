"""Figures show the arrays that they are given, for any shape and value, and are written whole."""

import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.analysis.angles import angle_residuals
from experiments.plots.angle_plot import draw_angles
from experiments.plots.confusion_plot import draw_confusions
from experiments.plots.frame_plot import animate_frames, draw_frames
from experiments.plots.image_grid import draw_images
from experiments.plots.learning_curves import draw_curves
from experiments.training.metrics import class_errors

ORANGE = (255, 127, 14)


def read(path: pathlib.Path) -> np.ndarray:
    """Reads the pixels of a figure, `[h, w, 3]`, and checks that its size fits a page."""
    with Image.open(path) as figure:
        pixels = np.asarray(figure.convert("RGB"))
    assert 50 < pixels.shape[0] < 1600
    assert 300 < pixels.shape[1] < 1600
    return pixels


def close_to(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels.astype(int) - colour).max(-1) < 12


def extent(mask: np.ndarray) -> tuple[int, int]:
    """Computes (height, width) of the bounding box of the true elements."""
    return tuple(int(np.ptp(indices)) + 1 for indices in np.nonzero(mask))


def images(count: int, height: int = 12, width: int = 12, channels: int = 1) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(count, height, width, channels)).astype(np.float32)


def grids(count: int, angle_rad: float = 0.0, scale: float = 1.0, size: int = 9) -> np.ndarray:
    line = np.linspace(-scale, scale, size)
    points = np.stack(np.meshgrid(line, line), -1)
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.tile(points @ np.array([[cos, sin], [-sin, cos]]), (count, 1, 1, 1))


def test_importing_plots_imports_neither_jax_nor_matplotlib():
    modules = "angle_plot, confusion_plot, diagnostic_plot, frame_plot, image_grid, learning_curves"
    code = f"import sys; from experiments.plots import {modules}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"jax", "flax", "matplotlib"} & set(loaded)


class TestImages:
    @pytest.mark.parametrize("count", [1, 8, 9, 40])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_draws_any_number_and_size_of_images(self, tmp_path, count, channels):
        path = tmp_path / "not" / "there" / "images.png"
        draw_images(
            path, images(count, channels=channels), images(count, 5, 20, channels), ("Above", "On")
        )
        assert read(path).std() > 10

    def test_colours_do_not_depend_on_the_unit(self, tmp_path):
        inputs = np.full((2, 4, 4, 3), -3.0, np.float32)
        inputs[0, ..., 0] = inputs[1, ..., 2] = 5.0
        draw_images(tmp_path / "a.png", inputs, inputs)
        pixels = read(tmp_path / "a.png")
        red, blue = close_to(pixels, (255, 0, 0)), close_to(pixels, (0, 0, 255))
        assert red.sum() > 5000
        assert red.sum() == pytest.approx(blue.sum(), rel=0.05)
        assert (
            np.nonzero(red)[1].max() < np.nonzero(blue)[1].min()
        )  # the first image is on the left

    def test_both_panels_share_one_scale(self, tmp_path):
        inputs = np.zeros((1, 4, 4, 1), np.float32)
        inputs[0, :2] = 2.0
        draw_images(tmp_path / "a.png", inputs, np.ones((1, 4, 4, 1), np.float32))
        half = len(read(tmp_path / "a.png")) // 2
        assert close_to(read(tmp_path / "a.png")[half:], (128, 128, 128)).sum() > 5000

    def test_a_few_bright_pixels_are_visible(self, tmp_path):
        inputs = np.zeros((1, 40, 40, 1), np.float32)
        inputs[0, 20, 20] = 0.01
        draw_images(tmp_path / "a.png", inputs, inputs)
        draw_images(tmp_path / "b.png", 0 * inputs, 0 * inputs)
        with_it, without = (close_to(read(tmp_path / f"{x}.png"), (0, 0, 0)).sum() for x in "ab")
        assert with_it < without

    @pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf, -np.inf])
    def test_draws_constant_and_non_finite_images(self, tmp_path, value):
        inputs = np.full((2, 4, 4, 1), value, np.float32)
        draw_images(tmp_path / "a.png", inputs, images(2))
        draw_images(tmp_path / "b.png", inputs, inputs)
        read(tmp_path / "a.png")
        read(tmp_path / "b.png")

    @pytest.mark.parametrize(
        ("inputs", "outputs"),
        [
            (images(2), images(3)),
            (images(2)[..., 0], images(2)),
            (images(2, channels=2), images(2, channels=2)),
            (images(0), images(0)),
        ],
    )
    def test_wrong_shapes_raise_value_error(self, tmp_path, inputs, outputs):
        with pytest.raises(ValueError, match=r"images must be|outputs must have"):
            draw_images(tmp_path / "a.png", inputs, outputs)
        assert not list(tmp_path.iterdir())


class TestFrames:
    @pytest.mark.parametrize("count", [1, 3, 8, 20])
    def test_draws_any_number_of_frames(self, tmp_path, count):
        draw_frames(tmp_path / "a.png", images(count), grids(count, angle_rad=0.5))
        assert close_to(read(tmp_path / "a.png"), ORANGE).sum() > 300

    @pytest.mark.parametrize(("align_corners", "share"), [(False, 1.0), (True, 0.75)])
    def test_frame_is_drawn_where_it_is_sampled(self, tmp_path, align_corners, share):
        black = np.zeros((1, 4, 4, 1), np.float32)  # 4 pixels: 3 between the outermost centres
        without = np.full((1, 2, 2, 2), np.nan)
        draw_frames(tmp_path / "a.png", black, grids(1), align_corners=align_corners)
        draw_frames(tmp_path / "b.png", black, without)
        # The size of the image without the label below it, and of the frame with its dot.
        image = close_to(read(tmp_path / "b.png")[60:-60], (0, 0, 0))
        frame = close_to(read(tmp_path / "a.png"), ORANGE)
        assert extent(frame)[1] == pytest.approx(share * extent(image)[1], abs=12)

    def test_last_axis_of_grids_is_x_y(self, tmp_path):
        points = grids(1) * [1.0, 0.5]
        draw_frames(tmp_path / "a.png", images(1, 12, 18), points)
        height, width = extent(close_to(read(tmp_path / "a.png"), ORANGE))
        assert height == pytest.approx(width / 3, abs=12)

    @pytest.mark.parametrize("upside_down", [False, True])
    def test_upper_edge_of_the_output_is_marked(self, tmp_path, upside_down):
        angle_rad = np.pi if upside_down else 0.0
        black = np.zeros((1, 8, 8, 1), np.float32)
        draw_frames(tmp_path / "a.png", black, grids(1, angle_rad, scale=0.8))
        frame = close_to(read(tmp_path / "a.png"), ORANGE)
        rows = np.nonzero(frame)[0]
        middle = (rows.min() + rows.max()) / 2
        assert ((rows > middle).mean() > 0.5) == upside_down

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e300, 50.0])
    def test_draws_the_rest_of_frames_with_extreme_points(self, tmp_path, value):
        points = grids(3)
        points[0, 2, 3] = value
        points[1, 0, 0, 0] = value
        points[2] = value
        draw_frames(tmp_path / "a.png", images(3), points)
        assert close_to(read(tmp_path / "a.png"), ORANGE).sum() > 300

    def test_frame_larger_than_the_image_is_visible(self, tmp_path):
        draw_frames(tmp_path / "a.png", images(1), grids(1, scale=2.0))
        height, width = extent(close_to(read(tmp_path / "a.png"), ORANGE))
        assert height == pytest.approx(width, abs=12)
        assert height > 150

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (300, 200)])
    def test_draws_any_output_shape_on_colour_images(self, tmp_path, shape):
        points = np.random.default_rng(0).uniform(-1, 1, (2, *shape, 2))
        draw_frames(tmp_path / "a.png", images(2, 6, 17, 3), points)
        assert close_to(read(tmp_path / "a.png"), ORANGE).any()

    @pytest.mark.parametrize("points", [grids(3), grids(2)[..., :1], grids(2)[0], grids(2)[:, :0]])
    def test_wrong_shapes_raise_value_error(self, tmp_path, points):
        with pytest.raises(ValueError, match="grids must be"):
            draw_frames(tmp_path / "a.png", images(2), points)


RECORD = {
    "train_loss": 1.5,
    "train_error": 30.0,
    "validation_loss": 1.7,
    "validation_error": 35.0,
    "outside": 0.1,
    "learning_rate": 0.01,
}


class TestCurves:
    @pytest.mark.parametrize("left_out", [(), ("outside",), ("outside", "learning_rate")])
    def test_panels_depend_on_the_recorded_keys(self, tmp_path, left_out):
        records = [
            {"epoch": i, **{k: v / i**2 for k, v in RECORD.items() if k not in left_out}}
            for i in range(1, 9)
        ]
        draw_curves(tmp_path / "a.png", records)
        rows = 1 if len(left_out) == 2 else 2
        assert read(tmp_path / "a.png").shape[0] == pytest.approx(435 * rows, abs=2)

    def test_labels_have_units(self, tmp_path):
        draw_curves(tmp_path / "a.svg", [{"epoch": 1, **RECORD}])
        svg = (tmp_path / "a.svg").read_text()
        for text in (
            "training, last 1.5",
            "validation, last 35 %",
            "share, last 10 %",
            "rate, last 0.01",
            "Error (%)",
            "Samples outside the image (%)",
        ):
            assert f"<!-- {text} -->" in svg

    @pytest.mark.parametrize(
        "records",
        [
            [],
            [{}],
            [{"epoch": 1, "train_loss": None}],
            [{"train_loss": 1.0}],
            [{"epoch": 0.5, "train_loss": 2.0}],
            [{"epoch": i / 7, "train_loss": float(i)} for i in range(100)],
            [{"epoch": i, "train_error": e} for i, e in enumerate([90.0, 1.0, 0.0, 0.0])],
            [{"epoch": i, "train_error": 0.0} for i in range(3)],
            [{"epoch": i, "train_loss": e} for i, e in enumerate([2.0, 1e38, np.inf, np.nan])],
            [{"epoch": i, "train_loss": np.nan} for i in range(3)],
            [{"epoch": i, "train_loss": -1.0 - i} for i in range(30)],
        ],
    )
    def test_draws_any_records(self, tmp_path, records):
        draw_curves(tmp_path / "a.png", records)
        read(tmp_path / "a.png")


class TestAngles:
    random = np.random.default_rng(0)

    def draw(self, path, applied, predicted):
        draw_angles(path, applied, *angle_residuals(applied, predicted))
        read(path)

    @pytest.mark.parametrize("count", [1, 2, 5000])
    @pytest.mark.parametrize("widest", [0.0, 45.0, 180.0])
    def test_draws_any_number_and_range_of_angles(self, tmp_path, count, widest):
        applied = self.random.uniform(-widest, widest, count)
        self.draw(tmp_path / "a.png", applied, 170 - applied)

    def test_leaves_out_angles_that_are_not_finite(self, tmp_path):
        self.draw(tmp_path / "a.png", np.array([1.0, 2, 3]), np.array([-1, np.nan, -3]))


class TestConfusions:
    @pytest.mark.parametrize("count", [2, 15, 43])
    def test_draws_any_number_of_classes(self, tmp_path, count):
        confusions = np.random.default_rng(0).integers(0, 9, (count, count))
        confusions[1] = 0  # a class without examples
        draw_confusions(tmp_path / "a.png", confusions, class_errors(confusions))
        read(tmp_path / "a.png")


class TestAnimation:
    def write(self, path, times=5, count=3, **options):
        moving = np.stack([grids(count, angle_rad=0.1 * i) for i in range(times)])
        animate_frames(path, images(count), moving, np.arange(times), **options)
        with Image.open(path) as animation:
            durations = []
            for i in range(animation.n_frames):
                animation.seek(i)
                durations.append(animation.info["duration"])
            return animation.info.get("loop"), durations

    def test_animation_contains_every_time_and_pauses_at_the_last(self, tmp_path):
        loop, durations = self.write(tmp_path / "a.gif")
        assert loop == 0
        assert len(durations) == 5
        assert durations[-1] > 2 * durations[0]

    @pytest.mark.parametrize(("times", "limit", "drawn"), [(30, 12, 12), (5, 12, 5), (1, 12, 1)])
    def test_number_of_times_is_limited(self, tmp_path, times, limit, drawn):
        _, durations = self.write(tmp_path / "a.gif", times=times, max_frames=limit)
        assert len(durations) == drawn

    def test_limited_times_include_first_and_last(self, tmp_path):
        growing = np.stack([grids(1, scale=scale) for scale in np.linspace(0.2, 1.0, 30)])
        black = np.zeros((1, 8, 8, 1), np.float32)
        path = tmp_path / "a.gif"
        animate_frames(path, black, growing, np.arange(30), max_frames=4)
        widths = []
        with Image.open(path) as animation:
            for i in range(4):
                animation.seek(i)
                pixels = np.asarray(animation.convert("RGB"))
                widths.append(extent(close_to(pixels, ORANGE))[1])
        assert widths == sorted(widths)
        assert widths[-1] > 3 * widths[0]

    def test_frames_move_and_images_do_not(self, tmp_path):
        self.write(tmp_path / "a.gif", times=8)
        with Image.open(tmp_path / "a.gif") as animation:
            first = np.asarray(animation.convert("RGB"))
            animation.seek(7)
            last = np.asarray(animation.convert("RGB"))
        moved = np.abs(first.astype(int) - last).max(-1) > 0
        assert 0.01 < moved.mean() < 0.4
        drawn = close_to(first, ORANGE).sum()
        assert drawn > 200
        assert close_to(last, ORANGE).sum() == pytest.approx(drawn, rel=0.5)  # one frame only

    def test_animation_is_small_enough_for_a_page(self, tmp_path):
        self.write(tmp_path / "a.gif", times=70, count=10)
        assert (tmp_path / "a.gif").stat().st_size < 2e6
        read(tmp_path / "a.gif")

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    def test_animates_extreme_points_on_colour_images(self, tmp_path, value):
        moving = np.stack([grids(2), grids(2)])
        moving[1, 0] = value
        moving[1, 1, 0, 0] = value
        epochs = np.array([0.25, 0.5])
        animate_frames(tmp_path / "a.gif", images(2, channels=3), moving, epochs)
        read(tmp_path / "a.gif")

    def test_wrong_shapes_raise_value_error(self, tmp_path):
        with pytest.raises(ValueError, match="grids must be"):
            animate_frames(tmp_path / "a.gif", images(2), grids(2), np.arange(2))
        with pytest.raises(ValueError, match="epochs"):
            animate_frames(tmp_path / "a.gif", images(2), grids(2)[None], np.arange(2))
        assert not list(tmp_path.iterdir())


class TestAtomicWrites:
    def fail_halfway(self, target, *_, **__):
        if isinstance(target, io.IOBase):
            target.write(b"half")
        else:
            pathlib.Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    @pytest.mark.parametrize("was_there", [False, True])
    @pytest.mark.parametrize("kind", ["png", "gif"])
    def test_failed_drawing_keeps_the_previous_file(self, tmp_path, monkeypatch, kind, was_there):
        monkeypatch.setattr(Figure, "savefig", lambda _, *a, **k: self.fail_halfway(*a, **k))
        monkeypatch.setattr(Image.Image, "save", lambda _, *a, **k: self.fail_halfway(*a, **k))
        path = tmp_path / f"a.{kind}"
        if was_there:
            path.write_bytes(b"whole")
        arguments = {"png": ([],), "gif": (images(1), grids(1)[None], np.arange(1))}[kind]
        draw = {"png": draw_curves, "gif": animate_frames}[kind]
        with pytest.raises(KeyboardInterrupt):
            draw(path, *arguments)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"whole"] * was_there

    def test_figure_replaces_the_previous_file(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(b"old")
        draw_curves(path, [])
        read(path)
        assert list(tmp_path.iterdir()) == [path]

    def test_suffix_selects_the_format(self, tmp_path):
        draw_curves(tmp_path / "a.svg", [])
        assert "<svg" in (tmp_path / "a.svg").read_text()
        with pytest.raises(ValueError, match="nonsense"):
            draw_curves(tmp_path / "a.nonsense", [])
        assert [file.name for file in tmp_path.iterdir()] == ["a.svg"]
