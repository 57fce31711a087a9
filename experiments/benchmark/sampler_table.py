"""The table of the sampler: a line for each case, printed when it is finished, and a file."""

import pathlib
from collections.abc import Sequence

from rich.console import Console

from experiments.benchmark.parts import case_label
from experiments.benchmark.peers import OURS, PEERS, REFERENCE
from experiments.benchmark.printing import milliseconds
from experiments.benchmark.race import COPY, Case, RaceResult
from experiments.benchmark.summaries import planned_memory
from experiments.runs.records import write_atomically

NOTHING = "-"  # the implementation does not have the case, or failed
LEGEND = (
    "Minima in milliseconds. ratio: stn_jax over torch. copy: a copy that moves as many bytes as "
    "the inputs and results have. compile: seconds for tracing and compiling stn_jax. MB: memory "
    "of stn_jax without the inputs; torch MB: growth of its resident memory in a run."
)
_WIDTH = 62  # of the first column, in characters


class SamplerTable:
    """Columns for each implementation, and lines of text.

    Args:
        peers: the implementations that run.
    """

    def __init__(self, peers: Sequence[str]) -> None:
        self._peers = [name for name in PEERS if name in peers]
        ratio = ["ratio"] if REFERENCE in peers else []
        memory = ["MB", *(["torch MB"] if ratio else [])]
        self.headings = [*self._peers, *ratio, COPY, "compile", *memory]
        self.rows: list[tuple[str, list[str]]] = []

    def print_header(self, console: Console) -> None:
        """Prints the legend and the headings."""
        console.print(LEGEND)
        self._print(console, "case, quantity", self.headings)

    def add(self, console: Console, case: Case, results: Sequence[RaceResult]) -> None:
        """Adds the results of a case, and prints them in one line."""
        cells = self._cells(results)
        self.rows.append((case_label(case), cells))
        self._print(console, case_label(case), cells)

    def _print(self, console: Console, name: str, cells: Sequence[str]) -> None:
        columns = zip(self.headings, cells, strict=True)
        text = "".join(f"{cell:>{max(8, len(heading) + 1)}}" for heading, cell in columns)
        console.print(f"{name:<{_WIDTH}}{text}", soft_wrap=True)

    def _cells(self, results: Sequence[RaceResult]) -> list[str]:
        by_peer = {result.peer: result for result in results if result.form != COPY}
        copies = [milliseconds(result.minimum) for result in results if result.form == COPY]
        ours, theirs = by_peer.get(OURS), by_peer.get(REFERENCE)
        cells = [
            milliseconds(by_peer[name].minimum) if name in by_peer else NOTHING
            for name in self._peers
        ]
        if "ratio" in self.headings:
            both = ours is not None and theirs is not None
            cells.append(f"{ours.minimum / theirs.minimum:.2f}" if both else NOTHING)
        cells += copies or [NOTHING]
        cells += [_compilation(ours), _megabytes(ours)] if ours else [NOTHING, NOTHING]
        if "torch MB" in self.headings:
            growth = None if theirs is None else theirs.facts.get("resident_growth_bytes")
            cells.append(NOTHING if growth is None else f"{growth / 1e6:.3g}")
        return cells

    def write(self, path: pathlib.Path) -> None:
        """Writes the table in Markdown.

        Raises:
            RunError: the file cannot be written.
        """
        lines = [f"| case | {' | '.join(self.headings)} |"]
        lines.append("|---|" + "---:|" * len(self.headings))
        lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in self.rows]
        write_atomically(path, "\n".join([LEGEND, "", *lines, ""]).encode())


def _compilation(result: RaceResult) -> str:
    facts = result.facts
    return f"{facts['trace_seconds'] + facts['compile_seconds']:.2f}"


def _megabytes(result: RaceResult) -> str:
    return f"{planned_memory(result) / 1e6:.3g}"
