"""Type aliases for annotations, and the dtype of computations."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

# Public functions accept JAX arrays, traced or concrete, and NumPy arrays.
Array = jax.Array | np.ndarray
# A setting that may be traced, so that the members of a population can differ in it.
Number = float | Float[jax.Array, ""]

Mode = Literal["nearest", "bilinear", "bicubic"]
PaddingMode = Literal["zeros", "border", "reflection"]
Antialias = Literal["none", "mipmap", "anisotropic"]


def float_dtype(*dtypes: np.dtype) -> np.dtype:
    """Returns float64 if any of the dtypes is float64, otherwise float32.

    Unlike `jnp.promote_types`, it also works with strict dtype promotion.
    """
    return np.dtype(jnp.float64 if jnp.float64 in dtypes else jnp.float32)
