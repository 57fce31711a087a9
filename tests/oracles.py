"""Reference implementation of the sampler in float64 NumPy, for any number of axes.

It shares no code with `stn_jax` and prefers clarity to speed. Each axis becomes a table of taps;
each combination of one tap per axis is a corner of the interpolation.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

MODES = ("nearest", "bilinear", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")
CUBIC_A = -0.75
OUTSIDE = -10.0  # a position whose taps all lie outside the image


class Taps(NamedTuple):
    """The taps of one axis; each array has shape [*out, taps]."""

    index: np.ndarray  # clipped to the image
    weight: np.ndarray
    derivative: np.ndarray  # d weight / d grid
    inside: np.ndarray


class Corner(NamedTuple):
    """One tap per axis, combined: pixel index, weight [*out] and its gradient [*out, n]."""

    index: tuple[np.ndarray, ...]
    weight: np.ndarray
    gradient: np.ndarray  # to the grid coordinates (x, y[, z])
    inside: np.ndarray


def affine_grid(
    theta: np.ndarray, output_shape: Sequence[int], align_corners: bool = False
) -> np.ndarray:
    """Normalised source points [*output_shape, n] of a matrix [n, n + 1]."""
    theta = np.asarray(theta, np.float64)
    axes = [np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(n) for n in output_shape]
    if not align_corners:
        axes = [axis * (n - 1) / max(n, 1) for axis, n in zip(axes, output_shape, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    return points @ theta[:, :-1].T + theta[:, -1]


def normalise(p: np.ndarray, size: int, align_corners: bool) -> np.ndarray:
    """Converts pixels to normalised; exact if `size` (or `size - 1` with corners) is 2^n."""
    p = np.asarray(p, np.float64)
    return 2 * p / (size - 1) - 1 if align_corners else (2 * p + 1) / size - 1


def unnormalise(g: np.ndarray, size: int, align_corners: bool) -> tuple[np.ndarray, float]:
    """Converts normalised to pixels; also returns d position / d coordinate."""
    scale = (size - 1) / 2 if align_corners else size / 2
    with np.errstate(over="ignore"):  # the largest coordinates overflow to infinity
        return g * scale + scale - (0.0 if align_corners else 0.5), scale


def clip(p: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Clips a position to the image. The derivative is 0 outside and on the border itself."""
    return np.clip(p, 0, size - 1), np.where((p > 0) & (p < size - 1), 1.0, 0.0)


