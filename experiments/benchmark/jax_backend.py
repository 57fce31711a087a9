"""The backends in JAX: this project, and other samplers."""

import importlib.metadata
import platform
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax
from experiments.benchmark import jax_steps
from experiments.benchmark.peer_worker import Backend, Program
from experiments.benchmark.workloads import Arrays, Device, Job, WarpSpec
from experiments.settings.machine import num_cores

# Maps a batch of images, thetas and the side of the output to the outputs.
BatchWarp = Callable[[jax.Array, jax.Array, int], jax.Array]


def ours(device: Device) -> Backend:
    """Returns the backend of this project.

    On the CPU, each core is a virtual device, so that populations use all cores.
    """
    if device == "cpu":
        jax.config.update("jax_num_cpu_devices", num_cores())
    builders = {"sampler": _sampler(_warp_ours), "step": jax_steps.build, "copy": _copy}
    return Backend(
        _about(device, "stn-jax", "flax", "optax"),
        lambda job, arrays: builders[job["kind"]](job, arrays),
        jax_steps.parameters,
        jax.clear_caches,
    )


def map_coordinates(device: Device) -> Backend:
    """Returns the backend of `jax.scipy.ndimage.map_coordinates`, vmapped over the batch."""
    return Backend(_about(device), _sampler(_warp_map_coordinates), clear=jax.clear_caches)


def dm_pix(device: Device) -> Backend:
    """Returns the backend of dm_pix's interpolation, vmapped over the batch."""
    return Backend(_about(device, "dm-pix"), _sampler(_warp_dm_pix), clear=jax.clear_caches)


def _about(device: Device, *packages: str) -> dict[str, Any]:
    first = jax.devices(device)[0]
    versions = {"python": platform.python_version()}
    for name in ("jax", "jaxlib", *packages):
        versions[name] = stn_jax.__version__ if name == "stn-jax" else _version(name)
    return {"versions": versions, "device": first.device_kind, "threads": num_cores()}


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
        # Outside the image, the constant mode of dm_pix jumps to zero. A border of one pixel makes
        # it decrease linearly, as in the other implementations.
        coordinates = jnp.stack(_source_pixels(theta, image.shape[0], size)) + 1

        def plane(plane: jax.Array) -> jax.Array:
            return pix.flat_nd_linear_interpolate_constant(jnp.pad(plane, 1), coordinates)

        return jax.vmap(plane, in_axes=2, out_axes=2)(image)

    return jax.vmap(warp)(image, theta)


def _source_pixels(theta: jax.Array, in_size: int, out_size: int) -> tuple[jax.Array, jax.Array]:
    """Returns the rows and columns from which an affine warp of a square image samples."""
    ticks = jnp.asarray((2 * np.arange(out_size) + 1 - out_size) / out_size, theta.dtype)
    x, y = ticks[None, :], ticks[:, None]
    source_x = theta[0] * x + theta[1] * y + theta[2]
    source_y = theta[3] * x + theta[4] * y + theta[5]
    return ((source_y + 1) * in_size - 1) / 2, ((source_x + 1) * in_size - 1) / 2


def _sampler(warp: BatchWarp) -> Callable[[Job, Arrays], Program]:
    """Returns a function that builds the program of one of the quantities of a warp."""

    def build(job: Job, arrays: Arrays) -> Program:
        size = WarpSpec(*job["warp"]).output_size
        inputs = [jax.device_put(arrays[name]) for name in ("image", "theta", "cotangent")]
        if job["quantity"] == "forward":
            inputs.pop()
        names, function = _quantity(job["quantity"], lambda image, theta: warp(image, theta, size))
        compiled = jax.jit(function).lower(*inputs).compile()

        def values() -> Arrays:
            found = zip(names, compiled(*inputs), strict=True)
            return {name: np.asarray(value) for name, value in found}

        return Program(
            values, lambda: compiled(*inputs), jax.block_until_ready, facts=_memory(compiled)
        )

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


def _copy(job: Job, arrays: Arrays) -> Program:
    """Builds a copy from device memory to device memory."""
    source = jnp.zeros(job["bytes"] // 4, jnp.float32)
    # The compiler cannot remove an addition, unlike a bare copy.
    compiled = jax.jit(lambda x: x + 1).lower(source).compile()
    return Program(
        lambda: {"first": np.asarray(compiled(source)[:1])},
        lambda: compiled(source),
        jax.block_until_ready,
    )
