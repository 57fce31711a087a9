"""A sweep's tables and plots: on the terminal, and as one HTML page that needs nothing else."""

import html
import math
import pathlib
import string
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
import plotly.graph_objects as go
from optuna import visualization
from optuna.trial import FrozenTrial, TrialState
from plotly.offline import get_plotlyjs
from rich.console import Console
from rich.table import Table

from experiments import command_line
from experiments.config import ConfigError
from experiments.records import RunError, write_atomically, writing
from experiments.sweeps import definition as definitions
from experiments.sweeps import space as search
from experiments.sweeps.definition import Best, Definition, as_text, counted, percent
from experiments.sweeps.settings import Report
from experiments.sweeps.shared_study import history, is_given_up, outcome
from experiments.sweeps.space import Dimension, Range
from experiments.sweeps.storages import ONLY_STUDY, Place, load

TEMPLATE = pathlib.Path(__file__).with_name("page.html")
SHOWN = 30  # rows on the terminal
WIDTH = 110  # of the table where the output is no terminal
# Trials, before the importance of settings can be computed, and before it means much.
ENOUGH_TO_COMPARE, ENOUGH_TO_RELY_ON = 5, 30
ERROR = "validation error, %"
BLUE, GREY, RED = "#08519c", "#b8c2cc", "#e6550d"
DARK_TO_LIGHT = [[0, "#08306b"], [1, "#9ecae1"]]  # light lines must still be seen
AXIS_STEPS = 5
ERROR_TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]
FONT = "system-ui, DejaVu Sans, sans-serif"


def make(wanted: Report) -> None:
    """Prints the table and writes the page.

    Raises:
        RunError: if there is no such sweep, or the page cannot be written.
    """
    default = pathlib.Path("runs", wanted.study or "")
    folder = default if wanted.run_dir is None else pathlib.Path(wanted.run_dir).expanduser()
    place = Place(folder, wanted.storage, wanted.study or ONLY_STUDY)
    out = folder / "report.html" if wanted.out is None else pathlib.Path(wanted.out).expanduser()
    name = folder.name if wanted.study is None else wanted.study
    with load(place) as study:
        try:
            definition = definitions.from_dict(study.user_attrs.get("definition", {}))
        except ConfigError as error:
            raise RunError(f"{place}: {error}") from error
        trials = study.get_trials()
        best = definitions.best(definition, trials)
        _print(_rows(definition, trials), definition, trials, best)
        if wanted.out is None:
            with writing(out):
                folder.mkdir(parents=True, exist_ok=True)
        write_atomically(out, page(name, study, definition, trials, best).encode())
    print(f"plots in {out}")


class Row(NamedTuple):
    """A trial as the tables show it.

    Attributes:
        number: the trial's.
        kind: what became of it: an outcome's kind, or running, waiting, left.
        error: its validation error, if it was trained whole.
        settings: its values, by name.
        epochs: how many were trained.
        seconds: how long that took.
        remark: why it is not complete.
    """

    number: int
    kind: str
    error: str
    settings: Mapping[str, str]
    epochs: str
    seconds: str
    remark: str


def _rows(definition: Definition, trials: Sequence[FrozenTrial]) -> list[Row]:
    """The trials, the best first, those that were trained whole before the others."""
    repeats = {history(trial)[-1]: trial.number for trial in trials if history(trial)}

    def place(trial: FrozenTrial) -> tuple[bool, float, int]:
        complete = trial.state == TrialState.COMPLETE
        return not complete, trial.value or 0.0 if complete else 0.0, trial.number

    return [_row(definition, trial, repeats) for trial in sorted(trials, key=place)]


def _row(definition: Definition, trial: FrozenTrial, repeats: Mapping[int, int]) -> Row:
    found = outcome(trial)
    kind, remark = trial.state.name.lower(), ""
    if found is not None:
        kind, remark = found.kind, found.reason or ""
    elif is_given_up(trial):
        kind, remark = "left", f"its workers left it {len(history(trial)) + 1} times"
    elif trial.state == TrialState.FAIL:
        repeat = repeats.get(trial.number)
        kind, remark = "left", "to be run again" if repeat is None else f"run again as {repeat}"
    return Row(
        trial.number,
        kind,
        percent(found.errors) if found and found.errors else "",
        {name: as_text(trial.params.get(name, "")) for name in definition.space},
        str(found.epochs) if found and found.epochs else "",
        f"{found.seconds:.0f}" if found and found.epochs else "",
        remark,
    )


