"""One case: the same inputs for all, values compared, then timed turn by turn."""

import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.cases import Arrays, Job
from experiments.benchmarks.peers import OURS, REFERENCE, BenchmarkError, Worker
from experiments.benchmarks.settings import Settings

CALLS_PER_SAMPLE = {"cpu": 1, "gpu": 20}
# How far values may be from those of this project's first entrant, as `distance` measures it. The
# slope of a sample jumps at a whole pixel, and of 200,000 samples one or two lie so near to one
# that rounding decides; each moves a gradient by some thousandths. On GPUs convolutions multiply in
# TF32, which is no worse. bfloat16 turns so many slopes that only its loss is compared.
TOLERANCE = 1e-2
FORWARD_TOLERANCE = 1e-4  # rounding of positions, times the slope of noise
BFLOAT16_TOLERANCE = 0.1


class Entrant(NamedTuple):
    """What takes part in a race.

    Attributes:
        peer: the implementation.
        form: one of several ways in which it does the same; empty if there is one.
        options: what the form adds to the job.
    """

    peer: str
    form: str = ""
    options: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.peer} ({self.form})" if self.form else self.peer


class Case(NamedTuple):
    """What is timed.

    Attributes:
        part: of the benchmark.
        name: of the case.
        quantity: what of it.
        job: for the workers.
        arrays: makes the inputs.
        entrants: who takes part; the first is the standard for values.
    """

    part: str
    name: str
    quantity: str
    job: Job
    arrays: Callable[[], Arrays]
    entrants: Sequence[Entrant]


class Row(NamedTuple):
    """The result of one entrant.

    Attributes:
        part, case, quantity: as in `Case`.
        entrant, peer, form: as in `Entrant`.
        minimum: seconds of the quickest call.
        median: seconds.
        turns: the quickest call of each turn, in seconds.
        samples: the number of calls that were timed.
        reference: the entrant that the ratio is to.
        ratio: of the minima.
        median_ratio: of the medians.
        distance: of the values from the standard's.
        facts: what else the worker said.
    """

    part: str
    case: str
    quantity: str
    entrant: str
    peer: str
    form: str
    minimum: float
    median: float
    turns: list[float]
    samples: int
    reference: str
    ratio: float
    median_ratio: float
    distance: float
    facts: dict[str, float]


class Fault(NamedTuple):
    """Why an entrant was not timed.

    Attributes:
        part, case, quantity, entrant: of the race.
        kind: mismatch, or failure where it did not run.
        text: one line.
    """

    part: str
    case: str
    quantity: str
    entrant: str
    kind: str
    text: str


def distance(found: Arrays, standard: Arrays, names: Sequence[str]) -> float:
    """The largest relative distance, in the 2-norm, of named arrays from those of a standard.

    One number that is off by rounding at a kink of the interpolation does not count much; an array
    that is nearly zero is held against the largest of the others.
    """
    if found.keys() != standard.keys():
        return float("inf")
    scale = max(float(np.linalg.norm(standard[name])) for name in names)
    largest = 0.0
    for name in names:
        array = standard[name]
        if found[name].shape != array.shape or not np.isfinite(found[name]).all():
            return float("inf")
        size = max(float(np.linalg.norm(array)), 1e-3 * scale, 1e-30)
        largest = max(largest, float(np.linalg.norm(found[name] - array)) / size)
    return largest


def run(
    case: Case, workers: Mapping[str, Worker], settings: Settings
) -> tuple[list[Row], list[Fault]]:
    """Races the entrants whose implementations run.

    Raises:
        BenchmarkError: if this project's own does not run.
    """
    entrants = [each for each in case.entrants if each.peer in workers]
    with tempfile.TemporaryDirectory() as folder:
        distances, facts, faults = _prepare(case, entrants, workers, settings, pathlib.Path(folder))
    ready = [each for each in entrants if each.name in distances]
    samples = _take_turns(ready, workers, settings)
    for name in {each.peer for each in entrants}:
        workers[name].ask(do="clear")
    return _rows(case, ready, samples, distances, facts), faults


def _prepare(
    case: Case,
    entrants: Sequence[Entrant],
    workers: Mapping[str, Worker],
    settings: Settings,
    folder: pathlib.Path,
) -> tuple[dict[str, float], dict[str, dict[str, float]], list[Fault]]:
    """Builds all programs and compares their values: distances, facts, faults by entrant."""
    inputs = folder / "inputs.npz"
    np.savez(inputs, allow_pickle=False, **case.arrays())
    standard: Arrays | None = None
    distances: dict[str, float] = {}
    facts: dict[str, dict[str, float]] = {}
    faults: list[Fault] = []
    for entrant in entrants:
        place = (case.part, case.name, case.quantity, entrant.name)
        outputs = folder / "outputs.npz"
        try:
            answer = workers[entrant.peer].ask(
                do="prepare",
                name=entrant.name,
                job=case.job | dict(entrant.options),
                inputs=str(inputs),
                outputs=str(outputs),
            )
        except BenchmarkError as error:
            if entrant.peer == OURS:
                raise BenchmarkError(f"{case.part}, {case.name}: {error}") from None
            faults.append(Fault(*place, "failure", str(error)))
            continue
        with np.load(outputs, allow_pickle=False) as arrays:
            found = dict(arrays)
        standard = found if standard is None else standard
        half = entrant.options.get("precision") == "bfloat16"
        compared = ["loss"] if half else list(standard)
        off = distance(found, standard, compared)
        exact = FORWARD_TOLERANCE if case.quantity == "forward" else TOLERANCE
        allowed = BFLOAT16_TOLERANCE if half else exact
        if off <= allowed:
            distances[entrant.name], facts[entrant.name] = off, answer["facts"]
        else:
            text = f"values are {off:.2g} away from {entrants[0].name}'s, {allowed:g} is allowed"
            faults.append(Fault(*place, "mismatch", text))
    return distances, facts, faults


def _take_turns(
    entrants: Sequence[Entrant], workers: Mapping[str, Worker], settings: Settings
) -> dict[str, list[list[float]]]:
    """Seconds of the calls of each turn, by entrant."""
    samples: dict[str, list[list[float]]] = {each.name: [] for each in entrants}
    for _ in range(settings.repeats):
        for entrant in entrants:
            answer = workers[entrant.peer].ask(
                do="time",
                name=entrant.name,
                seconds=settings.seconds,
                calls=CALLS_PER_SAMPLE[settings.device],
            )
            samples[entrant.name].append(answer["seconds"])
    return samples


def _rows(
    case: Case,
    entrants: Sequence[Entrant],
    samples: Mapping[str, list[list[float]]],
    distances: Mapping[str, float],
    facts: Mapping[str, dict[str, float]],
) -> list[Row]:
    """The results, with ratios to the reference: torch, or the first other, or the first."""
    calls = {name: [s for turn in turns for s in turn] for name, turns in samples.items()}
    names = {each.peer: each.name for each in reversed(entrants)}
    others = [each.name for each in entrants if each.peer != OURS]
    reference = names.get(REFERENCE) or (others or [entrants[0].name])[0]
    low, middle = min(calls[reference]), statistics.median(calls[reference])
    return [
        Row(
            case.part,
            case.name,
            case.quantity,
            each.name,
            each.peer,
            each.form,
            min(calls[each.name]),
            statistics.median(calls[each.name]),
            [min(turn) for turn in samples[each.name]],
            len(calls[each.name]),
            reference,
            min(calls[each.name]) / low,
            statistics.median(calls[each.name]) / middle,
            distances[each.name],
            facts[each.name],
        )
        for each in entrants
    ]
