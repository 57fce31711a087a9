"""The plots of a sweep's report, as plotly figures."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.trial import FrozenTrial, TrialState

from experiments.sweep.space import Choice, Dimension, Range, Space, to_stored

ERROR = "validation error, %"
BLUE, GREY, RED = "#08519c", "#b8c2cc", "#e6550d"
COLOUR_SCALE = [[0, "#08306b"], [1, "#9ecae1"]]  # ends before white, so that all lines are visible
AXIS_STEPS = 5
MIN_TICKS, MAX_TICKS = 4, 8  # of a logarithmic axis
# The first digits of its ticks: the first of these that give enough ticks.
TICK_DIGITS = (
    (1.0,),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0),
    tuple(i / 2 for i in range(2, 20)),
    tuple(i / 10 for i in range(10, 100)),
)
TICK_GAP = 0.05  # of the axis, between an end and the next tick, for both labels to be readable
FONT = "system-ui, DejaVu Sans, sans-serif"


def plot_parallel_coordinates(space: Space, complete: Sequence[FrozenTrial]) -> go.Figure:
    """Plots complete trials as lines across an axis for each setting and one for the error."""
    errors = [trial.value for trial in complete]
    axes = [_parallel_axis(name, dimension, complete) for name, dimension in space.items()]
    lines = go.Parcoords(
        dimensions=[*axes, {"label": ERROR, "values": errors}],
        line={"color": errors, "colorscale": COLOUR_SCALE},
        labelfont={"size": 13},
    )
    margin = {"l": 130, "r": 60, "t": 60, "b": 30}
    return _restyle(go.Figure(lines)).update_layout(margin=margin)


class _Scale(NamedTuple):
    """The scale of an axis.

    Attributes:
        place: a function from a setting's stored value to its position.
        ticks: positions of the ticks, the lowest and the highest one included.
        texts: text of each tick.
        step: distance of an additional tick below the others.
    """

    place: Callable[[Any], float]
    ticks: list[float]
    texts: list[str]
    step: float


def _range_scale(dimension: Range) -> _Scale:
    place = math.log10 if dimension.log else float
    low, high = place(dimension.low), place(dimension.high)
    step = (high - low) / AXIS_STEPS
    if not dimension.log:
        ticks = [low + i * step for i in range(AXIS_STEPS + 1)]
        return _Scale(place, ticks, _labels(ticks), step)
    gap = TICK_GAP * (high - low)
    between = [place(tick) for tick in log_ticks(dimension.low, dimension.high)]
    ticks = [low, *(tick for tick in between if low + gap < tick < high - gap), high]
    return _Scale(place, ticks, _labels([10**tick for tick in ticks]), step)


def log_ticks(low: float, high: float) -> list[float]:
    """The numbers to label on a logarithmic axis.

    Args:
        low: the low end, above 0.
        high: the high end, above `low`.

    Returns:
        At least `MIN_TICKS` numbers from `low` to `high`: round ones if there are enough.
    """
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    for digits in TICK_DIGITS:
        # A power of ten from its text is exact.
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= MIN_TICKS:
            return ticks[:: math.ceil(len(ticks) / MAX_TICKS)]
    step = (high - low) / (MIN_TICKS - 1)
    return [low + i * step for i in range(MIN_TICKS)]


def _labels(ticks: Sequence[float]) -> list[str]:
    """The texts of distinct ticks: three digits, or as many as tell them apart."""
    for digits in range(3, 17):
        texts = [f"{tick:.{digits}g}" for tick in ticks]
        if len(set(texts)) == len(set(ticks)):
            break
    return texts


def _choice_scale(dimension: Choice) -> _Scale:
    options = [to_stored(value) for value in dimension.options]
    ticks = [float(i) for i in range(len(options))]
    return _Scale(options.index, ticks, [str(option) for option in options], max(1.0, ticks[-1]))


def _parallel_axis(
    name: str, dimension: Dimension, complete: Sequence[FrozenTrial]
) -> dict[str, Any]:
    """One axis of parallel coordinates.

    Trials in which the setting had no effect are at an additional tick below the others.
    """
    is_range = isinstance(dimension, Range)
    scale = _range_scale(dimension) if is_range else _choice_scale(dimension)
    ticks, texts = scale.ticks, scale.texts
    if any(name not in trial.params for trial in complete):
        ticks, texts = [ticks[0] - scale.step, *ticks], ["unused", *texts]
    places = [
        scale.place(trial.params[name]) if name in trial.params else ticks[0] for trial in complete
    ]
    return {
        "label": name,
        "values": places,
        "range": [ticks[0], ticks[-1]],
        "tickvals": ticks,
        "ticktext": texts,
    }


def plot_history(study: optuna.Study, complete: Sequence[FrozenTrial]) -> go.Figure:
    """Plots the error of each complete trial, and the best error so far."""
    figure = _restyle(visualization.plot_optimization_history(study, target_name=ERROR))
    figure.update_traces(marker_color=BLUE, selector={"mode": "markers"})
    figure.update_traces(line_color=RED, selector={"name": "Best Value"}, name="best so far")
    return figure.update_yaxes(_error_axis([trial.value or 0.0 for trial in complete]))


def plot_learning_curves(trials: Sequence[FrozenTrial]) -> go.Figure:
    """Plots the error of each trial after each epoch, with complete trials on top."""
    traces = []
    for trial in sorted(trials, key=lambda trial: trial.state == TrialState.COMPLETE):
        epochs = sorted(trial.intermediate_values)
        complete = trial.state == TrialState.COMPLETE
        traces.append(
            go.Scatter(
                x=epochs,
                y=[trial.intermediate_values[epoch] for epoch in epochs],
                mode="lines",
                name=f"trial {trial.number}",
                line={"color": BLUE if complete else GREY, "width": 1.2},
                opacity=0.55 if complete else 0.8,
            )
        )
    figure = _restyle(go.Figure(traces)).update_layout(showlegend=False)
    errors = [error for trial in trials for error in trial.intermediate_values.values()]
    last = max((max(trial.intermediate_values, default=1) for trial in trials), default=1)
    steps = {"tick0": 0, "dtick": math.ceil(last / MAX_TICKS)}  # epochs are whole
    return figure.update_xaxes(title="epoch", **steps).update_yaxes(_error_axis(errors))


def plot_importances(study: optuna.Study) -> go.Figure | None:
    """Plots the importance of each setting; None if ties leave no best trials to compare."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Target and region quantiles select the same")
        try:
            figure = visualization.plot_param_importances(study)
        except UserWarning:
            return None
    return _restyle(figure).update_traces(marker_color=BLUE).update_xaxes(title="importance")


def _restyle(figure: go.Figure) -> go.Figure:
    """Applies the style of the page, which shows titles outside the figures."""
    return figure.update_layout(
        template="plotly_white",
        title=None,
        font={"family": FONT, "size": 12},
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "h", "y": 1.08, "x": 0},
    ).update_yaxes(title=None)


def _error_axis(errors: Sequence[float]) -> Mapping[str, Any]:
    """The layout of an axis of errors, logarithmic unless an error is zero."""
    if not errors or min(errors) <= 0:
        return {"title": ERROR}
    ticks = log_ticks(0.9 * min(errors), 1.1 * max(errors))  # the axis is a little longer
    return {"title": ERROR, "type": "log", "tickvals": ticks, "ticktext": _labels(ticks)}
