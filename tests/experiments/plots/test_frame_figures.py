"""Frames are drawn where they are sampled, for any shape and value, and are not cut off."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.plots import draw_frames
from experiments.plots.class_labels import Caption
from experiments.plots.frame_plot import animate_frames, draw_grids
from stn_jax import transforms
from tests.experiments.plots.drawing import (
    ORANGE,
    close_to,
    extent,
    grids,
    images,
    pixels_of,
    texts,
)


class TestFrames:
    @pytest.mark.parametrize("count", [1, 3, 8, 20])
    def test_draws_any_number_of_frames(self, count):
        figure = draw_grids(images(count), grids(count, angle_rad=0.5))
        assert close_to(pixels_of(figure), ORANGE).sum() > 300

    @pytest.mark.parametrize(("align_corners", "share"), [(False, 1.0), (True, 0.75)])
    def test_frame_is_drawn_where_it_is_sampled(self, align_corners, share):
        black = np.zeros((1, 4, 4, 1), np.float32)  # 4 pixels: 3 between the outermost centres
        (axes,) = draw_grids(black, grids(1), align_corners=align_corners).axes
        (line,) = [each for each in axes.lines if each.get_linewidth() == 1.3]
        expected = 1.5 + 4 * share * np.array([-0.5, 0.5])
        for values in line.get_data():
            np.testing.assert_allclose([min(values), max(values)], expected)

    def test_last_axis_of_grids_is_x_y(self):
        figure = draw_grids(images(1, 12, 18), grids(1) * [1.0, 0.5])
        height, width = extent(close_to(pixels_of(figure), ORANGE))
        assert height == pytest.approx(width / 3, abs=12)

    @pytest.mark.parametrize("upside_down", [False, True])
    def test_upper_edge_of_the_output_is_marked(self, upside_down):
        angle_rad = np.pi if upside_down else 0.0
        black = np.zeros((1, 8, 8, 1), np.float32)
        frame = close_to(pixels_of(draw_grids(black, grids(1, angle_rad, scale=0.8))), ORANGE)
        rows = np.nonzero(frame)[0]
        middle = (rows.min() + rows.max()) / 2
        assert ((rows > middle).mean() > 0.5) == upside_down

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e300, 50.0])
    def test_draws_the_rest_of_frames_with_extreme_points(self, value):
        points = grids(3)
        points[0, 2, 3] = value
        points[1, 0, 0, 0] = value
        points[2] = value
        figure = draw_grids(images(3), points)
        assert close_to(pixels_of(figure), ORANGE).sum() > 300
        expected = "continues outside" if np.isfinite(value) else "not finite"
        assert expected in texts(figure)

    @pytest.mark.parametrize("scale", [0.5, 1.0, 1.4, 3.0])
    @pytest.mark.parametrize("shift", [0.0, 1.0, -2.5])
    def test_frames_are_not_cut_off(self, scale, shift):
        points = grids(3, angle_rad=0.4, scale=scale)
        points[1] += shift
        for axes in draw_grids(images(3), points).axes:
            (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
            for line in axes.lines:
                x, y = line.get_data()
                assert np.nanmin(x) > left
                assert np.nanmax(x) < right
                assert np.nanmin(y) > top
                assert np.nanmax(y) < bottom

    def test_large_frame_does_not_shrink_the_other_images(self):
        points = grids(2)
        points[1] *= 4
        first, second = (np.ptp(axes.get_xlim()) for axes in draw_grids(images(2), points).axes)
        assert first < 12 * 1.4 < second

    @pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (300, 200)])
    def test_draws_any_output_shape_on_colour_images(self, shape):
        points = np.random.default_rng(0).uniform(-1, 1, (2, *shape, 2))
        assert close_to(pixels_of(draw_grids(images(2, 6, 17, 3), points)), ORANGE).any()

    @pytest.mark.parametrize("points", [grids(3), grids(2)[..., :1], grids(2)[0], grids(2)[:, :0]])
    def test_wrong_shapes_raise_value_error(self, points):
        with pytest.raises(ValueError, match="grids must be"):
            draw_grids(images(2), points)


def frame_corners(figure: Figure) -> np.ndarray:
    """The smallest and the largest x and y of the first frame, in pixels."""
    (line,) = [each for each in figure.axes[0].lines if each.get_linewidth() == 1.3]
    x, y = line.get_data()
    return np.array([min(x), max(x), min(y), max(y)])


class TestFramesOfThetas:
    @pytest.mark.parametrize(
        ("transform", "theta", "expected"),
        [
            (transforms.affine, [1, 0, 0, 0, 1, 0], [-0.5, 17.5, -0.5, 11.5]),
            (transforms.affine, [0.5, 0, 0.5, 0, 0.5, -0.5], [8.5, 17.5, -0.5, 5.5]),
            (transforms.translation, [0.5, 0.0], [4.0, 22.0, -0.5, 11.5]),
            (transforms.thin_plate_spline((2, 3)), [0.0] * 12, [-0.5, 17.5, -0.5, 11.5]),
        ],
    )
    def test_frame_is_the_outline_of_the_output(self, transform, theta, expected):
        thetas = np.tile(np.float32(theta), (2, 1))
        figure = draw_frames(images(2, 12, 18, 3), thetas, transform, captions=["a", "b"])
        np.testing.assert_allclose(frame_corners(figure), expected, atol=1e-4)
        assert {"a", "b"} <= set(texts(figure))

    def test_corners_can_be_aligned(self):
        theta = jnp.tile(transforms.affine.identity, (1, 1))
        figure = draw_frames(images(1), theta, transforms.affine, align_corners=True)
        np.testing.assert_allclose(frame_corners(figure), [0, 11, 0, 11], atol=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                (images(2), np.zeros((2, 5)), transforms.affine),
                r"thetas must be \[2, 6\].*\[2, 5\]",
            ),
            (
                (images(2), np.zeros((3, 6)), transforms.affine),
                r"thetas must be \[2, 6\].*\[3, 6\]",
            ),
            ((images(2), np.zeros((2, 12)), transforms.affine_3d), "transform must be planar"),
            ((images(2)[0], np.zeros((2, 6)), transforms.affine), "images must be"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            draw_frames(*arguments)


class TestAnimation:
    def write(self, path, times=5, count=3, **options):
        moving = np.stack([grids(count, angle_rad=0.1 * i) for i in range(times)])
        path.write_bytes(animate_frames(images(count), moving, np.arange(times), **options))
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
        path.write_bytes(animate_frames(black, growing, np.arange(30), max_frames=4))
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
        both = [close_to(each, ORANGE) for each in (first, last)]
        assert min(each.sum() for each in both) > 200
        assert (both[0] & both[1]).sum() < 0.2 * both[0].sum()  # the first frame has gone

    def test_animation_is_small_enough_for_a_page(self, tmp_path):
        self.write(tmp_path / "a.gif", times=70, count=10)
        assert (tmp_path / "a.gif").stat().st_size < 2e6

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
    def test_animates_extreme_points_on_colour_images(self, value):
        moving = np.stack([grids(2), grids(2)])
        moving[1, 0] = value
        moving[1, 1, 0, 0] = value
        epochs = np.array([0.25, 0.5])
        captions = [Caption("a"), Caption("b")]
        data = animate_frames(images(2, channels=3), moving, epochs, captions=captions)
        assert data.startswith(b"GIF89a")

    def test_wrong_shapes_raise_value_error(self):
        with pytest.raises(ValueError, match="grids must be"):
            animate_frames(images(2), grids(2), np.arange(2))
        with pytest.raises(ValueError, match="epochs"):
            animate_frames(images(2), grids(2)[None], np.arange(2))