def summary(trials: Sequence[FrozenTrial]) -> str:
    """How many trials became what."""
    kinds = [found.kind for found in map(outcome, trials) if found is not None]
    states = [trial.state for trial in trials]
    counts = {
        "trained whole": kinds.count("complete"),
        "pruned": kinds.count("pruned"),
        "diverged": kinds.count("diverged"),
        "impossible": kinds.count("impossible"),
        "running": states.count(TrialState.RUNNING),
        "waiting": states.count(TrialState.WAITING),
        "left by their workers": states.count(TrialState.FAIL),
    }
    listed = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{counted(len(trials))}: {', '.join(listed)}" if trials else "no trials yet"


def _print(
    rows: Sequence[Row], definition: Definition, trials: Sequence[FrozenTrial], best: Best | None
) -> None:
    """The table on the terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(summary(trials))
    table = Table(box=None, pad_edge=False)
    for heading in _headings(definition):
        numeric = heading in ("trial", "epochs", "seconds")
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for row in rows[:SHOWN]:
        is_best = best is not None and row.number == best.trial.number
        table.add_row(*_cells(row), style="bold" if is_best else None)
    console.print(table)
    if len(rows) > SHOWN:
        console.print(f"and {len(rows) - SHOWN} more on the page")
    if best is not None:
        print(f"best: trial {best.trial.number}, validation error {percent(best.errors)} %")
        print(best.command)


def _headings(definition: Definition) -> list[str]:
    return ["trial", "error, %", *definition.space, "epochs", "seconds", ""]


def _cells(row: Row) -> list[str]:
    remark = row.remark if row.kind == "complete" else f"{row.kind}: {row.remark}".rstrip(": ")
    return [str(row.number), row.error, *row.settings.values(), row.epochs, row.seconds, remark]


def page(
    name: str,
    study: optuna.Study,
    definition: Definition,
    trials: Sequence[FrozenTrial],
    best: Best | None,
) -> str:
    """The page, whole: plotly's code is in it."""
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(f"Sweep {name}"),
        summary=html.escape(summary(trials)),
        best=_best_section(best),
        plots="\n".join(_sections(study, definition, trials)),
        table=_table(_rows(definition, trials), definition, best),
        settings=_settings(definition),
        plotly=get_plotlyjs(),
    )


def _best_section(best: Best | None) -> str:
    if best is None:
        return ""
    settings = ", ".join(f"{name} {as_text(value)}" for name, value in best.trial.params.items())
    return f"""<section class="best">
<strong>{percent(best.errors)} %</strong>
<p>Best validation error: trial {best.trial.number}, {html.escape(settings)}</p>
<div class="command"><code id="command">{html.escape(best.command)}</code>
<button onclick="navigator.clipboard.writeText(document.getElementById('command').textContent)
.then(() => this.textContent = 'Copied')">Copy</button></div>
</section>"""


def _sections(
    study: optuna.Study, definition: Definition, trials: Sequence[FrozenTrial]
) -> Iterator[str]:
    """The plots that there are enough trials for."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return
    yield _section(
        "Parallel coordinates",
        "A line for each trial that was trained whole, the better the darker. Drag along an axis "
        "to select, and an axis's name to move it.",
        _parallel(definition, complete),
        420,
    )
    yield '<div class="pair">'
    yield _section(
        "Optimisation history",
        "Trials trained whole, and the best so far.",
        _progress(study, complete),
    )
    yield _section("Learning curves", "Grey: stopped early.", _curves(trials))
    yield "</div>"
    if len(complete) >= ENOUGH_TO_COMPARE and (figure := _importances(study)):
        yield _section(
            "Importance of settings",
            f"What separates the best from the rest (PED-ANOVA of {len(complete)} trials"
            f"{'' if len(complete) >= ENOUGH_TO_RELY_ON else ', too few to rely on'}).",
            _plain(figure).update_traces(marker_color=BLUE).update_xaxes(title="importance"),
            120 + 40 * len(complete[0].params),
        )


def _importances(study: optuna.Study) -> go.Figure | None:
    """A bar for each setting; None where the best are as all the others, in errors that tie."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Target and region quantiles select the same")
        try:
            return visualization.plot_param_importances(study)
        except UserWarning:
            return None


def _section(title: str, text: str, figure: go.Figure, height: int = 340) -> str:
    figure.update_layout(height=height)
    options = {"displayModeBar": False, "responsive": True}
    drawn = figure.to_html(full_html=False, include_plotlyjs=False, config=options)
    return f"<section><h2>{title}</h2><p>{text}</p>{drawn}</section>"


def _plain(figure: go.Figure) -> go.Figure:
    """A figure in the page's style; its title stands above it."""
    return figure.update_layout(
        template="plotly_white",
        title=None,
        font={"family": FONT, "size": 12},
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "h", "y": 1.08, "x": 0},
    ).update_yaxes(title=None)


