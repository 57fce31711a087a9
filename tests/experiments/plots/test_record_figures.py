"""Figures of a run's records show all numbers, and their axes have units."""

from typing import Any

import numpy as np
import pytest

from experiments.analysis.angles import angle_residuals
from experiments.plots.angle_plot import draw_angles
from experiments.plots.confusion_plot import draw_confusions
from experiments.plots.learning_curves import draw_curves
from experiments.training.metrics import class_errors
from tests.experiments.plots.drawing import pixels_of, texts

RECORD = {
    "train_loss": 1.5,
    "train_error": 30.0,
    "validation_loss": 1.7,
    "validation_error": 35.0,
    "outside": 0.1,
    "learning_rate": 0.01,
}


def records(count: int, **curves: Any) -> list[dict[str, Any]]:
    """Records of epochs, each with values of curves that are functions of the epoch."""
    epochs = range(1, count + 1)
    return [{"epoch": i} | {name: curve(i) for name, curve in curves.items()} for i in epochs]


class TestCurves:
    @pytest.mark.parametrize("left_out", [(), ("outside",), ("outside", "learning_rate")])
    def test_panels_depend_on_the_recorded_keys(self, left_out):
        kept = [{k: v / i**2 for k, v in RECORD.items() if k not in left_out} for i in range(1, 9)]
        figure = draw_curves([{"epoch": i} | each for i, each in enumerate(kept, 1)])
        labels = [axes.get_ylabel() for axes in figure.axes if axes.axison]
        assert len(labels) == 4 - len(left_out)

    def test_axes_have_units(self):
        figure = draw_curves([{"epoch": 1, **RECORD}], "digits: st_cnn")
        assert {
            "digits: st_cnn",
            "training, last 1.5",
            "validation, last 35 %",
            "validation, last 10 %",
            "end of the epoch, last 0.01",
            "Loss (nats)",
            "Error (%)",
            "Samples outside the image (%)",
            "Learning rate (per step)",
            "Epoch",
        } <= set(texts(figure))

    @pytest.mark.parametrize("epochs", [1, 2, 3, 7, 30, 1000])
    def test_epochs_are_integers(self, epochs):
        figure = draw_curves(records(epochs, train_loss=lambda i: 1 / i, train_error=lambda _: 5.0))
        pixels_of(figure)
        for axes in figure.axes:
            shown = axes.get_xlim()
            ticks = [tick for tick in axes.get_xticks() if shown[0] <= tick <= shown[1]]
            assert ticks
            assert all(tick == int(tick) for tick in ticks)

    @pytest.mark.parametrize("errors", [[90, 20, 1, 0, 0], [50, 0.1, 0], [0, 30, 0.02, 0]])
    def test_zero_error_is_visible(self, errors):
        figure = draw_curves(records(len(errors), train_error=lambda i: float(errors[i - 1])))
        axes = figure.axes[1]
        pixels_of(figure)
        places = axes.transAxes.inverted().transform(axes.lines[0].get_path().vertices * [0, 1])
        heights = axes.transData.transform(axes.lines[0].get_xydata())[:, 1]
        bottom, top = axes.transAxes.transform([[0, 0], [0, 1]])[:, 1]
        shares = (heights - bottom) / (top - bottom)
        assert len(places) == len(errors)
        assert (shares > 0.02).all()  # not on the edge
        assert (shares < 1).all()
        zero = shares[errors.index(0)]
        assert zero < shares[np.array(errors) > 0].min() - 0.05
        assert "0" in [label.get_text() for label in axes.get_yticklabels()]

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
            [{"epoch": i, "train_loss": e} for i, e in enumerate([2.0, 1e-38, 0.0])],
            [{"epoch": i, "train_loss": np.nan} for i in range(3)],
            [{"epoch": i, "train_loss": -1.0 - i} for i in range(30)],
        ],
    )
    def test_draws_any_records(self, records):
        pixels_of(draw_curves(records))


