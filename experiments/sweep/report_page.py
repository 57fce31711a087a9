"""The report of a sweep as one HTML page, which contains plotly and needs no network."""

import html
import pathlib
import string
from collections.abc import Iterator, Sequence

import optuna
import plotly.graph_objects as go
from optuna.trial import FrozenTrial
from plotly.offline import get_plotlyjs

from experiments.settings import command_line
from experiments.sweep.definition import (
    BestTrial,
    SweepDefinition,
    abbreviate_value,
    complete_trials,
    format_errors,
)
from experiments.sweep.report_plots import (
    plot_history,
    plot_importances,
    plot_learning_curves,
    plot_parallel_coordinates,
)
from experiments.sweep.report_rows import summarise_trials, table_headings, table_rows
from experiments.sweep.space_specs import space_to_specs

TEMPLATE = pathlib.Path(__file__).with_name("page.html")
# Numbers of trials for the importance of settings to be defined, and to be reliable.
MIN_FOR_IMPORTANCE, MIN_FOR_RELIABLE_IMPORTANCE = 5, 30


def make_page(
    name: str,
    study: optuna.Study,
    definition: SweepDefinition,
    trials: Sequence[FrozenTrial],
    best: BestTrial | None,
) -> str:
    """Makes the page.

    Args:
        name: name of the sweep.
        study: the study, for optuna's plots.
        definition: the sweep's definition.
        trials: all trials of the study.
        best: the best trial, if any is complete.

    Returns:
        HTML.
    """
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(
        title=html.escape(f"Sweep {name} of {definition.preset}: {', '.join(definition.space)}"),
        summary=html.escape(summarise_trials(trials)),
        best=_best_section(best),
        plots="\n".join(_plot_sections(study, definition, trials)),
        table=_trial_table(definition, trials, best),
        settings=_settings_table(definition),
        plotly=get_plotlyjs(),
    )


def _best_section(best: BestTrial | None) -> str:
    if best is None:
        return ""
    params = best.trial.params.items()
    settings = ", ".join(f"{name} {abbreviate_value(value)}" for name, value in params)
    return f"""<section class="best">
<strong>{format_errors(best.errors)} %</strong>
<p>Best validation error: trial {best.trial.number}, {html.escape(settings)}</p>
<div class="command"><code id="command">{html.escape(best.command)}</code>
<button onclick="navigator.clipboard.writeText(document.getElementById('command').textContent)
.then(() => this.textContent = 'Copied')">Copy</button></div>
</section>"""


def _plot_sections(
    study: optuna.Study, definition: SweepDefinition, trials: Sequence[FrozenTrial]
) -> Iterator[str]:
    """Yields the plots for which there are enough trials."""
    complete = complete_trials(trials)
    if not complete:
        return
    yield _section(
        "Parallel coordinates",
        "One line per complete trial; darker lines are better. Drag along an axis to select "
        "trials, and drag the name of an axis to move it.",
        plot_parallel_coordinates(definition.space, complete),
        420,
    )
    yield '<div class="pair">'
    yield _section(
        "Optimisation history",
        "Complete trials, and the best one so far.",
        plot_history(study, complete),
    )
    yield _section(
        "Learning curves",
        "Blue: complete trials. Grey: the others.",
        plot_learning_curves(trials),
    )
    yield "</div>"
    if len(complete) >= MIN_FOR_IMPORTANCE and (figure := plot_importances(study)):
        few = "" if len(complete) >= MIN_FOR_RELIABLE_IMPORTANCE else ", too few to be reliable"
        yield _section(
            "Importance of settings",
            "How much each setting separates the best trials from the rest (PED-ANOVA of "
            f"{len(complete)} trials{few}).",
            figure,
            120 + 40 * len(complete[0].params),
        )


def _section(title: str, text: str, figure: go.Figure, height: int = 340) -> str:
    figure.update_layout(height=height)
    options = {"displayModeBar": False, "responsive": True}
    plot = figure.to_html(full_html=False, include_plotlyjs=False, config=options)
    return f"<section><h2>{title}</h2><p>{text}</p>{plot}</section>"


def _trial_table(
    definition: SweepDefinition, trials: Sequence[FrozenTrial], best: BestTrial | None
) -> str:
    headings = "".join(f"<th>{html.escape(text)}</th>" for text in table_headings(definition))
    lines = [f"<table><thead><tr>{headings}</tr></thead><tbody>"]
    for row in table_rows(definition, trials):
        *cells, remark = [html.escape(cell) for cell in row.cells]
        css_class = "" if row.is_complete else "stopped"
        if best is not None and row.number == best.trial.number:
            css_class = "best-row"
        listed = "".join(f"<td>{cell}</td>" for cell in cells)
        lines.append(f'<tr class="{css_class}">{listed}<td class="wide">{remark}</td></tr>')
    return "\n".join([*lines, "</tbody></table>"])


def _settings_table(definition: SweepDefinition) -> str:
    """The searched settings, the options of the search, and the fixed settings."""
    options = {k: str(v) for k, v in definition.options.items() if k != "heartbeat"}
    fixed = " ".join(command_line.to_arguments(definition.preset, definition.base))
    settings = {**space_to_specs(definition.space), **options, "fixed": fixed}
    lines = [
        f'<tr><td>{html.escape(name)}</td><td class="wide">{html.escape(value)}</td></tr>'
        for name, value in settings.items()
    ]
    return f"<table>{''.join(lines)}</table>"