def _parallel(definition: Definition, complete: Sequence[FrozenTrial]) -> go.Figure:
    """An axis for each setting, and one for the error; a line for each trial."""
    errors = [trial.value for trial in complete]
    axes = [_axis(name, each, complete) for name, each in definition.space.items()]
    lines = go.Parcoords(
        dimensions=[*axes, {"label": ERROR, "values": errors}],
        line={"color": errors, "colorscale": DARK_TO_LIGHT},
        labelfont={"size": 13},
    )
    return _plain(go.Figure(lines)).update_layout(margin={"l": 130, "r": 60, "t": 60, "b": 30})


def _axis(name: str, dimension: Dimension, complete: Sequence[FrozenTrial]) -> dict[str, Any]:
    """An axis of parallel coordinates; at its foot those to whom the setting means nothing."""
    if isinstance(dimension, Range):
        place = math.log10 if dimension.log else float
        low, high = place(dimension.low), place(dimension.high)
        step = (high - low) / AXIS_STEPS
        ticks = [low + i * step for i in range(AXIS_STEPS + 1)]
        if dimension.log:  # both ends, and the powers of ten between them
            ticks = [low, *range(math.floor(low) + 1, math.ceil(high)), high]
        texts = [f"{10**tick if dimension.log else tick:.3g}" for tick in ticks]
    else:
        options = [search.to_stored(value) for value in dimension.options]
        place, low, step, high = options.index, 0, 1, max(1, len(options) - 1)
        ticks, texts = list(range(len(options))), [str(option) for option in options]
    if any(name not in trial.params for trial in complete):
        low -= step
        ticks, texts = [low, *ticks], ["unused", *texts]
    return {
        "label": name,
        "values": [
            place(trial.params[name]) if name in trial.params else low for trial in complete
        ],
        "range": [low, high],
        "tickvals": ticks,
        "ticktext": texts,
    }


def _progress(study: optuna.Study, complete: Sequence[FrozenTrial]) -> go.Figure:
    figure = _plain(visualization.plot_optimization_history(study, target_name=ERROR))
    figure.update_traces(marker_color=BLUE, selector={"mode": "markers"})
    figure.update_traces(line_color=RED, selector={"name": "Best Value"}, name="best so far")
    return figure.update_yaxes(_error_axis([trial.value or 0.0 for trial in complete]))


def _curves(trials: Sequence[FrozenTrial]) -> go.Figure:
    """The validation error of each trial, epoch by epoch."""
    traces = []
    for trial in sorted(trials, key=lambda trial: trial.state == TrialState.COMPLETE):
        steps = sorted(trial.intermediate_values)
        complete = trial.state == TrialState.COMPLETE
        traces.append(
            go.Scatter(
                x=steps,
                y=[trial.intermediate_values[step] for step in steps],
                mode="lines",
                name=f"trial {trial.number}",
                line={"color": BLUE if complete else GREY, "width": 1.2},
                opacity=0.55 if complete else 0.8,
            )
        )
    figure = _plain(go.Figure(traces)).update_layout(showlegend=False)
    errors = [error for trial in trials for error in trial.intermediate_values.values()]
    return figure.update_xaxes(title="epoch").update_yaxes(_error_axis(errors))


def _error_axis(errors: Sequence[float]) -> dict[str, Any]:
    """An axis of errors, logarithmic where none is zero."""
    if not errors or min(errors) <= 0:
        return {"title": ERROR}
    return {"title": ERROR, "type": "log", "tickvals": ERROR_TICKS}


def _table(rows: Sequence[Row], definition: Definition, best: Best | None) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in _headings(definition))
    lines = [f"<table><thead><tr>{head}</tr></thead><tbody>"]
    for row in rows:
        *cells, last = [html.escape(cell) for cell in _cells(row)]
        kind = "" if row.kind == "complete" else "stopped"
        if best is not None and row.number == best.trial.number:
            kind = "best-row"
        listed = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr class="{kind}">{listed}<td class="wide">{last}</td></tr>')
    return "\n".join([*lines, "</tbody></table>"])


def _settings(definition: Definition) -> str:
    """What was searched, how, and from where."""
    arguments = command_line.to_arguments(definition.preset, definition.base)
    listed = {
        **search.to_specs(definition.space),
        **{name: str(value) for name, value in definition.options.items() if name != "heartbeat"},
        "fixed": " ".join(arguments),
    }
    lines = [
        f'<tr><td>{html.escape(name)}</td><td class="wide">{html.escape(value)}</td></tr>'
        for name, value in listed.items()
    ]
    return f"<table>{''.join(lines)}</table>"
