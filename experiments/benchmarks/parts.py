"""The parts of the benchmark: their cases, and what their results come to."""

import math
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.benchmarks.cases import (
    OVERHEAD,
    QUANTITIES,
    SIDE,
    SMOKE_STEPS,
    SMOKE_WARPS,
    STEPS,
    WARPS,
    Arrays,
    Job,
    Step,
    Warp,
    footprint,
    moved_bytes,
    step_arrays,
    sweep_warps,
    warp_arrays,
)
from experiments.benchmarks.peers import OURS, PEERS, REFERENCE, Worker
from experiments.benchmarks.race import Case, Entrant, Row
from experiments.benchmarks.settings import PARTS, Part, Settings
from experiments.config import ConfigError

LEARNING_RATE = 1e-3
SCAN_STEPS = 20
MEMBERS = 8
ALONE = "grid and sampler alone"
COPY = "copy"  # what the GPU's traffic is held against
# Populations: as many programs as members, or one.
IN_TURN, VMAPPED, LOOPED = "one after another", "vmap", "a loop on each device"
COPY_BYTES = 1 << 30  # far more than a GPU's cache holds


def cases(settings: Settings, ours: Worker) -> dict[Part, list[Case]]:
    """The cases of each part that the settings ask for.

    Raises:
        ConfigError: if they ask for a case that there is none of.
    """
    makers: dict[Part, Callable[[], Iterator[Case]]] = {
        "sampler": lambda: _sampler(settings),
        "step": lambda: _steps(settings, ours),
        "overhead": lambda: _overhead(settings, ours),
        "population": lambda: _population(settings, ours),
    }
    chosen = PARTS if settings.part == "all" else (settings.part,)
    found = {part: list(makers[part]()) for part in chosen}
    if settings.cases is None:
        return found
    names = dict.fromkeys(case.name for part in found.values() for case in part)
    for name in settings.cases:
        if name not in names:
            raise ConfigError(f"--cases must be among {', '.join(names)}; got {name}")
    return {
        part: [case for case in listed if case.name in (*settings.cases, COPY)]
        for part, listed in found.items()
    }


def summary(part: Part, rows: Sequence[Row], smoke: bool = False) -> dict[str, Any]:
    """What the results of a part come to."""
    return {
        "sampler": partial(_sampler_summary, warps=SMOKE_WARPS if smoke else WARPS),
        "step": lambda rows: {"ratios": _ratios(rows)},
        "overhead": lambda rows: {"parts": _overhead_summary(rows)},
        "population": _population_summary,
    }[part](rows)


# The sampler.


def _warp_case(name: str, warp: Warp, quantity: str, entrants: Sequence[Entrant]) -> Case:
    job = {"kind": "sampler", "warp": list(warp), "quantity": quantity}
    return Case("sampler", name, quantity, job, partial(warp_arrays, warp), entrants)


def _sampler(settings: Settings) -> Iterator[Case]:
    everyone = [Entrant(name) for name, peer in PEERS.items() if "sampler" in peer.parts]
    for name, warp in (SMOKE_WARPS if settings.smoke else WARPS).items():
        for quantity in QUANTITIES:
            yield _warp_case(name, warp, quantity, everyone)
    if settings.sweep:
        for name, warp in sweep_warps(settings.smoke).items():
            for quantity in QUANTITIES:
                yield _warp_case(name, warp, quantity, [Entrant(OURS), Entrant(REFERENCE)])
    if settings.device == "gpu":
        job = {"kind": "copy", "bytes": COPY_BYTES}
        yield Case("sampler", COPY, COPY, job, dict, [Entrant(OURS)])


def _sampler_summary(rows: Sequence[Row], warps: Mapping[str, Warp]) -> dict[str, Any]:
    compared = [row for row in rows if row.case in warps]
    copy = [2 * COPY_BYTES / row.minimum for row in rows if row.case == COPY]
    return {
        "ratios": _ratios(compared),
        "traffic": [_traffic(row, warps[row.case], copy) for row in compared if row.peer == OURS],
        "copy_bytes_per_second": copy[0] if copy else None,
        "growth": _growth([row for row in rows if " x" in row.case]),
    }


def _ratios(rows: Sequence[Row]) -> dict[str, Any]:
    """Each entrant's ratios to the reference, taken together."""
    found: dict[str, Any] = {}
    for row in rows:
        if row.entrant != row.reference:
            found.setdefault(row.entrant, []).append(row.ratio)
    return {
        name: {
            "ratios": len(ratios),
            "geometric_mean": math.exp(sum(map(math.log, ratios)) / len(ratios)),
            "largest": max(ratios),
        }
        for name, ratios in found.items()
    }


def _traffic(row: Row, warp: Warp, copy: Sequence[float]) -> dict[str, Any]:
    """Memory that a program takes besides its inputs, and bytes that it moves."""
    memory = row.facts.get("temporary_bytes", 0) + row.facts.get("output_bytes", 0)
    rate = moved_bytes(warp, row.quantity) / row.minimum
    return {
        "case": row.case,
        "quantity": row.quantity,
        "memory_bytes": memory,
        "memory_over_image_output_grid": memory / footprint(warp),
        "bytes_per_second": rate,
        **({"share_of_copy": rate / copy[0]} if copy else {}),
    }


