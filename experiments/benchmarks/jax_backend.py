"""The sampler of this project, and others that are written in JAX."""

import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax
from experiments.benchmarks import jax_steps
from experiments.benchmarks.cases import Arrays, Job, Warp
from experiments.benchmarks.worker import Backend, Program, cores

# From a batch of images, thetas and the side of the output to the outputs.
BatchWarp = Callable[[jax.Array, jax.Array, int], jax.Array]


def ours(device: str) -> Backend:
    """This project, with a virtual device for each core of a CPU: populations use them all."""
    if device == "cpu":
        jax.config.update("jax_num_cpu_devices", cores())
    builders = {"sampler": _sampler(_warp_ours), "step": jax_steps.build, "copy": _copy}
    return Backend(
        _about(device, "stn-jax", "flax", "optax"),
        lambda job, arrays: builders[job["kind"]](job, arrays),
        jax_steps.parameters,
        jax.clear_caches,
    )


def map_coordinates(device: str) -> Backend:
    """`jax.scipy.ndimage.map_coordinates`, mapped over channels and examples."""
    return Backend(_about(device), _sampler(_warp_map_coordinates), clear=jax.clear_caches)


def dm_pix(device: str) -> Backend:
    """dm_pix's interpolation, mapped over channels and examples."""
    return Backend(_about(device, "dm-pix"), _sampler(_warp_dm_pix), clear=jax.clear_caches)


def _about(device: str, *packages: str) -> dict[str, Any]:
    found = jax.devices(device)[0]
    versions = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", *packages):
        versions[name] = stn_jax.__version__ if name == "stn-jax" else _version(name)
    return {"versions": versions, "device": found.device_kind, "threads": cores()}


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def _warp_ours(image: jax.Array, theta: jax.Array, size: int) -> jax.Array:
    def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(
            image, theta, stn_jax.transforms.affine, output_shape=(size, size)
        )

    return jax.vmap(warp)(image, theta)


def _warp_map_coordinates(image: jax.Array, theta: jax.Array, size: int) -> jax.Array:
    def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
        def plane(plane: jax.Array) -> jax.Array:
            coordinates = _source_pixels(theta, image.shape[0], size)
            return jax.scipy.ndimage.map_coordinates(plane, coordinates, order=1, mode="constant")

        return jax.vmap(plane, in_axes=2, out_axes=2)(image)

    return jax.vmap(warp)(image, theta)


def _warp_dm_pix(image: jax.Array, theta: jax.Array, size: int) -> jax.Array:
    pix = importlib.import_module("dm_pix")

    def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
        # Outside the image dm_pix's constant mode is zero at once; a border of one pixel makes it
        # fade as the others do.
        coordinates = jnp.stack(_source_pixels(theta, image.shape[0], size)) + 1

        def plane(plane: jax.Array) -> jax.Array:
            return pix.flat_nd_linear_interpolate_constant(jnp.pad(plane, 1), coordinates)

        return jax.vmap(plane, in_axes=2, out_axes=2)(image)

    return jax.vmap(warp)(image, theta)


def _source_pixels(theta: jax.Array, in_size: int, out_size: int) -> tuple[jax.Array, jax.Array]:
    """Where an affine warp of a square image reads: rows and columns."""
    ticks = jnp.asarray((2 * np.arange(out_size) + 1 - out_size) / out_size, theta.dtype)
    x, y = ticks[None, :], ticks[:, None]
    source_x = theta[0] * x + theta[1] * y + theta[2]
    source_y = theta[3] * x + theta[4] * y + theta[5]
    return ((source_y + 1) * in_size - 1) / 2, ((source_x + 1) * in_size - 1) / 2


def _sampler(warp: BatchWarp) -> Callable[[Job, Arrays], Program]:
    """Builds one of the quantities of a warp."""

    def build(job: Job, arrays: Arrays) -> Program:
        size = Warp(*job["warp"]).output_size
        image, theta, cotangent = (
            jax.device_put(arrays[name]) for name in ("image", "theta", "cotangent")
        )

        def output(image: jax.Array, theta: jax.Array) -> jax.Array:
            return warp(image, theta, size)

        def loss(image: jax.Array, theta: jax.Array, cotangent: jax.Array) -> jax.Array:
            return jnp.sum(output(image, theta) * cotangent)

        def both_passes(image: jax.Array, theta: jax.Array, cotangent: jax.Array) -> Any:
            found, pull = jax.vjp(lambda theta: output(image, theta), theta)
            return found, *pull(cotangent)

        names, function, arguments = {
            "forward": (("output",), lambda i, t: (output(i, t),), (image, theta)),
            "theta": (
                ("theta",),
                lambda *given: (jax.grad(loss, 1)(*given),),
                (image, theta, cotangent),
            ),
            "image_and_theta": (
                ("image", "theta"),
                jax.grad(loss, (0, 1)),
                (image, theta, cotangent),
            ),
            "both_passes": (("output", "theta"), both_passes, (image, theta, cotangent)),
        }[job["quantity"]]
        compiled = jax.jit(function).lower(*arguments).compile()

        def values() -> Arrays:
            found = zip(names, compiled(*arguments), strict=True)
            return {name: np.asarray(value) for name, value in found}

        return Program(
            values, lambda: compiled(*arguments), jax.block_until_ready, facts=_memory(compiled)
        )

    return build


def _memory(compiled: Any) -> dict[str, float]:
    """Bytes that a program takes, as the compiler planned them."""
    plan = compiled.memory_analysis()
    if plan is None:
        return {}
    return {
        "temporary_bytes": plan.temp_size_in_bytes,
        "output_bytes": plan.output_size_in_bytes,
        "argument_bytes": plan.argument_size_in_bytes,
    }


def _copy(job: Job, arrays: Arrays) -> Program:
    """A copy from device memory to device memory."""
    source = jnp.zeros(job["bytes"] // 4, jnp.float32)
    # An operation the compiler cannot leave out, unlike a bare copy.
    compiled = jax.jit(lambda x: x + 1).lower(source).compile()
    return Program(
        lambda: {"first": np.asarray(compiled(source)[:1])},
        lambda: compiled(source),
        jax.block_until_ready,
    )
