"""Initialises modules in tests."""

from typing import Any

import flax.linen as nn
import jax


def init(module: nn.Module, images: jax.Array, key: jax.Array | None = None) -> dict[str, Any]:
    """Returns the initial variables of a module."""
    return jax.jit(module.init)(jax.random.key(0) if key is None else key, images)
