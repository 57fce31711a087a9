"""The backend of this project."""

import importlib.metadata

import jax

import stn_jax
from experiments.benchmark import jax_steps
from experiments.benchmark.jax_programs import Warp, about, build_copy, make_sampler
from experiments.benchmark.peer_worker import Backend
from experiments.benchmark.warps import CONTROL_POINTS, WarpSpec
from experiments.benchmark.workloads import Device
from experiments.settings.machine import num_cores

FAMILIES = {
    name: getattr(stn_jax.transforms, name)
    for name in ("affine", "rotation", "projective", "affine_3d")
} | {"thin_plate_spline": stn_jax.transforms.thin_plate_spline(CONTROL_POINTS)}


def ours(device: Device) -> Backend:
    """Returns the backend of this project.

    On the CPU, each core is a virtual device, so that populations use all cores.
    """
    if device == "cpu":
        jax.config.update("jax_num_cpu_devices", num_cores())
    builders = {"sampler": make_sampler(_warp), "step": jax_steps.build, "copy": build_copy}
    versions = {name: importlib.metadata.version(name) for name in ("flax", "optax")}
    return Backend(
        about(device, {"stn-jax": stn_jax.__version__} | versions),
        lambda job, arrays: builders[job["kind"]](job, arrays),
        jax_steps.parameters,
        jax.clear_caches,
    )


def _warp(spec: WarpSpec) -> Warp:
    def given(image: jax.Array, grid: jax.Array) -> jax.Array:
        return stn_jax.grid_sample(image, grid, mode=spec.mode, padding_mode=spec.padding_mode)

    def transformed(image: jax.Array, theta: jax.Array) -> jax.Array:
        return stn_jax.spatial_transform(
            image,
            theta,
            FAMILIES[spec.transform],
            output_shape=spec.output_shape,
            mode=spec.mode,
            padding_mode=spec.padding_mode,
        )

    return given if spec.transform == "grid" else transformed
