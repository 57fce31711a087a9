"""Interpolation kernels: which taps a coordinate reads on one axis, and with what weights."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Keys' parameter of the cubic convolution kernel, as in torch, OpenCV and ONNX.
CUBIC_A = -0.75


class Kernel(NamedTuple):
    """An interpolation kernel on one axis.

    Attributes:
        first: the whole-numbered position of the first tap of a coordinate, as a float.
        weights: weights of the taps at first, first + 1, ..., given `coordinate - first`; None
            where the one tap is taken as it is, which holds for values of any type.
        folds_taps: padding maps each tap rather than the coordinate, so that a kernel that reaches
            over the edge reads what lies there instead of stopping at it.
    """

    first: Callable[[jax.Array], jax.Array]
    weights: Callable[[jax.Array], tuple[jax.Array, ...]] | None
    folds_taps: bool


def _bilinear_weights(t: jax.Array) -> tuple[jax.Array, ...]:
    return 1 - t, t


def _bicubic_weights(t: jax.Array) -> tuple[jax.Array, ...]:
    """Of taps at distances t, t - 1, 2 - t and 3 - t, where 1 <= t < 2."""
    a = CUBIC_A

    def near(d: jax.Array) -> jax.Array:  # |d| <= 1
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: jax.Array) -> jax.Array:  # 1 <= |d| <= 2
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return far(t), near(t - 1), near(2 - t), far(3 - t)


# `floor` rather than a pair of floor and ceil: at a whole coordinate the weights then have the
# right-hand derivative, where floor and ceil meet and the derivative is lost.
KERNELS = {
    "nearest": Kernel(first=jnp.round, weights=None, folds_taps=False),  # half to even
    "bilinear": Kernel(first=jnp.floor, weights=_bilinear_weights, folds_taps=False),
    "bicubic": Kernel(first=lambda p: jnp.floor(p) - 1, weights=_bicubic_weights, folds_taps=True),
}
