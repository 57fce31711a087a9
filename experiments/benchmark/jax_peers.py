"""The backends of other samplers in JAX, vmapped over the batch. They need NumPy and JAX only."""

import importlib
import importlib.metadata
from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.benchmark.jax_programs import Warp, about, make_sampler
from experiments.benchmark.peer_worker import Backend
from experiments.benchmark.warps import WarpSpec, matrices, output_points
from experiments.benchmark.workloads import Device

# Maps a plane and the coordinates of its samples, in pixels by axis, to samples.
Sample = Callable[[jax.Array, jax.Array], jax.Array]


def map_coordinates(device: Device) -> Backend:
    """Returns the backend of `jax.scipy.ndimage.map_coordinates`."""

    def make_sample(spec: WarpSpec) -> Sample:
        order = {"nearest": 0, "bilinear": 1}[spec.mode]
        mode = {"zeros": "constant", "border": "nearest", "reflection": "reflect"}
        return lambda plane, coordinates: jax.scipy.ndimage.map_coordinates(
            plane, tuple(coordinates), order=order, mode=mode[spec.padding_mode]
        )

    build = make_sampler(lambda spec: _warp(spec, make_sample(spec)))
    return Backend(about(device, {}), build, clear=jax.clear_caches)


def dm_pix(device: Device) -> Backend:
    """Returns the backend of dm_pix's interpolation."""
    pix = importlib.import_module("dm_pix")

    def zeros(plane: jax.Array, coordinates: jax.Array) -> jax.Array:
        # Outside the image, the constant mode of dm_pix jumps to zero. A border of one pixel makes
        # it decrease linearly, as in the other implementations.
        return pix.flat_nd_linear_interpolate_constant(jnp.pad(plane, 1), coordinates + 1)

    def make_warp(spec: WarpSpec) -> Warp:
        border = pix.flat_nd_linear_interpolate
        return _warp(spec, border if spec.padding_mode == "border" else zeros)

    versions = {"dm-pix": importlib.metadata.version("dm-pix")}
    return Backend(about(device, versions), make_sampler(make_warp), clear=jax.clear_caches)


def _warp(spec: WarpSpec, sample: Sample) -> Warp:
    """Returns the warp of an image, channel by channel."""

    def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
        coordinates = _source_pixels(spec, theta)
        return jax.vmap(lambda plane: sample(plane, coordinates), in_axes=-1, out_axes=-1)(image)

    return warp


def _source_pixels(spec: WarpSpec, theta: jax.Array) -> jax.Array:
    """Returns the coordinates of the samples by axis, in pixels: `[n, *output_shape]`."""
    n = spec.ndim
    if spec.transform == "grid":
        points = theta
    else:
        matrix = matrices(spec, theta[None], jnp)[0]
        target = jnp.asarray(output_points(spec), theta.dtype)
        points = jnp.einsum("ij,...j->...i", matrix[:, :n], target) + matrix[:, n]
        points = points[..., :n] / points[..., n:] if spec.transform == "projective" else points
    by_axis = [points[..., n - 1 - i] for i in range(n)]
    return jnp.stack([((x + 1) * s - 1) / 2 for x, s in zip(by_axis, spec.shape, strict=True)])
