"""Programs of warps in JAX, for this project and for other samplers. Imports no other library."""

import importlib.metadata
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmark.peer_worker import Program
from experiments.benchmark.warps import WarpSpec, spec_of
from experiments.benchmark.workloads import Arrays, Device, Job
from experiments.settings.machine import num_cores

# Maps an image and its theta to the output.
Warp = Callable[[jax.Array, jax.Array], jax.Array]


def about(device: Device, versions: dict[str, str]) -> dict[str, Any]:
    """Returns the description of a backend in JAX, with the versions of its other packages."""
    first = jax.devices(device)[0]
    own = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    versions = {"python": platform.python_version(), **own, **versions}
    return {"versions": versions, "device": first.device_kind, "threads": num_cores()}


def make_sampler(make_warp: Callable[[WarpSpec], Warp]) -> Callable[[Job, Arrays], Program]:
    """Returns a function that builds the program of one of the quantities of a warp.

    Args:
        make_warp: returns the warp of one image.
    """

    def build(job: Job, arrays: Arrays) -> Program:
        spec, quantity = spec_of(job), job["quantity"]
        names = ("image", "theta") if quantity == "forward" else ("image", "theta", "cotangent")
        inputs = [jax.device_put(arrays[name]) for name in names]
        inputs = [x if i == 1 else x.astype(spec.dtype) for i, x in enumerate(inputs)]
        found, function = _quantity(quantity, jax.vmap(make_warp(spec)))
        started = time.perf_counter()
        lowered = jax.jit(function).lower(*inputs)
        traced = time.perf_counter()
        compiled = lowered.compile()
        facts = {"trace_seconds": traced - started, "compile_seconds": time.perf_counter() - traced}

        def values() -> Arrays:
            results = zip(found, compiled(*inputs), strict=True)
            return {name: np.asarray(value.astype(jnp.float32)) for name, value in results}

        def run() -> tuple[jax.Array, ...]:
            return compiled(*inputs)

        return Program(values, run, jax.block_until_ready, facts=facts | _memory(compiled))

    return build


def _quantity(
    name: str, warp: Callable[[jax.Array, jax.Array], jax.Array]
) -> tuple[tuple[str, ...], Callable[..., tuple[jax.Array, ...]]]:
    """Returns the names of the results, and a function of image, theta and cotangent.

    The function for `forward` has no cotangent.
    """

    def loss(image: jax.Array, theta: jax.Array, cotangent: jax.Array) -> jax.Array:
        return jnp.sum(warp(image, theta) * cotangent)

    def both_passes(
        image: jax.Array, theta: jax.Array, cotangent: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        output, pullback = jax.vjp(lambda theta: warp(image, theta), theta)
        return output, *pullback(cotangent)

    return {
        "forward": (("output",), lambda image, theta: (warp(image, theta),)),
        "theta": (("theta",), jax.grad(loss, (1,))),
        "image_and_theta": (("image", "theta"), jax.grad(loss, (0, 1))),
        "both_passes": (("output", "theta"), both_passes),
    }[name]


def _memory(compiled: jax.stages.Compiled) -> dict[str, float]:
    """Returns the memory that the compiler planned for a program, in bytes."""
    plan = compiled.memory_analysis()
    if plan is None:
        return {}
    return {
        "temporary_bytes": plan.temp_size_in_bytes,
        "output_bytes": plan.output_size_in_bytes,
        "argument_bytes": plan.argument_size_in_bytes,
    }


def build_copy(job: Job, arrays: Arrays) -> Program:
    """Builds a copy of half as many bytes as the job moves: a copy reads and writes each byte."""
    del arrays
    source = jnp.zeros(job["bytes"] // 8, jnp.float32)
    # The compiler cannot remove an addition, unlike a bare copy.
    compiled = jax.jit(lambda x: x + 1).lower(source).compile()
    return Program(
        lambda: {"first": np.asarray(compiled(source)[:1])},
        lambda: compiled(source),
        jax.block_until_ready,
    )
