"""Times this project against others: `python -m experiments.benchmark [flags]`."""

import dataclasses
import pathlib
import sys
from typing import Any

from rich.console import Console
from rich.progress import track

from experiments.benchmarks import parts, peers, race, report
from experiments.benchmarks.peers import OURS, PEERS, BenchmarkError
from experiments.benchmarks.settings import Settings, parse
from experiments.config import ConfigError
from experiments.records import write_json


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and runs the benchmark; says in one line what went wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return run(parse(arguments, "python -m experiments.benchmark"))
    except ConfigError as error:
        return _fail(error, 2)
    except BenchmarkError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def run(settings: Settings) -> int:
    """Races everything that the settings ask for; 1 if values differ between implementations."""
    workers, missing = peers.start(_peers(settings), settings.peer_python, settings.device)
    try:
        to = report.console()
        surroundings = report.surroundings(workers, settings.device)
        report.print_surroundings(to, surroundings, missing)
        results: dict[str, Any] = {}
        faults: list[race.Fault] = []
        for part, cases in parts.cases(settings, workers[OURS]).items():
            rows: list[race.Row] = []
            found: list[race.Fault] = []
            for case in track(cases, part, console=Console(stderr=True), transient=True):
                more, wrong = race.run(case, workers, settings)
                rows += more
                found += wrong
            report.print_rows(to, part, rows)
            report.print_faults(to, found)
            summary = parts.summary(part, rows, settings.smoke)
            report.print_summary(to, part, summary, settings.device == "gpu")
            results[part] = {"rows": [row._asdict() for row in rows], "summary": summary}
            faults += found
    finally:
        for worker in workers.values():
            worker.close()
    if settings.out is not None:
        record = surroundings | {
            "settings": dataclasses.asdict(settings),
            "left_out": missing,
            "faults": [fault._asdict() for fault in faults],
            "parts": results,
        }
        write_json(pathlib.Path(settings.out), record)
    return int(any(fault.kind == "mismatch" for fault in faults))


def _peers(settings: Settings) -> list[str]:
    """The implementations that take part, this project's first."""
    known = [name for name in PEERS if name != OURS]
    wanted = known if settings.peers is None else settings.peers
    for name in wanted:
        if name not in known:
            raise ConfigError(f"--peers must be among {', '.join(known)}; got {name}")
    concerned = [n for n in known if settings.part in (*PEERS[n].parts, "all")]
    return [OURS, *(name for name in concerned if name in wanted)]


if __name__ == "__main__":
    sys.exit(main())
