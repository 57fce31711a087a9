"""One case of the benchmark: compares the values of implementations and times them in turn."""

import math
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.benchmark.options import BenchmarkSettings, Part
from experiments.benchmark.peers import OURS, PEERS, REFERENCE, BenchmarkError, PeerProcess
from experiments.benchmark.workloads import Arrays, Device, Job

CALLS_PER_SAMPLE: Mapping[Device, int] = {"cpu": 1, "gpu": 20}
# Largest allowed `distance` from the values of this project's first entrant. The derivative of a
# sample jumps at whole pixels. One or two in 200,000 samples lie so near to a whole pixel that
# rounding selects the side, and each changes a gradient by some thousandths. On GPUs, convolutions
# multiply in TF32, which is no worse. In networks in bfloat16, rounding selects so many sides that
# only the loss is compared. The forward values of warps have a tolerance for each peer.
TOLERANCE = 1e-2
FLOAT32_EPSILON = 2.0**-23
BFLOAT16_TOLERANCE = 0.1
BFLOAT16_WARP_TOLERANCE = 2e-2  # several roundings to eight bits
COPY = "copy"  # the form that moves the data of a case and computes nothing


class Entrant(NamedTuple):
    """One participant of a race.

    Attributes:
        peer: the implementation.
        form: the name of this form of the computation; empty if the implementation has only one.
        options: additions to the job.
    """

    peer: str
    form: str = ""
    options: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """The name in tables."""
        return f"{self.peer} ({self.form})" if self.form else self.peer


class Case(NamedTuple):
    """One computation that several entrants do.

    Attributes:
        part: the part of the benchmark.
        name: the name of the case.
        quantity: the quantity that is computed.
        job: the description for the workers.
        arrays: makes the inputs.
        entrants: the participants; the values of the first one are the standard.
    """

    part: Part
    name: str
    quantity: str
    job: Job
    arrays: Callable[[], Arrays]
    entrants: Sequence[Entrant]


class RaceResult(NamedTuple):
    """The result of one entrant.

    Attributes:
        part, case, quantity: as in `Case`.
        entrant, peer, form: as in `Entrant`.
        minimum: the time of the fastest call, in seconds.
        median: the median time, in seconds.
        turns: the time of the fastest call of each turn, in seconds.
        samples: the number of timed samples.
        reference: the entrant to which the ratios refer.
        ratio: the ratio of the minima.
        median_ratio: the ratio of the medians.
        distance: the distance of the values from the standard.
        facts: other measurements of the worker.
    """

    part: Part
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
    """The reason why an entrant was not timed.

    Attributes:
        part, case, quantity, entrant: as in `RaceResult`.
        kind: `mismatch` if the values differ, `failure` if the entrant did not run.
        text: one line.
    """

    part: Part
    case: str
    quantity: str
    entrant: str
    kind: Literal["mismatch", "failure"]
    text: str


class _Prepared(NamedTuple):
    """A program that gave the right values."""

    distance: float
    facts: dict[str, float]


def distance(found: Arrays, standard: Arrays, names: Sequence[str]) -> float:
    """Returns the largest relative distance, in the 2-norm, of named arrays from a standard.

    The norm limits the effect of a single number that rounding changes at a kink of the
    interpolation. An array that is nearly zero is compared on the scale of the largest array.
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


def run_race(
    case: Case, workers: Mapping[str, PeerProcess], settings: BenchmarkSettings
) -> tuple[list[RaceResult], list[Fault]]:
    """Compares and times the entrants whose implementations have a worker.

    Raises:
        BenchmarkError: this project's implementation fails.
    """
    entrants = [entrant for entrant in case.entrants if entrant.peer in workers]
    with tempfile.TemporaryDirectory() as folder:
        prepared, faults = _prepare(case, entrants, workers, pathlib.Path(folder))
    ready = [entrant for entrant in entrants if entrant.name in prepared]
    turns = _take_turns(ready, workers, settings)
    for peer in {entrant.peer for entrant in entrants}:
        workers[peer].ask(do="clear")
    return _results(case, ready, turns, prepared), faults


def _prepare(
    case: Case,
    entrants: Sequence[Entrant],
    workers: Mapping[str, PeerProcess],
    folder: pathlib.Path,
) -> tuple[dict[str, _Prepared], list[Fault]]:
    """Builds all programs and compares their values."""
    inputs = folder / "inputs.npz"
    np.savez(inputs, allow_pickle=False, **case.arrays())
    standard: Arrays | None = None
    prepared: dict[str, _Prepared] = {}
    faults: list[Fault] = []
    for entrant in entrants:
        try:
            values, facts = _build(case, entrant, workers[entrant.peer], inputs)
        except BenchmarkError as error:
            if entrant.peer == OURS:
                raise BenchmarkError(f"{case.part}, {case.name}: {error}") from None
            faults.append(_fault(case, entrant, "failure", str(error)))
            continue
        standard = values if standard is None else standard
        off, allowed = _compare(case, entrant, values, standard)
        if off <= allowed:
            prepared[entrant.name] = _Prepared(off, facts)
        else:
            text = f"values differ from those of {entrants[0].name} by {off:.2g}; at most "
            faults.append(_fault(case, entrant, "mismatch", f"{text}{allowed:g} is allowed"))
    return prepared, faults


def _build(
    case: Case, entrant: Entrant, worker: PeerProcess, inputs: pathlib.Path
) -> tuple[Arrays, dict[str, float]]:
    """Builds an entrant's program; returns its values and other measurements."""
    outputs = inputs.with_name("outputs.npz")
    answer = worker.ask(
        do="prepare",
        name=entrant.name,
        job=case.job | dict(entrant.options),
        inputs=str(inputs),
        outputs=str(outputs),
    )
    with np.load(outputs, allow_pickle=False) as arrays:
        return dict(arrays), answer["facts"]


