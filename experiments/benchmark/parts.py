"""The parts of the benchmark and their cases."""

import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from experiments.benchmark.options import PARTS, BenchmarkSettings, Part
from experiments.benchmark.peers import COMPILED, OURS, PEERS, REFERENCE, PeerProcess
from experiments.benchmark.race import COPY, Case, Entrant
from experiments.benchmark.warps import (
    GROUPS,
    SMOKE_GROUPS,
    WarpSpec,
    label,
    moved_bytes,
    spec_of,
    sweep_warps,
    warp_arrays,
)
from experiments.benchmark.workloads import (
    COMPONENTS,
    IMAGE_SIZE,
    SMOKE_STEPS,
    STEPS,
    Arrays,
    Job,
    StepSpec,
    step_arrays,
)
from experiments.settings.errors import ConfigError

LEARNING_RATE = 1e-3
SCAN_STEPS = 20
MEMBERS = 8
ALONE = "grid and sampler alone"
# The warps that `torch.compile` runs unless it is asked for: it takes seconds for each.
COMPILED_WARPS = ("svhn", "photo")
# Forms of a population: one program per member, or one program for all.
SEQUENTIAL, VMAPPED, LOOPED = "one after another", "vmap", "loop on each device"


def make_cases(settings: BenchmarkSettings, ours: PeerProcess) -> dict[Part, list[Case]]:
    """Returns the cases of each part that the settings select.

    Args:
        settings: the settings.
        ours: the worker of this project, which provides the initial parameters of networks.

    Raises:
        ConfigError: the settings name a case that does not exist.
    """
    makers: dict[Part, Callable[[], Iterator[Case]]] = {
        "sampler": lambda: _sampler(settings),
        "step": lambda: _steps(settings, ours),
        "overhead": lambda: _overhead(settings, ours),
        "population": lambda: _population(settings, ours),
    }
    selected = PARTS if settings.part == "all" else (settings.part,)
    cases = {part: list(makers[part]()) for part in selected}
    if settings.cases is None:
        return cases
    names = dict.fromkeys(case_label(case) for listed in cases.values() for case in listed)
    for text in settings.cases:
        if not any(text in name for name in names):
            raise ConfigError(f"--cases must be parts of the names {'; '.join(names)}; got {text}")
    return {
        part: [case for case in listed if any(each in case_label(case) for each in settings.cases)]
        for part, listed in cases.items()
    }


def case_label(case: Case) -> str:
    """Returns the name of a case with its quantity."""
    if case.job["kind"] != "sampler":
        return f"{case.name}, {case.quantity}"
    return f"{case.name}, {label(spec_of(case.job), case.quantity)}"


# The sampler.


def _warp_case(name: str, warp: WarpSpec, quantity: str, entrants: Sequence[Entrant]) -> Case:
    job = {"kind": "sampler", "warp": warp._asdict(), "quantity": quantity}
    return Case("sampler", name, quantity, job, partial(warp_arrays, warp), entrants)


def _sampler(settings: BenchmarkSettings) -> Iterator[Case]:
    for group in (SMOKE_GROUPS if settings.smoke else GROUPS).values():
        for name, warp in group.items():
            for quantity in warp.quantities:
                entrants = list(_warp_entrants(settings, name, warp, quantity))
                yield _warp_case(name, warp, quantity, entrants)
    if settings.sweep:
        for name, warp in sweep_warps(settings.smoke).items():
            for quantity in warp.quantities:
                yield _warp_case(name, warp, quantity, [Entrant(OURS), Entrant(REFERENCE)])


def _warp_entrants(
    settings: BenchmarkSettings, name: str, warp: WarpSpec, quantity: str
) -> Iterator[Entrant]:
    """Yields the implementations that have a quantity of a warp, and a copy of its data."""
    for peer, about in PEERS.items():
        few = peer == COMPILED and COMPILED not in (settings.peers or ())
        if "sampler" not in about.parts or (few and name not in COMPILED_WARPS):
            continue
        if about.supports is None or about.supports(warp, quantity):
            yield Entrant(peer)
    copied = {"kind": "copy", "bytes": moved_bytes(warp, quantity)}
    yield Entrant(OURS, COPY, copied)


# Training steps.


def _step_case(
    part: Part, name: str, step: StepSpec, ours: PeerProcess, entrants: Sequence[Entrant]
) -> Case:
    job = _step_job(step, members=0)
    return Case(part, name, "step", job, partial(_step_inputs, job, ours), entrants)


def _step_job(step: StepSpec, members: int) -> Job:
    return {
        "kind": "step",
        **step._asdict(),
        "members": members,
        "strategy": "",
        "scan_steps": 0,
        "learning_rate": LEARNING_RATE,
    }


def _step_inputs(job: Job, ours: PeerProcess) -> Arrays:
    """Returns images, labels and initial parameters, the same for all entrants."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "parameters.npz"
        ours.ask(do="parameters", job=job, outputs=str(path))
        with np.load(path, allow_pickle=False) as found:
            parameters = {f"params/{name}": array for name, array in found.items()}
    return step_arrays(job["batch"], job["members"]) | parameters


def _steps(settings: BenchmarkSettings, ours: PeerProcess) -> Iterator[Case]:
    scanned: dict[str, Any] = {"scan_steps": 2 if settings.smoke else SCAN_STEPS}
    entrants = [
        Entrant(OURS, "one call per step"),
        Entrant(OURS, "scanned", scanned),
        Entrant(OURS, "scanned, bfloat16", scanned | {"precision": "bfloat16"}),
        Entrant("torch"),
        Entrant("torch.compile"),
    ]
    for name, step in (SMOKE_STEPS if settings.smoke else STEPS).items():
        yield _step_case("step", name, step, ours, entrants)


def _overhead(settings: BenchmarkSettings, ours: PeerProcess) -> Iterator[Case]:
    batch = 2 if settings.smoke else 256
    scanned = {"scan_steps": 2 if settings.smoke else SCAN_STEPS}
    entrants = [Entrant(OURS, "scanned", scanned), Entrant("torch"), Entrant("torch.compile")]
    for network in COMPONENTS:
        yield _step_case("overhead", network, StepSpec(network, batch), ours, entrants)
    shape = (IMAGE_SIZE, IMAGE_SIZE)
    warp = WarpSpec(batch, shape, 1, shape)
    alone = [Entrant(OURS), *entrants[1:]]
    yield _warp_case(ALONE, warp, "both_passes", alone)._replace(part="overhead")


# Populations.


def _population(settings: BenchmarkSettings, ours: PeerProcess) -> Iterator[Case]:
    members = 2 if settings.smoke else MEMBERS
    step = StepSpec("tutorial", 2 if settings.smoke else 64)
    scanned = {"scan_steps": 2 if settings.smoke else SCAN_STEPS}
    entrants = [
        Entrant(OURS, SEQUENTIAL, scanned),
        Entrant(OURS, VMAPPED, scanned | {"strategy": "vmap"}),
        Entrant(OURS, LOOPED, scanned | {"strategy": "loop"}),
        Entrant("torch"),
        Entrant("torch.compile"),
    ]
    job = _step_job(step, members)
    name = f"{members} x {step.network}-{step.batch}"
    yield Case("population", name, "step", job, partial(_step_inputs, job, ours), entrants)
