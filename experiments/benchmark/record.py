"""The record of a benchmark: a JSON file that is written after each case and can be continued."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmark.options import BenchmarkSettings, Part
from experiments.benchmark.race import Case, Fault, RaceResult
from experiments.benchmark.summaries import summarise
from experiments.runs.records import read_json, write_json
from experiments.settings.errors import ConfigError

# What a continued benchmark may change.
_FREE_SETTINGS = ("part", "cases", "sweep", "minutes", "out", "resume", "peer_python")


class Record:
    """Results and faults, those of a continued file included.

    Args:
        settings: the settings.
        environment: hardware and versions.
        missing: the reason for each implementation that does not run.

    Raises:
        ConfigError: the file to continue has other settings, hardware or versions.
        RunError: the file cannot be read.
    """

    def __init__(
        self,
        settings: BenchmarkSettings,
        environment: Mapping[str, Any],
        missing: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._start = {
            **environment,
            "settings": dataclasses.asdict(settings),
            "left_out": dict(missing),
        }
        self.results: list[RaceResult] = []
        self.faults: list[Fault] = []
        if settings.resume and pathlib.Path(str(settings.out)).exists():
            self._continue(read_json(pathlib.Path(str(settings.out))))

    def _continue(self, known: Mapping[str, Any]) -> None:
        """Takes over the results of a file."""
        for name, value in _comparable(self._start).items():
            recorded = _comparable(known).get(name)
            if recorded != value:
                raise ConfigError(
                    f"--resume must continue a benchmark of the same settings and machine; "
                    f"{name} of {self._settings.out} is {recorded}, and now {value}"
                )
        for part in known["parts"].values():
            self.results += [RaceResult(**row) for row in part["rows"]]
        self.faults += [Fault(**fault) for fault in known["faults"]]

    def of_part(self, part: Part) -> list[RaceResult]:
        """Returns the results of a part."""
        return [result for result in self.results if result.part == part]

    def find(self, case: Case) -> list[RaceResult]:
        """Returns the results of a case; none if it has not been run."""
        place = (case.name, case.quantity)
        return [each for each in self.of_part(case.part) if (each.case, each.quantity) == place]

    def add(self, results: Sequence[RaceResult], faults: Sequence[Fault]) -> None:
        """Adds the results of a case, and writes the file.

        Raises:
            RunError: it cannot be written.
        """
        self.results += results
        self.faults += faults
        if self._settings.out is None:
            return
        parts = {
            part: {
                "rows": [result._asdict() for result in self.of_part(part)],
                "summary": self.summarise(part),
            }
            for part in dict.fromkeys(result.part for result in self.results)
        }
        faults_found = [fault._asdict() for fault in self.faults]
        record = {**self._start, "faults": faults_found, "parts": parts}
        write_json(pathlib.Path(self._settings.out), record)

    def summarise(self, part: Part) -> dict[str, Any]:
        """Returns the summary of a part."""
        return summarise(part, self.of_part(part), self._settings.smoke)


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what must not change when a benchmark is continued."""
    settings = {
        f"--{name.replace('_', '-')}": list(value) if isinstance(value, tuple) else value
        for name, value in record["settings"].items()
        if name not in _FREE_SETTINGS
    }
    names = ("git_commit", "processor", "gpu", "versions", "threads")
    return {name: record.get(name) for name in names} | settings
