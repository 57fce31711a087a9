"""Summaries of the results of each part of the benchmark."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from experiments.benchmark.options import Part
from experiments.benchmark.parts import ALONE, LOOPED, SEQUENTIAL, VMAPPED
from experiments.benchmark.peers import OURS
from experiments.benchmark.race import COPY, RaceResult
from experiments.benchmark.warps import GROUPS, SMOKE_GROUPS, WarpSpec, footprint
from experiments.benchmark.workloads import COMPONENTS

# The names of `sweep_warps`, as in `pixels x4`.
SWEEP_NAME = re.compile(r"[a-z]+ x\d+")


def summarise(part: Part, results: Sequence[RaceResult], smoke: bool = False) -> dict[str, Any]:
    """Returns the summary of the results of a part, for tables and the JSON file."""
    return {
        "sampler": partial(_sampler_summary, groups=SMOKE_GROUPS if smoke else GROUPS),
        "step": lambda results: {"ratios": {"steps": _ratios(results)}},
        "overhead": lambda results: {"parts": _overhead_summary(results)},
        "population": _population_summary,
    }[part](results)


def _sampler_summary(
    results: Sequence[RaceResult], groups: Mapping[str, Mapping[str, WarpSpec]]
) -> dict[str, Any]:
    raced = [result for result in results if result.form != COPY]
    ratios = {
        group: _ratios([result for result in raced if result.case in warps])
        for group, warps in groups.items()
    }
    warps = {name: warp for group in groups.values() for name, warp in group.items()}
    memory = [
        planned_memory(result) / footprint(warps[result.case])
        for result in raced
        if result.peer == OURS and result.case in warps
    ]
    return {
        "ratios": {group: found for group, found in ratios.items() if found},
        "largest_memory_over_image_output_grid": max(memory, default=None),
        "growth": _growth([result for result in raced if SWEEP_NAME.fullmatch(result.case)]),
    }


def planned_memory(result: RaceResult) -> float:
    """Returns the memory of a program without its inputs, in bytes, as the compiler planned it."""
    return result.facts.get("temporary_bytes", 0) + result.facts.get("output_bytes", 0)


def _ratios(results: Sequence[RaceResult]) -> dict[str, Any]:
    """Returns the mean and the largest ratio of each entrant to the reference."""
    found: dict[str, list[float]] = {}
    for result in results:
        if result.entrant != result.reference:
            found.setdefault(result.entrant, []).append(result.ratio)
    return {
        name: {
            "ratios": len(ratios),
            "geometric_mean": math.exp(sum(map(math.log, ratios)) / len(ratios)),
            "largest": max(ratios),
            "above_one": sum(ratio > 1 for ratio in ratios),
        }
        for name, ratios in found.items()
    }


def _growth(results: Sequence[RaceResult]) -> list[dict[str, Any]]:
    """Returns the exponent of the time along each axis, from the smallest and largest case."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for result in results:
        axis, _, factor = result.case.partition(" x")
        found.setdefault((axis, result.quantity, result.entrant), {})[int(factor)] = result.minimum
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


def _overhead_summary(results: Sequence[RaceResult]) -> dict[str, Any]:
    """Returns the time that each component of the transformer adds to a step of a plain CNN."""
    seconds: dict[str, dict[str, float]] = {}
    for result in results:
        seconds.setdefault(result.peer, {})[result.case] = result.minimum
    summary = {}
    for peer, each in seconds.items():
        if not all(network in each for network in COMPONENTS):
            continue
        cnn, offset, unsampled, whole = (each[network] for network in COMPONENTS)
        summary[peer] = {
            "cnn": cnn,
            "gradient_to_input": offset - cnn,
            "localisation_network": unsampled - offset,
            "grid_and_sampler": whole - unsampled,
            "st_cnn": whole,
            "st_cnn_over_cnn": whole / cnn,
            "grid_and_sampler_share": (whole - unsampled) / whole,
            **({"grid_and_sampler_alone_share": each[ALONE] / whole} if ALONE in each else {}),
        }
    return summary


def _population_summary(results: Sequence[RaceResult]) -> dict[str, Any]:
    seconds = {result.form: result.minimum for result in results if result.peer == OURS}
    if SEQUENTIAL not in seconds:
        return {}
    return {
        f"{form} / {SEQUENTIAL}": seconds[form] / seconds[SEQUENTIAL]
        for form in (VMAPPED, LOOPED)
        if form in seconds
    }