def _compare(case: Case, entrant: Entrant, values: Arrays, standard: Arrays) -> tuple[float, float]:
    """Returns the distance of an entrant's values from the standard, and the allowed one."""
    if entrant.options.get("precision") == "bfloat16":
        return distance(values, standard, ["loss"]), BFLOAT16_TOLERANCE
    if entrant.form == COPY:
        return 0.0, 0.0
    allowed = PEERS[entrant.peer].tolerance if case.quantity == "forward" else _tolerance(case)
    if case.job.get("warp", {}).get("dtype") == "bfloat16":
        allowed = BFLOAT16_WARP_TOLERANCE
    return distance(values, standard, list(standard)), allowed


def _tolerance(case: Case) -> float:
    """Returns the largest allowed distance of gradients.

    The rounding of a position grows with the side of an image. It is the share of samples whose
    side rounding selects, and the distance grows with the root of this share.
    """
    side = max(case.job.get("warp", {}).get("shape", (1,)))
    return max(TOLERANCE, 2 * math.sqrt(side * FLOAT32_EPSILON))


def _fault(case: Case, entrant: Entrant, kind: Literal["mismatch", "failure"], text: str) -> Fault:
    return Fault(case.part, case.name, case.quantity, entrant.name, kind, text)


def _take_turns(
    entrants: Sequence[Entrant], workers: Mapping[str, PeerProcess], settings: BenchmarkSettings
) -> dict[str, list[list[float]]]:
    """Returns the seconds of the calls in each turn, by entrant."""
    turns: dict[str, list[list[float]]] = {entrant.name: [] for entrant in entrants}
    for _ in range(settings.repeats):
        for entrant in entrants:
            answer = workers[entrant.peer].ask(
                do="time",
                name=entrant.name,
                seconds=settings.seconds,
                calls=CALLS_PER_SAMPLE[settings.device],
            )
            turns[entrant.name].append(answer["seconds"])
    return turns


def _results(
    case: Case,
    entrants: Sequence[Entrant],
    turns: Mapping[str, list[list[float]]],
    prepared: Mapping[str, _Prepared],
) -> list[RaceResult]:
    samples = {name: [s for turn in given for s in turn] for name, given in turns.items()}
    minima = {name: min(seconds) for name, seconds in samples.items()}
    medians = {name: statistics.median(seconds) for name, seconds in samples.items()}
    reference = _reference(entrants)
    return [
        RaceResult(
            case.part,
            case.name,
            case.quantity,
            name,
            entrant.peer,
            entrant.form,
            minima[name],
            medians[name],
            [min(turn) for turn in turns[name]],
            len(samples[name]),
            reference,
            minima[name] / minima[reference],
            medians[name] / medians[reference],
            prepared[name].distance,
            prepared[name].facts,
        )
        for entrant in entrants
        for name in [entrant.name]
    ]


def _reference(entrants: Sequence[Entrant]) -> str:
    """Returns the reference: `REFERENCE`, or the first other peer, or the first entrant."""
    names = {entrant.peer: entrant.name for entrant in reversed(entrants)}
    others = [entrant.name for entrant in entrants if entrant.peer != OURS]
    return names.get(REFERENCE) or (others or [entrants[0].name])[0]
