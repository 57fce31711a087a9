"""Initial parameters, compiled quickly."""

from typing import Any

import flax.linen as nn
import jax


def init(module: nn.Module, images: jax.Array, key: jax.Array | None = None) -> dict[str, Any]:
    """A module's variables. Programs for random numbers are large: they are not optimised."""
    compiled = jax.jit(module.init, compiler_options={"xla_backend_optimization_level": 0})
    return compiled(jax.random.key(0) if key is None else key, images)