def _growth(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How time grows along each axis: the exponent between the smallest and the largest case."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        axis, _, factor = row.case.partition(" x")
        found.setdefault((axis, row.quantity, row.entrant), {})[int(factor)] = row.minimum
    return [
        {
            "axis": axis,
            "quantity": quantity,
            "entrant": entrant,
            "seconds": seconds,
            "exponent": _exponent(seconds),
        }
        for (axis, quantity, entrant), seconds in found.items()
        if len(seconds) > 1
    ]


def _exponent(seconds: Mapping[int, float]) -> float:
    low, high = min(seconds), max(seconds)
    return math.log(seconds[high] / seconds[low]) / math.log(high / low)


# Training steps.


def _step_case(
    part: Part, name: str, step: Step, ours: Worker, entrants: Sequence[Entrant]
) -> Case:
    job = _step_job(step, members=0)
    return Case(part, name, "step", job, partial(_step_inputs, job, ours), entrants)


def _step_job(step: Step, members: int) -> Job:
    return {
        "kind": "step",
        **step._asdict(),
        "members": members,
        "how": "",
        "scan_steps": 0,
        "learning_rate": LEARNING_RATE,
    }


def _step_inputs(job: Job, ours: Worker) -> Arrays:
    """Images, labels and initial parameters, the same for all."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "parameters.npz"
        ours.ask(do="parameters", job=job, outputs=str(path))
        with np.load(path, allow_pickle=False) as found:
            parameters = {f"params/{name}": array for name, array in found.items()}
    return step_arrays(job["batch"], job["members"]) | parameters


def _steps(settings: Settings, ours: Worker) -> Iterator[Case]:
    scanned: dict[str, Any] = {"scan_steps": 2 if settings.smoke else SCAN_STEPS}
    entrants = [
        Entrant(OURS, "a call a step"),
        Entrant(OURS, "scanned", scanned),
        Entrant(OURS, "scanned, bfloat16", scanned | {"precision": "bfloat16"}),
        Entrant("torch"),
        Entrant("torch.compile"),
    ]
    for name, step in (SMOKE_STEPS if settings.smoke else STEPS).items():
        yield _step_case("step", name, step, ours, entrants)


def _overhead(settings: Settings, ours: Worker) -> Iterator[Case]:
    batch = 2 if settings.smoke else 256
    scanned = {"scan_steps": 2 if settings.smoke else SCAN_STEPS}
    entrants = [Entrant(OURS, "scanned", scanned), Entrant("torch"), Entrant("torch.compile")]
    for network in OVERHEAD:
        yield _step_case("overhead", network, Step(network, batch), ours, entrants)
    warp = Warp(batch, SIDE, 1, SIDE)
    alone = [Entrant(OURS), *entrants[1:]]
    yield _warp_case(ALONE, warp, "both_passes", alone)._replace(part="overhead")


def _overhead_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """What the transformer adds to a plain CNN's step, one thing after the other."""
    seconds: dict[str, dict[str, float]] = {}
    for row in rows:
        seconds.setdefault(row.peer, {})[row.case] = row.minimum
    found = {}
    for peer, each in seconds.items():
        if not all(network in each for network in OVERHEAD):
            continue
        cnn, offset, unsampled, whole = (each[network] for network in OVERHEAD)
        found[peer] = {
            "cnn": cnn,
            "gradient_to_input": offset - cnn,
            "localisation_network": unsampled - offset,
            "grid_and_sampler": whole - unsampled,
            "st_cnn": whole,
            "st_cnn_over_cnn": whole / cnn,
            "grid_and_sampler_share": (whole - unsampled) / whole,
            **({"grid_and_sampler_alone_share": each[ALONE] / whole} if ALONE in each else {}),
        }
    return found


# Populations.


def _population(settings: Settings, ours: Worker) -> Iterator[Case]:
    members, step = (2, Step("tutorial", 2)) if settings.smoke else (MEMBERS, Step("tutorial", 64))
    scanned = {"scan_steps": 2 if settings.smoke else SCAN_STEPS}
    entrants = [
        Entrant(OURS, IN_TURN, scanned),
        Entrant(OURS, VMAPPED, scanned | {"how": "vmap"}),
        Entrant(OURS, LOOPED, scanned | {"how": "loop"}),
        Entrant("torch"),
        Entrant("torch.compile"),
    ]
    job = _step_job(step, members)
    name = f"{members} x {step.network}-{step.batch}"
    yield Case("population", name, "step", job, partial(_step_inputs, job, ours), entrants)


def _population_summary(rows: Sequence[Row]) -> dict[str, Any]:
    seconds = {row.form: row.minimum for row in rows if row.peer == OURS}
    if IN_TURN not in seconds:
        return {}
    return {
        f"{form} / {IN_TURN}": seconds[form] / seconds[IN_TURN]
        for form in (VMAPPED, LOOPED)
        if form in seconds
    }
