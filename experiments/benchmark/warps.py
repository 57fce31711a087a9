"""The warps that the sampler's benchmark times, and their inputs as NumPy arrays."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments.benchmark.workloads import Arrays, Job

FLOAT_BYTES: Mapping[str, int] = {"float32": 4, "bfloat16": 2}
QUANTITIES: Mapping[str, str] = {
    "forward": "forward",
    "theta": "gradient to theta",
    "image_and_theta": "gradient to image and theta",
}
CONTROL_POINTS = (4, 4)
# The families of matrices, in two and in three dimensions. Every peer can compute their points.
MATRICES = ("affine", "rotation", "projective", "affine_3d")

Transformation = Literal[
    "grid", "affine", "rotation", "projective", "thin_plate_spline", "affine_3d"
]


class WarpSpec(NamedTuple):
    """A warp of a batch of images or volumes.

    Attributes:
        batch: number of images.
        shape: `(rows, columns)` or `(depth, rows, columns)` of an image, in pixels.
        channels: number of channels.
        output_shape: shape of an output; its own as for an image.
        transform: the family of theta. `grid`: theta holds the points themselves.
        mode: the interpolation.
        padding_mode: values outside the image.
        dtype: of images and outputs. Theta and points are float32.
    """

    batch: int
    shape: tuple[int, ...]
    channels: int
    output_shape: tuple[int, ...]
    transform: Transformation = "affine"
    mode: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    padding_mode: Literal["zeros", "border", "reflection"] = "zeros"
    dtype: Literal["float32", "bfloat16"] = "float32"

    @property
    def ndim(self) -> int:
        """The number of spatial dimensions."""
        return len(self.shape)

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is computed. The derivative of `nearest` with respect to theta is zero."""
        return tuple(
            name for name in QUANTITIES if not (self.mode == "nearest" and name == "theta")
        )


def spec_of(job: Job) -> WarpSpec:
    """Returns the warp of a job, whose JSON has lists in place of tuples."""
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in job["warp"].items()
    }
    return WarpSpec(**values)


def label(spec: WarpSpec, quantity: str) -> str:
    """Returns the text for a quantity in tables."""
    return QUANTITIES[quantity].replace("theta", "grid" if spec.transform == "grid" else "theta")


def _square(batch: int, size: int, channels: int, output: int | None = None) -> WarpSpec:
    return WarpSpec(batch, (size, size), channels, (output or size,) * 2)


def _given_grids() -> dict[str, WarpSpec]:
    """Returns the cases with given grids: each mode and padding, by name."""
    images = WarpSpec(32, (64, 64), 3, (64, 64), "grid")
    volumes = WarpSpec(4, (32, 32, 32), 2, (32, 32, 32), "grid")
    found = {}
    for mode in ("nearest", "bilinear", "bicubic"):
        for padding in ("zeros", "border", "reflection"):
            name = f"32 x 64^2 x 3, {mode}, {padding}"
            found[name] = images._replace(mode=mode, padding_mode=padding)
    small = WarpSpec(128, (28, 28), 1, (28, 28), "grid")
    deep = WarpSpec(16, (32, 32), 32, (32, 32), "grid", padding_mode="border")
    found["128 x 28^2 x 1, bilinear, border"] = small._replace(padding_mode="border")
    found["128 x 28^2 x 1, bicubic, zeros"] = small._replace(mode="bicubic")
    found["16 x 32^2 x 32, bilinear, border"] = deep
    for mode, text in (("nearest", "nearest"), ("bilinear", "trilinear")):
        for padding in ("zeros", "border"):
            name = f"4 x 32^3 x 2, {text}, {padding}"
            found[name] = volumes._replace(mode=mode, padding_mode=padding)
    return found


AFFINE: Mapping[str, WarpSpec] = {
    "mnist": _square(256, 28, 1),
    "clutter": _square(256, 60, 1, 30),
    "svhn": _square(64, 64, 3),
    "cub": _square(16, 224, 3),
    "feature": _square(32, 32, 64),
    "photo": _square(1, 1024, 3),
}
GRIDS: Mapping[str, WarpSpec] = _given_grids()
OTHERS: Mapping[str, WarpSpec] = {
    "one small image": _square(1, 28, 1),
    "one large image": _square(1, 2048, 3),
    "rotation": _square(32, 64, 3)._replace(transform="rotation"),
    "projective": _square(32, 64, 3)._replace(transform="projective"),
    "thin plate spline": _square(32, 64, 3)._replace(transform="thin_plate_spline"),
    "affine 3-D": WarpSpec(4, (32,) * 3, 2, (32,) * 3, "affine_3d"),
    "affine, bfloat16": _square(64, 64, 3)._replace(dtype="bfloat16"),
    "grid, bfloat16": WarpSpec(32, (64, 64), 3, (64, 64), "grid", dtype="bfloat16"),
}
GROUPS: Mapping[str, Mapping[str, WarpSpec]] = {
    "affine": AFFINE,
    "given grids": GRIDS,
    "other warps": OTHERS,
}
SMOKE_GROUPS: Mapping[str, Mapping[str, WarpSpec]] = {
    "affine": {"mnist": _square(3, 8, 1), "clutter": _square(2, 9, 2, 5)},
    "given grids": {
        "nearest, border": WarpSpec(2, (5, 6), 2, (4, 7), "grid", "nearest", "border"),
        "trilinear, zeros": WarpSpec(2, (4, 5, 6), 1, (3, 4, 5), "grid"),
    },
    "other warps": {
        "projective": _square(2, 6, 1)._replace(transform="projective"),
        "affine 3-D": WarpSpec(2, (4, 5, 6), 1, (4, 5, 6), "affine_3d"),
        "affine, bfloat16": _square(2, 6, 1)._replace(dtype="bfloat16"),
    },
}

