"""Warps in PyTorch and kornia, as programs of the benchmark. Images are NCHW or NCDHW here."""

import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyrefly: ignore  # in the extra `bench`
import torch.nn.functional as F  # noqa: N812  # pyrefly: ignore

from experiments.benchmark.peer_worker import Program
from experiments.benchmark.warps import WarpSpec, output_points, spec_of
from experiments.benchmark.workloads import Arrays, Job

Compile = Callable[[Any], Any]
# Maps a batch of images and thetas to the outputs.
Warp = Callable[[Any, Any], Any]


def channels_first(array: np.ndarray, place: Any) -> Any:
    """Returns a batch of images or volumes in the layout of PyTorch."""
    return torch.from_numpy(np.moveaxis(array, -1, 1).copy()).to(place)


def wait_for(place: Any) -> Callable[[Any], None]:
    """Returns a function that waits for results to be computed. On a CPU it does nothing."""
    return (lambda _: torch.cuda.synchronize()) if place.type == "cuda" else (lambda _: None)


def torch_warp(spec: WarpSpec, place: Any) -> Warp:
    """Returns PyTorch's warp: `affine_grid` where it exists, and `grid_sample`."""
    target = torch.from_numpy(output_points(spec).astype(np.float32)).to(place)

    def make_grid(theta: Any) -> Any:
        if spec.transform == "grid":
            return theta
        n, matrix = spec.ndim, _matrices(spec, theta)
        if spec.transform != "projective":
            size = [len(theta), spec.channels, *spec.output_shape]
            return F.affine_grid(matrix[:, :n], size, align_corners=False)
        points = target.view(-1, n) @ matrix[:, :, :n].mT + matrix[:, None, :, n]
        points = points[..., :n] / points[..., n:]
        return points.view(len(theta), *spec.output_shape, n)

    def warp(image: Any, theta: Any) -> Any:
        # PyTorch wants images and grids of one dtype, and bfloat16 is too coarse for coordinates.
        output = F.grid_sample(
            image.float(),
            make_grid(theta),
            mode=spec.mode,
            padding_mode=spec.padding_mode,
            align_corners=False,
        )
        return output.to(image.dtype)

    return warp


def kornia_warp(spec: WarpSpec, place: Any) -> Warp:
    """Returns kornia's `homography_warp`, which has its own grid generator."""
    del place
    transform = importlib.import_module("kornia.geometry.transform")

    def warp(image: Any, theta: Any) -> Any:
        matrix, size = _matrices(spec, theta), spec.output_shape
        options = {"mode": spec.mode, "padding_mode": spec.padding_mode}
        return transform.homography_warp(image, matrix, size, align_corners=False, **options)

    return warp


def _matrices(spec: WarpSpec, theta: Any) -> Any:
    """Returns the matrices of thetas, `[b, n + 1, n + 1]`."""
    b, n = len(theta), spec.ndim
    if spec.transform == "rotation":
        cos, sin, zero = torch.cos(theta), torch.sin(theta), torch.zeros_like(theta)
        theta = torch.cat([cos, -sin, zero, sin, cos, zero], dim=1)
    last = theta.new_zeros(b, (n + 1) ** 2 - theta.shape[1])
    last[:, -1] = 1.0
    return torch.cat([theta, last], dim=1).view(b, n + 1, n + 1)


def build_sampler(
    make_warp: Callable[[WarpSpec, Any], Warp],
    compile_function: Compile,
    place: Any,
    job: Job,
    arrays: Arrays,
) -> Program:
    """Builds the program that computes one quantity of a warp.

    Args:
        make_warp: returns the warp of a batch.
        compile_function: compiles a function, or returns it unchanged.
        place: the device.
        job: the description of the warp.
        arrays: its inputs.
    """
    spec, quantity = spec_of(job), job["quantity"]
    image, cotangent = (
        channels_first(arrays[name], place).to(getattr(torch, spec.dtype))
        for name in ("image", "cotangent")
    )
    theta = torch.from_numpy(arrays["theta"]).to(place)
    image.requires_grad_(quantity == "image_and_theta")
    theta.requires_grad_(quantity != "forward")
    warp = make_warp(spec, place)
    warp_batch = compile_function(warp)
    loss = compile_function(lambda image, theta: (warp(image, theta) * cotangent).sum())

    def forward() -> dict[str, Any]:
        with torch.no_grad():
            return {"output": warp_batch(image, theta)}

    def gradient(*names: str) -> dict[str, Any]:
        inputs = [{"image": image, "theta": theta}[name] for name in names]
        return dict(zip(names, torch.autograd.grad(loss(image, theta), inputs), strict=True))

    def both_passes() -> dict[str, Any]:
        output = warp_batch(image, theta)
        return {"output": output, "theta": torch.autograd.grad(output, theta, cotangent)[0]}

    run = {
        "forward": forward,
        "theta": lambda: gradient("theta"),
        "image_and_theta": lambda: gradient("image", "theta"),
        "both_passes": both_passes,
    }[quantity]
    started = time.perf_counter()
    run()  # `torch.compile` compiles in the first call
    facts = {"first_call_seconds": time.perf_counter() - started}
    return Program(lambda: _channels_last(run()), run, wait_for(place), facts=facts)


def _channels_last(tensors: dict[str, Any]) -> Arrays:
    """Converts images to this project's layout."""
    arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
    return {
        name: array if name == "theta" else np.moveaxis(array, 1, -1)
        for name, array in arrays.items()
    }