def reflect(p: np.ndarray, size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Reflects a position about the outermost centres or the outer edges, then clips it."""
    low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
    if span == 0:
        return np.zeros_like(p), np.zeros_like(p)
    distance = np.abs(p - low)
    remainder = np.fmod(distance, span)
    odd = np.fmod(np.floor(distance / span), 2) == 1
    sign = np.where(p < low, -1.0, 1.0) * np.where(odd, -1.0, 1.0)
    clipped, derivative = clip(np.where(odd, span - remainder, remainder) + low, size)
    return clipped, sign * derivative


def fold(
    p: np.ndarray, size: int, padding_mode: str, align_corners: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Applies the padding to a position; also returns d folded / d position."""
    if padding_mode == "border":
        return clip(p, size)
    if padding_mode == "reflection":
        return reflect(p, size, align_corners)
    assert padding_mode == "zeros"
    return p, np.ones_like(p)


def replace_non_finite(
    p: np.ndarray, size: int, padding_mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces non-finite positions by equivalent finite ones; also returns the mask of finite."""
    finite = np.isfinite(p)
    if padding_mode == "zeros":
        return np.where(finite, p, OUTSIDE), finite
    edge = np.where((p == np.inf) & (padding_mode == "border"), size - 1.0, 0.0)
    return np.where(finite, p, edge), finite


def keys_cubic(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys' cubic convolution kernel and its derivative at a signed distance."""
    d, sign, a = np.abs(distance), np.sign(distance), CUBIC_A
    near = (((a + 2) * d - (a + 3)) * d * d + 1, (3 * (a + 2) * d - 2 * (a + 3)) * d)
    far = (((a * d - 5 * a) * d + 8 * a) * d - 4 * a, (3 * a * d - 10 * a) * d + 8 * a)
    weight, derivative = (
        np.where(d <= 1, n, np.where(d < 2, f, 0.0)) for n, f in zip(near, far, strict=True)
    )
    return weight, sign * derivative


def axis_taps(g: np.ndarray, size: int, mode: str, padding_mode: str, align_corners: bool) -> Taps:
    """The taps that normalised coordinates `g` read on one axis."""
    p, scale = unnormalise(g, size, align_corners)
    p, finite = replace_non_finite(p, size, padding_mode)
    outer_derivative = np.where(finite, scale, 0.0)  # d position / d grid
    if mode == "bicubic":
        offset = np.arange(-1, 3)
        position = np.floor(p)[..., None] + offset
        # Not `p - position`, which loses the offset to rounding if the position is huge.
        weight, derivative = keys_cubic((p - np.floor(p))[..., None] - offset)
        position, _ = fold(position, size, padding_mode, align_corners)
    else:
        p, fold_derivative = fold(p, size, padding_mode, align_corners)
        outer_derivative = outer_derivative * fold_derivative
        if mode == "nearest":
            position = np.rint(p)[..., None]
            weight, derivative = np.ones_like(position), np.zeros_like(position)
        else:
            assert mode == "bilinear"
            position = np.floor(p)[..., None] + np.arange(2)
            t = (p - np.floor(p))[..., None]
            weight = np.concatenate([1 - t, t], axis=-1)
            derivative = np.broadcast_to([-1.0, 1.0], weight.shape)
    inside = (position >= 0) & (position <= size - 1)
    index = np.clip(position, 0, size - 1).astype(np.int64)
    return Taps(index, weight, derivative * outer_derivative[..., None], inside)


def corners(
    shape: Sequence[int], grid: np.ndarray, mode: str, padding_mode: str, align_corners: bool
) -> Iterator[Corner]:
    """Yields every combination of one tap per axis of an image with spatial shape `shape`."""
    grid = np.asarray(grid, np.float64)
    # The last axis of the grid is (x, y[, z]), the reverse of the axes of the image.
    axes = [
        axis_taps(grid[..., len(shape) - 1 - i], size, mode, padding_mode, align_corners)
        for i, size in enumerate(shape)
    ]
    for pick in itertools.product(*(range(a.index.shape[-1]) for a in axes)):
        chosen = [Taps(*(field[..., k] for field in a)) for a, k in zip(axes, pick, strict=True)]
        gradient = [
            np.prod([c.derivative if j == i else c.weight for j, c in enumerate(chosen)], axis=0)
            for i in reversed(range(len(shape)))
        ]
        yield Corner(
            index=tuple(c.index for c in chosen),
            weight=np.prod([c.weight for c in chosen], axis=0),
            gradient=np.stack(gradient, axis=-1),
            inside=np.all([c.inside for c in chosen], axis=0),
        )


def read(image: np.ndarray, corner: Corner, fill: float) -> np.ndarray:
    """The pixel values [*out, c] that a corner reads."""
    return np.where(corner.inside[..., None], image[corner.index], fill)


def grid_sample(
    image: np.ndarray,
    grid: np.ndarray,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float = 0.0,
) -> np.ndarray:
    """Samples image [*spatial, c] at grid [*out, n]; returns float64 values [*out, c]."""
    image = np.asarray(image, np.float64)
    # Only zeros padding reads the fill; with other paddings, taps outside have weight 0.
    fill = fill if padding_mode == "zeros" else 0.0
    output = np.zeros((*np.shape(grid)[:-1], image.shape[-1]))
    for corner in corners(image.shape[:-1], grid, mode, padding_mode, align_corners):
        output += corner.weight[..., None] * read(image, corner, fill)
    return output


def grid_sample_vjp(
    image: np.ndarray,
    grid: np.ndarray,
    cotangent: np.ndarray,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of sum(cotangent * grid_sample(image, grid)) with respect to image and grid."""
    image, cotangent = np.asarray(image, np.float64), np.asarray(cotangent, np.float64)
    fill = fill if padding_mode == "zeros" else 0.0
    image_gradient, grid_gradient = np.zeros(image.shape), np.zeros(np.shape(grid))
    for corner in corners(image.shape[:-1], grid, mode, padding_mode, align_corners):
        weight = np.where(corner.inside, corner.weight, 0.0)
        np.add.at(image_gradient, corner.index, weight[..., None] * cotangent)
        weight_gradient = np.sum(cotangent * read(image, corner, fill), axis=-1)
        grid_gradient += corner.gradient * weight_gradient[..., None]
    return image_gradient, grid_gradient
