"""Prints the results as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.benchmark.options import Part
from experiments.benchmark.peers import OURS
from experiments.benchmark.race import Fault, RaceResult
from experiments.benchmark.warps import QUANTITIES
from experiments.benchmark.workloads import COMPONENTS

WIDTH = 110  # in columns, if the output is not a terminal
_TIMES = (
    "cnn",
    "gradient_to_input",
    "localisation_network",
    "grid_and_sampler",
    "st_cnn",
)


def make_console() -> Console:
    """Returns a console on stdout."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def print_environment(
    console: Console, environment: Mapping[str, Any], missing: Mapping[str, str]
) -> None:
    """Prints the hardware, the implementations with their versions, and those left out."""
    console.print(environment["gpu"] or environment["processor"])
    for name, versions in environment["versions"].items():
        listed = ", ".join(f"{package} {version}" for package, version in versions.items())
        console.print(f"{name}: {listed}; {environment['threads'][name]} threads")
    for name, reason in missing.items():
        console.print(f"left out: {name} ({reason})")


def print_results(console: Console, title: str, results: Sequence[RaceResult]) -> None:
    """Prints a table of times and ratios."""
    if not results:
        return
    references = " or ".join(dict.fromkeys(result.reference for result in results))
    table = _make_table(
        f"{title}: milliseconds, and ratios to {references}",
        ("case", "quantity", "implementation"),
        ("minimum", "median", "ratio", "of medians"),
    )
    previous = None
    for result in results:
        place = (result.case, result.quantity)
        if previous not in (None, place):
            table.add_section()
        quantity = QUANTITIES.get(result.quantity, result.quantity.replace("_", " "))
        table.add_row(
            *((result.case, quantity) if place != previous else ("", "")),
            result.entrant,
            milliseconds(result.minimum),
            milliseconds(result.median),
            f"{result.ratio:.2f}",
            f"{result.median_ratio:.2f}",
        )
        previous = place
    console.print(table)


def print_faults(console: Console, faults: Sequence[Fault]) -> None:
    """Prints the reasons why entrants were not timed."""
    for fault in faults:
        place = f"{fault.case}, {fault.quantity}, {fault.entrant}"
        console.print(f"{fault.kind}: {place}: {fault.text}")


def print_summary(console: Console, part: Part, summary: Mapping[str, Any]) -> None:
    """Prints the summary of a part."""
    for group, ratios in summary.get("ratios", {}).items():
        for name, each in ratios.items():
            console.print(
                f"{group}, {name}: geometric mean of {each['ratios']} ratios "
                f"{each['geometric_mean']:.3f}, largest {each['largest']:.2f}, "
                f"{each['above_one']} above 1"
            )
    if part == "sampler":
        memory = summary["largest_memory_over_image_output_grid"]
        if memory is not None:
            console.print(
                f"{OURS}: memory without the inputs, over that of image, output and grid: "
                f"at most {memory:.1f}"
            )
        _print_growth(console, summary["growth"])
    elif part == "overhead":
        _print_overhead(console, summary["parts"])
    elif part == "population":
        for name, ratio in summary.items():
            console.print(f"{name}: {ratio:.2f}")


def _make_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """Returns an empty table with left-justified and then right-justified columns."""
    table = Table(title=title, title_justify="left")
    for heading in left:
        table.add_column(heading)
    for heading in right:
        table.add_column(heading, justify="right")
    return table


def milliseconds(seconds: float) -> str:
    """Returns a time in milliseconds with three digits."""
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _print_growth(console: Console, growth: Sequence[Mapping[str, Any]]) -> None:
    if not growth:
        return
    table = _make_table(
        "growth of time: an exponent of 1 is linear growth",
        ("axis", "quantity", "implementation", "milliseconds"),
        ("exponent",),
    )
    for row in growth:
        times = ", ".join(f"x{k} {milliseconds(v)}" for k, v in row["seconds"].items())
        quantity, exponent = QUANTITIES[row["quantity"]], f"{row['exponent']:.2f}"
        table.add_row(row["axis"], quantity, row["entrant"], times, exponent)
    console.print(table)


def _print_overhead(console: Console, overhead: Mapping[str, Mapping[str, float]]) -> None:
    if not overhead:
        return
    table = _make_table(
        "a step of the ST-CNN: milliseconds of its components",
        ("implementation",),
        (*COMPONENTS.values(), "ST-CNN", "over CNN", "sampler share", "alone"),
    )
    for name, each in overhead.items():
        alone = each.get("grid_and_sampler_alone_share")
        table.add_row(
            name,
            *(milliseconds(each[time]) for time in _TIMES),
            f"{each['st_cnn_over_cnn']:.2f}",
            f"{each['grid_and_sampler_share']:.1%}",
            "" if alone is None else f"{alone:.1%}",
        )
    console.print(table)
