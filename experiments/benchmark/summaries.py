"""Summaries of the results of each part of the benchmark."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from experiments.benchmark.options import Part
from experiments.benchmark.parts import ALONE, COPY, COPY_BYTES, LOOPED, SEQUENTIAL, VMAPPED
from experiments.benchmark.peers import OURS
from experiments.benchmark.race import RaceResult
from experiments.benchmark.workloads import (
    COMPONENTS,
    SMOKE_WARPS,
    WARPS,
    WarpSpec,
    footprint,
    moved_bytes,
)


def summarise(part: Part, results: Sequence[RaceResult], smoke: bool = False) -> dict[str, Any]:
    """Returns the summary of the results of a part, for tables and the JSON file."""
    return {
        "sampler": partial(_sampler_summary, warps=SMOKE_WARPS if smoke else WARPS),
        "step": lambda results: {"ratios": _ratios(results)},
        "overhead": lambda results: {"parts": _overhead_summary(results)},
        "population": _population_summary,
    }[part](results)


def _sampler_summary(
    results: Sequence[RaceResult], warps: Mapping[str, WarpSpec]
) -> dict[str, Any]:
    compared = [result for result in results if result.case in warps]
    ours = [result for result in compared if result.peer == OURS]
    copy = [2 * COPY_BYTES / result.minimum for result in results if result.case == COPY]
    return {
        "ratios": _ratios(compared),
        "traffic": [_traffic(result, warps[result.case], copy) for result in ours],
        "copy_bytes_per_second": copy[0] if copy else None,
        "growth": _growth([result for result in results if " x" in result.case]),
    }


def _ratios(results: Sequence[RaceResult]) -> dict[str, Any]:
    """Returns the mean and the largest ratio of each entrant to the reference."""
    found: dict[str, Any] = {}
    for result in results:
        if result.entrant != result.reference:
            found.setdefault(result.entrant, []).append(result.ratio)
    return {
        name: {
            "ratios": len(ratios),
            "geometric_mean": math.exp(sum(map(math.log, ratios)) / len(ratios)),
            "largest": max(ratios),
        }
        for name, ratios in found.items()
    }


def _traffic(result: RaceResult, warp: WarpSpec, copy: Sequence[float]) -> dict[str, Any]:
    """Returns the memory of a program without its inputs, and the bytes that it moves."""
    memory = result.facts.get("temporary_bytes", 0) + result.facts.get("output_bytes", 0)
    rate = moved_bytes(warp, result.quantity) / result.minimum
    return {
        "case": result.case,
        "quantity": result.quantity,
        "memory_bytes": memory,
        "memory_over_image_output_grid": memory / footprint(warp),
        "bytes_per_second": rate,
        **({"share_of_copy": rate / copy[0]} if copy else {}),
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
