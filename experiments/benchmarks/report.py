"""Tables for people and a JSON file for programs."""

import datetime
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.benchmarks.cases import OVERHEAD, QUANTITIES
from experiments.benchmarks.peers import OURS, Worker
from experiments.benchmarks.race import Fault, Row
from experiments.records import COMMIT

WIDTH = 110  # where the output is no terminal


def processor() -> str:
    """The processor's name."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def surroundings(workers: Mapping[str, Worker], device: str) -> dict[str, Any]:
    """What the numbers depend on."""
    abouts = {name: worker.about for name, worker in workers.items()}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git_commit": COMMIT,
        "processor": processor(),
        "gpu": abouts[OURS]["device"] if device == "gpu" else None,
        "versions": {name: about["versions"] for name, about in abouts.items()},
        "threads": {name: about["threads"] for name, about in abouts.items()},
    }


def console() -> Console:
    """Where tables go."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def print_surroundings(to: Console, facts: Mapping[str, Any], missing: Mapping[str, str]) -> None:
    """Prints what is timed where, and what is left out."""
    to.print(facts["gpu"] or facts["processor"])
    for name, versions in facts["versions"].items():
        listed = ", ".join(f"{package} {version}" for package, version in versions.items())
        to.print(f"{name}: {listed}; {facts['threads'][name]} threads")
    for name, reason in missing.items():
        to.print(f"left out: {name} ({reason})")


def print_rows(to: Console, title: str, rows: Sequence[Row]) -> None:
    """Prints a table of times and ratios."""
    if not rows:
        return
    references = " or ".join(dict.fromkeys(row.reference for row in rows))
    table = Table(title=f"{title}: milliseconds, and ratios to {references}", title_justify="left")
    for heading in ("case", "quantity", "implementation"):
        table.add_column(heading)
    for heading in ("minimum", "median", "ratio", "of medians"):
        table.add_column(heading, justify="right")
    last = None
    for row in rows:
        place = (row.case, row.quantity)
        if last not in (None, place):
            table.add_section()
        shown = (row.case, QUANTITIES.get(row.quantity, row.quantity.replace("_", " ")))
        table.add_row(
            *(shown if place != last else ("", "")),
            row.entrant,
            _milliseconds(row.minimum),
            _milliseconds(row.median),
            f"{row.ratio:.2f}",
            f"{row.median_ratio:.2f}",
        )
        last = place
    to.print(table)


def print_faults(to: Console, faults: Sequence[Fault]) -> None:
    """Prints why entrants were not timed."""
    for each in faults:
        to.print(f"{each.kind}: {each.case}, {each.quantity}, {each.entrant}: {each.text}")


def print_summary(to: Console, part: str, summary: Mapping[str, Any], gpu: bool) -> None:
    """Prints what the results of a part come to."""
    for name, each in summary.get("ratios", {}).items():
        to.print(
            f"{name}: geometric mean of {each['ratios']} ratios {each['geometric_mean']:.3f}, "
            f"largest {each['largest']:.2f}"
        )
    if part == "sampler":
        _print_traffic(to, summary, gpu)
        _print_growth(to, summary.get("growth", ()))
    elif part == "overhead":
        _print_overhead(to, summary["parts"])
    elif part == "population":
        for name, ratio in summary.items():
            to.print(f"{name}: {ratio:.2f}")


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:.0f}"


def _print_traffic(to: Console, summary: Mapping[str, Any], gpu: bool) -> None:
    """Memory; and on a GPU, where nothing fits the caches, bytes a second."""
    if not summary["traffic"]:
        return
    table = Table(
        title=f"{OURS}: temporary memory and outputs, over image + output + grid",
        title_justify="left",
    )
    for heading in ("case", "quantity"):
        table.add_column(heading)
    headings = ["MB", "over", *(["GB/s", "of a copy"] if gpu else [])]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in summary["traffic"]:
        rate = []
        if gpu:
            rate = [f"{row['bytes_per_second'] / 1e9:.0f}", f"{row['share_of_copy']:.0%}"]
        table.add_row(
            row["case"],
            QUANTITIES[row["quantity"]],
            f"{row['memory_bytes'] / 1e6:.2f}",
            f"{row['memory_over_image_output_grid']:.2f}",
            *rate,
        )
    to.print(table)
    if gpu:
        to.print(f"a device copy moves {summary['copy_bytes_per_second'] / 1e9:.0f} GB/s")


def _print_growth(to: Console, growth: Sequence[Mapping[str, Any]]) -> None:
    if not growth:
        return
    table = Table(title="growth of time: linear where the exponent is 1", title_justify="left")
    for heading in ("axis", "quantity", "implementation", "milliseconds"):
        table.add_column(heading)
    table.add_column("exponent", justify="right")
    for each in growth:
        listed = ", ".join(f"x{k} {_milliseconds(v)}" for k, v in each["seconds"].items())
        table.add_row(
            each["axis"],
            QUANTITIES[each["quantity"]],
            each["entrant"],
            listed,
            f"{each['exponent']:.2f}",
        )
    to.print(table)


def _print_overhead(to: Console, found: Mapping[str, Mapping[str, float]]) -> None:
    if not found:
        return
    table = Table(title="the ST-CNN's step: milliseconds of its parts", title_justify="left")
    table.add_column("implementation")
    for heading in (*OVERHEAD.values(), "ST-CNN", "over CNN", "sampler's share", "alone"):
        table.add_column(heading, justify="right")
    for name, each in found.items():
        alone = each.get("grid_and_sampler_alone_share")
        table.add_row(
            name,
            _milliseconds(each["cnn"]),
            _milliseconds(each["gradient_to_input"]),
            _milliseconds(each["localisation_network"]),
            _milliseconds(each["grid_and_sampler"]),
            _milliseconds(each["st_cnn"]),
            f"{each['st_cnn_over_cnn']:.2f}",
            f"{each['grid_and_sampler_share']:.1%}",
            "" if alone is None else f"{alone:.1%}",
        )
    to.print(table)