class TestAngles:
    random = np.random.default_rng(0)

    def draw(self, applied, predicted):
        figure = draw_angles(applied, *angle_residuals(applied, predicted), "digits")
        pixels_of(figure)
        return figure

    @pytest.mark.parametrize("count", [1, 2, 5000])
    @pytest.mark.parametrize("widest", [0.0, 45.0, 180.0])
    def test_draws_any_number_and_range_of_angles(self, count, widest):
        applied = self.random.uniform(-widest, widest, count)
        self.draw(applied, 170 - applied)

    def test_leaves_out_angles_that_are_not_finite(self):
        self.draw(np.array([1.0, 2, 3]), np.array([-1, np.nan, -3]))

    def test_axes_have_units(self):
        axes = self.draw(np.arange(9.0), np.arange(9.0)).axes
        labels = {each.get_xlabel() for each in axes} | {each.get_ylabel() for each in axes}
        assert all("(°)" in label or "(%)" in label for label in labels if label)
        assert len(labels - {""}) == 4


class TestConfusions:
    @staticmethod
    def sparse(count, largest=900):
        """A matrix of which most classes are recognised: each number takes time to draw."""
        confusions = largest * np.eye(count, dtype=int)
        confusions[0] = np.arange(count)
        return confusions

    @pytest.mark.parametrize("count", [1, 2, 10, 50])
    def test_shows_all_classes_with_their_counts(self, count):
        confusions = self.sparse(count)
        confusions[count // 2] = 0  # a class without examples
        names = [f"class {i}" for i in range(count)]
        figure = draw_confusions(confusions, class_errors(confusions), names)
        figure.draw_without_rendering()
        matrix, bars = figure.axes[:2]
        assert [label.get_text() for label in matrix.get_xticklabels()] == names
        assert [label.get_text() for label in matrix.get_yticklabels()] == names
        assert sorted(int(text.get_text()) for text in matrix.texts) == sorted(
            confusions[confusions > 0].tolist()
        )
        assert "no examples" in bars.texts[count // 2].get_text()

    @pytest.mark.parametrize(("count", "largest"), [(2, 9999), (10, 999), (43, 999), (50, 99)])
    def test_counts_fit_their_cells_and_are_legible(self, count, largest):
        confusions = self.sparse(count, largest)
        figure = draw_confusions(confusions, class_errors(confusions))
        figure.draw_without_rendering()
        matrix = figure.axes[0]
        cell = matrix.get_window_extent().width / count
        for text in matrix.texts:
            assert text.get_window_extent().width < cell
            assert text.get_fontsize() >= 6

    @pytest.mark.parametrize("count", [2, 10, 43])
    @pytest.mark.parametrize("name", ["a", "a name of twenty lett"])
    def test_no_text_is_cut_off_or_covered(self, count, name):
        confusions = self.sparse(count)
        names = [f"{name}{i}" for i in range(count)]
        figure = draw_confusions(confusions, class_errors(confusions), names, "digits: st_cnn")
        height, width, _ = pixels_of(figure, 2400).shape
        boxes = [
            each.get_window_extent()
            for axes in figure.axes
            for each in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels())
            if each.get_text()
        ]
        for box in boxes:
            assert box.x0 >= 0
            assert box.x1 <= width
            assert box.y0 >= 0
            assert box.y1 <= height
        below, above = (figure.axes[i].xaxis.label.get_window_extent() for i in (2, 0))
        assert below.y1 < above.y0

    def test_of_many_classes_those_with_most_errors_are_shown(self):
        confusions = 9 * np.eye(200, dtype=int)
        confusions[np.arange(100, 140), 0] = 5
        figure = draw_confusions(confusions, class_errors(confusions))
        shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert len(shown) == 50
        assert {str(i) for i in range(100, 140)} <= set(shown)
        assert any("the 50 of 200 classes with the most errors" in each for each in texts(figure))

    def test_heading_has_the_error(self):
        figure = draw_confusions(np.array([[3, 1], [0, 4]]), np.zeros(2))
        assert "1 of 8 test examples are misclassified (12.5 %)" in texts(figure)

    def test_axes_have_units(self):
        figure = draw_confusions(np.eye(3, dtype=int), np.zeros(3))
        wanted = {"Prediction", "Label", "Number of examples", "Error (%)"}
        assert wanted <= set(texts(figure))
        assert "Share of the label's examples (%)" in texts(figure)
