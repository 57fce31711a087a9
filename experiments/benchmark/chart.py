"""The chart of the sampler: the times of all implementations relative to the reference."""

import io
import pathlib
from collections.abc import Mapping, Sequence

from experiments.benchmark.peers import OURS
from experiments.benchmark.race import COPY, RaceResult
from experiments.benchmark.warps import QUANTITIES
from experiments.runs.records import write_atomically

_COLOURS: Mapping[str, str] = {
    OURS: "#1f77b4",
    "torch.compile": "#d62728",
    "kornia": "#ff7f0e",
    "opencv": "#2ca02c",
    "map_coordinates": "#9467bd",
    "dm_pix": "#8c564b",
    COPY: "#7f7f7f",
}
_ROW_INCHES = 0.19


def draw_chart(path: pathlib.Path, results: Sequence[RaceResult]) -> None:
    """Draws a panel for each quantity and a row for each case. Without results, draws nothing.

    Args:
        path: the PNG file.
        results: of the sampler.

    Raises:
        RunError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # takes a second to import

    if not results:
        return
    reference = results[0].reference
    # The reference does not have all cases.
    results = [result for result in results if result.reference == reference]
    cases = list(dict.fromkeys(result.case for result in results))
    figure = Figure(figsize=(11, 1.6 + _ROW_INCHES * len(cases)), layout="constrained")
    panels = figure.subplots(1, len(QUANTITIES), sharey=True, sharex=True)
    for panel, (quantity, title) in zip(panels, QUANTITIES.items(), strict=True):
        shown = [result for result in results if result.quantity == quantity]
        for name, colour in _COLOURS.items():
            points = [result for result in shown if _name(result) == name]
            points = [result for result in points if result.entrant != reference]
            panel.scatter(
                [result.ratio for result in points],
                [cases.index(result.case) for result in points],
                s=34 if name == OURS else 14,
                marker="|" if name == COPY else "o",
                color=colour,
                label=name,
                zorder=3 if name == OURS else 2,
            )
        panel.axvline(1, color="black", linewidth=0.8)
        panel.set_title(title.replace("theta", "theta or grid"), fontsize="medium")
        panel.set_xscale("log")
        panel.grid(alpha=0.3)
    panels[0].set_yticks(range(len(cases)), cases, fontsize="small")
    panels[0].set_ylim(len(cases) - 0.5, -0.5)
    figure.supxlabel(f"time / time of {reference}; left of the line is faster")
    handles, labels = panels[0].get_legend_handles_labels()
    present = [i for i, name in enumerate(labels) if any(_name(each) == name for each in results)]
    figure.legend(
        [handles[i] for i in present],
        [labels[i] for i in present],
        loc="outside upper center",
        ncols=len(present),
        frameon=False,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_atomically(path, buffer.getvalue())


def _name(result: RaceResult) -> str:
    return COPY if result.form == COPY else result.peer
