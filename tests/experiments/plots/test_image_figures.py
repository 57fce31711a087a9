"""Figures of images show their arrays with captions, for any shape and value."""

import numpy as np
import pytest

from experiments.plots.class_labels import Caption, class_captions, short_names
from experiments.plots.confusion_plot import draw_confusions
from experiments.plots.image_grid import draw_images
from tests.experiments.plots.drawing import close_to, images, pixels_of, texts


class TestImages:
    @pytest.mark.parametrize("count", [1, 8, 11, 40])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_draws_any_number_and_size_of_images(self, count, channels):
        outputs = images(count, 5, 20, channels)
        figure = draw_images(images(count, channels=channels), outputs, ("Above", "On"), title="T")
        assert pixels_of(figure).std() > 10
        assert {"Above", "On", "T"} <= set(texts(figure))
        drawn = [image for axes in figure.axes for image in axes.images]
        assert len(drawn) == 2 * min(count, 20)

    def test_each_output_is_below_its_input(self):
        inputs = np.arange(13, dtype=np.float32).reshape(13, 1, 1, 1) * np.ones((1, 2, 2, 1))
        (axes,) = draw_images(inputs, inputs).axes
        places = {}
        for image in axes.images:
            left, _, _, top = image.get_extent()
            places.setdefault(int(image.get_array()[0, 0, 0]), []).append((left, top))
        assert len(places) == 13
        assert all(upper[0] == lower[0] and upper[1] < lower[1] for upper, lower in places.values())

    def test_inputs_alone_can_be_drawn(self):
        (axes,) = draw_images(images(3)).axes
        assert len(axes.images) == 3

    def test_captions_are_below_their_images_and_errors_are_red(self):
        captions = [Caption("3\n→ 3 (99 %)"), Caption("4\n→ 9 (51 %)", is_wrong=True)]
        figure = draw_images(images(2), images(2), captions=captions)
        (axes,) = figure.axes
        pixels_of(figure)
        for caption, image in zip(captions, axes.images[:2], strict=True):
            (text,) = [each for each in axes.texts if each.get_text() == caption.text]
            left, right, *_ = image.get_extent()
            assert left < text.get_position()[0] < right
            assert text.get_color() == ("#c00000" if caption.is_wrong else "black")
            box = text.get_window_extent()
            assert all(box.y1 < each.get_window_extent().y0 for each in axes.images)
            assert box.y0 > 0

    def test_colours_do_not_depend_on_the_unit(self):
        inputs = np.full((2, 4, 4, 3), -3.0, np.float32)
        inputs[0, ..., 0] = inputs[1, ..., 2] = 5.0
        pixels = pixels_of(draw_images(inputs, inputs))
        red, blue = close_to(pixels, (255, 0, 0)), close_to(pixels, (0, 0, 255))
        assert red.sum() > 5000
        assert red.sum() == pytest.approx(blue.sum(), rel=0.05)
        assert (
            np.nonzero(red)[1].max() < np.nonzero(blue)[1].min()
        )  # the first image is on the left

    @pytest.mark.parametrize(("shared", "brightness"), [(True, 128), (False, 0)])
    def test_rows_share_one_scale_on_request(self, shared, brightness):
        inputs = np.zeros((1, 4, 4, 1), np.float32)
        inputs[0, :2] = 2.0
        (axes,) = draw_images(inputs, np.ones((1, 4, 4, 1)), shared_scale=shared).axes
        assert np.unique(axes.images[1].get_array()).tolist() == [brightness]

    def test_a_few_bright_pixels_are_visible(self):
        inputs = np.zeros((1, 40, 40, 1), np.float32)
        inputs[0, 20, 20] = 0.01
        (axes,) = draw_images(inputs, inputs).axes
        assert axes.images[0].get_array().max() == 255

    @pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf, -np.inf])
    def test_draws_constant_and_non_finite_images(self, value):
        inputs = np.full((2, 4, 4, 1), value, np.float32)
        pixels_of(draw_images(inputs, images(2)))
        pixels_of(draw_images(inputs, inputs))

    @pytest.mark.parametrize(
        ("inputs", "outputs"),
        [
            (images(2), images(3)),
            (images(2)[..., 0], images(2)),
            (images(2, channels=2), images(2, channels=2)),
            (images(0), images(0)),
        ],
    )
    def test_wrong_shapes_raise_value_error(self, inputs, outputs):
        with pytest.raises(ValueError, match=r"images must be|outputs must have"):
            draw_images(inputs, outputs)


class TestClassLabels:
    def test_captions_have_label_prediction_and_confidence(self):
        predictions = np.array([1, 0]), np.array([1, 2]), np.array([0.987, np.nan])
        found = class_captions(["zero", "one", "two"], *predictions)
        assert found == [("one\n→ one (99 %)", False), ("zero\n→ two (?)", True)]
        long = class_captions(["a long name", "one", "two"], *predictions)
        assert long[0].text == "one\n→ one\n99 %"

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("Ankle boot", "Ankle boot"),
            ("speed limit 30", "speed lim…"),
            ("two\n lines", "two lines"),
            ("", "0"),
            ("\U000f0000", "0"),  # no font has it
            ("Straße", "Straße"),
        ],
    )
    def test_names_are_short_and_can_be_drawn(self, name, shown):
        assert short_names([name], 10) == [shown]

    @pytest.mark.parametrize("name", ["$\\frac$", "{%", "\\textbf", "$5_000$"])
    def test_names_are_not_formulas(self, name):
        assert name in texts(draw_confusions(np.eye(2, dtype=int), np.zeros(2), [name, "b"]))
