"""The sampler's rules in plain float64 NumPy, any number of axes: what the library is held against.

Nothing here is shared with `stn_jax`. Clarity goes before speed: every axis becomes a short table
of taps, and every combination of one tap per axis is one corner of the interpolation.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

MODES = ("nearest", "bilinear", "bicubic")
PADDING_MODES = ("zeros", "border", "reflection")
CUBIC_A = -0.75
OUTSIDE = -10.0  # any position whose taps all lie outside an image


class Taps(NamedTuple):
    """The taps of one axis, each array [*out, taps]."""

    index: np.ndarray  # clamped into the image
    weight: np.ndarray
    slope: np.ndarray  # d weight / d grid
    inside: np.ndarray


class Corner(NamedTuple):
    """One tap per axis: where it reads, its weight [*out], its slopes [*out, n], x first."""

    index: tuple[np.ndarray, ...]
    weight: np.ndarray
    slopes: np.ndarray
    inside: np.ndarray


def affine_grid(
    theta: np.ndarray, output_shape: Sequence[int], align_corners: bool = False
) -> np.ndarray:
    """Normalised source points [*output_shape, n] of an n x (n + 1) matrix."""
    theta = np.asarray(theta, np.float64)
    axes = [np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(n) for n in output_shape]
    if not align_corners:
        axes = [axis * (n - 1) / max(n, 1) for axis, n in zip(axes, output_shape, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    return points @ theta[:, :-1].T + theta[:, -1]


def normalise(p: np.ndarray, size: int, align_corners: bool) -> np.ndarray:
    """Normalised coordinate of a pixel position; exact when `size` (corners: `size` - 1) is 2^n."""
    p = np.asarray(p, np.float64)
    return 2 * p / (size - 1) - 1 if align_corners else (2 * p + 1) / size - 1


def unnormalise(g: np.ndarray, size: int, align_corners: bool) -> tuple[np.ndarray, float]:
    """Pixel position of a normalised coordinate, and d position / d coordinate."""
    scale = (size - 1) / 2 if align_corners else size / 2
    with np.errstate(over="ignore"):  # the largest coordinates become infinite positions
        return g * scale + scale - (0.0 if align_corners else 0.5), scale


def clip(p: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Position kept inside the image; the border itself counts as outside for the gradient."""
    return np.clip(p, 0, size - 1), np.where((p > 0) & (p < size - 1), 1.0, 0.0)


def reflect(p: np.ndarray, size: int, align_corners: bool) -> tuple[np.ndarray, np.ndarray]:
    """Position reflected about the corner pixels' centres or their outer edges, then clipped."""
    low, span = (0.0, size - 1.0) if align_corners else (-0.5, float(size))
    if span == 0:
        return np.zeros_like(p), np.zeros_like(p)
    distance = np.abs(p - low)
    rest = np.fmod(distance, span)
    odd = np.fmod(np.floor(distance / span), 2) == 1
    sign = np.where(p < low, -1.0, 1.0) * np.where(odd, -1.0, 1.0)
    clipped, kept = clip(np.where(odd, span - rest, rest) + low, size)
    return clipped, sign * kept


