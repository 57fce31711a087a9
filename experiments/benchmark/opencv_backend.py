"""The backend of OpenCV, which has no gradients and no batches."""

import importlib
import platform
from typing import Any

import numpy as np

from experiments.benchmark.peer_worker import Backend, Program
from experiments.benchmark.warps import WarpSpec, matrices, spec_of
from experiments.benchmark.workloads import Arrays, Device, Job
from experiments.settings.machine import num_cores


def opencv(device: Device) -> Backend:
    """Returns the backend of OpenCV: `warpAffine`, `warpPerspective`, and `remap` for grids."""
    cv2: Any = importlib.import_module("cv2")
    if device == "gpu":
        raise RuntimeError("this build runs on CPUs only")
    cv2.setNumThreads(num_cores())
    versions = {"python": platform.python_version(), "opencv": cv2.__version__}
    about = {"versions": versions, "device": "cpu", "threads": cv2.getNumThreads()}
    return Backend(about, lambda job, arrays: _build(cv2, job, arrays))


def _build(cv2: Any, job: Job, arrays: Arrays) -> Program:
    """Builds the forward pass, image by image. Positions are converted to pixels before."""
    spec, images = spec_of(job), arrays["image"]
    interpolation = {
        "nearest": cv2.INTER_NEAREST,
        "bilinear": cv2.INTER_LINEAR,
        "bicubic": cv2.INTER_CUBIC,
    }[spec.mode]
    border = {
        "zeros": cv2.BORDER_CONSTANT,
        "border": cv2.BORDER_REPLICATE,
        "reflection": cv2.BORDER_REFLECT,
    }[spec.padding_mode]
    options = {"borderMode": border}
    size = spec.output_shape[::-1]
    if spec.transform == "grid":
        maps = ((arrays["theta"] + 1) * np.asarray(spec.shape[::-1], np.float32) - 1) / 2
        planes = [np.ascontiguousarray(np.moveaxis(each, -1, 0)) for each in maps]

        def warp(i: int) -> np.ndarray:
            return cv2.remap(images[i], *planes[i], interpolation, **options)
    else:
        pixels = _pixel_matrices(spec, arrays["theta"])
        flags = interpolation | cv2.WARP_INVERSE_MAP

        def warp(i: int) -> np.ndarray:
            if spec.transform == "projective":
                return cv2.warpPerspective(images[i], pixels[i], size, flags=flags, **options)
            return cv2.warpAffine(images[i], pixels[i, :2], size, flags=flags, **options)

    def run() -> list[np.ndarray]:
        return [warp(i) for i in range(len(images))]

    def values() -> Arrays:  # OpenCV drops the axis of a single channel
        return {"output": np.stack(run()).reshape(spec.batch, *spec.output_shape, spec.channels)}

    return Program(values, run, lambda _: None)


def _pixel_matrices(spec: WarpSpec, theta: np.ndarray) -> np.ndarray:
    """Returns the matrices that map pixels of the output to pixels of the image, `[b, 3, 3]`."""
    to_pixels, from_pixels = np.eye(3), np.eye(3)
    for i, (source, target) in enumerate(
        zip(spec.shape[::-1], spec.output_shape[::-1], strict=True)
    ):
        to_pixels[i, [i, 2]] = source / 2, (source - 1) / 2
        from_pixels[i, [i, 2]] = 2 / target, (1 - target) / target
    return to_pixels @ matrices(spec, theta.astype(np.float64), np) @ from_pixels
