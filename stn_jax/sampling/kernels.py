"""Interpolation kernels: the taps that a coordinate reads on one axis, and their weights."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Keys' parameter of the cubic convolution kernel; torch, OpenCV and ONNX use the same value.
CUBIC_A = -0.75


class Kernel(NamedTuple):
    """An interpolation kernel on one axis.

    Attributes:
        first: maps a coordinate to the position of its first tap, an integer stored as a float.
        weights: maps `coordinate - first` to the weights of the taps at first, first + 1, ...; None
            if the kernel has one unweighted tap, which works for any dtype.
        folds_taps: whether padding maps each tap instead of the coordinate. A wide kernel then
            reads the padded image beyond the edge.
    """

    first: Callable[[jax.Array], jax.Array]
    weights: Callable[[jax.Array], tuple[jax.Array, ...]] | None
    folds_taps: bool


def _bilinear_weights(t: jax.Array) -> tuple[jax.Array, ...]:
    return 1 - t, t


def _bicubic_weights(t: jax.Array) -> tuple[jax.Array, ...]:
    """Weights of taps at distances t, t - 1, 2 - t and 3 - t, for 1 <= t < 2."""
    a = CUBIC_A

    def near(d: jax.Array) -> jax.Array:  # |d| <= 1
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: jax.Array) -> jax.Array:  # 1 <= |d| <= 2
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return far(t), near(t - 1), near(2 - t), far(3 - t)


# Taps at floor and floor + 1 give the right-hand derivative at integer coordinates. Taps at floor
# and ceil would coincide there and give derivative 0.
KERNELS = {
    "nearest": Kernel(first=jnp.round, weights=None, folds_taps=False),  # half to even
    "bilinear": Kernel(first=jnp.floor, weights=_bilinear_weights, folds_taps=False),
    "bicubic": Kernel(first=lambda p: jnp.floor(p) - 1, weights=_bicubic_weights, folds_taps=True),
}
