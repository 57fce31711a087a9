"""Names for types."""

import jax
import numpy as np

# What public functions take: arrays of JAX, traced or not, and of NumPy.
Array = jax.Array | np.ndarray
