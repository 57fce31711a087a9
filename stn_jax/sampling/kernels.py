"""Interpolation kernels: the taps that a coordinate reads on one axis, and their weights."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Keys' parameter of the cubic convolution kernel; torch, OpenCV and ONNX use the same value.
CUBIC_A = -0.75

Weights = Callable[[jax.Array], tuple[jax.Array, ...]]


class Kernel(NamedTuple):
    """An interpolation kernel on one axis: taps at floor(p) - taps / 2 + 1 and the next pixels.

    Taps at floor and floor + 1 give the right-hand derivative at integer coordinates. Taps at floor
    and ceil would coincide there and give derivative 0.

    Attributes:
        taps: number of taps, even.
        weights: maps the fraction t = p - floor(p) to the weights of the taps.
        slopes: maps t to the derivatives of the weights.
        folds_taps: whether padding maps each tap instead of the coordinate. A wide kernel then
            reads the padded image beyond the edge.
    """

    taps: int
    weights: Weights
    slopes: Weights
    folds_taps: bool


def _bilinear_weights(t: jax.Array) -> tuple[jax.Array, ...]:
    return 1 - t, t


def _bilinear_slopes(t: jax.Array) -> tuple[jax.Array, ...]:
    return -jnp.ones_like(t), jnp.ones_like(t)


def _bicubic_weights(t: jax.Array) -> tuple[jax.Array, ...]:
    """Weights of taps at distances 1 + t, t, 1 - t and 2 - t."""
    a = CUBIC_A

    def near(d: jax.Array) -> jax.Array:  # |d| <= 1
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: jax.Array) -> jax.Array:  # 1 <= |d| <= 2
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return far(1 + t), near(t), near(1 - t), far(2 - t)


def _bicubic_slopes(t: jax.Array) -> tuple[jax.Array, ...]:
    a = CUBIC_A

    def near(d: jax.Array) -> jax.Array:
        return (3 * (a + 2) * d - 2 * (a + 3)) * d

    def far(d: jax.Array) -> jax.Array:
        return (3 * a * d - 10 * a) * d + 8 * a

    return far(1 + t), near(t), -near(1 - t), -far(2 - t)


KERNELS = {
    "bilinear": Kernel(2, _bilinear_weights, _bilinear_slopes, folds_taps=False),
    "bicubic": Kernel(4, _bicubic_weights, _bicubic_slopes, folds_taps=True),
}
