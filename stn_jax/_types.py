"""Type aliases for annotations."""

from typing import Literal

import jax
import numpy as np
from jaxtyping import Float

# Public functions accept JAX arrays, traced or concrete, and NumPy arrays.
Array = jax.Array | np.ndarray
# A setting that may be traced, so that the members of a population can differ in it.
Number = float | Float[jax.Array, ""]

Mode = Literal["nearest", "bilinear", "bicubic"]
PaddingMode = Literal["zeros", "border", "reflection"]
