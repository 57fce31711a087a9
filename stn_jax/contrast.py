"""Local contrast normalisation of images."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from stn_jax._checks import as_array, check_floating, check_shape, describe_image_shape
from stn_jax._types import Array, float_dtype


def local_contrast(
    image: Float[Array, "h w c"], *, sigma_px: float = 3.0
) -> Float[jax.Array, "h w c"]:
    """Subtracts the local mean from each pixel and divides by the local standard deviation.

    Both are weighted by a Gaussian that is truncated at the image border and renormalised. The
    divisor is at least the mean deviation over the image, so that flat regions stay flat.

    Args:
        image: `[h, w, c]`, floating, in any unit; channels are normalised separately.
        sigma_px: standard deviation of the Gaussian in pixels, positive. Static.

    Returns:
        `[h, w, c]`, dimensionless, at least float32; 0 in constant channels.

    Raises:
        ValueError: if the image has another rank or is not floating, or if `sigma_px` is not
            positive.

    Example:
        >>> image = jnp.eye(8)[..., None]
        >>> bool(jnp.allclose(local_contrast(5 * image + 1), local_contrast(image), atol=1e-5))
        True

    Source: Jarrett et al. (2009), section 3.1.
    """
    check_shape("image", np.shape(image), describe_image_shape(2), np.ndim(image) == 3)
    image = as_array("image", image)
    check_floating("image", image)
    image = image.astype(float_dtype(image.dtype))
    if not sigma_px > 0:
        raise ValueError(f"sigma_px must be positive; got {sigma_px}")
    rows, columns = (
        _gaussian_weights(size, sigma_px).astype(image.dtype) for size in image.shape[:2]
    )

    def blurred(image: Array) -> jax.Array:
        precision = jax.lax.Precision.HIGHEST  # subtracting the mean amplifies errors
        return jnp.einsum("yh,xw,hwc->yxc", rows, columns, image, precision=precision)

    centred = image - blurred(image)
    variance = blurred(centred**2)
    # The derivative of the root is infinite at 0 and would make all gradients NaN.
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    floor = jnp.mean(deviation, axis=(0, 1), keepdims=True)
    flat = floor <= 1e-6 * jnp.max(jnp.abs(image), initial=0)  # constant but for rounding
    return jnp.where(flat, 0, centred / jnp.maximum(deviation, jnp.where(flat, 1, floor)))


def _gaussian_weights(size: int, sigma: float) -> Float[np.ndarray, "size size"]:
    """Weights along one axis. Row i holds those of the neighbours of pixel i, and sums to 1."""
    positions = np.arange(size)
    weights = np.exp(-((positions[:, None] - positions) ** 2) / (2 * sigma**2))
    return weights / weights.sum(axis=1, keepdims=True)
