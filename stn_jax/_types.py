"""Names for types."""

import jax
import numpy as np
from jaxtyping import Float

# What public functions take: arrays of JAX, traced or not, and of NumPy.
Array = jax.Array | np.ndarray
# A setting that may be traced, where members of a population differ in it.
Number = float | Float[jax.Array, ""]