def fold(
    p: np.ndarray, size: int, padding_mode: str, align_corners: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Position after padding, and d folded / d position."""
    if padding_mode == "border":
        return clip(p, size)
    if padding_mode == "reflection":
        return reflect(p, size, align_corners)
    assert padding_mode == "zeros"
    return p, np.ones_like(p)


def tame(p: np.ndarray, size: int, padding_mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Non-finite positions replaced by the ones that stand for them, and where they were not."""
    finite = np.isfinite(p)
    if padding_mode == "zeros":
        return np.where(finite, p, OUTSIDE), finite
    edge = np.where((p == np.inf) & (padding_mode == "border"), size - 1.0, 0.0)
    return np.where(finite, p, edge), finite


def keys_cubic(distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Keys' cubic convolution kernel and its derivative; `distance` is signed."""
    d, sign, a = np.abs(distance), np.sign(distance), CUBIC_A
    near = (((a + 2) * d - (a + 3)) * d * d + 1, (3 * (a + 2) * d - 2 * (a + 3)) * d)
    far = (((a * d - 5 * a) * d + 8 * a) * d - 4 * a, (3 * a * d - 10 * a) * d + 8 * a)
    weight, slope = (
        np.where(d <= 1, n, np.where(d < 2, f, 0.0)) for n, f in zip(near, far, strict=True)
    )
    return weight, sign * slope


def axis_taps(g: np.ndarray, size: int, mode: str, padding_mode: str, align_corners: bool) -> Taps:
    """The taps that normalised coordinates `g` read on one axis."""
    p, scale = unnormalise(g, size, align_corners)
    p, finite = tame(p, size, padding_mode)
    slope_in = np.where(finite, scale, 0.0)
    if mode == "bicubic":
        offset = np.arange(-1, 3)
        position = np.floor(p)[..., None] + offset
        # Not `p - position`, in which a huge position swallows the offset.
        weight, slope = keys_cubic((p - np.floor(p))[..., None] - offset)
        position, _ = fold(position, size, padding_mode, align_corners)
    else:
        p, kept = fold(p, size, padding_mode, align_corners)
        slope_in = slope_in * kept
        if mode == "nearest":
            position = np.rint(p)[..., None]
            weight, slope = np.ones_like(position), np.zeros_like(position)
        else:
            assert mode == "bilinear"
            position = np.floor(p)[..., None] + np.arange(2)
            t = (p - np.floor(p))[..., None]
            weight = np.concatenate([1 - t, t], axis=-1)
            slope = np.broadcast_to([-1.0, 1.0], weight.shape)
    inside = (position >= 0) & (position <= size - 1)
    index = np.clip(position, 0, size - 1).astype(np.int64)
    return Taps(index, weight, slope * slope_in[..., None], inside)


def corners(
    shape: Sequence[int], grid: np.ndarray, mode: str, padding_mode: str, align_corners: bool
) -> Iterator[Corner]:
    """Every combination of one tap per axis of an image with spatial `shape`."""
    grid = np.asarray(grid, np.float64)
    # The grid's last axis is (x, y[, z]): the array's axes reversed.
    axes = [
        axis_taps(grid[..., len(shape) - 1 - i], size, mode, padding_mode, align_corners)
        for i, size in enumerate(shape)
    ]
    for pick in itertools.product(*(range(a.index.shape[-1]) for a in axes)):
        chosen = [Taps(*(field[..., k] for field in a)) for a, k in zip(axes, pick, strict=True)]
        slopes = [
            np.prod([c.slope if j == i else c.weight for j, c in enumerate(chosen)], axis=0)
            for i in reversed(range(len(shape)))
        ]
        yield Corner(
            index=tuple(c.index for c in chosen),
            weight=np.prod([c.weight for c in chosen], axis=0),
            slopes=np.stack(slopes, axis=-1),
            inside=np.all([c.inside for c in chosen], axis=0),
        )


def read(image: np.ndarray, corner: Corner, fill: float) -> np.ndarray:
    """The pixels [*out, c] that one corner reads."""
    return np.where(corner.inside[..., None], image[corner.index], fill)


def grid_sample(
    image: np.ndarray,
    grid: np.ndarray,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
    fill: float = 0.0,
) -> np.ndarray:
    """Values [*out, c] of image [*spatial, c] at grid [*out, n], in float64."""
    image = np.asarray(image, np.float64)
    # Only zeros padding reads beyond the image; elsewhere such a tap has weight zero.
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
    """Gradients of sum(cotangent * grid_sample(image, grid)) to image and grid, by the formulae."""
    image, cotangent = np.asarray(image, np.float64), np.asarray(cotangent, np.float64)
    fill = fill if padding_mode == "zeros" else 0.0
    image_gradient, grid_gradient = np.zeros(image.shape), np.zeros(np.shape(grid))
    for corner in corners(image.shape[:-1], grid, mode, padding_mode, align_corners):
        weight = np.where(corner.inside, corner.weight, 0.0)
        np.add.at(image_gradient, corner.index, weight[..., None] * cotangent)
        along = np.sum(cotangent * read(image, corner, fill), axis=-1)
        grid_gradient += corner.slopes * along[..., None]
    return image_gradient, grid_gradient
