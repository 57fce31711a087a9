"""Times this project against others: `python -m experiments.benchmark [flags]`."""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import track

from experiments.benchmark import printing
from experiments.benchmark.environment import describe_environment
from experiments.benchmark.options import BenchmarkSettings, Part, parse
from experiments.benchmark.parts import make_cases
from experiments.benchmark.peers import OURS, PEERS, PeerProcess, start
from experiments.benchmark.race import Case, Fault, RaceResult, run_race
from experiments.benchmark.summaries import summarise
from experiments.runs.records import write_json
from experiments.settings.errors import ConfigError, run_command

PROGRAM = "python -m experiments.benchmark"


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
        parts: dict[Part, dict[str, Any]] = {}
        faults: list[Fault] = []
        for part, cases in make_cases(settings, workers[OURS]).items():
            results, found = _run_part(part, cases, workers, settings)
            printing.print_results(console, part, results)
            printing.print_faults(console, found)
            summary = summarise(part, results, settings.smoke)
            printing.print_summary(console, part, summary, settings.device == "gpu")
            parts[part] = {"rows": [result._asdict() for result in results], "summary": summary}
            faults += found
    finally:
        for worker in workers.values():
            worker.close()
    if settings.out is not None:
        _write_record(settings, environment, missing, faults, parts)
    return int(any(fault.kind == "mismatch" for fault in faults))


def _run_part(
    part: Part,
    cases: list[Case],
    workers: Mapping[str, PeerProcess],
    settings: BenchmarkSettings,
) -> tuple[list[RaceResult], list[Fault]]:
    """Runs the cases of a part behind a progress bar."""
    results: list[RaceResult] = []
    faults: list[Fault] = []
    for case in track(cases, part, console=Console(stderr=True), transient=True):
        more_results, more_faults = run_race(case, workers, settings)
        results += more_results
        faults += more_faults
    return results, faults


def _write_record(
    settings: BenchmarkSettings,
    environment: Mapping[str, Any],
    missing: Mapping[str, str],
    faults: list[Fault],
    parts: Mapping[Part, dict[str, Any]],
) -> None:
    assert settings.out is not None
    record = {
        **environment,
        "settings": dataclasses.asdict(settings),
        "left_out": missing,
        "faults": [fault._asdict() for fault in faults],
        "parts": parts,
    }
    write_json(pathlib.Path(settings.out), record)


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
