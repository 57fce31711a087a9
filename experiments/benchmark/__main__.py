"""Times this project against others: `python -m experiments.benchmark [flags]`."""

import math
import pathlib
import sys
import time
from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import track

from experiments.benchmark import printing
from experiments.benchmark.chart import draw_chart
from experiments.benchmark.environment import describe_environment
from experiments.benchmark.options import BenchmarkSettings, Part, parse
from experiments.benchmark.parts import make_cases
from experiments.benchmark.peers import OURS, PEERS, PeerProcess, start
from experiments.benchmark.race import Case, RaceResult, run_race
from experiments.benchmark.record import Record
from experiments.benchmark.sampler_table import SamplerTable
from experiments.settings.errors import ConfigError, run_command

PROGRAM = "python -m experiments.benchmark"
Race = Callable[[Case], list[RaceResult]]  # no results: the case was not run


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the benchmark; errors are reported in one line.

    Args:
        arguments: the command line without the program's name; None for that of the process.

    Returns:
        The exit code; 1 if values differ between implementations.
    """
    given = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _run(parse(given, PROGRAM)))


def _run(settings: BenchmarkSettings) -> int:
    workers, missing = start(_peers(settings), settings.peer_python, settings.device)
    try:
        console = printing.make_console()
        environment = describe_environment(workers, settings.device)
        printing.print_environment(console, environment, missing)
        record = Record(settings, environment, missing)
        race = _make_race(workers, settings, record)
        for part, cases in make_cases(settings, workers[OURS]).items():
            if part == "sampler":
                left = _run_sampler(console, cases, race, list(workers), settings, record)
            else:
                left = _run_part(console, part, cases, race)
            faults = [fault for fault in record.faults if fault.part == part]
            printing.print_faults(console, faults)
            printing.print_summary(console, part, record.summarise(part))
            if left:
                console.print(f"{part}: the time is over; {left} of {len(cases)} cases are left")
    finally:
        for worker in workers.values():
            worker.close()
    return int(any(fault.kind == "mismatch" for fault in record.faults))


def _make_race(
    workers: Mapping[str, PeerProcess], settings: BenchmarkSettings, record: Record
) -> Race:
    """Returns a function that races a case, unless it is recorded or the time is over."""
    end = math.inf if settings.minutes is None else time.monotonic() + 60 * settings.minutes

    def race(case: Case) -> list[RaceResult]:
        if not record.find(case) and time.monotonic() < end:
            record.add(*run_race(case, workers, settings))
        return record.find(case)

    return race


def _run_sampler(
    console: Console,
    cases: list[Case],
    race: Race,
    peers: list[str],
    settings: BenchmarkSettings,
    record: Record,
) -> int:
    """Prints each case when it is finished; returns the number of cases that are left."""
    table = SamplerTable(peers)
    table.print_header(console)
    for case in cases:
        if results := race(case):
            table.add(console, case, results)
    if settings.out is not None and table.rows:
        out = pathlib.Path(settings.out)
        table.write(out.with_suffix(".md"))
        draw_chart(out.with_suffix(".png"), record.of_part("sampler"))
    return len(cases) - len(table.rows)


def _run_part(console: Console, part: Part, cases: list[Case], race: Race) -> int:
    """Runs cases behind a progress bar, and prints their table; returns how many are left."""
    bar = track(cases, part, console=Console(stderr=True), transient=True)
    found = [race(case) for case in bar]
    printing.print_results(console, part, [result for each in found for result in each])
    return found.count([])


def _peers(settings: BenchmarkSettings) -> list[str]:
    """Returns the implementations to time, this project's first."""
    others = [name for name in PEERS if name != OURS]
    chosen = others if settings.peers is None else settings.peers
    for name in chosen:
        if name not in others:
            raise ConfigError(f"--peers must be among {', '.join(others)}; got {name}")
    timed = [name for name in others if settings.part in (*PEERS[name].parts, "all")]
    return [OURS, *(name for name in timed if name in chosen)]


if __name__ == "__main__":
    sys.exit(main())