SWEEP_FACTORS = (1, 4, 16, 64)


def sweep_warps(smoke: bool) -> dict[str, WarpSpec]:
    """Returns the warps of a sweep, named `AXIS xFACTOR` and sorted by axis."""
    base = _square(2, 6, 1) if smoke else _square(8, 64, 2)
    warps = {}
    for factor in SWEEP_FACTORS[:2] if smoke else SWEEP_FACTORS:
        size = (base.shape[0] * round(factor**0.5),) * 2
        warps[f"pixels x{factor}"] = base._replace(shape=size, output_shape=size)
        warps[f"batch x{factor}"] = base._replace(batch=base.batch * factor)
        warps[f"channels x{factor}"] = base._replace(channels=base.channels * factor)
    return dict(sorted(warps.items(), key=lambda item: item[0].split(" x")[0]))


def warp_arrays(warp: WarpSpec) -> Arrays:
    """Returns images, thetas near the identity, and cotangents of the output, all float32."""
    rng = np.random.default_rng(0)
    theta = _thetas(warp, rng).astype(np.float32)
    return {
        "image": rng.random((warp.batch, *warp.shape, warp.channels), np.float32),
        "theta": theta,
        "cotangent": rng.standard_normal(
            (warp.batch, *warp.output_shape, warp.channels), np.float32
        ),
    }


def _thetas(warp: WarpSpec, rng: np.random.Generator) -> np.ndarray:
    n, b = warp.ndim, warp.batch
    if warp.transform == "rotation":
        return 0.3 * rng.standard_normal((b, 1))
    if warp.transform == "thin_plate_spline":
        return 0.05 * rng.standard_normal((b, 2 * CONTROL_POINTS[0] * CONTROL_POINTS[1]))
    affine = np.eye(n, n + 1).ravel() + 0.1 * rng.standard_normal((b, n * (n + 1)))
    if warp.transform == "projective":
        return np.concatenate([affine, 0.05 * rng.standard_normal((b, 2))], axis=1)
    if warp.transform == "grid":
        homogeneous = np.append(output_points(warp), np.ones((*warp.output_shape, 1)), axis=-1)
        return np.einsum("bij,...j->b...i", affine.reshape(b, n, n + 1), homogeneous)
    return affine


def output_points(warp: WarpSpec) -> np.ndarray:
    """Returns the coordinates (x, y[, z]) of the output's pixels, `[*output_shape, n]`."""
    axes = [(2 * np.arange(size) + 1 - size) / size for size in warp.output_shape]
    return np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)


def matrices(spec: WarpSpec, theta: Any, numpy: Any) -> Any:
    """Returns the matrices of one of `MATRICES`, `[b, n + 1, n + 1]`.

    Args:
        spec: the warp.
        theta: `[b, p]`, an array of `numpy`.
        numpy: the module with the array functions: NumPy, or JAX's.
    """
    b, n = len(theta), spec.ndim
    if spec.transform == "rotation":
        cos, sin, zero = numpy.cos(theta), numpy.sin(theta), numpy.zeros_like(theta)
        theta = numpy.concatenate([cos, -sin, zero, sin, cos, zero], axis=1)
    one = numpy.ones((b, 1), theta.dtype)
    zeros = numpy.zeros((b, 0 if spec.transform == "projective" else n), theta.dtype)
    return numpy.concatenate([theta, zeros, one], axis=1).reshape(b, n + 1, n + 1)


def moved_bytes(warp: WarpSpec, quantity: str) -> int:
    """Returns the number of bytes moved if every array is read or written once."""
    image, output, theta = _bytes(warp)
    # A cotangent is as large as the output, and a gradient as large as its argument.
    return {
        "forward": image + output + theta,
        "theta": image + output + 2 * theta,
        "image_and_theta": 2 * image + output + 2 * theta,
    }[quantity]


def footprint(warp: WarpSpec) -> int:
    """Returns the number of bytes of images, outputs and grids."""
    image, output, _ = _bytes(warp)
    return image + output + 4 * warp.batch * int(np.prod(warp.output_shape)) * warp.ndim


def _bytes(warp: WarpSpec) -> tuple[int, int, int]:
    """Returns the number of bytes of images, outputs and thetas."""
    pixel = FLOAT_BYTES[warp.dtype] * warp.batch * warp.channels
    image, output = (pixel * int(np.prod(shape)) for shape in (warp.shape, warp.output_shape))
    if warp.transform == "grid":
        points = int(np.prod(warp.output_shape)) * warp.ndim
    else:
        sizes = {"rotation": 1, "projective": 8, "thin_plate_spline": 32, "affine_3d": 12}
        points = sizes.get(warp.transform, 6)
    return image, output, 4 * warp.batch * points
