import pathlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.figures import angles
from experiments.figures.angles import angle_residuals, draw_angles
from experiments.figures.curves import draw_curves
from experiments.figures.frames import animate_frames, draw_frames
from experiments.figures.images import draw_images

ORANGE = (255, 127, 14)


def read(path: pathlib.Path) -> np.ndarray:
    """A picture's pixels, [h, w, 3]; it must be of a size that a page can show."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert 50 < pixels.shape[0] < 1600
    assert 300 < pixels.shape[1] < 1600
    return pixels


def close_to(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels.astype(int) - colour).max(-1) < 12


def extent(mask: np.ndarray) -> tuple[int, int]:
    """(height, width) of the box about what is set."""
    return tuple(int(np.ptp(indices)) + 1 for indices in np.nonzero(mask))


def images(count: int, height: int = 12, width: int = 12, channels: int = 1) -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal(size=(count, height, width, channels)).astype(np.float32)


def grids(count: int, angle_rad: float = 0.0, scale: float = 1.0, size: int = 9) -> np.ndarray:
    line = np.linspace(-scale, scale, size)
    points = np.stack(np.meshgrid(line, line), -1)
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.tile(points @ np.array([[cos, sin], [-sin, cos]]), (count, 1, 1, 1))


def test_importing_is_cheap():
    modules = "angles, confusions, curves, diagnostics, frames, images"
    code = f"import sys; from experiments.figures import {modules}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"jax", "flax", "matplotlib"} & set(loaded)


class TestImages:
    @pytest.mark.parametrize("count", [1, 8, 9, 40])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_any_number_and_size(self, tmp_path, count, channels):
        path = tmp_path / "not" / "there" / "images.png"
        draw_images(
            path, images(count, channels=channels), images(count, 5, 20, channels), ("Above", "On")
        )
        assert read(path).std() > 10

    def test_colours_are_kept_in_any_unit(self, tmp_path):
        inputs = np.full((2, 4, 4, 3), -3.0, np.float32)
        inputs[0, ..., 0] = inputs[1, ..., 2] = 5.0
        draw_images(tmp_path / "a.png", inputs, inputs)
        pixels = read(tmp_path / "a.png")
        red, blue = close_to(pixels, (255, 0, 0)), close_to(pixels, (0, 0, 255))
        assert red.sum() > 5000
        assert red.sum() == pytest.approx(blue.sum(), rel=0.05)
        assert np.nonzero(red)[1].max() < np.nonzero(blue)[1].min()  # the first is on the left

    def test_one_scale_for_both_panels(self, tmp_path):
        inputs = np.zeros((1, 4, 4, 1), np.float32)
        inputs[0, :2] = 2.0
        draw_images(tmp_path / "a.png", inputs, np.ones((1, 4, 4, 1), np.float32))
        half = len(read(tmp_path / "a.png")) // 2
        assert close_to(read(tmp_path / "a.png")[half:], (128, 128, 128)).sum() > 5000

    def test_a_few_bright_pixels_are_seen(self, tmp_path):
        inputs = np.zeros((1, 40, 40, 1), np.float32)
        inputs[0, 20, 20] = 0.01
        draw_images(tmp_path / "a.png", inputs, inputs)
        draw_images(tmp_path / "b.png", 0 * inputs, 0 * inputs)
        with_it, without = (close_to(read(tmp_path / f"{x}.png"), (0, 0, 0)).sum() for x in "ab")
        assert with_it < without

    @pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf, -np.inf])
    def test_constant_and_not_finite(self, tmp_path, value):
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
    def test_wrong_shapes(self, tmp_path, inputs, outputs):
        with pytest.raises(ValueError, match=r"images must be|2 inputs, but 3"):
            draw_images(tmp_path / "a.png", inputs, outputs)
        assert not list(tmp_path.iterdir())


class TestFrames:
    @pytest.mark.parametrize("count", [1, 3, 8, 20])
    def test_any_number(self, tmp_path, count):
        draw_frames(tmp_path / "a.png", images(count), grids(count, angle_rad=0.5))
        assert close_to(read(tmp_path / "a.png"), ORANGE).sum() > 300

    @pytest.mark.parametrize(("align_corners", "share"), [(False, 1.0), (True, 0.75)])
    def test_the_frame_stands_where_it_is_sampled(self, tmp_path, align_corners, share):
        black = np.zeros((1, 4, 4, 1), np.float32)  # 4 pixels: 3 between the outermost centres
        without = np.full((1, 2, 2, 2), np.nan)
        draw_frames(tmp_path / "a.png", black, grids(1), align_corners=align_corners)
        draw_frames(tmp_path / "b.png", black, without)
        # The size of the image, with its label taken off; then of the frame, with its dot.
        image = close_to(read(tmp_path / "b.png")[60:-60], (0, 0, 0))
        frame = close_to(read(tmp_path / "a.png"), ORANGE)
        assert extent(frame)[1] == pytest.approx(share * extent(image)[1], abs=12)

    def test_x_comes_first(self, tmp_path):
        points = grids(1) * [1.0, 0.5]
        draw_frames(tmp_path / "a.png", images(1, 12, 18), points)
        height, width = extent(close_to(read(tmp_path / "a.png"), ORANGE))
        assert height == pytest.approx(width / 3, abs=12)

    @pytest.mark.parametrize("upside_down", [False, True])
    def test_the_upper_edge_is_marked(self, tmp_path, upside_down):
        angle_rad = np.pi if upside_down else 0.0
        black = np.zeros((1, 8, 8, 1), np.float32)
        draw_frames(tmp_path / "a.png", black, grids(1, angle_rad, scale=0.8))
        frame = close_to(read(tmp_path / "a.png"), ORANGE)
        rows = np.nonzero(frame)[0]
        middle = (rows.min() + rows.max()) / 2
        assert ((rows > middle).mean() > 0.5) == upside_down

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e300, 50.0])
    def test_lost_points_spoil_nothing(self, tmp_path, value):
        points = grids(3)
        points[0, 2, 3] = value
        points[1, 0, 0, 0] = value
        points[2] = value
        draw_frames(tmp_path / "a.png", images(3), points)
        assert close_to(read(tmp_path / "a.png"), ORANGE).sum() > 300

    def test_a_frame_larger_than_the_image_is_seen(self, tmp_path):
        draw_frames(tmp_path / "a.png", images(1), grids(1, scale=2.0))
        height, width = extent(close_to(read(tmp_path / "a.png"), ORANGE))
        assert height == pytest.approx(width, abs=12)
        assert height > 150

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (300, 200)])
    def test_any_output_shape_and_colour(self, tmp_path, shape):
        points = np.random.default_rng(0).uniform(-1, 1, (2, *shape, 2))
        draw_frames(tmp_path / "a.png", images(2, 6, 17, 3), points)
        assert close_to(read(tmp_path / "a.png"), ORANGE).any()

    @pytest.mark.parametrize("points", [grids(3), grids(2)[..., :1], grids(2)[0], grids(2)[:, :0]])
    def test_wrong_shapes(self, tmp_path, points):
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
    def test_what_is_there(self, tmp_path, left_out):
        records = [
            {"epoch": i, **{k: v / i**2 for k, v in RECORD.items() if k not in left_out}}
            for i in range(1, 9)
        ]
        draw_curves(tmp_path / "a.png", records)
        rows = 1 if len(left_out) == 2 else 2
        assert read(tmp_path / "a.png").shape[0] == pytest.approx(435 * rows, abs=2)

    def test_the_units(self, tmp_path):
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
    def test_any_records(self, tmp_path, records):
        draw_curves(tmp_path / "a.png", records)
        read(tmp_path / "a.png")


class TestAngles:
    random = np.random.default_rng(0)

    @pytest.mark.parametrize("count", [1, 2, 5000])
    @pytest.mark.parametrize("widest", [0.0, 45.0, 180.0])
    def test_any_number_and_range(self, tmp_path, count, widest):
        applied = self.random.uniform(-widest, widest, count)
        draw_angles(tmp_path / "a.png", applied, 170 - applied)
        read(tmp_path / "a.png")

    def test_not_finite(self, tmp_path):
        draw_angles(tmp_path / "a.png", np.array([1.0, 2, 3]), np.array([-1, np.nan, -3]))
        read(tmp_path / "a.png")

    def test_a_perfect_prediction_leaves_nothing(self):
        applied = self.random.uniform(-180, 180, 100)
        turns = 360 * self.random.integers(-3, 4, 100)
        _, after = angle_residuals(applied, 175 - applied + turns)
        np.testing.assert_allclose(after, 0, atol=1e-9)

    def test_no_prediction_leaves_everything(self):
        applied = self.random.uniform(-90, 90, 100)
        before, after = angle_residuals(applied, np.full(100, 12.0))
        np.testing.assert_allclose(after, before, atol=1e-9)
        np.testing.assert_allclose(np.ptp(before), np.ptp(applied))
        np.testing.assert_allclose(before.std(), applied.std())

    def test_the_spread_is_that_of_the_error(self):
        applied = self.random.uniform(-45, 45, 20000)
        error = self.random.normal(0, 4, 20000)
        before, after = angle_residuals(applied, 100 - applied + error)
        assert before.std() == pytest.approx(90 / np.sqrt(12), rel=0.02)
        assert after.std() == pytest.approx(error.std(), rel=1e-6)

    @pytest.mark.parametrize("constant", [-170.0, 0.0, 90.0, 180.0, 725.0])
    def test_constants_do_not_matter(self, constant):
        applied = self.random.uniform(-60, 60, 50)
        predicted = -0.7 * applied + self.random.normal(0, 5, 50)
        expected = angle_residuals(applied, predicted)
        shifted = angle_residuals(applied + constant, predicted - 3 * constant)
        np.testing.assert_allclose(shifted, expected, atol=1e-9)

    def test_the_mean_goes_round_the_circle(self):
        before, after = angle_residuals(np.array([170.0, -170.0]), np.zeros(2))
        np.testing.assert_allclose(before, [-10, 10])
        np.testing.assert_allclose(after, [-10, 10])

    def test_half_a_turn_is_positive(self):
        for half_turn in (180.0, -180.0, 540.0):
            before, _ = angle_residuals(np.array([0.0, 0, 0, half_turn]), np.zeros(4))
            np.testing.assert_allclose(before, [0, 0, 0, 180], atol=1e-9)
        turns = np.array([-180.0, -180 - 1e-14, 180, np.nextafter(180, 200), -540, 1e-300, -1e-300])
        wrapped = angles._wrapped(turns)
        assert (wrapped > -180).all()
        assert (wrapped <= 180).all()

    def test_not_finite_is_left_out(self):
        applied = np.array([10.0, 20, np.nan, 30, 5])
        predicted = np.array([0.0, np.inf, 0, 0, np.nan])
        before, after = angle_residuals(applied, predicted)
        np.testing.assert_allclose(before, [-10, np.nan, np.nan, 10, np.nan])
        np.testing.assert_allclose(after, [-10, np.nan, np.nan, 10, np.nan])

    def test_integers(self):
        before, after = angle_residuals(np.array([0, 90]), np.array([0, -90]))
        np.testing.assert_allclose(before, [-45, 45])
        np.testing.assert_allclose(after, [0, 0], atol=1e-12)

    @pytest.mark.parametrize(
        ("applied", "predicted"),
        [
            (np.zeros(3), np.zeros(2)),
            (np.zeros((3, 1)), np.zeros((3, 1))),
            (np.zeros(0), np.zeros(0)),
            (np.zeros(2), np.full(2, np.nan)),
        ],
    )
    def test_nothing_to_say(self, tmp_path, applied, predicted):
        with pytest.raises(ValueError, match="angles"):
            angle_residuals(applied, predicted)
        with pytest.raises(ValueError, match="angles"):
            draw_angles(tmp_path / "a.png", applied, predicted)
        assert not list(tmp_path.iterdir())


class TestAnimation:
    def write(self, path, times=5, count=3, **options):
        moving = np.stack([grids(count, angle_rad=0.1 * i) for i in range(times)])
        animate_frames(path, images(count), moving, np.arange(times), **options)
        with Image.open(path) as picture:
            durations = []
            for i in range(picture.n_frames):
                picture.seek(i)
                durations.append(picture.info["duration"])
            return picture.info.get("loop"), durations

    def test_every_time_is_there_and_the_last_stays(self, tmp_path):
        loop, durations = self.write(tmp_path / "a.gif")
        assert loop == 0
        assert len(durations) == 5
        assert durations[-1] > 2 * durations[0]

    @pytest.mark.parametrize(("times", "most", "left"), [(30, 12, 12), (5, 12, 5), (1, 12, 1)])
    def test_thinned_out(self, tmp_path, times, most, left):
        _, durations = self.write(tmp_path / "a.gif", times=times, max_frames=most)
        assert len(durations) == left

    def test_thinned_out_from_the_first_to_the_last(self, tmp_path):
        growing = np.stack([grids(1, scale=scale) for scale in np.linspace(0.2, 1.0, 30)])
        black = np.zeros((1, 8, 8, 1), np.float32)
        path = tmp_path / "a.gif"
        animate_frames(path, black, growing, np.arange(30), max_frames=4)
        widths = []
        with Image.open(path) as picture:
            for i in range(4):
                picture.seek(i)
                pixels = np.asarray(picture.convert("RGB"))
                widths.append(extent(close_to(pixels, ORANGE))[1])
        assert widths == sorted(widths)
        assert widths[-1] > 3 * widths[0]

    def test_the_frames_move_and_the_images_do_not(self, tmp_path):
        self.write(tmp_path / "a.gif", times=8)
        with Image.open(tmp_path / "a.gif") as picture:
            first = np.asarray(picture.convert("RGB"))
            picture.seek(7)
            last = np.asarray(picture.convert("RGB"))
        moved = np.abs(first.astype(int) - last).max(-1) > 0
        assert 0.01 < moved.mean() < 0.4
        drawn = close_to(first, ORANGE).sum()
        assert drawn > 200
        assert close_to(last, ORANGE).sum() == pytest.approx(drawn, rel=0.5)  # one frame, not all

    def test_small_enough_for_a_page(self, tmp_path):
        self.write(tmp_path / "a.gif", times=70, count=10)
        assert (tmp_path / "a.gif").stat().st_size < 2e6
        read(tmp_path / "a.gif")

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    def test_lost_points_and_colour(self, tmp_path, value):
        moving = np.stack([grids(2), grids(2)])
        moving[1, 0] = value
        moving[1, 1, 0, 0] = value
        epochs = np.array([0.25, 0.5])
        animate_frames(tmp_path / "a.gif", images(2, channels=3), moving, epochs)
        read(tmp_path / "a.gif")

    def test_wrong_shapes(self, tmp_path):
        with pytest.raises(ValueError, match="grids must be"):
            animate_frames(tmp_path / "a.gif", images(2), grids(2), np.arange(2))
        with pytest.raises(ValueError, match="epochs"):
            animate_frames(tmp_path / "a.gif", images(2), grids(2)[None], np.arange(2))
        assert not list(tmp_path.iterdir())


class TestWrittenWhole:
    def break_off(self, target, *_, **__):
        pathlib.Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    @pytest.mark.parametrize("was_there", [False, True])
    @pytest.mark.parametrize("kind", ["png", "gif"])
    def test_a_draw_that_fails_leaves_what_was(self, tmp_path, monkeypatch, kind, was_there):
        monkeypatch.setattr(Figure, "savefig", lambda _, *a, **k: self.break_off(*a, **k))
        monkeypatch.setattr(Image.Image, "save", lambda _, *a, **k: self.break_off(*a, **k))
        path = tmp_path / f"a.{kind}"
        if was_there:
            path.write_bytes(b"whole")
        arguments = {"png": ([],), "gif": (images(1), grids(1)[None], np.arange(1))}[kind]
        draw = {"png": draw_curves, "gif": animate_frames}[kind]
        with pytest.raises(KeyboardInterrupt):
            draw(path, *arguments)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"whole"] * was_there

    def test_a_picture_replaces_the_one_before(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(b"old")
        draw_curves(path, [])
        read(path)
        assert list(tmp_path.iterdir()) == [path]

    def test_other_formats(self, tmp_path):
        draw_curves(tmp_path / "a.svg", [])
        assert "<svg" in (tmp_path / "a.svg").read_text()
        with pytest.raises(ValueError, match="nonsense"):
            draw_curves(tmp_path / "a.nonsense", [])
        assert [file.name for file in tmp_path.iterdir()] == ["a.svg"]
